// @ts-check
// The circuit below the graph: pinned nodes and supernodes as cards, their edges added up and laid out in levels.
import { nodeLabel } from "./model.js";

export const CARD = { width: 172, height: 28 };
const STEP = 42; // least distance of two levels
const ASIDE = 230; // largest distance of two cards of neighbouring positions
const KEEP = 0.01; // edges below this share of a card's input are left out

/** Cards for supernodes and for pinned nodes outside them. */
export function circuitCards(graph, pins, supernodes, labels) {
  const taken = new Set();
  const cards = [];
  for (const group of supernodes) {
    const members = group.members.map((id) => graph.byId.get(id)).filter(Boolean);
    if (!members.length) continue;
    members.forEach((node) => taken.add(node.id));
    cards.push(makeCard(`group:${group.label}`, "group", group.label, members));
  }
  for (const id of pins) {
    const node = graph.byId.get(id);
    if (node && !taken.has(id)) cards.push(makeCard(id, node.kind, nodeLabel(node, labels), [node]));
  }
  return cards;
}

function makeCard(id, kind, label, members) {
  const mean = (value) => members.reduce((sum, node) => sum + value(node), 0) / members.length;
  return { id, kind, label, members, row: mean((n) => n.row), position: mean((n) => n.position) };
}

/** Signed edges between cards: the links between their members added up, and the share of the target's input. */
export function circuitEdges(graph, cards) {
  const owner = new Map();
  for (const card of cards) for (const node of card.members) owner.set(node.id, card);
  const sums = new Map();
  const outside = new Map();
  for (const card of cards) {
    outside.set(card, card.members.reduce((sum, node) => sum + node.absent, 0));
    for (const node of card.members) {
      for (const link of graph.inputs.get(node.id)) {
        const source = owner.get(link.source.id);
        if (source === card) continue;
        outside.set(card, outside.get(card) + Math.abs(link.weight));
        if (!source) continue;
        const key = `${cards.indexOf(source)}>${cards.indexOf(card)}`;
        const edge = sums.get(key) ?? { source, target: card, weight: 0, links: 0 };
        edge.weight += link.weight;
        edge.links += 1;
        sums.set(key, edge);
      }
    }
  }
  const edges = [...sums.values()];
  for (const edge of edges) edge.fraction = edge.weight / outside.get(edge.target);
  const kept = edges.filter((edge) => Math.abs(edge.fraction) >= KEEP);
  return kept.sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));
}

/** Levels from the prompt (bottom) to the outputs (top), cards in a level spread by their position in the prompt. */
export function layoutCircuit(cards, width, height) {
  const perLevel = Math.max(1, Math.floor((width - 16) / (CARD.width + 12)));
  const levels = cardLevels(cards, perLevel, 1 + Math.max(0, Math.floor((height - CARD.height - 14) / STEP)));
  const step = Math.max(STEP, Math.min(78, (height - CARD.height - 14) / Math.max(1, levels.length - 1)));
  const total = Math.max(height - 2, step * (levels.length - 1) + CARD.height + 14);
  const places = new Map();
  const positions = [...new Set(cards.map((card) => card.position))].sort((a, b) => a - b);
  const aside = Math.min(ASIDE, (width - CARD.width - 16) / Math.max(1, positions.length - 1));
  const centre = (card) => width / 2 + (positions.indexOf(card.position) - (positions.length - 1) / 2) * aside;
  levels.forEach((level, i) => {
    const y = levels.length === 1 ? total / 2 : total - 7 - CARD.height / 2 - i * step;
    level.sort((a, b) => a.position - b.position || a.row - b.row);
    spread(level.map(centre), width)
      .forEach((x, j) => places.set(level[j].id, { x, y }));
  });
  return { places, height: total };
}

/** From card to card: bottom to top between levels, side to side within one. As the four points of a cubic curve. */
export function arrowCurve(from, to) {
  if (Math.abs(from.y - to.y) < CARD.height) {
    const side = to.x > from.x ? 1 : -1;
    const [x1, x2] = [from.x + (side * CARD.width) / 2, to.x - (side * CARD.width) / 2];
    const lift = Math.max(0, Math.abs(x2 - x1) - 40) * 0.06;
    return [[x1, from.y], [x1 + side * 14, from.y - lift], [x2 - side * 14, to.y - lift], [x2, to.y]];
  }
  const up = from.y > to.y ? -1 : 1;
  const [y1, y2] = [from.y + (up * CARD.height) / 2, to.y - (up * CARD.height) / 2];
  const bend = (y1 - y2) * 0.5;
  return [[from.x, y1], [from.x, y1 - bend], [to.x, y2 + bend], [to.x, y2]];
}

/** A place on each curve for a short text, where it covers no card and no other text; the first curves choose first. */
export function textPlaces(curves, cards) {
  const taken = cards.map(({ x, y }) => ({ x, y, w: CARD.width / 2 + 20, h: CARD.height / 2 + 7 }));
  return curves.map((curve) => {
    const tries = TRIED.map((t) => pointAt(curve, t));
    const free = ({ x, y }) => !taken.some((box) => Math.abs(box.x - x) < box.w && Math.abs(box.y - y) < box.h);
    const found = tries.find(free);
    if (found) taken.push({ ...found, w: 40, h: 13 });
    return found ?? null;
  });
}

const TRIED = [0.5, 0.42, 0.58, 0.34, 0.66, 0.26, 0.74, 0.18, 0.82];

function pointAt([a, b, c, d], t) {
  const mix = (axis) => (1 - t) ** 3 * a[axis] + 3 * (1 - t) ** 2 * t * b[axis] + 3 * (1 - t) * t ** 2 * c[axis]
    + t ** 3 * d[axis];
  return { x: mix(0), y: mix(1) };
}

/** One level for each layer that occurs; then the nearest neighbours merge until they fit the height. */
function cardLevels(cards, perLevel, fit) {
  const levels = [];
  for (const card of [...cards].sort((a, b) => a.row - b.row)) {
    const last = levels[levels.length - 1];
    if (last && last.length < perLevel && Math.abs(last[0].row - card.row) < 0.5) last.push(card);
    else levels.push([card]);
  }
  const ends = (level) => level.some((card) => card.kind === "token" || card.kind === "logit");
  while (levels.length > fit) {
    let best = -1;
    let least = Infinity;
    for (let i = 0; i + 1 < levels.length; i += 1) {
      if (levels[i].length + levels[i + 1].length > perLevel || ends(levels[i]) !== ends(levels[i + 1])) continue;
      const distance = levels[i + 1].at(-1).row - levels[i][0].row;
      if (distance < least) [best, least] = [i, distance];
    }
    if (best < 0) break;
    levels.splice(best, 2, [...levels[best], ...levels[best + 1]]);
  }
  return levels;
}

/** Moves sorted centres apart until the cards do not touch, within the width. */
function spread(centres, width) {
  const gap = CARD.width + 12;
  const xs = [...centres];
  for (let i = 1; i < xs.length; i += 1) xs[i] = Math.max(xs[i], xs[i - 1] + gap);
  let limit = width - 8 - CARD.width / 2;
  for (let i = xs.length - 1; i >= 0; i -= 1) {
    xs[i] = Math.min(xs[i], limit);
    limit = xs[i] - gap;
  }
  return xs;
}

/** Everything that feeds a node (or the members of a supernode) and everything it feeds, strongest first. */
export function connectionsOf(graph, members) {
  const inside = new Set(members.map((node) => node.id));
  const inputs = new Map();
  const outputs = new Map();
  let total = members.reduce((sum, node) => sum + node.absent, 0);
  for (const node of members) {
    for (const link of graph.inputs.get(node.id)) {
      if (inside.has(link.source.id)) continue;
      total += Math.abs(link.weight);
      inputs.set(link.source, (inputs.get(link.source) ?? 0) + link.weight);
    }
    for (const link of graph.outputs.get(node.id)) {
      if (!inside.has(link.target.id)) outputs.set(link.target, (outputs.get(link.target) ?? 0) + link.weight);
    }
  }
  const sorted = (sums, share) => [...sums]
    .map(([node, weight]) => ({ node, weight, fraction: weight / (share(node) || 1) }))
    .sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));
  return { inputs: sorted(inputs, () => total), outputs: sorted(outputs, (node) => graph.totals.get(node.id)) };
}

/** The nodes behind a selection: one node, or the members of a supernode. */
export function selectedMembers(graph, selected, supernodes) {
  if (!graph || !selected) return [];
  const chosen = supernodes.find((g) => `group:${g.label}` === selected);
  const ids = chosen ? chosen.members : [selected];
  return ids.map((id) => graph.byId.get(id)).filter(Boolean);
}
