// @ts-check
// Sentences about nodes: for tooltips, for the inspector and for screen readers.
import { featureName } from "../model.js";
import { percent, plainNumber, plainText, tokenText, tokenWord } from "../text.js";

const KINDS = { feature: "Feature", error: "Error", token: "Token", logit: "Output", group: "Supernode" };

export function kindName(kind) {
  return KINDS[kind];
}

/** Where a node is: "L3 #644 at Dallas". */
export function placeText(node) {
  const at = `at ${node.template ? "the template’s " : ""}${tokenWord(node.token)}`;
  if (node.kind === "feature") return `${featureName(node)} ${at}`;
  if (node.kind === "error") return `layer ${node.layer} ${at}`;
  return node.kind === "token" ? `token ${node.position}` : `after ${tokenWord(node.token)}`;
}

/** The same with the number of the token, where there is room. */
export function fullPlace(node) {
  return node.kind === "token" ? placeText(node) : `${placeText(node)}, token ${node.position}`;
}

export function influenceText(node) {
  return node.influence === null ? "influence not known" : `${percent(node.influence)} of the influence on the answers`;
}

export function nodeSentence(node, label, { pinned = false, group = undefined, near = null } = {}) {
  const isText = node.kind === "token" || node.kind === "logit";
  const parts = [`${KINDS[node.kind]} ${isText ? tokenText(label) : plainText(label)}`];
  if (!isText) parts.push(`layer ${node.layer}`, `token ${node.position} ${tokenText(node.token)}`);
  if (node.activation !== null) parts.push(`activation ${plainNumber(node.activation)}`);
  if (node.influence !== null) parts.push(influenceText(node));
  if (node.kind === "logit" && node.probability !== null) parts.push(`probability ${percent(node.probability)}`);
  if (near) parts.push(`${near.weight < 0 ? "lowers or is lowered by" : "raises or is raised by"} the selected node`);
  if (pinned) parts.push("pinned");
  if (group !== undefined) parts.push(`in supernode ${plainText(group)}`);
  return parts.join(", ");
}
