// @ts-check
// A token as a person should see it: spaces and invisible characters are marks, never blank.
import { html } from "../html.js";
import { tokenRuns } from "../text.js";

export function Token({ text, heat = null, title = null }) {
  const runs = tokenRuns(text).map((run) => (run.mark ? html`<i class="mark">${run.text}</i>` : run.text));
  return html`<span class="token" style=${heat ? { background: heat } : null} title=${title}>${runs}</span>`;
}

/** The sign of a node's kind: a circle for features, a diamond for errors, a square for tokens and outputs. */
export function Glyph({ kind }) {
  return html`<svg class=${`glyph ${kind}`} width="12" height="12" viewBox="-6 -6 12 12" aria-hidden="true">
    ${kind === "group" ? html`<circle cx="-1.6" r="3.6"/><circle cx="1.6" r="3.6"/>`
      : kind === "feature" ? html`<circle r="4.2"/>`
      : kind === "error" ? html`<path d="M0-4.6 4.6 0 0 4.6-4.6 0Z"/>`
      : html`<rect x="-4" y="-4" width="8" height="8" rx="1"/>`}
  </svg>`;
}
