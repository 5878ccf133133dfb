// The page before there is a graph: what to type, and what was traced before.
import { html } from "../html.js";
import { useStore } from "../store.js";
import { canTrace, canWrite, openGraph, tracePrompt } from "../actions.js";
import { PromptBox, OpenButton } from "./header.js";

export function Start() {
  const { session, loading } = useStore((s) => s);
  const { model, dictionary } = session;
  if (loading) return html`<main class="start"><p class="quiet">Opening the graph…</p></main>`;
  return html`<main class="start"><div class="start-column">
    <h1>See what a model computes on its way to an answer.</h1>
    <p class="lead">Type a prompt. The page shows which features carried it to the next token, how much of the answer they explain, and lets you change them to check.</p>
    ${canTrace() && html`<${PromptBox} large />`}
    ${canTrace() && session.example_prompts?.length > 0 && html`<section><h3>To begin with</h3><ul class="prompts">
      ${session.example_prompts.map((prompt) => html`<li key=${prompt}><button onClick=${() => tracePrompt(prompt)}>${prompt}</button>
        </li>`)}</ul></section>`}
    ${session.graphs.length > 0 && html`<section><h3>Traced before</h3><ul class="prompts">
      ${session.graphs.slice(0, 8).map((g) => html`<li key=${g.slug}><button onClick=${() => openGraph(g.slug)}><span>
        ${g.prompt || g.slug}</span><small>${when(g.created)}</small></button></li>`)}</ul></section>`}
    ${canWrite() && html`<p class="quiet"><${OpenButton} /> of this or another tool, or drop it anywhere.</p>`}
    <p class="quiet origin-line">${model?.name
      ? `${model.name}: ${model.n_layers} layers of ${model.d_model}, ${model.dtype} on ${model.device}` : ""}${dictionary?.name
        ? ` · ${dictionary.name}: ${Number(dictionary.n_features).toLocaleString("en-US")} features a layer` : ""}</p>
  </div></main>`;
}

function when(created) {
  const date = new Date(typeof created === "number" ? created * 1000 : created ?? NaN);
  return Number.isNaN(date.getTime()) ? "" : date.toLocaleDateString(undefined, { day: "numeric", month: "short" });
}
