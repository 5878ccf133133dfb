// @ts-check
// A feature up close: real text where it fires, how strongly, and which outputs it raises and lowers directly.
import { html } from "../html.js";
import { useEffect, useState } from "../vendor/hooks.mjs";
import { useParts } from "../store.js";
import { featureDetail } from "../actions/features.js";
import { canWrite, hasFeatures } from "../actions/source.js";
import { featureKey } from "../model.js";
import { plainText } from "../text.js";
import { Examples, Histogram, Logits } from "./examples.js";

export function useFeature(node) {
  const key = node?.kind === "feature" ? featureKey(node) : null;
  const { graph, labelled } = useParts("graph", "labelled");
  const [answer, setAnswer] = useState(/** @type {any} */ ({ key: null }));
  useEffect(() => {
    if (key === null || !hasFeatures()) return undefined;
    let wanted = true;
    const give = (part) => wanted && setAnswer({ key, ...part });
    featureDetail(node).then((detail) => give({ detail }), (error) => give({ error: error.message }));
    return () => { wanted = false; };
  }, [key, graph.slug, labelled]);
  if (key === null) return {};
  if (!hasFeatures()) return { foreign: true };
  return answer.key === key ? answer : { waiting: true };
}

export function FeatureDetail({ node, answer }) {
  const { detail, error, waiting, foreign } = answer;
  if (foreign) return html`<${Foreign} node=${node} />`;
  if (error) return html`<p class="quiet pad">${error}</p>`;
  if (waiting || !detail) {
    return html`<div class="feature-detail waiting" aria-busy="true"><p class="quiet pad">Reading examples…</p></div>`;
  }
  return html`<div class="feature-detail">
    <div class="feature-numbers">
      <${Histogram} detail=${detail} activation=${node.activation} />
      <${Logits} name="Raises" list=${detail.top_logits} sign="raises" />
      <${Logits} name="Lowers" list=${detail.bottom_logits} sign="lowers" />
    </div>
    ${canWrite() && detail.part !== undefined && html`<p class="elsewhere"><a
      href=${`atlas#f=${detail.part}/${detail.index}`}>In the atlas</a>: what is near, and where it lies</p>`}
    <${Examples} detail=${detail} />
  </div>`;
}

/** A feature of a dictionary that is not loaded here: what the file says of it, and where else it may be looked up.
 * Addresses stay text: the page asks no other server. */
function Foreign({ node }) {
  const { graph, session } = useParts("graph", "session");
  const made = madeWith(graph);
  const raw = graph.json.nodes[graph.nodes.indexOf(node)] ?? {};
  const address = addressOf(raw, graph.metadata);
  const loaded = [session.model?.name, session.dictionary?.name].filter(Boolean).join(", ");
  return html`<div class="feature-detail foreign"><p><b>The dictionary of this graph is not loaded here</b>, so there
    are no examples for its features.</p>
    <dl class="origin"><dt>Made with</dt><dd>${made.model || "a model that is not stated"}</dd>
      <dt>Dictionary</dt><dd>${made.dictionary || "not stated"}</dd>
      <dt>Loaded here</dt><dd>${loaded || "none"}</dd>
      <dt>Feature</dt><dd>${node.index === null ? node.fileId : `layer ${node.layer}, number ${node.index}`}</dd>
      ${address && html`<dt>Look it up</dt><dd class="address">${address}</dd>`}</dl>
    ${raw.feature_details && html`<${FileDetails} detail=${raw.feature_details} />`}</div>`;
}

/** What the file itself holds of the feature. */
function FileDetails({ detail }) {
  return html`<div class="feature-numbers two"><${Logits} name="Raises" list=${detail.top_logits} sign="raises" />
    <${Logits} name="Lowers" list=${detail.bottom_logits} sign="lowers" /></div>`;
}

/** The model and dictionary that a graph names. */
export function madeWith(graph) {
  const name = (value) => (typeof value === "string" ? value : value?.name ?? "");
  const info = graph.metadata.info ?? {};
  return {
    model: plainText(name(graph.ours?.model) || name(graph.scan)),
    dictionary: plainText(name(graph.ours?.dictionary) || name(info.transcoder_set ?? graph.metadata.transcoder_set)),
    tool: plainText(name(info.generator)),
  };
}

function addressOf(raw, metadata) {
  const details = raw.feature_details;
  const base = details?.neuronpedia_url ?? details?.url ?? metadata.feature_details?.feature_json_base_url;
  return typeof base === "string" && base ? plainText(base) : null;
}
