// @ts-check
// What lies beside a feature: those that write nearly the same, those that fire with it, its family, and how specific
// it is.
import { html } from "../html.js";
import { useParts } from "../store.js";
import { percent, plainText } from "../text.js";
import { idOf, labelOf } from "./index.js";
import { openFeature } from "./opening.js";
import { setAtlas } from "./state.js";

const SHOWN = 8;

export function Beside({ beside }) {
  return html`<div class="beside">
    <${Features} title="Near" hint="by the cosine of what they write" list=${beside.near}
      share=${(one) => one.cosine} text=${(one) => one.cosine.toFixed(2)} missing="There is no map yet." />
    <${Features} title="Fires with" hint="by Jaccard’s index; and on how much of its text" list=${beside.together}
      share=${(one) => one.jaccard} text=${(one) => `${one.jaccard.toFixed(2)} · ${percent(one.given, 0)}`}
      missing="Not recorded: make the atlas with --data or --recording." />
  </div>`;
}

function Features({ title, hint, list, share, text, missing }) {
  return html`<section><h3 title=${hint}>${title}</h3>
    ${!list && html`<p class="quiet">${missing}</p>`}
    ${list?.length === 0 && html`<p class="quiet">None.</p>`}
    <ul>${(list ?? []).slice(0, SHOWN).map((one) => html`<${Other} key=${one.feature} feature=${one.feature}
      share=${share(one)} text=${text(one)} />`)}</ul></section>`;
}

function Other({ feature, share, text }) {
  const { index, people } = useParts("index", "people");
  const label = labelOf(index, people, feature);
  return html`<li class="other"><button onClick=${() => openFeature(feature, { follow: true })}
    title=${idOf(index, feature)} onPointerEnter=${() => setAtlas({ pointed: feature })}
    onPointerLeave=${() => setAtlas({ pointed: null })}><span class=${label ? "name" : "name unknown"}>
      ${plainText(label) || idOf(index, feature)}</span><b>${text}</b>
    <i style=${{ width: `${Math.round(100 * Math.min(1, Math.max(0, share)))}%` }}></i></button></li>`;
}

/** The feature among those of a smaller and a larger dictionary. */
export function Family({ family, label }) {
  if (!family) return null;
  const [parents, children] = ["parent", "child"].map((role) => family.filter((one) => one.role === role));
  if (!family.length) {
    return html`<section class="family"><h3>Family</h3><p class="quiet">No feature of the other sizes writes nearly the
      same.</p></section>`;
  }
  const figures = ({ cosine, given }) => `${cosine.toFixed(2)}${given === null ? "" : ` · ${percent(given, 0)}`}`;
  const level = (members) => html`<ul>${members.map((one) => html`<li key=${one.dictionary + one.id}
    title=${`${one.dictionary}/${one.id}`}><span>${plainText(one.label) || one.id}</span>
    <small>${figures(one)}</small></li>`)}</ul>`;
  return html`<section class="family"><h3 title="Cosine; and on how much of a parent’s text the child fires">Family</h3>
    ${parents.length > 0 && html`<p class="quiet">in ${plainText(parents[0].dictionary)}</p>${level(parents)}`}
    <p class="family-self">${plainText(label)}</p>
    ${children.length > 0 && html`<p class="quiet">in ${plainText(children[0].dictionary)}</p>${level(children)}`}
  </section>`;
}

/** On which share of its activations the label's plainest reading holds, by decile. */
export function Specificity({ specific }) {
  if (!specific) return null;
  const bar = (share, i) => html`<rect key=${i} x=${i * 12 + 1} width="10" y=${44 - 44 * share}
    height=${44 * share} />`;
  const [weak, strong] = [specific[0], specific[specific.length - 1]];
  return html`<figure class="histogram specificity" aria-label="Specificity by activation decile">
    <figcaption title="Share of activations, by decile, at a token at which its strongest examples peak">Specificity
      </figcaption>
    <svg viewBox=${`0 0 ${specific.length * 12} 44`} preserveAspectRatio="none" aria-hidden="true">${specific.map(bar)}
      </svg><div class="scale"><span>weakest</span><span>strongest</span></div>
    <p>on its peak tokens <b>${percent(weak, 0)}</b> to <b>${percent(strong, 0)}</b></p></figure>`;
}
