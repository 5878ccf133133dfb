// Sentences about nodes: for tooltips, for the inspector and for screen readers.
import { featureName } from "../model.js";
import { percent, plainNumber, plainText, tokenText } from "../text.js";

const KINDS = { feature: "Feature", error: "Error", token: "Token", logit: "Output", group: "Supernode" };

export function kindName(kind) {
  return KINDS[kind];
}

/** Where a node is: "layer 3 · token 9 ·Dallas". */
export function placeText(node) {
  const at = `token ${node.position} ${tokenText(node.token)}`;
  if (node.kind === "feature") return `${featureName(node)} · ${at}`;
  if (node.kind === "error") return `layer ${node.layer} · ${at}`;
  return node.kind === "token" ? `position ${node.position}` : `after ${at}`;
}

export function nodeSentence(node, label, { pinned, group, near } = {}) {
  const parts = [`${KINDS[node.kind]} ${node.kind === "token" || node.kind === "logit" ? tokenText(label) : plainText(label)}`];
  if (node.kind === "feature" || node.kind === "error") parts.push(`layer ${node.layer}`,
    `token ${node.position} ${tokenText(node.token)}`);
  if (node.activation !== null) parts.push(`activation ${plainNumber(node.activation)}`);
  if (node.share > 0) parts.push(`${percent(node.share)} of the influence`);
  if (node.kind === "logit" && node.probability !== null) parts.push(`probability ${percent(node.probability)}`);
  if (near) parts.push(`${near.weight < 0 ? "lowers or is lowered by" : "raises or is raised by"} the selected node`);
  if (pinned) parts.push("pinned");
  if (group !== undefined) parts.push(`in supernode ${plainText(group)}`);
  return parts.join(", ");
}
