// @ts-check
// What was found of a feature in real text: how strongly it fires, where, and what it does to the outputs.
import { html } from "../html.js";
import { heat } from "../colour.js";
import { percent, plainNumber } from "../text.js";
import { Token } from "./token.js";

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

/** Outputs that a feature raises or lowers directly. */
export function Logits({ name, list, sign }) {
  const textOf = (entry) => (typeof entry === "string" ? entry : entry?.text ?? entry?.[0]);
  const entries = (list ?? []).slice(0, 8).map(textOf);
  return html`<div class=${`logits ${sign}`}><h4>${name}</h4><ul>
    ${entries.map((text, i) => html`<li key=${i}><${Token} text=${text} /></li>`)}</ul>
    ${entries.length === 0 && html`<p class="quiet">none listed</p>`}</div>`;
}

/** Text around the places where a feature fires, strongest first. */
export function Examples({ detail }) {
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
    return html`<${ExampleToken} key=${i} text=${text} value=${values[i]} top=${top} peak=${i === peak}
      effect=${example.loss_effects_list?.[i]} />`;
  })}</p>`;
}

const HIDDEN = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

const FELT = 0.02; // nats: smaller effects are not marked

/** In running text spaces stay spaces; only other invisible characters become marks. A line above a token marks what
 * the feature did to its loss. */
function ExampleToken({ text, value, top, peak, effect }) {
  const style = value > 0 ? { background: heat(value, top) } : null;
  const shown = String(text).replace(HIDDEN, "�").replaceAll("\n", "↵");
  const felt = Math.abs(effect) >= FELT ? (effect > 0 ? "helped" : "hindered") : "";
  const without = felt && `without the feature its loss is ${plainNumber(Math.abs(effect))} nats `
    + (effect > 0 ? "higher" : "lower");
  const title = [value > 0 ? plainNumber(value) : "", without].filter(Boolean).join("; ") || null;
  return html`<span class=${`${peak ? "peak" : ""} ${felt}`.trim()} style=${style} title=${title}>${shown}</span>`;
}
