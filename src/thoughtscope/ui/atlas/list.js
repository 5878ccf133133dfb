// @ts-check
// The list: all features, or those that were found. Only the rows in sight are drawn.
import { html } from "../html.js";
import { useEffect, useMemo, useRef, useState } from "../vendor/hooks.mjs";
import { Token } from "../components/token.js";
import { useParts } from "../store.js";
import { clip, count, percent, plainText } from "../text.js";
import { idOf, labelOf, peaksOf } from "./index.js";
import { SORTS, listed } from "./listed.js";
import { openFeature } from "./opening.js";
import { setAtlas } from "./state.js";

const ROW = 40; // pixels; style sheet: .atlas-row
const BEYOND = 6; // rows drawn above and below those in sight

export function FeatureList() {
  const { index, found, sort, feature } = useParts("index", "found", "sort", "feature");
  const places = useMemo(() => listed(index, found, sort), [index, found, sort]);
  const box = useRef(/** @type {any} */ (null));
  const [top, setTop] = useState(0);
  const [height, setHeight] = useState(800);
  useEffect(() => {
    const watch = new ResizeObserver(() => setHeight(box.current.clientHeight));
    watch.observe(box.current);
    return () => watch.disconnect();
  }, []);
  useEffect(() => { box.current.scrollTop = 0; }, [found, sort]);
  useEffect(() => reveal(box.current, places.indexOf(feature)), [feature, places]);
  const first = Math.max(0, Math.floor(top / ROW) - BEYOND);
  const shown = places.slice(first, first + Math.ceil(height / ROW) + 2 * BEYOND);
  return html`<section class="atlas-list panel" aria-label="Features">
    <header><span class="list-count" role="status">${found ? foundText(found) : count(index.n, "feature")}</span>
      <label class="list-sort"><span class="hidden">Order</span><select value=${sort}
        onChange=${(event) => setAtlas({ sort: event.target.value })}>
        ${SORTS.map(({ value, name, title }) => html`<option key=${value} value=${value} title=${title}>${name}
          </option>`)}</select></label></header>
    <div class="atlas-rows" ref=${box} onScroll=${(event) => setTop(event.currentTarget.scrollTop)}>
      <ul style=${{ height: `${places.length * ROW}px` }}>${shown.map((one, i) => html`<${Row} key=${one} feature=${one}
        at=${first + i} note=${noteOf(found, one)} />`)}</ul>
      ${places.length === 0 && html`<p class="quiet pad">No feature has to do with this.</p>`}</div>
  </section>`;
}

const foundText = ({ places, of }) => `${places.length.toLocaleString("en-US")} for “${clip(plainText(of), 30)}”`;
const noteOf = (found, feature) => found?.notes?.[found.places.indexOf(feature)] ?? "";

/** The feature that comes next in the list, or the first one. */
export function stepped(state, step) {
  const places = listed(state.index, state.found, state.sort);
  const at = places.indexOf(state.feature);
  return places[at < 0 ? 0 : Math.min(places.length - 1, Math.max(0, at + step))] ?? null;
}

function reveal(box, at) {
  if (at < 0) return;
  if (at * ROW < box.scrollTop) box.scrollTop = at * ROW;
  else if ((at + 1) * ROW > box.scrollTop + box.clientHeight) box.scrollTop = (at + 1) * ROW - box.clientHeight;
}

function Row({ feature, at, note }) {
  const { index, people, feature: open, pointed } = useParts("index", "people", "feature", "pointed");
  const label = labelOf(index, people, feature);
  const own = people[idOf(index, feature)];
  const mark = `${feature === open ? " on" : ""}${feature === pointed ? " pointed" : ""}`;
  return html`<li class=${`atlas-row${mark}`} style=${{ top: `${at * ROW}px` }}><button
    aria-pressed=${feature === open ? "true" : "false"} onClick=${() => openFeature(feature, { follow: true })}
    onPointerEnter=${() => setAtlas({ pointed: feature })} onPointerLeave=${() => setAtlas({ pointed: null })}>
    <span class=${label ? (own ? "name own" : "name") : "name unknown"}>${plainText(label) || "never fired"}</span>
    <small class="row-id">${idOf(index, feature)}</small>
    <span class="row-peaks">${note ? html`<em>${plainText(note)}</em>`
      : peaksOf(index, feature, 3).map((text, i) => html`<${Token} key=${i} text=${clip(text, 14)} />`)}</span>
    <small class="row-share">${percent(index.count[feature] / Math.max(1, index.tokens))}</small></button></li>`;
}
