// @ts-check
// One state object for the page. A component names the parts it reads and draws again only when one of them changed.
import { useLayoutEffect, useReducer, useRef } from "./vendor/hooks.mjs";

const listeners = new Set();

let current = {
  /** @type {Session | null} */ session: null,
  locked: false, // the server asks for its token
  fatal: null, // a message when nothing at all can be shown
  /** @type {Graph | null} */ graph: null,
  loading: null, // what is being opened, in words
  labels: {}, // "layer/index" -> label, as edited here
  labelled: 0, // how often a label was given or heard of: what is shown of its feature is asked for again
  author: "", // whose labels are given here
  selected: null, // a node id, or "group:NAME" for a supernode
  hovered: null, // { id, by: "pointer" | "keys" }
  pins: [],
  /** @type {Group[]} */ supernodes: [],
  marked: [], // node ids chosen for the next group
  cards: {}, // card id -> [x, y], shares of the circuit's panel, for cards that were dragged
  prune: 1, // share of the influence whose nodes are shown
  showErrors: true,
  edgeCount: 300, // edges drawn when nothing is selected
  query: "", // the search text; matches stand out in the graph
  /** @type {View} */ view: { scale: 1, x: 0, y: 0 },
  /** @type {Layout | null} */ layout: null, // the layout on screen
  trace: null, // { prompt, stage, done, total } while a prompt is traced
  traceError: null,
  // said of the last prompt that was traced
  /** @type {{ prompt: string | Message[], text: string } | null} */ traceWarning: null,
  // what waits for a yes
  /** @type {{ prompt: string | Message[], options: object, price: Price } | null} */ costly: null,
  outcomes: [], // interventions on this graph, newest first
  outcomeShown: 0,
  running: null, // { stage, done, total } while an intervention is under way
  undoable: 0,
  redoable: 0,
  notice: null, // { text, kind: "info" | "error", act } shortly shown
  dialog: null, // null | "help" | "group" | "library" | "problems" | "costly"
  dock: "open", // "open" | "closed" | "full": the circuit below the graph
  theme: "auto",
};

export function getState() {
  return current;
}

/** @param {Partial<typeof current>} patch */
export function setState(patch) {
  current = { ...current, ...patch };
  for (const listener of [...listeners]) listener();
}

export function subscribe(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** A value computed from the state; the component draws again when it changes (compared by identity). */
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

/** The named parts of the state; the component draws again when one of them changes. */
export function useParts(...names) {
  const last = useRef({});
  return useStore((state) => {
    if (names.every((name) => name in last.current && Object.is(state[name], last.current[name]))) return last.current;
    last.current = Object.fromEntries(names.map((name) => [name, state[name]]));
    return last.current;
  });
}
