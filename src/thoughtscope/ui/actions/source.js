// @ts-check
// What the page reads from and writes to, and what it may do there.
import { openSource } from "../api.js";
import { getState } from "../store.js";

export const source = openSource();
export const canWrite = () => source.kind === "server";
export const canTrace = () => canWrite() && Boolean(getState().session?.model);

/** Whether the loaded dictionary is the one that this graph's features belong to. */
export function hasFeatures() {
  const { graph, session } = getState();
  if (source.kind === "report") return true;
  const name = graph?.ours?.dictionary?.name ?? graph?.ours?.dictionary;
  return Boolean(name) && name === session?.dictionary?.name;
}

/** Whether the loaded model is the one that this graph was made with. */
export function hasModel() {
  const { graph, session } = getState();
  const name = graph?.ours?.model?.name ?? graph?.ours?.model;
  return Boolean(name) && name === session?.model?.name;
}
