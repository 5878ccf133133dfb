// @ts-check
// How far a long piece of work has come, and a way out of it.
import { html } from "../html.js";
import { useEffect, useState } from "../vendor/hooks.mjs";

export function Progress({ work, onCancel }) {
  const seconds = useSeconds();
  const share = work.total > 0 ? Math.min(1, work.done / work.total) : null;
  const told = work.total > 1 ? `${work.stage} ${work.done} of ${work.total}` : work.stage;
  return html`<div class="progress" >
    <div class="progress-bar" role="progressbar" aria-label=${work.stage} aria-valuemin="0" aria-valuemax="100"
      aria-valuenow=${share === null ? undefined : Math.round(share * 100)}>
      <i class=${share === null ? "waiting" : ""} style=${{ width: `${(share ?? 1) * 100}%` }}></i></div>
    <span>${told}${seconds >= 2 ? `, ${seconds} s` : ""}</span>
    <button type="button" class="plain" onClick=${onCancel}>Cancel</button>
  </div>`;
}

function useSeconds() {
  const [seconds, setSeconds] = useState(0);
  useEffect(() => {
    const start = Date.now();
    const timer = setInterval(() => setSeconds(Math.round((Date.now() - start) / 1000)), 1000);
    return () => clearInterval(timer);
  }, []);
  return seconds;
}
