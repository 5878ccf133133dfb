// @ts-check
// What is looked for, and by which of six ways; two of them ask the model, so they need the server.
import { html } from "../html.js";
import { useEffect, useRef } from "../vendor/hooks.mjs";
import { canTrace, source } from "../actions/source.js";
import { useParts } from "../store.js";
import { plainText } from "../text.js";
import { findList, findNear, findToken, findWords } from "./finding.js";
import { numberOf } from "./index.js";
import { getAtlas, setAtlas } from "./state.js";

export const MODES = [
  { value: "words", name: "words", hint: "state capitals", live: false,
    title: "In labels, in the text where features fire, and in what they raise" },
  { value: "token", name: "token", hint: "Texas", live: false, title: "Features whose strongest examples peak on it" },
  { value: "list", name: "list", hint: "red, green, blue", live: false,
    title: "A concept as a list of words: features that fire on them, and on how many" },
  { value: "near", name: "near", hint: "3/151, or the open feature", live: false,
    title: "Features that write nearly the same" },
  { value: "sentence", name: "sentence", hint: "I love the sea.", live: true,
    title: "Features that are strong on an example: asks the model" },
  { value: "effect", name: "effect", hint: "Fact: the capital of the state containing Dallas is", live: true,
    title: "Features that the answer to a prompt rests on, by attribution, and what ablating each does" },
];
const TYPED = 120; // milliseconds after a key before the search runs
const LIVE = 60; // features that the model is asked for

export function Search() {
  const { find, finding, findError } = useParts("find", "finding", "findError");
  const mode = MODES.find((one) => one.value === find.mode) ?? MODES[0];
  const timer = useRef(0);
  useEffect(() => () => clearTimeout(timer.current), []);
  const type = (text) => {
    setAtlas({ find: { ...find, text } });
    clearTimeout(timer.current);
    if (!mode.live) timer.current = /** @type {any} */ (setTimeout(runSearch, TYPED));
  };
  const submit = (event) => {
    event.preventDefault();
    clearTimeout(timer.current);
    runSearch();
  };
  const live = canTrace();
  return html`<form class="atlas-search" role="search" onSubmit=${submit}>
    <select class="search-mode" aria-label="Search by" value=${find.mode} title=${mode.title} onChange=${(event) => {
      setAtlas({ find: { ...find, mode: event.target.value }, findError: null });
      if (!MODES.find((one) => one.value === event.target.value)?.live) runSearch();
    }}>${MODES.map(({ value, name, live: asks, title }) => html`<option key=${value} value=${value} title=${title}
        disabled=${asks && !live}>${name}${asks && !live ? " (needs the server)" : ""}</option>`)}</select>
    <input id="search" type="search" autocomplete="off" spellcheck="false" value=${find.text} placeholder=${mode.hint}
      aria-label=${mode.title} onInput=${(event) => type(event.target.value)} />
    ${mode.live && html`<button class="primary" disabled=${finding || !find.text.trim()}>${finding ? "Asking…"
      : "Find"}</button>`}
    ${!mode.live && html`<kbd>/</kbd>`}
    ${findError && html`<p class="prompt-error" role="alert"><span>${plainText(findError)}</span>
      <button type="button" class="icon" aria-label="Dismiss" onClick=${() => setAtlas({ findError: null })}>×</button>
      </p>`}
  </form>`;
}

let asked = 0;

/** Looks for what is typed; only the latest answer counts. */
export async function runSearch() {
  const { index, people, find, feature } = getAtlas();
  if (!index) return;
  const number = asked += 1;
  const text = find.text;
  const live = MODES.find((one) => one.value === find.mode)?.live;
  setAtlas({ findError: null, finding: Boolean(live && text.trim()) });
  try {
    const found = await searched(index, people, find.mode, text, feature);
    if (number === asked) setAtlas({ found, finding: false });
  } catch (error) {
    if (number === asked) setAtlas({ findError: /** @type {Error} */ (error).message, finding: false, found: null });
  }
}

function searched(index, people, mode, text, open) {
  if (mode === "near") return findNear(index, people, text, open);
  if (!text.trim()) return null;
  if (mode === "token") return findToken(index, text);
  if (mode === "list") return findList(index, text);
  if (mode === "sentence") return likeSentence(index, text);
  if (mode === "effect") return byEffect(index, text);
  return findWords(index, people, text);
}

async function likeSentence(index, text) {
  const { features } = await source.like({ prompt: text }, LIVE);
  return told(index, text, features, ({ share, value }) => (typeof share === "number"
    ? `${Math.round(100 * share)} % of its largest` : `activation ${value.toPrecision(3)}`));
}

async function byEffect(index, text) {
  const { answer, features } = await source.effects({ prompt: text, n: LIVE });
  const size = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
  const note = ({ attribution, ablation }) => `gives ${answer.trim()} ${size(attribution)}${
    ablation === null ? "" : `, ablated ${size(ablation)}`}`;
  return told(index, text, features, note);
}

function told(index, of, features, note) {
  const known = features.map((one) => ({ ...one, place: numberOf(index, `${one.part}/${one.index}`) }))
    .filter(({ place }) => place !== null);
  return { places: known.map(({ place }) => place), notes: known.map(note), of };
}
