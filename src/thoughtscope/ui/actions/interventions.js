// @ts-check
// Changing features in the model and keeping what came of it.
import { getState, setState } from "../store.js";
import { notify } from "./notice.js";
import { source } from "./source.js";

let running = null;

export async function runIntervention({ edits, attention, maxNewTokens, title }) {
  const { graph } = getState();
  if (running || !graph) return;
  if (graph.partial) return notify("The graph is still being refined: wait, or stop it, and try again.");
  running = new AbortController();
  setState({ running: { stage: "running the model", done: 0, total: 0 } });
  try {
    const named = edits.map((edit) => ({ ...edit, nodes: edit.nodes.map((id) => graph.byId.get(id)?.fileId ?? id) }));
    const body = { slug: graph.slug, edits: named, attention, max_new_tokens: maxNewTokens };
    const onProgress = (progress) => setState({ running: progress });
    const outcome = await source.intervene(body, { onProgress, signal: running.signal });
    if (getState().graph === graph) {
      setState({ outcomes: [{ ...outcome, title, attention }, ...getState().outcomes], outcomeShown: 0 });
    }
  } catch (error) {
    const { code, message } = /** @type {any} */ (error);
    notify(code === "cancelled" ? "The intervention was cancelled." : message, code === "cancelled" ? "info" : "error");
  } finally {
    running = null;
    setState({ running: null });
  }
}

export function cancelIntervention() {
  running?.abort();
}

export function showOutcome(number) {
  setState({ outcomeShown: number });
}

/** Takes an outcome off the list, and off the server where it was kept. */
export async function removeOutcome(outcome) {
  const { graph, outcomes } = getState();
  try {
    if (Number.isFinite(outcome.id)) await source.removeOutcome(graph?.slug, outcome.id);
    setState({ outcomes: outcomes.filter((other) => other !== outcome), outcomeShown: 0 });
  } catch (error) {
    notify(/** @type {Error} */ (error).message, "error");
  }
}
