// @ts-check
// The conversation, or what to begin one with.
import { html } from "../html.js";
import { useEffect, useLayoutEffect, useRef } from "../vendor/hooks.mjs";
import { Choice } from "../components/choice.js";
import { useParts } from "../store.js";
import { percent, tokenWord } from "../text.js";
import { Empty } from "./empty.js";
import { ExchangeView } from "./exchange.js";
import { labelOf, largestOf, placeOf } from "./features.js";
import { setChat } from "./state.js";
import { choose, heardBefore } from "./talking.js";
import { pointing } from "./words.js";

const SHOWN = [{ value: "both", name: "both" }, { value: "plain", name: "as it is" },
  { value: "turned", name: "turned" }];
const NEAR = 40; // pixels from the end: whoever is there follows the answer

export function Talk() {
  const { exchanges, shown } = useParts("exchanges", "shown");
  const area = useRef(/** @type {any} */ (null));
  const atEnd = useRef(true);
  useLayoutEffect(() => {
    if (atEnd.current) area.current.scrollTop = area.current.scrollHeight;
  }, [exchanges]);
  useEffect(() => {
    atEnd.current = true;
    area.current.scrollTop = area.current.scrollHeight;
  }, [exchanges.length]);
  const onScroll = ({ target }) => {
    atEnd.current = target.scrollHeight - target.scrollTop - target.clientHeight < NEAR;
  };
  const before = (n, side) => heardBefore(exchanges, n, side).map(({ content }) => content).join("");
  const twoSides = exchanges.some(({ turned }) => turned);
  return html`<section class=${`talk show-${shown}`} aria-label="Conversation">
    ${twoSides && html`<div class="shown-choice"><${Choice} label="Which answers to show" options=${SHOWN}
      value=${shown} onChange=${(value) => setChat({ shown: value })} /></div>`}
    <div class="talk-scroll" ref=${area} onScroll=${onScroll} ...${pointing} tabindex="0"
      aria-label="Conversation: → goes to its tokens, the arrow keys over them" role="group">
      ${exchanges.length ? html`<div class="exchanges">${exchanges.map((exchange, n) => html`<${ExchangeView} key=${n}
        exchange=${exchange} number=${n} isLast=${n === exchanges.length - 1} before=${before(n, "plain")}
        beforeTurned=${before(n, "turned")} />`)}</div>`
        : html`<${Empty} />`}
    </div><${Legend} />
  </section>`;
}

/** What the tint says, while there is one. */
function Legend() {
  const { feature, known, seen, exchanges } = useParts("feature", "known", "seen", "exchanges");
  const read = exchanges.some(({ plain, turned }) => plain?.reading || turned?.reading);
  if (!read) return html`<p class="tint-legend"></p>`;
  if (!feature) {
    return html`<p class="tint-legend">Point at a token to see its features; choose one to tint the text by it.</p>`;
  }
  const largest = largestOf({ known, seen }, feature);
  const answers = exchanges.flatMap(({ plain, turned }) => [plain, turned]);
  const followed = answers.every((answer) => !answer?.reading || answer.reading.followed?.[feature]);
  return html`<p class="tint-legend"><span class="tint-scale" aria-hidden="true"></span>
    <span>activation of <b>${labelOf(known[feature]) || placeOf(feature)}</b>, from 0 to the largest ${largest?.here
      ? "met here" : "known"}${followed ? "" : "; only where it is among a token’s ten strongest"}</span>
    <button class="plain small" onClick=${() => choose(null)}>Clear</button></p>`;
}

/** The chosen token and its strongest feature, said aloud to a screen reader. */
export function SpokenToken() {
  const { token, exchanges, known } = useParts("token", "exchanges", "known");
  const reading = token ? exchanges[token.exchange]?.[token.side]?.reading : null;
  const first = reading?.at[token.token]?.[0];
  const name = first ? `${labelOf(known[first.id])} ${placeOf(first.id)}, ${percent(first.share ?? NaN)}` : "none";
  const text = reading ? `Token ${tokenWord(reading.tokens[token.token])}, strongest feature: ${name}` : "";
  return html`<div class="hidden" aria-live="polite">${text}</div>`;
}
