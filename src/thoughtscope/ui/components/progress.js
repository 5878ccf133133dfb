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

/** Above a graph in the making: how far it is, what is still to come, and a way to leave it as it is. */
export function Refining({ work, onStop }) {
  const seconds = useSeconds(work.since);
  const { waiting, bound, memory, memory_share: share } = work.figures ?? {};
  const parts = Number.isFinite(waiting)
    ? [`refining: ${count(work.done)} of ${count(work.done + waiting)} features`] : ["putting the graph together"];
  if (Number.isFinite(bound)) parts.push(`at most ${percent(bound)} of influence still to come`);
  parts.push(`${seconds} s`);
  const part = Number.isFinite(share) ? `, ${percent(share)} of what is free` : "";
  const title = Number.isFinite(memory) ? `Takes about ${count(memory / 1e6)} MB of memory${part}` : "";
  return html`<div class="refining" title=${title}><i aria-hidden="true"></i><span>${parts.join(" · ")}</span>
    <button type="button" class="plain" onClick=${onStop}>Stop</button></div>`;
}

const count = (number) => Math.round(number).toLocaleString("en-US");

function percent(share) {
  return `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}\u00a0%`;
}

/** Seconds since then, or since this was first shown. */
function useSeconds(since = 0) {
  const [start] = useState(since || Date.now());
  const passed = () => Math.round((Date.now() - start) / 1000);
  const [seconds, setSeconds] = useState(passed);
  useEffect(() => {
    const timer = setInterval(() => setSeconds(passed()), 1000);
    return () => clearInterval(timer);
  }, []);
  return seconds;
}
