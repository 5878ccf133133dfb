// @ts-check
// A short message over the page; a dialog carries it itself, since nothing outside of it can be reached.
import { html } from "../html.js";
import { dismissNotice } from "../actions/notice.js";
import { useStore } from "../store.js";

export function Notice() {
  const notice = useStore((s) => s.notice);
  return html`<div class="notices" role="status">${notice && html`<${Message} notice=${notice} />`}</div>`;
}

function Message({ notice }) {
  const act = () => {
    dismissNotice();
    notice.act.run();
  };
  return html`<p class=${`notice ${notice.kind}`}><span>${notice.text}</span>
    ${notice.act && html`<button onClick=${act}>${notice.act.name}</button>`}
    <button class="icon" onClick=${dismissNotice} aria-label="Dismiss">×</button></p>`;
}
