// @ts-check
// The open feature: what it is called, where it fires and how strongly, what it raises, and what lies beside it.
import { html } from "../html.js";
import { useEffect, useState } from "../vendor/hooks.mjs";
import { notify } from "../actions/notice.js";
import { canTrace, source } from "../actions/source.js";
import { Examples, Histogram, Logits } from "../components/examples.js";
import { Made } from "../components/made.js";
import { useParts } from "../store.js";
import { plainNumber, plainText, readTurns, spellTurns } from "../text.js";
import { Beside, Family, Specificity } from "./beside.js";
import { detailOf } from "./details.js";
import { idOf, labelOf, placed } from "./index.js";
import { getAtlas, setAtlas } from "./state.js";
import { Steering } from "./steering.js";

export function Feature() {
  const { index, feature, people } = useParts("index", "feature", "people");
  const answer = useDetail(index, feature);
  if (feature === null) return html`<section class="atlas-feature panel"><${Welcome} index=${index} /></section>`;
  const label = labelOf(index, people, feature);
  return html`<section class="atlas-feature panel" aria-label="The open feature" data-feature=${idOf(index, feature)}>
    <${Head} key=${feature} feature=${feature} label=${label} made=${answer.detail?.auto} />
    <${Body} answer=${answer} label=${label} /><${Steering} feature=${feature} />
    ${answer.detail && html`<${Examples} detail=${answer.detail} />`}</section>`;
}

function Body({ answer: { detail, error }, label }) {
  if (error) return html`<p class="quiet" role="alert">${plainText(error)}</p>`;
  if (!detail) return html`<p class="quiet" aria-busy="true">Reading…</p>`;
  return html`<div class=${detail.beside.specific ? "feature-numbers four" : "feature-numbers"}>
      <${Histogram} detail=${detail} activation=${null} />
      <${Specificity} specific=${detail.beside.specific} />
      <${Logits} name="Raises" list=${detail.top_logits} sign="raises" />
      <${Logits} name="Lowers" list=${detail.bottom_logits} sign="lowers" /></div>
    <${Beside} beside=${detail.beside} /><${Family} family=${detail.beside.family} label=${label} />`;
}

/** The detail of a feature; the one before stays until it is there, so that nothing jumps. */
function useDetail(index, feature) {
  const [answer, setAnswer] = useState(/** @type {any} */ ({ feature: null }));
  useEffect(() => {
    if (feature === null) return undefined;
    let wanted = true;
    const give = (part) => wanted && setAnswer({ feature, ...part });
    detailOf(index, feature).then((detail) => give({ detail }), (error) => give({ error: error.message }));
    return () => { wanted = false; };
  }, [index, feature]);
  return answer.feature === feature ? answer : {};
}

function Head({ feature, label, made }) {
  const { index, people } = useParts("index", "people");
  const id = idOf(index, feature);
  const automatic = index.labels[feature];
  const cluster = index.cluster?.[feature] ?? -1;
  const facts = [index.count[feature] > 0 && `largest activation ${plainNumber(index.largest[feature])}`,
    cluster >= 0 && `cluster ${cluster}`].filter(Boolean);
  return html`<header class="feature-head"><p class="feature-place"><b>${id}</b> <span>${facts.join(" · ")}</span></p>
    ${canTrace() ? html`<${Naming} feature=${feature} id=${id} />`
      : html`<h2 class=${label ? "" : "unknown"}>${plainText(label) || "never fired"}</h2>`}
    <p class="quiet">${people[id] ? html`A person’s label. Automatic: ${plainText(automatic) || "none"}`
      : made ? html`<${Made} made=${made} />`
      : label ? "Automatic label, from the examples" : "It never fired on the scanned text."}</p>
    ${made && made.text !== label && html`<p class="quiet whole">${plainText(made.text)}</p>`}</header>`;
}

/** A label is kept as soon as the field is left or Enter is pressed; an empty one gives the automatic one back. */
function Naming({ feature, id }) {
  const { index, people } = useParts("index", "people");
  const [text, setText] = useState(/** @type {string | null} */ (null));
  const own = people[id] ?? "";
  const keep = async () => {
    const wanted = text === null ? null : readTurns(text).trim();
    setText(null);
    if (wanted === null || wanted === own) return;
    const { part, index: number } = placed(index, feature);
    try {
      const { label } = await source.saveLabel(encodeURIComponent(part.name), number, wanted);
      const { [id]: _, ...others } = getAtlas().people;
      setAtlas({ people: label ? { ...others, [id]: label } : others });
      notify(label ? `${id} is called “${plainText(label)}” everywhere now.` : `${id} has its automatic label again.`);
    } catch (error) {
      notify(/** @type {Error} */ (error).message, "error");
    }
  };
  return html`<input class="feature-name" aria-label=${`Label of ${id}`} maxlength="200"
    value=${text ?? spellTurns(own)}
    placeholder=${plainText(index.labels[feature]) || "no label"} title="Name this feature; Enter keeps it"
    onInput=${(event) => setText(event.target.value)} onBlur=${keep} onKeyDown=${(event) => {
      if (event.key === "Enter") event.target.blur();
      else if (event.key === "Escape") setText(null);
      else return;
      event.stopPropagation();
    }} />`;
}

/** Before a feature is open: what one can do here. */
function Welcome({ index }) {
  const row = (keys, what) => html`<dt>${keys.map((key) => html`<kbd key=${key}>${key}</kbd> `)}</dt><dd>${what}</dd>`;
  return html`<div class="welcome"><h2>${index.n.toLocaleString("en-US")} features of ${plainText(index.name)}</h2>
    <p>Each point is a feature: a direction that the model’s ${plainText(index.kind)} found, next to those that write
      nearly the same. Open one to see the text on which it fires, what it raises, and what lies beside it.</p>
    <dl>${row(["/"], "search by words, a token, a list of words, neighbours")}
      ${row(["j", "k"], "the next feature in the list, and the one before")}
      ${row(["+", "−", "0"], "nearer, further away, the whole map")}
      ${row(["Esc"], "close the feature, then the search")}
    </dl><p class="quiet">Examples are from ${index.tokens.toLocaleString("en-US")} tokens of text. The address holds
      what you see: share it as it is.</p></div>`;
}
