// @ts-check
// How far the picture can be trusted: always in view, in numbers and in plain words. The numbers are the server's.
import { html } from "../html.js";
import { useParts, useStore } from "../store.js";
import { setEdgeCount } from "../actions/view.js";
import { scoresAt } from "../curve.js";
import { count, percent } from "../text.js";
import { restingLinks } from "./edges.js";
import { useShownNodes } from "../shown.js";

const STEPS = [50, 100, 300, 1000, 3000, 10000];
const NO_ERRORS = "no error nodes in this file: what its dictionary misses is not known";

function useScores() {
  const { graph, prune } = useParts("graph", "prune");
  return scoresAt(graph, prune);
}

export function Scores() {
  const hasErrors = useStore((s) => s.graph?.hasErrors);
  const scores = useScores();
  const known = hasErrors ? scores : { reason: NO_ERRORS };
  return html`<div class="scores" role="group" aria-label="Scores of the part that is shown">
    <${Meter} name="Replacement" value=${known.replacement} reason=${known.reason}
      title=${"The share of the influence on the answers that can be followed from the prompt’s tokens through "
        + "features alone. What is missing passes through errors (◆) at some step, or through what is left out."} />
    <${Meter} name="Completeness" value=${known.completeness} reason=${known.reason}
      title=${"The share of each node’s input, weighted by the node’s influence, that comes from features and tokens. "
        + "The rest comes from errors (◆) or from what is left out."} />
    ${Number.isFinite(known.mean_path_length) && html`<div class="score steps"
      title="The mean number of steps from a token to the answer, weighted by influence.">
      <span class="score-name">Steps</span><b>${known.mean_path_length.toFixed(1)}</b></div>`}
  </div>`;
}

function Meter({ name, value, title, reason }) {
  const known = Number.isFinite(value);
  return html`<div class="score" data-value=${known ? value : undefined}
    title=${known ? title : `${title} Not known: ${reason}.`}>
    <span class="score-name">${name}</span>
    ${known && html`<span class="meter" aria-hidden="true"><i
      style=${{ width: `${Math.min(1, Math.max(0, value)) * 100}%` }}>
    </i></span>`}
    <b class=${known ? "" : "unknown"}>${known ? value.toFixed(2) : "not known"}</b>
  </div>`;
}

/** Below the graph: what the scores say of the part on show, what is not in the picture, and which edges are drawn. */
export function TrustLine({ graph }) {
  const { prune, showErrors } = useParts("prune", "showErrors");
  const scores = useScores();
  return html`<div class="trust">
    <${EdgeLine} graph=${graph} />
    <p>${graph.hasErrors ? explained(scores) : `${capital(NO_ERRORS)}. `}
      ${heldText(graph)}${leftOut(graph.ours?.certificate)}${pruning(graph)}
      ${prune < 1 ? " What the slider hides counts as left out, pinned or not." : ""}
      ${showErrors || !graph.hasErrors ? "" : " Errors are hidden in the picture, not in the scores."}</p>
  </div>`;
}

/** @param {{ replacement?: number, completeness?: number, reason?: string }} scores */
function explained({ replacement = NaN, completeness = NaN, reason }) {
  if (!Number.isFinite(replacement)) return html`<b>How much of the answer this explains is not known</b>: ${reason}. `;
  return html`<b>${percent(replacement, 0)}</b> of the influence on the answers runs from the prompt through features;
    ${" "}${percent(1 - replacement, 0)} passes through something unexplained ◆ or left out.${" "}
    <b>${percent(completeness, 0)}</b> of what feeds the nodes is explained. `;
}

const capital = (text) => text[0].toUpperCase() + text.slice(1);

function heldText(graph) {
  return graph.held !== null && graph.held < 0.995
    ? html`The file holds <b>${percent(graph.held, 0)} of the influence</b>; its maker left the rest out. ` : "";
}

/** Which edges are drawn when nothing is selected: how many of how many, in which order; the number can be changed. */
function EdgeLine({ graph }) {
  const edgeCount = useStore((s) => s.edgeCount);
  const nodes = useShownNodes();
  const drawn = restingLinks(graph, new Set(nodes.map((node) => node.id)), edgeCount).length;
  const all = graph.links.length;
  const steps = [...new Set([...STEPS.filter((n) => n < all), all, edgeCount])].sort((a, b) => a - b);
  return html`<p class="edge-line"><label>Edges <select aria-label="Edges drawn at rest" value=${edgeCount}
      onChange=${(event) => setEdgeCount(Number(event.target.value))}>
      ${steps.map((n) => html`<option key=${n} value=${n}>${n === all ? `all ${n.toLocaleString("en-US")}`
        : n.toLocaleString("en-US")}</option>`)}</select></label>
    <span>${drawn.toLocaleString("en-US")} of ${count(all, "edge")}, ${graph.influenceKnown
      ? "by their influence on the answers" : "by weight: their influence on the answers is not known"}</span></p>`;
}

/** What pruning took away, and what the scores were before. */
function pruning(graph) {
  const before = graph.ours?.provenance?.scores_before_pruning;
  if (!Number.isFinite(before?.replacement) || !Number.isFinite(before?.completeness)) return "";
  const kept = graph.nodes.filter((node) => node.kind === "feature").length;
  return ` Pruning kept the ${count(kept, "feature")} that matter most; before it, the two figures were `
    + `${percent(before.replacement, 0)} and ${percent(before.completeness, 0)}.`;
}

function leftOut(certificate) {
  if (!certificate) return "The file does not say what its maker left out.";
  const { expanded, active, bound, frontier_mass: frontier } = certificate;
  const open = Number.isFinite(bound) ? bound : frontier;
  if (Number.isFinite(expanded) && expanded >= active) return `All ${count(active, "active feature")} were traced.`;
  const traced = Number.isFinite(expanded)
    ? `${expanded.toLocaleString("en-US")} of ${count(active, "active feature")} traced; ` : "";
  return `${traced}no node left out holds more than ${percent(open)} of the influence.`;
}
