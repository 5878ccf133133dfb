// @ts-check
// Who calls a feature so: people by name, or what made the label and how far it held.
import { html } from "../html.js";
import { useStore } from "../store.js";
import { writeAs } from "../actions/features.js";
import { plainText } from "../text.js";

/** @param {{ detail?: any, own: string, fixed: boolean }} props */
export function LabelLine({ detail, own, fixed }) {
  return html`<p class="label-line">${own ? html`<${People} given=${detail?.given ?? []} />`
    : html`<${Made} made=${detail?.auto} />`}${!fixed && html`<${Author} />`}</p>`;
}

function People({ given }) {
  const [last, ...others] = [...given].reverse();
  if (!last) return null;
  return html`<span>${last.author ? html`named by <bdi>${plainText(last.author)}</bdi>` : "named"}${day(last.when)}
    ${others.map((one) => html`<span key=${one.author}>; <bdi>${plainText(one.author) || "someone"}</bdi> says
      “<bdi>${plainText(one.text)}</bdi>”</span>`)}</span>`;
}

const FIGURES = `Precision: of the tokens that the label names, the share on which the feature is active.
Recall: of the tokens on which it is active, the share that the label names.
F1: their harmonic mean. Token table: F1 of the best list of tokens.`;

/** What an automatic label is worth, measured on text that it was not made from. */
function Made({ made }) {
  if (!made) return null;
  if (!("f1" in made)) return html`<span>by ${plainText(made.author)}${figuresOf(made)}</span>`;
  const what = made.side === "output" ? "what follows it" : "rule";
  return html`<span title=${FIGURES}>${what}, by ${plainText(made.author)}: on held-out text F1
    <b> ${share(made.f1)}</b> (precision ${share(made.precision)}, recall ${share(made.recall)};
    token table ${share(made.unigram_f1)})</span>`;
}

const share = (value) => (Number.isFinite(value) ? value.toFixed(2) : "–");

/** The scores of a label that a language model wrote: `, detection auroc 0.71`. */
function figuresOf(made) {
  const names = Object.keys(made).filter((name) => / (auroc|pearson)$/.test(name));
  return names.map((name) => `, ${plainText(name)} ${share(made[name])}`).join("");
}

function Author() {
  const name = useStore((s) => s.author);
  return html`<label title="Under this name your labels are kept; without one, under that of who runs the server">as
    <input class="author-field" value=${name} placeholder="your name" maxlength="60" spellcheck="false"
      aria-label="Your name, for labels" onChange=${(event) => writeAs(event.target.value)} /></label>`;
}

function day(when) {
  const date = when ? new Date(when) : null;
  if (!date || Number.isNaN(date.getTime())) return "";
  return `, ${date.toLocaleDateString(undefined, { day: "numeric", month: "short", year: "numeric" })}`;
}
