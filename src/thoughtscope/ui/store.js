// One state object for the page. Components read it with `useStore(pick)` and draw again only when their part changed.
import { useLayoutEffect, useReducer, useRef } from "./vendor/hooks.mjs";

const listeners = new Set();

let current = {
  session: null, // what the server (or the report) is: model, dictionary, graphs, example prompts
  fatal: null, // a message when nothing at all can be shown
  graph: null, // the indexed graph, see model.js
  loading: false,
  labels: {}, // "layer/index" -> label, as edited here
  selected: null, // a node id, or "group:NAME" for a supernode
  hovered: null, // { id, by: "pointer" | "keys" }
  pins: [],
  supernodes: [], // [{ label, members: [node id] }]
  marked: [], // node ids chosen for the next group
  prune: 1, // share of the influence whose nodes are shown
  showErrors: true,
  query: "", // the search text; matches stand out in the graph
  trace: null, // { prompt, stage, done, total } while a prompt is traced
  traceError: null,
  outcomes: [], // interventions done on this graph, newest first
  outcomeShown: 0,
  running: false, // an intervention is under way
  undoable: 0,
  redoable: 0,
  notice: null, // { text, kind: "info" | "error" } shortly shown
  dialog: null, // null | "help" | "group"
  dock: "open", // "open" | "closed" | "full": the circuit below the graph
  theme: "auto",
};

export function getState() {
  return current;
}

export function setState(patch) {
  current = { ...current, ...patch };
  for (const listener of [...listeners]) listener();
}

export function subscribe(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** The picked part of the state; the component draws again when it changes (compared by identity). */
export function useStore(pick) {
  const [, redraw] = useReducer((n) => n + 1, 0);
  const seen = useRef();
  const picker = useRef();
  picker.current = pick;
  seen.current = pick(current);
  useLayoutEffect(() => subscribe(() => {
    if (!Object.is(picker.current(current), seen.current)) redraw();
  }), []);
  return seen.current;
}
