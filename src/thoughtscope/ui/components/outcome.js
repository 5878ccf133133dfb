// @ts-check
// What an intervention did: the answer before and after, whether the graph had it right, and what else moved.
import { html } from "../html.js";
import { useParts } from "../store.js";
import { select } from "../actions/view.js";
import { nodeLabel } from "../model.js";
import { Token } from "./token.js";
import { percent, plainNumber, plainText, signed } from "../text.js";

const ROWS = 7;

export function Outcome({ outcome }) {
  return html`<div class="outcome" aria-live="polite">
    <${Verdict} outcome=${outcome} />
    <${Bars} before=${outcome.before?.top ?? []} after=${outcome.after?.top ?? []} answer=${outcome.answer} />
    <dl class="measures">
      <div title="How far the whole distribution of outputs moved, in nats"><dt>KL</dt>
        <dd>${plainNumber(outcome.kl)}</dd></div>
      <div title="Where the model’s first answer stands among all outputs"><dt>Rank of <${Token}
        text=${answerText(outcome)} /></dt><dd>${rank(outcome.rank_before)} → ${rank(outcome.rank_after)}</dd></div>
    </dl>
    ${outcome.generation_after && html`<dl class="generation"><dt>before</dt><dd>${plainText(outcome.generation_before)}
      </dd><dt>after</dt><dd>${plainText(outcome.generation_after)}</dd></dl>`}
    <${FeatureChanges} changes=${outcome.feature_changes ?? []} />
  </div>`;
}

/** What was done, in words: the title it was given, or else its changes. */
export function outcomeTitle(outcome, { graph, labels, supernodes }) {
  if (outcome.title) return plainText(outcome.title);
  const whose = (nodes) => {
    const same = ({ members }) => members.length === nodes.length && nodes.every((id) => members.includes(id));
    const group = supernodes.find(same);
    const node = nodes.length === 1 ? graph.byId.get(nodes[0]) : null;
    return plainText(group?.label ?? (node ? nodeLabel(node, labels) : `${nodes.length} features`));
  };
  const changes = (outcome.changes ?? []).map((edit) => `${whose(edit.nodes)} ${changeText(edit)}`);
  return changes.join(", ") || plainText(outcome.label ?? outcome.plan?.label ?? "Intervention");
}

/** A change as a person writes it: "× −1", "ablated", "= 5", "+ 2". */
export function changeText({ op, value }) {
  return {
    scale: `× ${plainNumber(value)}`, ablate: "ablated", set: `= ${plainNumber(value)}`,
    add: `${value < 0 ? "−" : "+"} ${plainNumber(Math.abs(value))}`,
  }[op] ?? op;
}

function answerText(outcome) {
  const answer = outcome.answer;
  return typeof answer === "string" ? answer : answer?.text ?? outcome.before?.top?.[0]?.text ?? "";
}

const rank = (value) => (Number.isFinite(value) ? value.toLocaleString("en-US") : "–");

/** The graph says which way the answer's logit goes; the model decides whether that was right. */
function Verdict({ outcome }) {
  const { prediction, control } = outcome;
  if (!prediction || prediction.confirmed === null || prediction.confirmed === undefined) {
    return html`<div class="verdict none"><b>No prediction</b>
      <p>The graph shows no path from these nodes to the answer.</p></div>`;
  }
  const wanted = { down: "falls", up: "rises" }[prediction.direction] ?? "changes";
  return html`<div class=${`verdict ${prediction.confirmed ? "confirmed" : "refuted"}`}>
    <b>${prediction.confirmed ? "✓ Confirmed" : "✗ Refuted"}</b>
    <p>The graph predicts that the logit of <${Token} text=${answerText(outcome)} /> ${wanted}${Number.isFinite(
      prediction.change) ? ` by ${plainNumber(Math.abs(Number(prediction.change)))}` : ""}.
      ${" "}<${Measured} prediction=${prediction} /></p>
    ${control && html`<b class="control">Control</b><p>Random features of equal number and strength:
      ${" "}${movedText(control)}, ${control.confirmed ? "which would count as confirmed too"
        : "which would not count as confirmed"}.</p>`}
  </div>`;
}

function movedText({ measured }) {
  return Number.isFinite(measured) ? `it moved by ${signed(Number(measured))}` : "how far it moved is not known";
}

function Measured({ prediction }) {
  const { measured, threshold, confirmed } = prediction;
  if (!Number.isFinite(measured)) return `${confirmed ? "It did." : "It did not."} By how much is not known.`;
  const bar = Number.isFinite(threshold) ? ` A change counts from ${plainNumber(Number(threshold))}.`
    : " The threshold is not known.";
  return html`It moved by <b>${signed(Number(measured))}</b>.${bar}`;
}

function Bars({ before, after, answer }) {
  const chance = (list) => new Map(list.map((entry) => [entry.text, entry.probability]));
  const [old, now] = [chance(before), chance(after)];
  const named = [...before.slice(0, 4), ...after.slice(0, 4), ...before, ...after].map((entry) => entry.text);
  const texts = [...new Set(named)].slice(0, ROWS);
  const highest = (text) => Math.max(now.get(text) ?? 0, old.get(text) ?? 0);
  texts.sort((a, b) => highest(b) - highest(a));
  const chosen = typeof answer === "string" ? answer : answer?.text;
  return html`<table class="before-after"><thead><tr><th scope="col">output</th><th scope="col">before</th>
    <th scope="col">after</th></tr></thead>
    <tbody>${texts.map((text) => html`<tr key=${text} class=${text === chosen ? "answer" : ""}>
      <th scope="row"><${Token} text=${text} /></th>
      <td><${Bar} share=${old.get(text)} kind="before" /></td><td><${Bar} share=${now.get(text)}
        kind="after" /></td></tr>`)}
    </tbody></table>`;
}

function Bar({ share, kind }) {
  return html`<div class=${`share-bar ${kind}`}><i style=${{ width: `${100 * (share ?? 0)}%` }}></i><span>
    ${share === undefined ? "–" : percent(share)}</span></div>`;
}

function FeatureChanges({ changes }) {
  const { graph, labels } = useParts("graph", "labels");
  if (!changes.length) return null;
  const moved = (change) => Math.abs(change.after - change.before);
  const rows = [...changes].sort((a, b) => moved(b) - moved(a)).slice(0, 12);
  return html`<section class="changes"><h4>Other features that changed</h4><ol>${rows.map((change, i) => {
    const node = graph.byId.get(change.node_id);
    const name = (node && nodeLabel(node, labels)) || change.label || `L${change.layer} #${change.index}`;
    const way = change.after >= change.before ? "raises" : "lowers";
    return html`<li key=${i}><button class="connection" disabled=${!node} onClick=${() => node && select(node.id)}>
      <span class="name">${plainText(name)}</span>
      <span class="at">layer ${change.layer}, token ${change.position}</span>
      <span class=${`weight ${way}`}>${plainNumber(change.before)} → ${plainNumber(change.after)}</span></button></li>`;
  })}</ol></section>`;
}
