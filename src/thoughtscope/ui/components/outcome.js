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
      ${outcome.rival && html`<div title="The answer’s logit less that of the strongest other token, before and after">
        <dt>Ahead of <${Token} text=${outcome.rival.text} /></dt><dd>${signed(outcome.rival.difference_before)} →${" "}
          ${signed(outcome.rival.difference_after)}</dd></div>`}
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

const WORDS = {
  confirmed: ["✓ Confirmed", "confirmed"], refuted: ["✗ Refuted", "refuted"],
  no_stronger: ["Right direction, no stronger than random features", "refuted"],
  not_compared: ["Right direction, not compared with random features", "none"],
  untested: ["Nothing to test", "none"],
};

/** What the graph predicts, what was measured, and what random features do: the verdict is the server's. */
function Verdict({ outcome }) {
  const { prediction, control } = outcome;
  const known = outcome.verdict?.name ?? plainVerdict(prediction);
  const [title, kind] = WORDS[known] ?? WORDS.untested;
  return html`<div class=${`verdict ${kind}`}><b>${title}</b>
    ${known === "untested" ? html`<p>The graph predicts no change of the answer’s logit from these nodes.</p>`
      : html`<p>${predicted(outcome)}</p>`}
    ${prediction && Number.isFinite(prediction.measured)
      && html`<${Scale} prediction=${prediction} control=${control} />`}
    ${control?.reason && html`<p>No random features to compare with: ${plainText(control.reason)}</p>`}
  </div>`;
}

/** For outcomes of files that state no verdict. */
function plainVerdict(prediction) {
  if (!prediction || typeof prediction.confirmed !== "boolean") return "untested";
  return prediction.confirmed ? "confirmed" : "refuted";
}

function predicted(outcome) {
  const { prediction } = outcome;
  const wanted = { down: "falls", up: "rises" }[prediction.direction] ?? "changes";
  return html`The graph predicts that the logit of <${Token} text=${answerText(outcome)} /> ${wanted}.`;
}

/** The predicted change, the measured one and those of random features on one scale, with what must be exceeded. */
function Scale({ prediction, control }) {
  const { change, measured, threshold } = prediction;
  const random = control?.changes ?? [];
  const bar = Number.isFinite(threshold) ? Number(threshold) : 0;
  const reach = Math.max(...[change ?? 0, measured, bar, ...random].map(Math.abs), 1e-6);
  const at = (value) => `${50 + (46 * value) / reach}%`;
  const row = (name, values, kind, title) => html`<div class="scale-row" title=${title}><dt>${name}</dt>
    <dd class="scale-line"><i class="band" style=${{ left: at(-bar), right: `${50 - (46 * bar) / reach}%` }}></i>
      ${values.map((value, i) => html`<i key=${i} class=${`mark ${kind}`} style=${{ left: at(value) }}></i>`)}</dd>
    <dd class="scale-number">${signed(furthest(values))}</dd></div>`;
  return html`<dl class="scale" aria-label="Change of the answer’s logit">
    ${Number.isFinite(change) && row("predicted", [Number(change)], "predicted", "What the graph’s edges add up to")}
    ${row("measured", [Number(measured)], "measured", "What the model did")}
    ${random.length > 0 && row(`${random.length} random`, random, "random",
      "The same change on random features of the same layers and strength, several times; the number is the furthest")}
    <p class="quiet">${random.length ? "Confirmed is what goes further than the random features"
      : "Confirmed is what goes further than nothing"}: beyond ${plainNumber(bar)} (shaded).</p></dl>`;
}

const furthest = (values) => values.reduce((far, value) => (Math.abs(value) > Math.abs(far) ? value : far), 0);

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
