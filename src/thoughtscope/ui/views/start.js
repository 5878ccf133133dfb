// @ts-check
// The page before there is a graph: what to type, and what was traced before.
import { html } from "../html.js";
import { useStore } from "../store.js";
import { tracePrompt } from "../actions/graphs.js";
import { canTrace, canWrite } from "../actions/source.js";
import { Library } from "../components/library.js";
import { plainText } from "../text.js";
import { PromptBox, OpenButton } from "./header.js";

export function Start() {
  const session = useStore((s) => s.session);
  const examples = canTrace() ? session.example_prompts ?? [] : [];
  return html`<main class="start"><div class="start-column">
    <h1>See what a model computes on its way to an answer.</h1>
    <p class="lead">Type a prompt. The page shows which features carried it to the next token, how much of the answer
      they explain, and lets you change them to check.</p>
    ${canTrace() && html`<${PromptBox} large />`}
    ${examples.length > 0 && html`<section><h2>To begin with</h2><ul class="prompts">
      ${examples.map((prompt) => html`<li key=${prompt}><button onClick=${() => tracePrompt(prompt)}>
        <bdi>${plainText(prompt)}</bdi></button></li>`)}
    </ul></section>`}
    ${session.graphs.length > 0 && html`<section><h2>Traced before</h2><${Library} /></section>`}
    ${canWrite() && html`<p class="quiet"><${OpenButton} /> of this or another tool, or drop it anywhere.</p>`}
    <p class="quiet origin-line">${loadedText(session)}</p>
  </div></main>`;
}

function loadedText({ model, dictionary }) {
  const parts = [];
  if (model?.name) {
    const { name, n_layers: layers, d_model: width, dtype, device } = model;
    parts.push(`${name}: ${layers} layers of ${width}, ${dtype} on ${device}`);
  }
  if (dictionary?.name) {
    parts.push(`${dictionary.name}: ${Number(dictionary.n_features).toLocaleString("en-US")} features a layer`);
  }
  return parts.join(" · ");
}
