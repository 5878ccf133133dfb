// Where things stand: a column for each token, a row for each layer, tokens below and outputs above. Plain arithmetic.

export const GUTTER = 38; // layer names
const RIGHT = 14;
const TOP = 24; // the legend stands above
const OUTPUTS = 36; // height of the row of outputs
const INPUTS = 22; // row of token nodes
const NAMES = 30; // token names below
const SLANTED = 64; // the same, when columns are too narrow for level names
const FITS = [[17, 40], [15, 40], [13, 40], [11, 40], [13, 17], [11, 17], [9, 15], [7, 13]]; // distance of nodes, least column
const SCROLLED = [11, 17]; // when nothing fits, there is no need to be cramped
const OUTPUT_STEP = 104; // width that an output and its name take in the top row

/** Positions of all nodes, and of columns and rows, for a panel of this size. Wider than the panel when it must scroll. */
export function layoutGraph(graph, width, height) {
  const cells = fillCells(graph);
  const attempt = ([pitch, narrowest]) => {
    const names = narrowest < 40 ? SLANTED : NAMES;
    const body = Math.max(graph.layers * 12, height - TOP - OUTPUTS - INPUTS - names);
    return { names, body, ...columnWidths(graph, cells, graph.layers ? body / graph.layers : 0, pitch, narrowest) };
  };
  const fit = FITS.map(attempt).find((tried) => GUTTER + tried.total + RIGHT <= width) ?? attempt(SCROLLED);
  const { body, names } = fit;
  const rowHeight = graph.layers ? body / graph.layers : 0;
  const spare = Math.max(0, width - GUTTER - RIGHT - fit.total);
  const columns = [];
  let x = GUTTER;
  graph.tokens.forEach((token, position) => {
    const w = fit.widths[position] + (spare * fit.widths[position]) / fit.total;
    columns.push({ x, width: w, token, position });
    x += w;
  });
  const top = TOP + OUTPUTS;
  const rows = Array.from({ length: graph.layers }, (_, layer) => ({ layer, y: top + (graph.layers - 1 - layer) * rowHeight, height: rowHeight }));
  const inputs = { y: top + body, height: INPUTS };
  const places = new Map();
  placeCells(cells, columns, rows, inputs, fit.pitch, places);
  placeOutputs(graph, columns, places, x);
  return { columns, rows, inputs, top, places, slanted: names === SLANTED, width: x + RIGHT, height: top + body + INPUTS + names, body };
}

/** Nodes by "position/row", the most influential first and errors last, so that pruning leaves the others in place. */
function fillCells(graph) {
  const cells = new Map();
  for (const node of graph.nodes) {
    if (node.kind === "logit") continue;
    const key = `${node.position}/${node.row}`;
    if (!cells.has(key)) cells.set(key, []);
    cells.get(key).push(node);
  }
  for (const nodes of cells.values()) nodes.sort((a, b) => (a.kind === "error") - (b.kind === "error") || b.share - a.share);
  return cells;
}

function columnWidths(graph, cells, rowHeight, pitch, narrowest) {
  const lines = Math.max(1, Math.floor((rowHeight - 3) / pitch));
  const widths = graph.tokens.map((token) => (narrowest < 40 ? narrowest : Math.max(narrowest, Math.min(96, 16 + 7.2 * [...token].length))));
  for (const [key, nodes] of cells) {
    const position = Number(key.split("/")[0]);
    widths[position] = Math.max(widths[position], Math.ceil(nodes.length / lines) * pitch + (narrowest < 40 ? 4 : 10));
  }
  return { pitch, lines, widths, total: widths.reduce((sum, w) => sum + w, 0) };
}

function placeCells(cells, columns, rows, inputs, pitch, places) {
  for (const [key, nodes] of cells) {
    const [position, row] = key.split("/").map(Number);
    const column = columns[position];
    const band = row < 0 ? inputs : rows[row];
    const across = Math.max(1, Math.floor((column.width - 2) / pitch));
    const lines = Math.ceil(nodes.length / across);
    const step = Math.min(pitch, (band.height - 2) / lines);
    nodes.forEach((node, i) => {
      const line = Math.floor(i / across);
      const inLine = Math.min(across, nodes.length - line * across);
      const x = column.x + column.width / 2 + ((i % across) - (inLine - 1) / 2) * pitch;
      const y = band.y + band.height / 2 + (line - (lines - 1) / 2) * step;
      places.set(node.id, { x, y, r: nodeRadius(node, pitch) });
    });
  }
}

function nodeRadius(node, pitch) {
  if (node.kind === "token") return Math.min(5, pitch / 2 - 1);
  const most = pitch / 2 - 0.8;
  const wanted = node.kind === "error" ? 0.62 : 0.58 + 0.42 * Math.min(1, Math.sqrt(node.share / 0.03));
  return Math.max(2.2, most * wanted);
}

/** Outputs stand in one line at the top right, the most probable first, when all belong to one position. */
function placeOutputs(graph, columns, places, right) {
  const outputs = graph.nodes.filter((n) => n.kind === "logit").sort((a, b) => (b.probability ?? 0) - (a.probability ?? 0));
  const positions = [...new Set(outputs.map((node) => node.position))];
  for (const position of positions) {
    const here = outputs.filter((node) => node.position === position);
    const column = columns[position];
    const alone = positions.length === 1;
    const room = alone ? right - GUTTER : column.width;
    const step = Math.min(OUTPUT_STEP, room / here.length);
    const start = alone ? right - step * here.length : column.x + (column.width - step * here.length) / 2;
    here.forEach((node, i) => {
      places.set(node.id, { x: start + step * i + (alone ? 9 : step / 2), y: TOP + OUTPUTS / 2 - 2, r: 5, named: alone && step >= 58, room: step - 22 });
    });
  }
}

/** The shown node nearest to a point, at most `reach` away. */
export function nearestNode(layout, nodes, x, y, reach = 22) {
  let best = null;
  let least = reach * reach;
  for (const node of nodes) {
    const place = layout.places.get(node.id);
    const wide = place.named && x > place.x && x < place.x + place.room + 14 && Math.abs(y - place.y) < 12;
    const distance = wide ? 0 : (place.x - x) ** 2 + (place.y - y) ** 2;
    if (distance < least) {
      least = distance;
      best = node;
    }
  }
  return best;
}

/** The neighbour of a node in a direction, for the arrow keys: along its row, or in the next row that has nodes. */
export function neighbour(layout, nodes, from, direction) {
  const here = layout.places.get(from.id);
  const others = nodes.filter((node) => node !== from);
  const place = (node) => layout.places.get(node.id);
  const sideways = direction === "ArrowLeft" || direction === "ArrowRight";
  const sign = direction === "ArrowRight" || direction === "ArrowDown" ? 1 : -1;
  if (sideways) {
    const ahead = others.filter((n) => n.row === from.row && (place(n).x - here.x || place(n).y - here.y) * sign > 0);
    return least(ahead, (n) => Math.abs(place(n).x - here.x) + Math.abs(place(n).y - here.y) / 100);
  }
  const ahead = others.filter((n) => (from.row - n.row) * sign > 0);
  const row = least(ahead, (n) => Math.abs(n.row - from.row))?.row;
  return least(ahead.filter((n) => n.row === row), (n) => Math.abs(place(n).x - here.x) + Math.abs(place(n).y - here.y) / 100);
}

function least(items, cost) {
  let best = null;
  for (const item of items) if (best === null || cost(item) < cost(best)) best = item;
  return best;
}
