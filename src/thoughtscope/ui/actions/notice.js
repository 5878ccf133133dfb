// @ts-check
// Short messages over the page, with at most one thing to do about them.
import { setState } from "../store.js";

let timer = 0;

/** @param {string} text @param {"info" | "error"} kind @param {{ name: string, run: () => void } | null} act */
export function notify(text, kind = "info", act = null) {
  clearTimeout(timer);
  setState({ notice: { text, kind, act } });
  timer = setTimeout(() => setState({ notice: null }), act ? 15000 : kind === "error" ? 9000 : 4000);
}

export function dismissNotice() {
  clearTimeout(timer);
  setState({ notice: null });
}

/** Says that files were left out, and shows which. The header keeps saying it. */
export function notifyProblems(problems) {
  const which = { name: "Which?", run: () => setState({ dialog: "problems" }) };
  notify(`${problemsText(problems)}.`, "error", which);
}

export function problemsText(problems) {
  return problems.length === 1 ? "1 file could not be read" : `${problems.length} files could not be read`;
}
