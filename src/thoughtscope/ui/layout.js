// @ts-check
// Where things stand: a column for each token, a row for each layer, tokens below and outputs above the last token.
// Everything fits the panel: columns and rows get the room that their fullest cells need, and a cell wraps its nodes.

const GUTTER = 40; // layer names
const RIGHT = 10;
const TOP = 32; // the legend and the zoom stand above
const INPUTS = 20; // row of token nodes
const LEVEL = 22; // height of the token names: level, slanted, upright
const SLANTED = 62;
const UPRIGHT = 68;
const ROLES = 17; // who speaks, below the names, in a conversation
const FOLDED = 4; // a column of the template needs no name
const LINE = 15; // a named output
const PITCHES = [18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4]; // distance of neighbouring nodes
const LETTER = 7.2;

/** Positions of all nodes, columns and rows for a panel of this size, in pixels of the panel. After `before`, the
 * layout of an earlier picture of the same graph, what was there keeps its place.
 * @param {Graph} graph @param {Layout | null} [before] @returns {Layout} */
export function layoutGraph(graph, width, height, before = null) {
  const cells = fillCells(graph);
  const same = before?.width === width && Math.abs(before.height - height) < 3 * LINE;
  if (before && same) return grown(cells, graph, before);
  const outputs = graph.nodes.filter((node) => node.kind === "logit").sort(byChance);
  const inner = Math.max(80, width - GUTTER - RIGHT);
  const wanted = outputs.length ? Math.min(Math.max(inner * 0.13, 76), 128, inner / 2) : 0;
  const lettering = letteringOf(graph, inner - wanted);
  const names = { level: LEVEL, slanted: SLANTED, upright: UPRIGHT }[lettering];
  const listed = Math.min(outputs.length, Math.max(1, Math.floor((height * 0.2) / LINE)));
  const band = { y: TOP, height: outputs.length ? listed * LINE + (listed < outputs.length ? 12 : 0) + 6 : 10 };
  const top = TOP + band.height;
  const roles = graph.turns.length ? ROLES : 0;
  const bottom = Math.max(top + 40, height - names - roles - INPUTS);
  const room = { width: inner, height: bottom - top, last: wanted };
  const fit = PITCHES.map((pitch) => share(graph, cells, room, pitch)).find((tried) => tried !== null)
    ?? crowded(graph);
  const columns = placeColumns(graph, fit, inner, wanted, lettering);
  const rows = placeRows(graph, fit, top, bottom);
  const inputs = { y: bottom, height: INPUTS };
  const layout = {
    width, height, columns, rows, plot: { left: GUTTER, right: GUTTER + inner, top, bottom }, outputs: band, inputs,
    names: { y: bottom + INPUTS, height: names }, roles: { y: bottom + INPUTS + names, height: roles },
    turns: graph.turns, lettering, pitch: fit.pitch, places: new Map(),
  };
  placeCells(cells, layout);
  placeOutputs(outputs, layout, listed);
  return layout;
}

function byChance(a, b) {
  return (b.probability ?? 0) - (a.probability ?? 0);
}

/** Level where most names find room, upright where columns are too narrow even for slanted ones. */
function letteringOf(graph, width) {
  const named = graph.tokens.filter((_, i) => !graph.folded[i]);
  const room = width - (graph.tokens.length - named.length) * FOLDED * 3;
  const each = room / Math.max(1, named.length);
  const longest = named.reduce((sum, token) => sum + Math.min(10, [...token].length), 0) * LETTER;
  if (longest + named.length * 8 <= room) return "level";
  return each >= 15 ? "slanted" : "upright";
}

/** Nodes by "position/row", the most influential first and errors last, so that pruning leaves the others in place. */
function fillCells(graph) {
  const cells = new Map();
  for (const node of graph.nodes) {
    if (node.kind === "logit") continue;
    const key = `${node.position}/${node.row}`;
    if (!cells.has(key)) cells.set(key, { position: node.position, row: node.row, nodes: [] });
    cells.get(key).nodes.push(node);
  }
  const rank = (node) => node.cumulative ?? 2;
  for (const { nodes } of cells.values()) {
    nodes.sort((a, b) => Number(a.kind === "error") - Number(b.kind === "error") || rank(a) - rank(b));
  }
  return [...cells.values()];
}

/** How many nodes each column takes side by side and each row one above the other, at this distance; null when the
 * panel is too small. The fullest cell grows first, in the direction that costs the smaller part of what is left. */
function share(graph, cells, room, pitch) {
  const across = graph.tokens.map(() => 1);
  const down = Array.from({ length: graph.layers }, () => 1);
  const least = Math.min(pitch + 2, room.width / graph.tokens.length); // columns may not be all used
  let wide = room.width - Math.max(0, room.last - least) - graph.tokens.length * least;
  let high = room.height - graph.layers * Math.min(pitch + 2, room.height / Math.max(1, graph.layers));
  if (pitch > PITCHES.at(-1) && (least < pitch || graph.layers * pitch > room.height)) return null;
  const spare = Math.max(0, Math.floor((room.last - least) / pitch)); // the last column is wide already
  across[across.length - 1] += spare;
  for (;;) {
    const full = fullest(cells, across, down);
    if (!full) return { pitch, across, down };
    const column = wide >= pitch ? pitch / wide / gain(cells, across, down, full, "position") : Infinity;
    const row = full.row >= 0 && high >= pitch ? pitch / high / gain(cells, across, down, full, "row") : Infinity;
    if (column === Infinity && row === Infinity) return null;
    if (column <= row) {
      across[full.position] += 1;
      wide -= pitch;
    } else {
      down[full.row] += 1;
      high -= pitch;
    }
  }
}

function fullest(cells, across, down) {
  let worst = null;
  let ratio = 1;
  for (const cell of cells) {
    const held = cell.nodes.length / (across[cell.position] * (cell.row < 0 ? 1 : down[cell.row]));
    if (held > ratio) [worst, ratio] = [cell, held];
  }
  return worst;
}

/** How many overfull cells gain from one more place in this cell's column or row, weighted by how full they are. */
function gain(cells, across, down, full, side) {
  let sum = 0;
  for (const cell of cells) {
    if (cell[side] !== full[side] || cell.row < 0) continue;
    const held = cell.nodes.length / (across[cell.position] * down[cell.row]);
    if (held > 1) sum += held * (side === "position" ? down[cell.row] : across[cell.position]);
  }
  return Math.max(1, sum);
}

/** More nodes than there is room for: equal columns and rows, and nodes that overlap. */
function crowded(graph) {
  return { pitch: 3, across: graph.tokens.map(() => 1), down: Array.from({ length: graph.layers }, () => 1) };
}

/** Column widths: what their nodes need, then what their names need, and the rest in equal parts. */
function placeColumns(graph, fit, inner, last, lettering) {
  const end = graph.tokens.length - 1;
  const needed = fit.across.map((n, i) => Math.max(n * fit.pitch + 2, i === end ? last : 0));
  const total = needed.reduce((sum, w) => sum + w, 0);
  const squeezed = total > inner ? needed.map((w) => (w * inner) / total) : needed;
  const wanted = (token) => (lettering === "level" ? [...token].length * LETTER + 8 : 15);
  const names = graph.tokens.map((token, i) => (graph.folded[i] ? FOLDED : wanted(token)));
  const lacking = squeezed.map((w, i) => Math.max(0, names[i] - w));
  const lack = lacking.reduce((sum, w) => sum + w, 0);
  let spare = Math.max(0, inner - squeezed.reduce((sum, w) => sum + w, 0));
  const part = lack > 0 ? Math.min(1, spare / lack) : 0;
  spare -= lack * part;
  const open = graph.folded.filter((folded) => !folded).length;
  let x = GUTTER;
  return graph.tokens.map((token, position) => {
    const folded = graph.folded[position];
    const extra = open === 0 ? spare / graph.tokens.length : folded ? 0 : spare / open;
    const width = squeezed[position] + lacking[position] * part + extra;
    const column = { x, width, token, position, folded };
    x += width;
    return column;
  });
}

/** Row heights: what their fullest cell needs, and the rest in equal parts. */
function placeRows(graph, fit, top, bottom) {
  const needed = fit.down.map((n) => n * fit.pitch + 2);
  const total = needed.reduce((sum, h) => sum + h, 0) || 1;
  const room = bottom - top;
  const scale = Math.min(1, room / total);
  const spare = Math.max(0, room - total) / Math.max(1, graph.layers);
  let y = bottom;
  return needed.map((h, layer) => {
    const height = h * scale + spare;
    y -= height;
    return { layer, y, height };
  });
}

function placeCells(cells, layout) {
  const { columns, rows, inputs, pitch, places } = layout;
  for (const { position, row, nodes } of cells) {
    const column = columns[position];
    const band = row < 0 ? inputs : rows[row];
    const most = Math.max(1, Math.floor((column.width - 1) / pitch));
    const lines = Math.max(1, Math.min(Math.floor((band.height - 1) / pitch), Math.ceil(nodes.length / most)));
    const across = Math.ceil(nodes.length / lines);
    const stepX = Math.min(pitch, (column.width - 1) / across);
    const stepY = Math.min(pitch, (band.height - 1) / lines);
    nodes.forEach((node, i) => {
      const line = Math.floor(i / across);
      const inLine = Math.min(across, nodes.length - line * across);
      const x = column.x + column.width / 2 + ((i % across) - (inLine - 1) / 2) * stepX;
      const y = band.y + band.height / 2 + (line - (lines - 1) / 2) * stepY;
      places.set(node.id, { x, y, r: nodeRadius(node, Math.min(pitch, Math.max(3, stepX, stepY))) });
    });
  }
}

/** The layout with the nodes of a newer picture: those that stay do not move, others take what is free beside them. */
function grown(cells, graph, before) {
  const places = new Map();
  for (const { id } of graph.nodes) if (before.places.has(id)) places.set(id, before.places.get(id));
  for (const { position, row, nodes } of cells) {
    const fresh = nodes.filter((node) => !places.has(node.id));
    if (!fresh.length) continue;
    const band = row < 0 ? before.inputs : before.rows[row];
    const taken = nodes.filter((node) => places.has(node.id)).map((node) => places.get(node.id));
    const { free, step } = freePlaces(before.columns[position], band, taken, before.pitch, fresh.length);
    const radius = (node) => nodeRadius(node, Math.max(3, step));
    fresh.forEach((node, i) => places.set(node.id, { ...free[i % free.length], r: radius(node) }));
  }
  return { ...before, places };
}

/** Places in a cell that nobody has, from its middle outwards; closer together until there are enough. */
function freePlaces(column, band, taken, pitch, wanted) {
  const middle = { x: column.x + column.width / 2, y: band.y + band.height / 2 };
  const away = ({ x, y }) => (x - middle.x) ** 2 + (y - middle.y) ** 2;
  for (let step = pitch; ; step /= 1.4) {
    const across = Math.max(1, Math.floor((column.width - 1) / step));
    const down = Math.max(1, Math.floor((band.height - 1) / step));
    const grid = Array.from({ length: across * down }, (_, i) => ({
      x: middle.x + ((i % across) - (across - 1) / 2) * step,
      y: middle.y + (Math.floor(i / across) - (down - 1) / 2) * step,
    }));
    const isFree = (place) => taken.every(({ x, y }) => (x - place.x) ** 2 + (y - place.y) ** 2 > (0.7 * step) ** 2);
    const free = grid.filter(isFree).sort((a, b) => away(a) - away(b));
    if (free.length >= wanted || step < 3) return { free: free.length ? free : [middle], step };
  }
}

function nodeRadius(node, pitch) {
  if (node.kind === "token") return Math.min(4.5, pitch / 2 - 0.5);
  const share = node.influence ?? 0.005;
  const wanted = node.kind === "error" ? 0.6 : 0.6 + 0.4 * Math.min(1, Math.sqrt(share / 0.06));
  return Math.max(1.5, (pitch / 2 - 0.5) * wanted);
}

/** Outputs stand above their token, the most probable first with its name; what is not named follows as squares. */
function placeOutputs(outputs, layout, listed) {
  const { columns, places, outputs: band } = layout;
  const positions = [...new Set(outputs.map((node) => node.position))];
  for (const position of positions) {
    const here = outputs.filter((node) => node.position === position);
    const column = columns[position];
    const names = column.width >= 60 ? Math.min(listed, here.length) : Math.min(1, here.length);
    const rest = here.length - names;
    const step = Math.min(11, (column.width - 4) / Math.max(1, rest));
    here.forEach((node, i) => {
      const named = i < names;
      const x = named ? column.x + 8 : column.x + 8 + (i - names) * step;
      const y = band.y + (named ? i * LINE + 8 : names * LINE + 5);
      const r = named ? 4.5 : Math.min(3.5, step / 2 - 0.4);
      places.set(node.id, { x: Math.min(x, column.x + column.width - 3), y, r, named, room: column.width - 18 });
    });
  }
}

// --- zoom ----------------------------------------------------------------------------------------------------------

export const HOME = { scale: 1, x: 0, y: 0 };
export const MOST = 16;

/** A view that keeps the graph over the whole plot: no emptiness at its sides. @returns {View} */
export function heldView(layout, { scale, x, y }) {
  const k = Math.min(MOST, Math.max(1, scale));
  const wide = layout.plot.right - layout.plot.left;
  const high = layout.plot.bottom - layout.plot.top;
  const hold = (value, size) => Math.min(0, Math.max(-(k - 1) * size, value));
  return { scale: k, x: hold(x, wide), y: hold(y, high) };
}

/** The view after zooming by a factor, with the point (x, y) of the panel staying where it is. */
export function zoomed(layout, view, factor, x, y) {
  const scale = Math.min(MOST, Math.max(1, view.scale * factor));
  const by = scale / view.scale;
  const [px, py] = [x - layout.plot.left, y - layout.plot.top];
  return heldView(layout, { scale, x: px - (px - view.x) * by, y: py - (py - view.y) * by });
}

/** The layout as seen through a view. Tokens and outputs are axes: they move sideways only, the top output stays in. */
export function seen(layout, view) {
  if (view.scale === 1) return layout;
  const { plot } = layout;
  const X = (x) => plot.left + view.x + (x - plot.left) * view.scale;
  const Y = (y) => plot.top + view.y + (y - plot.top) * view.scale;
  const grown = Math.min(2.2, Math.sqrt(view.scale));
  const places = new Map();
  for (const [id, place] of layout.places) {
    const inside = place.y >= plot.top && place.y < plot.bottom;
    const isOutput = place.y < plot.top;
    const x = isOutput ? outputX(layout, place, X) : X(place.x);
    places.set(id, { ...place, x, y: inside ? Y(place.y) : place.y, r: inside ? place.r * grown : place.r });
  }
  return {
    ...layout, places, pitch: layout.pitch * view.scale,
    columns: layout.columns.map((c) => ({ ...c, x: X(c.x), width: c.width * view.scale })),
    rows: layout.rows.map((r) => ({ ...r, y: Y(r.y), height: r.height * view.scale })),
  };
}

/** An output moves with its token, but never out of the panel. */
function outputX(layout, place, X) {
  const column = layout.columns.find((c) => place.x >= c.x && place.x <= c.x + c.width) ?? layout.columns.at(-1);
  const start = Math.max(layout.plot.left, Math.min(X(column.x), layout.plot.right - column.width));
  return start + place.x - column.x;
}

/** The view moved so that a place is inside the plot. */
export function viewShowing(layout, view, place) {
  const { plot } = layout;
  const x = plot.left + view.x + (place.x - plot.left) * view.scale;
  const y = plot.top + view.y + (place.y - plot.top) * view.scale;
  const within = (value, low, high) => value >= low + 12 && value <= high - 12;
  const inside = place.y >= plot.top && place.y < plot.bottom;
  const inView = within(x, plot.left, plot.right) && (!inside || within(y, plot.top, plot.bottom));
  if (place.y < plot.top || inView) return view;
  return heldView(layout, {
    scale: view.scale, x: view.x + (plot.left + plot.right) / 2 - x,
    y: inside ? view.y + (plot.top + plot.bottom) / 2 - y : view.y,
  });
}

// --- finding -------------------------------------------------------------------------------------------------------

/** The shown node nearest to a point, at most `reach` away. */
export function nearestNode(layout, nodes, x, y, reach = 22) {
  let best = null;
  let least = reach * reach;
  for (const node of nodes) {
    const place = layout.places.get(node.id);
    const wide = place.named && x > place.x && x < place.x + place.room && Math.abs(y - place.y) < LINE / 2;
    const distance = wide ? 0 : (place.x - x) ** 2 + (place.y - y) ** 2;
    if (distance < least) {
      least = distance;
      best = node;
    }
  }
  return best;
}

/** The neighbour of a node in a direction, for the arrow keys: along its row, up and down the lines of a wrapped cell,
 * or in the next row that has nodes. Outputs stand in a list, which the keys to the side walk through. */
export function neighbour(layout, nodes, from, direction) {
  const place = (node) => layout.places.get(node.id);
  const here = place(from);
  const others = nodes.filter((node) => node !== from);
  const sideways = direction === "ArrowLeft" || direction === "ArrowRight";
  const sign = direction === "ArrowRight" || direction === "ArrowDown" ? 1 : -1;
  const dx = (node) => (place(node).x - here.x) * sign;
  const dy = (node) => (place(node).y - here.y) * sign;
  const level = others.filter((node) => node.row === from.row);
  const near = (node) => Math.abs(dx(node)) + Math.abs(dy(node)) / 100;
  if (sideways && from.kind === "logit") return least(level.filter((node) => (dy(node) || dx(node)) > 0), dy);
  if (sideways) return least(level.filter((node) => dx(node) > 0.5), (node) => dx(node) + 3 * Math.abs(dy(node)));
  const line = from.kind === "logit" ? [] : level.filter((n) => n.position === from.position && dy(n) > 0.5);
  const next = least(line, (node) => dy(node) + 3 * Math.abs(dx(node)));
  if (next && Math.abs(dx(next)) <= layout.pitch) return next;
  const ahead = others.filter((node) => (from.row - node.row) * sign > 0);
  const row = least(ahead, (node) => Math.abs(node.row - from.row))?.row;
  return least(ahead.filter((node) => node.row === row), near);
}

function least(items, cost) {
  let best = null;
  for (const item of items) if (best === null || cost(item) < cost(best)) best = item;
  return best;
}
