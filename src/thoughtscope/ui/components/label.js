// @ts-check
// Who calls a feature so: people by name, or what made the label and how far it held.
import { html } from "../html.js";
import { useStore } from "../store.js";
import { writeAs } from "../actions/features.js";
import { plainText } from "../text.js";
import { Made } from "./made.js";

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
