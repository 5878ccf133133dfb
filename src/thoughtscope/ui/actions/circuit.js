// @ts-check
// Picking a circuit out of the graph: pins, marks, supernodes, and where their cards lie.
import { getState, setState } from "../store.js";
import { tokenWord } from "../text.js";
import { notify } from "./notice.js";
import { change } from "./view.js";

export function togglePin(id) {
  const { pins, graph } = getState();
  if (!graph?.byId.has(id)) return;
  change({ pins: pins.includes(id) ? pins.filter((pin) => pin !== id) : [...pins, id] }, { undo: true });
}

export function toggleMark(id) {
  const { marked, graph } = getState();
  if (!graph?.byId.has(id)) return;
  setState({ marked: marked.includes(id) ? marked.filter((mark) => mark !== id) : [...marked, id] });
}

/** The nodes that "group" would take: the marked ones, or else the pinned ones that are in no supernode yet. */
export function groupable() {
  const { marked, pins, supernodes, graph } = getState();
  const inside = new Set(supernodes.flatMap((group) => group.members));
  const free = pins.filter((id) => !inside.has(id) && ["feature", "error"].includes(graph?.byId.get(id)?.kind ?? ""));
  return marked.length ? marked : free;
}

export function group(label) {
  const name = label.trim().slice(0, 200);
  const members = groupable();
  if (!name || !members.length) return;
  const { supernodes, pins } = getState();
  const rest = without(supernodes, members);
  const old = rest.find((g) => g.label === name);
  const next = old
    ? rest.map((g) => (g === old ? { label: name, members: [...g.members, ...members] } : g))
    : [...rest, { label: name, members }];
  change({ supernodes: next, pins: [...new Set([...pins, ...members])], selected: `group:${name}` }, { undo: true });
  setState({ marked: [], dialog: null });
}

/** A first thing to change: the server's choice, with the token where it stands. */
export function suggestedGroup(graph) {
  const { position, nodes } = graph.json.suggested ?? {};
  const members = (nodes ?? []).filter((id) => graph.byId.has(id));
  return members.length ? { token: graph.tokens[position], position, members } : null;
}

/** Makes the suggestion a supernode, pins it between its token and the answer, and selects it. */
export function takeSuggestion() {
  const { graph } = getState();
  const { token, position, members } = suggestedGroup(graph);
  const label = `at ${tokenWord(token)}`;
  const ends = graph.nodes.filter((n) => n.isTarget || (n.kind === "token" && n.position === position));
  const pins = [...members, ...ends.map((node) => node.id)];
  change({ supernodes: [{ label, members }], pins, selected: `group:${label}` }, { undo: true });
}

function without(groups, members) {
  const gone = new Set(members);
  const left = groups.map((g) => ({ ...g, members: g.members.filter((id) => !gone.has(id)) }));
  return left.filter((g) => g.members.length);
}

export function ungroup(label) {
  const { supernodes, selected } = getState();
  const left = supernodes.filter((g) => g.label !== label);
  change({ supernodes: left, selected: selected === `group:${label}` ? null : selected }, { undo: true });
}

export function renameGroup(label, wanted) {
  const name = wanted.trim().slice(0, 200);
  const { supernodes, selected, cards } = getState();
  if (!name || name === label) return;
  if (supernodes.some((g) => g.label === name)) return notify(`There is already a supernode named “${name}”.`, "error");
  const next = supernodes.map((g) => (g.label === label ? { ...g, label: name } : g));
  const { [`group:${label}`]: place, ...others } = cards;
  const moved = place ? { cards: { ...others, [`group:${name}`]: place } } : {};
  const chosen = selected === `group:${label}` ? `group:${name}` : selected;
  change({ supernodes: next, selected: chosen, ...moved }, { undo: true });
}

/** Puts a card at a place, in shares of its panel's width and height. */
export function placeCard(id, x, y, { last = true } = {}) {
  const cards = { ...getState().cards, [id]: [Math.round(x * 1e4) / 1e4, Math.round(y * 1e4) / 1e4] };
  if (last) change({ cards }, { how: "none" });
  else setState({ cards });
}

/** Lets the page arrange all cards again. */
export function arrangeCards() {
  change({ cards: {} }, { how: "none" });
}
