// @ts-check
// What was said, token by token: each can be pointed at or reached with the arrow keys, and is tinted by a feature.
import { html } from "../html.js";
import { useMemo } from "../vendor/hooks.mjs";
import { heat } from "../colour.js";
import { runningText, tokenText } from "../text.js";
import { getChat, setChat } from "./state.js";

/** The activation of a feature at a token; null where it is not known.
 * @param {Reading} reading @param {string} id */
export function valueAt(reading, token, id) {
  const followed = reading.followed?.[id];
  if (followed) return followed[token] ?? null;
  return reading.at[token]?.find((one) => one.id === id)?.value ?? null;
}

/** One speaker's words: plain text before there are tokens, then tokens, then tokens that were read. All three take the
 * same room.
 * @param {{ part: SpokenPart | null, text: string, tokens: string[], reading: Reading | null,
 *   place: string, feature: string | null, most: number, chosen: number | null }} props */
export function Words({ part, text, tokens, reading, place, feature, most, chosen }) {
  return useMemo(() => {
    if (!part) return html`<p class="words" dir="auto">${runningText(text)}</p>`;
    const strength = (from, to) => Math.max(0, ...range(from, to).map((token) => (feature && reading
      ? valueAt(reading, token, feature) ?? 0 : 0)));
    const of = (from, to) => ({ key: from, place: `${place}.${to - 1}`, chosen: chosen === to - 1,
      style: tint(strength(from, to), most) });
    const span = ({ text: shown, from, to }) => word(shown, of(from, to));
    const mark = (token) => templateMark(tokens[token], of(token, token + 1));
    return html`<p class="words" dir="auto">${part.before.map(mark)}${part.spans.map(span)}${part.after.map(mark)}</p>`;
  }, [part, text, tokens, reading, place, feature, most, chosen]);
}

function tint(strength, most) {
  return strength > 0 ? { background: heat(strength, most) } : null;
}

function word(text, { key, place, chosen, style }) {
  return html`<span key=${key} class=${chosen ? "t chosen" : "t"} data-place=${place} tabindex=${chosen ? 0 : -1}
    style=${style}>${runningText(text)}</span>`;
}

/** A token that only the template or the tokenizer added: a thin mark, told on hovering. */
function templateMark(text, { key, place, chosen, style }) {
  return html`<span key=${key} class=${chosen ? "t mark-token chosen" : "t mark-token"} data-place=${place}
    tabindex=${chosen ? 0 : -1} title=${tokenText(text)} aria-label=${tokenText(text)} style=${style}></span>`;
}

function range(start, end) {
  return Array.from({ length: end - start }, (_, i) => start + i);
}

// --- pointing -----------------------------------------------------------------------------------------------------

/** @returns {TokenPlace | null} */
function placeOf(element) {
  const found = /^(\d+)\.(plain|turned)\.(\d+)$/.exec(element?.closest?.("[data-place]")?.dataset.place ?? "");
  return found ? { exchange: Number(found[1]), side: /** @type {any} */ (found[2]), token: Number(found[3]) } : null;
}

export const isSame = (one, other) => one?.exchange === other?.exchange && one?.side === other?.side
  && one?.token === other?.token;

/** What the pointer and the keys do to the tokens inside an element. */
export const pointing = {
  onPointerOver: (event) => {
    const place = placeOf(event.target);
    if (!isSame(place, getChat().pointed)) setChat({ pointed: place });
  },
  onPointerLeave: () => setChat({ pointed: null }),
  onClick: (event) => {
    const place = placeOf(event.target);
    if (place) setChat({ token: place });
  },
  onFocusIn: (event) => {
    const place = placeOf(event.target);
    if (place && !isSame(place, getChat().token)) setChat({ token: place, pointed: null });
  },
  onKeyDown: (event) => {
    const here = event.target.closest?.("[data-place]");
    const isArea = event.target === event.currentTarget && event.key === "ArrowRight";
    const next = isArea ? document.querySelector(".exchange:last-child .answer [data-place]")
      : here && neighbour(here, event.key);
    if (!next) return;
    event.preventDefault();
    /** @type {HTMLElement} */ (next).focus();
  },
};

/** The token beside this one in its column, or the nearest on the line above or below. */
function neighbour(here, key) {
  const side = placeOf(here)?.side;
  const column = [...document.querySelectorAll("[data-place]")].filter((one) => placeOf(one)?.side === side
    || one.closest(".user, .first"));
  const at = column.indexOf(here);
  const back = getComputedStyle(here.parentElement).direction === "rtl" ? 1 : -1;
  const step = { ArrowLeft: back, ArrowRight: -back, Home: -at, End: column.length - 1 - at }[key];
  if (step !== undefined) return column[at + step] ?? null;
  if (key !== "ArrowUp" && key !== "ArrowDown") return null;
  const down = key === "ArrowDown";
  const from = here.getBoundingClientRect();
  const others = (down ? column.slice(at + 1) : column.slice(0, at).reverse()).map((one) => ({
    one, box: one.getBoundingClientRect() }));
  const beyond = others.find(({ box }) => (down ? box.top >= from.bottom - 3 : box.bottom <= from.top + 3));
  if (!beyond) return null;
  const line = others.filter(({ box }) => Math.abs(box.top - beyond.box.top) < box.height / 2);
  const off = ({ box }) => Math.abs(box.left + box.width / 2 - from.left - from.width / 2);
  return line.reduce((best, one) => (off(one) < off(best) ? one : best)).one;
}
