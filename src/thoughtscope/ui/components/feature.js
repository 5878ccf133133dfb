// A feature up close: real text where it fires, how strongly, and which outputs it raises and lowers directly.
import { html } from "../html.js";
import { useEffect, useState } from "../vendor/hooks.mjs";
import { useStore } from "../store.js";
import { featureDetail, hasFeatures } from "../actions.js";
import { featureKey } from "../model.js";
import { heat } from "../colour.js";
import { Token } from "./token.js";
import { percent, plainNumber } from "../text.js";

export function useFeature(node) {
  const key = node?.kind === "feature" ? featureKey(node) : null;
  const slug = useStore((s) => s.graph.slug);
  const [answer, setAnswer] = useState({ key: null });
  useEffect(() => {
    if (key === null || !hasFeatures()) return undefined;
    let wanted = true;
    featureDetail(node).then((detail) => wanted && setAnswer({ key, detail }), (error) => wanted
      && setAnswer({ key, error: error.message }));
    return () => { wanted = false; };
  }, [key, slug]);
  if (key === null) return {};
  if (!hasFeatures()) return { error: "This graph was made with a dictionary that is not loaded here, so there are no examples for its features." };
  return answer.key === key ? answer : { waiting: true };
}

export function FeatureDetail({ node, answer }) {
  const { detail, error, waiting } = answer;
  if (error) return html`<p class="quiet pad">${error}</p>`;
  if (waiting || !detail) return html`<div class="feature-detail waiting" aria-busy="true"><p class="quiet pad">Reading examples…</p>
    </div>`;
  return html`<div class="feature-detail">
    <div class="feature-numbers">
      <${Histogram} detail=${detail} activation=${node.activation} />
      <${Logits} name="Raises" list=${detail.top_logits} sign="raises" />
      <${Logits} name="Lowers" list=${detail.bottom_logits} sign="lowers" />
    </div>
    <${Examples} detail=${detail} />
  </div>`;
}

/** How often each strength of activation occurs, with this prompt's value marked. Counts on a root scale, so that rare strong ones show. */
export function Histogram({ detail, activation }) {
  const counts = (detail.histogram ?? []).map(Number).filter(Number.isFinite);
  const most = Math.max(1, ...counts);
  const top = Number(detail.act_max) || 0;
  const at = top > 0 && activation !== null ? Math.min(1, activation / top) : null;
  const step = 120 / Math.max(1, counts.length);
  return html`<figure class="histogram" aria-label=${`Histogram of activations up to ${plainNumber(top)}`}>
    <figcaption>Activations</figcaption>
    <svg viewBox="0 0 120 44" preserveAspectRatio="none" aria-hidden="true">
      ${counts.map((n, i) => html`<rect key=${i} x=${i * step + 0.3} width=${Math.max(0.4, step - 0.6)}
        y=${44 - 44 * Math.sqrt(n / most)} height=${44 * Math.sqrt(n / most)}/>`)}
      ${at !== null && html`<line x1=${at * 120} x2=${at * 120} y1="0" y2="44"/>`}
    </svg>
    <div class="scale"><span>0</span><span>${plainNumber(top)}</span></div>
    <p>${at !== null ? html`here <b>${plainNumber(activation)}</b>, ` : ""}fires on <b>${percent(detail.activation_frequency)}
      </b> of tokens</p>
  </figure>`;
}

function Logits({ name, list, sign }) {
  const entries = (list ?? []).slice(0, 8).map((entry) => (typeof entry === "string" ? entry : entry?.text ?? entry?.[0]));
  return html`<div class=${`logits ${sign}`}><h4>${name}</h4><ul>
    ${entries.map((text, i) => html`<li key=${i}><${Token} text=${text} /></li>`)}</ul>
    ${entries.length === 0 && html`<p class="quiet">none listed</p>`}</div>`;
}

function Examples({ detail }) {
  const groups = (detail.examples_quantiles ?? []).filter((g) => g.examples?.length);
  const top = Number(detail.act_max) || Math.max(0, ...groups.flatMap((g) => g.examples.flatMap((e) => e.tokens_acts_list ?? [])));
  if (!groups.length) return html`<p class="quiet pad">No examples: the feature did not fire on the text that was scanned.</p>`;
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

/** In running text spaces stay spaces; only other invisible characters become marks. */
function ExampleToken({ text, value, top, peak }) {
  const style = value > 0 ? { background: heat(value, top) } : null;
  const shown = String(text).replace(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
    "�").replaceAll("\n", "↵");
  return html`<span class=${peak ? "peak" : ""} style=${style} title=${value > 0 ? plainNumber(value) : null}>${shown}</span>`;
}
