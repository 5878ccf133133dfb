// @ts-check
// A feature up close: real text where it fires, how strongly, and which outputs it raises and lowers directly.
import { html } from "../html.js";
import { useEffect, useState } from "../vendor/hooks.mjs";
import { useParts, useStore } from "../store.js";
import { featureDetail } from "../actions/features.js";
import { hasFeatures } from "../actions/source.js";
import { featureKey } from "../model.js";
import { heat } from "../colour.js";
import { Token } from "./token.js";
import { percent, plainNumber, plainText } from "../text.js";

export function useFeature(node) {
  const key = node?.kind === "feature" ? featureKey(node) : null;
  const graph = useStore((s) => s.graph);
  const [answer, setAnswer] = useState(/** @type {any} */ ({ key: null }));
  useEffect(() => {
    if (key === null || !hasFeatures()) return undefined;
    let wanted = true;
    const give = (part) => wanted && setAnswer({ key, ...part });
    featureDetail(node).then((detail) => give({ detail }), (error) => give({ error: error.message }));
    return () => { wanted = false; };
  }, [key, graph.slug]);
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

/** How often each strength of activation occurs, with this prompt's value marked. Counts on a root scale, so that rare
 * strong ones show. */
export function Histogram({ detail, activation }) {
  const counts = (detail.histogram ?? []).map(Number).filter(Number.isFinite);
  const most = Math.max(1, ...counts);
  const top = Number(detail.act_max) || 0;
  const at = top > 0 && activation !== null ? Math.min(1, activation / top) : null;
  const step = 120 / Math.max(1, counts.length);
  const bar = (n, i) => html`<rect key=${i} x=${i * step + 0.3} width=${Math.max(0.4, step - 0.6)}
    y=${44 - 44 * Math.sqrt(n / most)} height=${44 * Math.sqrt(n / most)}/>`;
  return html`<figure class="histogram" aria-label=${`Histogram of activations up to ${plainNumber(top)}`}>
    <figcaption>Activations</figcaption>
    <svg viewBox="0 0 120 44" preserveAspectRatio="none" aria-hidden="true">${counts.map(bar)}
      ${at !== null && html`<line x1=${at * 120} x2=${at * 120} y1="0" y2="44"/>`}</svg>
    <div class="scale"><span>0</span><span>${plainNumber(top)}</span></div>
    <p>${at !== null ? html`here <b>${plainNumber(activation)}</b>, ` : ""}fires on${" "}
      <b>${percent(detail.activation_frequency)}</b> of tokens</p>
  </figure>`;
}

function Logits({ name, list, sign }) {
  const textOf = (entry) => (typeof entry === "string" ? entry : entry?.text ?? entry?.[0]);
  const entries = (list ?? []).slice(0, 8).map(textOf);
  return html`<div class=${`logits ${sign}`}><h4>${name}</h4><ul>
    ${entries.map((text, i) => html`<li key=${i}><${Token} text=${text} /></li>`)}</ul>
    ${entries.length === 0 && html`<p class="quiet">none listed</p>`}</div>`;
}

function Examples({ detail }) {
  const groups = (detail.examples_quantiles ?? []).filter((g) => g.examples?.length);
  const values = groups.flatMap((g) => g.examples.flatMap((e) => e.tokens_acts_list ?? []));
  const top = Number(detail.act_max) || Math.max(0, ...values);
  if (!groups.length) {
    return html`<p class="quiet pad">No examples: the feature did not fire on the text that was scanned.</p>`;
  }
  return html`<div class="examples">${groups.map((g, i) => html`<section key=${i}>
    <h4>${g.quantile_name}</h4>
    ${g.examples.map((example, j) => html`<${Example} key=${j} example=${example} top=${top} />`)}
  </section>`)}</div>`;
}

function Example({ example, top }) {
  const values = example.tokens_acts_list ?? [];
  const tokens = example.tokens ?? [];
  const peak = example.train_token_ind ?? values.indexOf(Math.max(...values));
  const from = Math.max(0, peak - 28);
  return html`<p class="example">${from > 0 ? "…" : ""}${tokens.slice(from, peak + 14).map((text, k) => {
    const i = from + k;
    return html`<${ExampleToken} key=${i} text=${text} value=${values[i]} top=${top} peak=${i === peak} />`;
  })}</p>`;
}

const HIDDEN = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** In running text spaces stay spaces; only other invisible characters become marks. */
function ExampleToken({ text, value, top, peak }) {
  const style = value > 0 ? { background: heat(value, top) } : null;
  const shown = String(text).replace(HIDDEN, "�").replaceAll("\n", "↵");
  const title = value > 0 ? plainNumber(value) : null;
  return html`<span class=${peak ? "peak" : ""} style=${style} title=${title}>${shown}</span>`;
}
