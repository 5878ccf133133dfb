// What an intervention did: the answer before and after, whether the graph had it right, and what else moved.
import { html } from "../html.js";
import { useStore } from "../store.js";
import { select } from "../actions.js";
import { nodeLabel } from "../model.js";
import { Token } from "./token.js";
import { percent, plainNumber, plainText } from "../text.js";

const ROWS = 7;

export function Outcome({ outcome }) {
  return html`<div class="outcome" aria-live="polite">
    <${Verdict} outcome=${outcome} />
    <${Bars} before=${outcome.before?.top ?? []} after=${outcome.after?.top ?? []} answer=${outcome.answer} />
    <dl class="measures">
      <div title="How far the whole distribution of outputs moved, in nats"><dt>KL</dt><dd>${plainNumber(outcome.kl)}</dd></div>
      <div title="Where the model’s first answer stands among all outputs"><dt>Rank of <${Token} text=${answerText(outcome)} /></dt><dd>
        ${rank(outcome.rank_before)} → ${rank(outcome.rank_after)}</dd></div>
    </dl>
    ${outcome.generation_after && html`<dl class="generation"><dt>before</dt><dd>${plainText(outcome.generation_before)}</dd>
      <dt>after</dt><dd>${plainText(outcome.generation_after)}</dd></dl>`}
    <${FeatureChanges} changes=${outcome.feature_changes ?? []} />
  </div>`;
}

function answerText(outcome) {
  const answer = outcome.answer;
  return typeof answer === "string" ? answer : answer?.text ?? outcome.before?.top?.[0]?.text ?? "";
}

const rank = (value) => (Number.isFinite(value) ? value.toLocaleString("en-US") : "–");

/** The graph says which way the answer's probability goes; the model decides whether that was right. */
function Verdict({ outcome }) {
  const { prediction } = outcome;
  const answer = answerText(outcome);
  if (!prediction || prediction.confirmed === null || prediction.confirmed === undefined) {
    return html`<p class="verdict none"><b>No prediction</b><span>The graph shows no path from these nodes to the answer.</span></p>`;
  }
  const falls = /down|fall|lower|decrease|less|^-/i.test(String(prediction.direction)) || prediction.direction < 0;
  const sure = prediction.confirmed;
  return html`<p class=${`verdict ${sure ? "confirmed" : "refuted"}`}><b>${sure ? "✓ Confirmed" : "✗ Refuted"}</b>
    <span>The graph predicts that <${Token} text=${answer} /> becomes ${falls ? "less" : "more"} likely. ${sure ? "It did."
      : "It did not."}</span></p>`;
}

function Bars({ before, after, answer }) {
  const chance = (list) => new Map(list.map((entry) => [entry.text, entry.probability]));
  const [old, now] = [chance(before), chance(after)];
  const texts = [...new Set([...before.slice(0, 4), ...after.slice(0, 4), ...before, ...after].map((entry) => entry.text))].slice(0,
    ROWS);
  texts.sort((a, b) => Math.max(now.get(b) ?? 0, old.get(b) ?? 0) - Math.max(now.get(a) ?? 0, old.get(a) ?? 0));
  const chosen = typeof answer === "string" ? answer : answer?.text;
  return html`<table class="before-after"><thead><tr><th scope="col">output</th><th scope="col">before</th><th scope="col">after</th>
    </tr></thead>
    <tbody>${texts.map((text) => html`<tr key=${text} class=${text === chosen ? "answer" : ""}><th scope="row"><${Token} text=${text} />
      </th>
      <td><${Bar} share=${old.get(text)} kind="before" /></td><td><${Bar} share=${now.get(text)} kind="after" /></td></tr>`)}</tbody>
        </table>`;
}

function Bar({ share, kind }) {
  return html`<div class=${`share-bar ${kind}`}><i style=${{ width: `${100 * (share ?? 0)}%` }}></i><span>
    ${share === undefined ? "–" : percent(share)}</span></div>`;
}

function FeatureChanges({ changes }) {
  const { graph, labels } = useStore((s) => s);
  if (!changes.length) return null;
  const rows = [...changes].sort((a, b) => Math.abs(b.after - b.before) - Math.abs(a.after - a.before)).slice(0, 12);
  return html`<section class="changes"><h4>Other features that changed</h4><ol>${rows.map((change, i) => {
    const node = graph.byId.get(change.node_id);
    const name = (node && nodeLabel(node, labels)) || change.label || `L${change.layer} #${change.index}`;
    const rose = change.after >= change.before;
    return html`<li key=${i}><button class="connection" disabled=${!node} onClick=${() => node && select(node.id)}><span class="name">
      ${plainText(name)}</span>
      <span class="at">${change.layer}·${change.position}</span><span class=${`weight ${rose ? "raises" : "lowers"}`}>
        ${plainNumber(change.before)} → ${plainNumber(change.after)}</span></button></li>`;
  })}</ol></section>`;
}
