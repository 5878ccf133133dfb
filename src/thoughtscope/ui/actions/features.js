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

async function giveLabel(node, next) {
  const key = String(featureKey(node));
  const before = getState().labels[key];
  setState({ labels: { ...getState().labels, [key]: next } });
  try {
    if (canWrite() && hasFeatures()) {
      await source.saveLabel(node.layer, node.index, next);
      tell({ label: { dictionary: getState().session?.dictionary?.name, key, text: next } });
    }
    details.delete(key);
  } catch (error) {
    setState({ labels: { ...getState().labels, [key]: before } });
    notify(`The label was not saved: ${/** @type {Error} */ (error).message}`, "error");
  }
}

/** A label that was given in another tab. */
export function hearLabel({ dictionary, key, text }) {
  if (dictionary !== getState().session?.dictionary?.name || !hasFeatures()) return;
  details.delete(key);
  setState({ labels: { ...getState().labels, [key]: text } });
}
