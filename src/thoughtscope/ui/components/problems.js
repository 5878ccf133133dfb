// @ts-check
// Files of the work folder that could not be read: said once, then kept at hand in the header.
import { html } from "../html.js";
import { problemsText } from "../actions/notice.js";
import { setState, useStore } from "../store.js";
import { plainText } from "../text.js";

const NONE = [];
const useProblems = () => useStore((s) => s.session?.problems ?? NONE);

export function ProblemsButton() {
  const problems = useProblems();
  return problems.length > 0 && html`<button class="small problems-button"
    onClick=${() => setState({ dialog: "problems" })} title="Which files, and why"><span aria-hidden="true">▲ </span>${
    problemsText(problems)}</button>`;
}

export function Problems() {
  return html`<div class="problems"><p class="quiet">Everything else is here. These are left out and left as they
    are:</p><ul>${useProblems().map(({ file, why }) => html`<li key=${file}>
      <bdi class="problem-file">${plainText(file)}</bdi><p>${plainText(why)}</p></li>`)}</ul></div>`;
}
