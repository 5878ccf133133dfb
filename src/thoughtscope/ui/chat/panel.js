// @ts-check
// Features in hand: those that are turned, those that were looked for, those at the token, and one up close.
import { html } from "../html.js";
import { useEffect, useState } from "../vendor/hooks.mjs";
import { source } from "../actions/source.js";
import { Choice } from "../components/choice.js";
import { Examples, Histogram, Logits } from "../components/examples.js";
import { Token } from "../components/token.js";
import { useParts } from "../store.js";
import { percent, plainNumber, plainText } from "../text.js";
import { detailOf, idOf, labelOf, largestOf, learn, letGo, placeOf, turn, unitOf } from "./features.js";
import { LIMIT, MOST, getChat, setChat } from "./state.js";
import { choose } from "./talking.js";

const FOUND = 20;
const MODES = [{ value: "words", name: "words", title: "Features whose label or tokens hold these words" },
  { value: "example", name: "example", title: "Features that are strongest on this text" }];

export function Panel() {
  return html`<aside class="chat-panel panel" aria-label="Features"><${Turned} /><${Find} /><${AtToken} /><${Card} />
  </aside>`;
}

// --- turned -------------------------------------------------------------------------------------------------------

function Turned() {
  const { turned, known, seen } = useParts("turned", "known", "seen");
  return html`<section class="turned-list"><h2>Turned</h2>
    ${turned.length ? html`<ul>${turned.map((one) => html`<${Turning} key=${one.id} turning=${one}
      feature=${known[one.id]} unit=${unitOf({ known, seen }, one)} />`)}</ul>`
      : html`<p class="quiet">Nothing is turned: there is one answer. Choose a feature and turn it up or down.</p>`}
  </section>`;
}

function Turning({ turning, feature, unit }) {
  const { id, multiple } = turning;
  const name = labelOf(feature) || placeOf(id);
  const set = (event) => event.target.value !== "" && turn(id, Number(event.target.value));
  const told = multiple === 0 ? "switched off" : unit ? `× ${plainNumber(unit.value)} = ${
    plainNumber(multiple * unit.value)}` : "its largest activation is not known";
  return html`<li class="turning"><div class="row"><button class="turning-name" title=${`${name}, ${placeOf(id)}`}
      onClick=${() => choose(id)}>${name}</button><small>${placeOf(id)}</small>
      <button class="icon" aria-label=${`Let go of ${name}`} title="Let it go" onClick=${() => letGo(id)}>×</button>
      </div>
    <div class="row"><span class="turning-slider"><input type="range" min=${-MOST} max=${MOST} step="0.5"
      value=${multiple} style=${{ "--multiple": Math.max(-MOST, Math.min(MOST, multiple)) }} onInput=${set}
      aria-label=${`${name}, multiples of its largest activation`} /></span>
      <input type="number" class="strength-number" min=${-LIMIT} max=${LIMIT} step="0.5" value=${multiple}
        aria-label=${`${name}, as a number`} onChange=${set} />
      <small class="turning-value" title=${unit?.here ? "The largest that was met in this conversation"
        : "The largest on the text that its examples come from"}>${told}${unit?.here ? "*" : ""}</small></div></li>`;
}

// --- looked for ---------------------------------------------------------------------------------------------------

let search = 0;

async function look() {
  const { find, session } = getChat();
  const ticket = (search += 1);
  if (!find.text.trim()) return setChat({ found: null, finding: false, findError: null });
  setChat({ finding: true, findError: null });
  const chat = session?.model?.chat;
  const example = chat ? { chat: [{ role: "user", content: find.text }] } : { prompt: find.text };
  try {
    const { features } = find.mode === "words" ? await source.search(find.text.trim(), FOUND)
      : await source.like(example, FOUND);
    if (ticket !== search) return undefined;
    learn(features);
    return setChat({ found: { features, words: find.text }, finding: false });
  } catch (error) {
    if (ticket !== search) return undefined;
    return setChat({ findError: /** @type {Error} */ (error).message, finding: false, found: null });
  }
}

function Find() {
  const { find, found, finding, findError } = useParts("find", "found", "finding", "findError");
  const set = (patch) => setChat({ find: { ...find, ...patch } });
  const submit = (event) => {
    event.preventDefault();
    look();
  };
  const close = () => setChat({ found: null, findError: null, find: { ...find, text: "" } });
  return html`<section class="find"><form class="row" role="search" onSubmit=${submit}>
      <input id="find" type="search" value=${find.text} maxlength=${find.mode === "words" ? 200 : 2000}
        spellcheck="false" dir="auto"
        aria-label="Look for features"
        placeholder=${find.mode === "words" ? "Features by words" : "Features of a text"}
        onInput=${(event) => set({ text: event.target.value })} />
      <${Choice} label="Look by" options=${MODES} value=${find.mode} onChange=${(mode) => set({ mode })} />
      <button disabled=${finding || !find.text.trim()}>Find</button></form>
    ${findError && html`<p class="refusal" role="alert">${plainText(findError)}</p>`}
    ${found && html`<div class="found-list"><h3>${foundTitle(found)}
        <button class="icon" aria-label="Close the list" onClick=${close}>×</button></h3>
      <ul>${found.features.map((feature) => html`<${FeatureRow} key=${idOf(feature)} id=${idOf(feature)}
        share=${feature.share} note=${noteOf(feature)} />`)}</ul>
    </div>`}
  </section>`;
}

function noteOf({ matched, what }) {
  return matched === "token" ? plainText(what) : null;
}

function foundTitle({ features, words }) {
  const short = plainText(words.trim()).slice(0, 60);
  return features.length ? html`<span>${features.length} for “${short}”</span>`
    : html`<span>No feature for “${short}”</span>`;
}

// --- at the token -------------------------------------------------------------------------------------------------

function AtToken() {
  const { token, pointed, exchanges } = useParts("token", "pointed", "exchanges");
  const place = pointed ?? token;
  const answer = place ? exchanges[place.exchange]?.[place.side] : null;
  const reading = answer?.reading;
  if (!reading) {
    const why = answer?.unread ? plainText(answer.unread) : answer ? "Its features are read once the answer is there."
      : "Point at a token, or go over them with the arrow keys.";
    return html`<section class="at-token"><h2>At a token</h2><p class="quiet">${why}</p></section>`;
  }
  const strongest = reading.at[place.token] ?? [];
  return html`<section class="at-token"><h2>At <${Token} text=${reading.tokens[place.token]} /></h2>
    <ul>${strongest.map(({ id, value, share }) => html`<${FeatureRow} key=${id} id=${id} share=${share}
      value=${value} />`)}</ul>
    ${strongest.length === 0 && html`<p class="quiet">No feature is active here.</p>`}</section>`;
}

/** @param {{ id: string, share?: number | null, value?: number | null, note?: string | null }} props */
function FeatureRow({ id, share = null, value = null, note = null }) {
  const { known, seen, feature, turned } = useParts("known", "seen", "feature", "turned");
  const largest = largestOf({ known, seen }, id);
  const part = share ?? (value !== null && largest ? value / largest.value : null);
  const label = labelOf(known[id]);
  const on = turned.some((one) => one.id === id);
  return html`<li class=${feature === id ? "feature-row on" : "feature-row"}>
    <button class="pick" aria-pressed=${feature === id ? "true" : "false"}
      onClick=${() => choose(feature === id ? null : id)}
      title=${[label, placeOf(id), value !== null && `activation ${plainNumber(value)}`].filter(Boolean).join(", ")}>
      <span class=${label ? "name" : "name unknown"}>${label || "no label"}</span>
      <small>${note ? `${note} · ` : ""}${placeOf(id)}</small>
      ${part !== null && html`<b>${percent(part, 0)}</b>`}
      <i style=${{ width: `${Math.round(100 * Math.min(1, part ?? 0))}%` }}></i></button>
    <button class="icon" disabled=${on || !largest} aria-label=${`Turn up ${label || placeOf(id)}`}
      title=${on ? "It is turned already" : largest ? "Turn it up" : "How strong it can be is not known"}
      onClick=${() => turn(id)}>+</button></li>`;
}

// --- one up close -------------------------------------------------------------------------------------------------

function Card() {
  const { feature: id, known, seen, turned } = useParts("feature", "known", "seen", "turned");
  const answer = useDetail(id);
  if (!id) return null;
  const feature = known[id];
  const largest = largestOf({ known, seen }, id);
  const on = turned.some((one) => one.id === id);
  return html`<section class="feature-card"><h2>${labelOf(feature) || placeOf(id)}${" "}
      <small>${placeOf(id)}</small></h2>
    <div class="row"><button class="small" disabled=${on || !largest} onClick=${() => turn(id)}>Turn it up</button>
      <button class="small" disabled=${on} onClick=${() => turn(id, 0)}>Switch it off</button>
      <span class="quiet">${[largest ? `largest ${largest.here ? "here" : "known"} ${plainNumber(largest.value)}`
        : "not met yet", typeof feature?.density === "number" && `on ${percent(feature.density)} of tokens`]
        .filter(Boolean).join(", ")}</span>
    </div>
    ${feature?.tokens?.length > 0 && html`<p class="peaks">${feature.tokens.slice(0, 8).map((text, n) => html`<${Token}
      key=${n} text=${text} />`)}</p>`}
    <p class="elsewhere"><a href=${`atlas#f=${id}`}>In the atlas</a>: what is near, and where it lies</p>
    <${Detail} answer=${answer} /></section>`;
}

function useDetail(id) {
  const [answer, setAnswer] = useState(/** @type {any} */ ({ id: null }));
  useEffect(() => {
    if (!id) return undefined;
    let wanted = true;
    const give = (part) => wanted && setAnswer({ id, ...part });
    detailOf(id).then((detail) => give({ detail }), (error) => give({ error: error.message }));
    return () => { wanted = false; };
  }, [id]);
  return answer.id === id ? answer : { waiting: true };
}

function Detail({ answer: { detail, error, waiting } }) {
  if (error) return html`<p class="quiet">${plainText(error)}</p>`;
  if (waiting || !detail) return html`<p class="quiet" aria-busy="true">Reading examples…</p>`;
  if (!detail.examples_quantiles?.length && !detail.top_logits?.length) {
    return html`<p class="quiet">No examples are kept with this dictionary.</p>`;
  }
  return html`<div class="feature-detail"><div class="feature-numbers">
    <${Histogram} detail=${detail} activation=${null} />
    <${Logits} name="Raises" list=${detail.top_logits} sign="raises" />
    <${Logits} name="Lowers" list=${detail.bottom_logits} sign="lowers" /></div>
    <${Examples} detail=${detail} /></div>`;
}
