// @ts-check
// A conversation as it is read: what each speaker says; the template's tokens are folded to a mark.
import { html } from "../html.js";
import { tokenText } from "../text.js";
import { Token } from "./token.js";

/** The prompt's tokens; of a conversation, by turns. */
export function PromptTokens({ graph }) {
  const token = (i) => html`<${Token} key=${i} text=${graph.tokens[i]} />`;
  if (!graph.turns.length) return html`<p class="prompt-text" dir="ltr">${graph.tokens.map((_, i) => token(i))}</p>`;
  return html`<dl class="turns" dir="ltr">${graph.turns.map((turn, n) => html`<div key=${n}
    class=${turn.added ? "turn added" : "turn"}><dt title=${turn.added ? "The template brings this along" : null}>
      ${turn.role}</dt>
    <dd class="prompt-text"><${Fold} graph=${graph} start=${turn.start} end=${turn.from} />
      ${range(turn.from, turn.to).map(token)}<${Fold} graph=${graph} start=${turn.to} end=${turn.end} /></dd></div>`)}
  </dl>`;
}

/** Tokens of the template as one mark; what they are is told on hovering. */
function Fold({ graph, start, end }) {
  if (start === end) return null;
  const text = range(start, end).map((i) => tokenText(graph.tokens[i])).join("");
  const count = `${end - start} tokens of the template`;
  return html`<i class="fold" role="img" title=${`template: ${text}`} aria-label=${count}
    >${"·".repeat(Math.min(3, end - start))}</i>`;
}

function range(start, end) {
  return Array.from({ length: end - start }, (_, i) => start + i);
}
