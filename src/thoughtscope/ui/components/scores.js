// How far the picture can be trusted: always in view, in numbers and in plain words.
import { html } from "../html.js";
import { useStore } from "../store.js";
import { graphScores } from "../scores.js";
import { count, percent } from "../text.js";

export function Scores() {
  const graph = useStore((s) => s.graph);
  const scores = graphScores(graph);
  return html`<div class="scores" role="group" aria-label="Scores of the graph">
    <${Meter} name="Replacement" value=${scores.replacement}
      title="The share of the influence on the answer that can be followed from the prompt’s tokens through features alone. What is missing passes through errors (◆) at some step." />
    <${Meter} name="Completeness" value=${scores.completeness}
      title="The share of each node’s input, weighted by the node’s influence, that comes from features and tokens. The rest comes from errors (◆)." />
    ${Number.isFinite(scores.mean_path_length)
      && html`<div class="score steps" title="The mean number of steps from a token to the answer, weighted by influence.">
        <span class="score-name">Steps</span><b>${scores.mean_path_length.toFixed(1)}</b></div>`}
  </div>`;
}

function Meter({ name, value, title }) {
  const share = Math.min(1, Math.max(0, value || 0));
  return html`<div class="score" title=${title}>
    <span class="score-name">${name}</span>
    <span class="meter" aria-hidden="true"><i style=${{ width: `${share * 100}%` }}></i></span>
    <b>${Number.isFinite(value) ? value.toFixed(2) : "–"}</b>
  </div>`;
}

/** One line below the graph: what the scores say, and what is not in the picture. */
export function TrustLine({ graph }) {
  const scores = graphScores(graph);
  const certificate = graph.ours?.certificate;
  const title = "Computed on the nodes in this file; whatever was pruned or left out counts as unexplained.";
  return html`<p class="trust" title=${scores.stated ? title
    : "Computed from the nodes in this file; what its maker pruned is unknown."}>
    <b>${percent(scores.replacement, 0)}
      </b> of the influence on the answer runs from the prompt through features ●; ${percent(1 - scores.replacement, 0)} passes
    through something unexplained ◆ or left out. <b>${percent(scores.completeness, 0)}
      </b> of what feeds the nodes is explained. ${leftOut(certificate, scores)}${pruning(graph)}
  </p>`;
}

/** What pruning took away, and what the scores were before. */
function pruning(graph) {
  const before = graph.ours?.provenance?.scores_before_pruning;
  if (!Number.isFinite(before?.replacement) || !Number.isFinite(before?.completeness)) return "";
  const kept = graph.nodes.filter((node) => node.kind === "feature").length;
  return ` Pruning kept the ${count(kept, "feature")} that matter most; before it, the two figures were ${percent(before.replacement,
    0)} and ${percent(before.completeness, 0)}.`;
}

function leftOut(certificate, scores) {
  if (!certificate) return scores.stated ? "" : "The file does not say what its maker left out.";
  const { expanded, active, bound, frontier_mass: frontier } = certificate;
  const open = Number.isFinite(bound) ? bound : frontier;
  if (Number.isFinite(expanded) && expanded >= active) return `All ${count(active, "active feature")} were traced.`;
  const traced = Number.isFinite(expanded) ? `${expanded.toLocaleString("en-US")} of ${count(active, "active feature")} traced; ` : "";
  return `${traced}no node left out holds more than ${percent(open)} of the influence.`;
}
