// @ts-check
// A label that nobody gave: what made it, and how far it held on text that it was not made from.
import { html } from "../html.js";
import { plainText } from "../text.js";

const FIGURES = `Precision: of the tokens that the label names, the share on which the feature is active.
Recall: of the tokens on which it is active, the share that the label names.
F1: their harmonic mean. Token table: F1 of the best list of tokens.`;

/** What an automatic label is worth, measured on text that it was not made from. */
export function Made({ made }) {
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
