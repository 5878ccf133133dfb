// @ts-check
// Keys that work anywhere outside text fields.
import { getState, setState } from "./store.js";
import { groupable, toggleMark, togglePin } from "./actions/circuit.js";
import { fitView, hover, redo, select, setShowErrors, undo, zoom } from "./actions/view.js";
import { neighbour } from "./layout.js";
import { shownNodes } from "./model.js";
import { focusNode } from "./views/graph.js";

const ARROWS = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"];

export function listenToKeys() {
  document.addEventListener("keydown", onKey);
}

function onKey(event) {
  const state = getState();
  const typing = event.target.closest?.("input:not([type=range]):not([type=checkbox]), textarea, select");
  if (event.key === "Escape" && !state.dialog) return escape(event.target);
  if (typing || state.dialog || event.altKey) return undefined;
  const command = event.ctrlKey || event.metaKey;
  if (command) {
    if (event.key.toLowerCase() === "z") return act(event, event.shiftKey ? redo : undo);
    if (event.key.toLowerCase() === "y") return act(event, redo);
    return undefined;
  }
  if (event.key === "?") return act(event, () => setState({ dialog: "help" }));
  if (!state.graph) return undefined;
  const ownArrows = event.target.closest?.("[type=range], [role=radiogroup], [role=separator], select");
  if (ARROWS.includes(event.key)) return ownArrows ? undefined : act(event, () => move(state, event.key));
  const at = state.hovered?.id ?? state.selected;
  const onControl = event.target.closest?.("button, a, select");
  if (event.key === "Enter" && !onControl && state.hovered) return act(event, () => select(state.hovered.id));
  const letter = {
    p: () => at && togglePin(at), m: () => at && toggleMark(at), e: () => setShowErrors(!state.showErrors),
    g: () => groupable().length && setState({ dialog: "group" }), "/": () => document.getElementById("search")?.focus(),
    "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: fitView,
  }[event.key.toLowerCase()];
  return letter ? act(event, letter) : undefined;
}

function act(event, action) {
  event.preventDefault();
  action();
}

/** Escape takes back one thing at a time: the field, the marks, the pointer's node, the selection. */
function escape(target) {
  const { marked, query, selected } = getState();
  if (target.matches?.("input, textarea, select")) return target.blur();
  if (query) return setState({ query: "" });
  if (marked.length) return setState({ marked: [] });
  hover(null);
  return selected ? select(null) : undefined;
}

function move(state, direction) {
  const nodes = shownNodes(state);
  const here = nodes.find((n) => n.id === state.hovered?.id) ?? nodes.find((n) => n.id === state.selected);
  const next = here ? neighbour(state.layout, nodes, here, direction)
    : nodes.find((n) => n.isTarget) ?? nodes.find((n) => n.kind === "logit") ?? nodes[0];
  if (next) focusNode(next.id);
}
