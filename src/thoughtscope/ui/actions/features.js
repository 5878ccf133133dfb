// @ts-check
// What is known of features, and the labels that people give them.
import { featureKey } from "../model.js";
import { getState, setState } from "../store.js";
import { notify } from "./notice.js";
import { tell } from "./saving.js";
import { canWrite, hasFeatures, source } from "./source.js";
import { remember } from "./view.js";

const details = new Map(); // "layer/index" -> promise of the detail

export function featureDetail(node) {
  const key = featureKey(node);
  if (!details.has(key)) {
    const promise = source.feature(node.layer, node.index);
    promise.catch(() => details.delete(key));
    details.set(key, promise);
  }
  return details.get(key);
}

export function editLabel(node, label) {
  const before = getState().labels[featureKey(node)] || node.clerp;
  const next = label.trim().slice(0, 200);
  if (featureKey(node) === null || next === before) return;
  remember(relabel(node, before));
  giveLabel(node, next);
}

function relabel(node, text) {
  return () => {
    const now = getState().labels[featureKey(node)] || node.clerp;
    giveLabel(node, text);
    return relabel(node, now);
  };
}

const KEY = "thoughtscope-author";

/** The name under which labels are given from this browser; empty for that of who runs the server. */
export function savedAuthor() {
  try {
    return localStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

export function writeAs(author) {
  setState({ author: author.trim().slice(0, 60) });
  try {
    localStorage.setItem(KEY, getState().author);
  } catch { /* a private window: the name lasts for this page */ }
}

async function giveLabel(node, next) {
  const key = String(featureKey(node));
  const before = getState().labels[key];
  setState({ labels: { ...getState().labels, [key]: next } });
  try {
    if (canWrite() && hasFeatures()) {
      const { label } = await source.saveLabel(node.layer, node.index, next, getState().author);
      tell({ label: { dictionary: getState().session?.dictionary?.name, key, text: label } });
      setState({ labels: { ...getState().labels, [key]: label } });
    }
    forget(key);
  } catch (error) {
    setState({ labels: { ...getState().labels, [key]: before } });
    notify(`The label was not saved: ${/** @type {Error} */ (error).message}`, "error");
  }
}

/** A label that was given in another tab. */
export function hearLabel({ dictionary, key, text }) {
  if (dictionary !== getState().session?.dictionary?.name || !hasFeatures()) return;
  forget(key);
  setState({ labels: { ...getState().labels, [key]: text } });
}

/** Who asks for the feature again gets what is known of it now. */
function forget(key) {
  details.delete(key);
  setState({ labelled: getState().labelled + 1 });
}
