// @ts-check
// Keeps pins, supernodes, cards and labels: on the server a moment later, and in the other tabs at once.
import { getState, setState } from "../store.js";
import { notify } from "./notice.js";
import { canWrite, source } from "./source.js";

const channel = typeof BroadcastChannel === "function" && source.kind === "server"
  ? new BroadcastChannel("thoughtscope") : null;
const KEPT = ["pins", "supernodes", "cards"];
let timer = 0;
let waiting = new Map();

/** Keeps what a change touched. Several changes in a row are sent once. */
export function keep(patch) {
  const { graph } = getState();
  const parts = KEPT.filter((part) => part in patch);
  if (!graph?.slug || !parts.length || !canWrite()) return;
  tell({ slug: graph.slug, ...Object.fromEntries(parts.map((part) => [part, getState()[part]])) });
  for (const part of parts) waiting.set(`${graph.slug} ${part}`, { slug: graph.slug, part, value: getState()[part] });
  clearTimeout(timer);
  timer = setTimeout(send, 400);
}

async function send() {
  const parts = [...waiting.values()];
  waiting = new Map();
  const save = {
    pins: (slug, pins) => source.savePins(slug, pins.slice(0, 200)),
    supernodes: (slug, groups) => source.saveSupernodes(slug, groups.map((g) => [g.label, ...g.members])),
    cards: (slug, cards) => source.saveLayout(slug, cards),
  };
  try {
    await Promise.all(parts.map(({ slug, part, value }) => save[part](slug, value)));
  } catch (error) {
    notify(`Not saved: ${/** @type {Error} */ (error).message}`, "error");
  }
}

/** Says to the other tabs of this server what changed here. */
export function tell(message) {
  channel?.postMessage(message);
}

/** Hears what other tabs did. Their changes are not saved again and cannot be undone here. */
export function listenToTabs({ onArrangement, onLabel, onLibrary }) {
  channel?.addEventListener("message", ({ data }) => {
    if (data?.library) return onLibrary();
    if (data?.label) return onLabel(data.label);
    const { graph } = getState();
    if (!graph || data?.slug !== graph.slug) return undefined;
    setState(Object.fromEntries(KEPT.filter((part) => part in data).map((part) => [part, data[part]])));
    return onArrangement();
  });
}
