// @ts-check
// What is looked at: selection, pruning, zoom; with the address in step and a list of what can be undone.
import { HOME, heldView, zoomed } from "../layout.js";
import { getState, setState } from "../store.js";
import { readHash, writeHash } from "../url.js";
import { keep } from "./saving.js";

const REMEMBERED = ["pins", "supernodes", "prune", "showErrors"];
let undone = [];
let done = [];

export function writeAddress(how) {
  if (how === "none") return;
  const state = getState();
  if (state.graph?.partial) return; // it has no address yet
  const fromAddress = readHash(location.hash).theme;
  const filed = state.graph?.json.qParams;
  const hash = writeHash({
    ...state, slug: state.graph?.slug, opening: state.graph?.opening, theme: fromAddress ? state.theme : null,
    bare: !filed?.pinnedIds?.length && !filed?.supernodes?.length, // then an empty circuit need not be said
  });
  if (hash === (location.hash || "#")) return;
  history[how === "push" ? "pushState" : "replaceState"](null, "", hash);
}

/** Changes the view, the address, what is kept, and (for edits) the list of what can be undone. */
export function change(patch, { how = "push", undo: undoable = false } = {}) {
  if (undoable) rememberView();
  setState(patch);
  writeAddress(how);
  keep(patch);
}

// --- undo ----------------------------------------------------------------------------------------------------------

/** An entry goes back when called, and returns the entry that goes forward again. */
export function remember(entry) {
  done.push(entry);
  undone = [];
  setState({ undoable: done.length, redoable: 0 });
}

function rememberView(changed = {}) {
  const state = { ...getState(), ...changed };
  remember(backTo(Object.fromEntries(REMEMBERED.map((name) => [name, state[name]]))));
}

function backTo(view) {
  return () => {
    const now = getState();
    const isHere = view.supernodes.some((g) => `group:${g.label}` === now.selected);
    const gone = now.selected?.startsWith("group:") && !isHere;
    const here = Object.fromEntries(REMEMBERED.map((name) => [name, now[name]]));
    change({ ...view, selected: gone ? null : now.selected });
    return backTo(here);
  };
}

export const undo = () => step(done, undone);
export const redo = () => step(undone, done);

function step(from, to) {
  const entry = from.pop();
  if (!entry) return;
  to.push(entry());
  setState({ undoable: done.length, redoable: undone.length });
}

export function forgetSteps() {
  done = [];
  undone = [];
  setState({ undoable: 0, redoable: 0 });
}

// --- looking -------------------------------------------------------------------------------------------------------

export function select(id) {
  if (id !== getState().selected) change({ selected: id });
}

export function hover(id, by = "pointer") {
  const { hovered } = getState();
  if ((hovered?.id ?? null) === id && (hovered === null || hovered.by === by)) return;
  setState({ hovered: id === null ? null : { id, by } });
}

export function setPrune(prune) {
  change({ prune }, { how: "replace" });
}

export function setShowErrors(showErrors) {
  change({ showErrors }, { undo: true });
}

export function setEdgeCount(edgeCount) {
  change({ edgeCount }, { how: "replace" });
}

/** Called when the slider is let go, so that one drag is one step to undo. */
export function prunedFrom(before) {
  if (before !== getState().prune) rememberView({ prune: before });
}

// --- zoom ----------------------------------------------------------------------------------------------------------

/** Zooms by a factor about a point of the panel, or about its middle. */
export function zoom(factor, at) {
  const { layout, view } = getState();
  if (!layout) return;
  const [x, y] = at ?? [(layout.plot.left + layout.plot.right) / 2, (layout.plot.top + layout.plot.bottom) / 2];
  setState({ view: zoomed(layout, view, factor, x, y) });
}

export function pan(dx, dy) {
  const { layout, view } = getState();
  if (layout && view.scale > 1) setState({ view: heldView(layout, { ...view, x: view.x + dx, y: view.y + dy }) });
}

export function fitView() {
  setState({ view: HOME });
}
