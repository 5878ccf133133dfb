// @ts-check
// The conversation, and the page before there is one.
import { html } from "../html.js";
import { useEffect, useLayoutEffect, useRef } from "../vendor/hooks.mjs";
import { Choice } from "../components/choice.js";
import { useParts } from "../store.js";
import { percent, plainText, tokenWord } from "../text.js";
import { ExchangeView } from "./exchange.js";
import { labelOf, largestOf, placeOf, turn, idOf } from "./features.js";
import { setChat } from "./state.js";
import { choose, heardBefore, say } from "./talking.js";
import { pointing } from "./words.js";

const SHOWN = [{ value: "both", name: "both" }, { value: "plain", name: "as it is" },
  { value: "turned", name: "turned" }];
const QUESTIONS = ["What should I do on a rainy Sunday?", "Write two sentences about the sea.",
  "Who are you, and what do you like?"];
const NEAR = 40; // pixels from the end: whoever is there follows the answer

/** What a reader may begin with. */
export function questionsFor(session) {
  return session.model?.chat ? QUESTIONS : (session.example_prompts ?? []).slice(0, 3);
}

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

function Empty() {
  const { session, offered, turned, known, seen } = useParts("session", "offered", "turned", "known", "seen");
  const chat = Boolean(session.model?.chat);
  return html`<div class="chat-empty">
    <h1>Talk to the model with its features in hand.</h1>
    <p class="lead">${chat ? "Say something." : "Type the beginning of a text."} Every token of what is said shows the
      features that are strongest on it. Turn any of them up or down, and read both answers side by side: the model as
      it is, and the model with that one thing changed.</p>
    <section><h2>${chat ? "To begin with" : "Beginnings"}</h2><ul class="prompts">
      ${questionsFor(session).map((text) => html`<li key=${text}><button onClick=${() => say(text)}>
        <bdi>${plainText(text)}</bdi></button></li>`)}</ul></section>
    ${offered.length > 0 && html`<section><h2>Features worth turning</h2><ul class="prompts offered">
      ${offered.map((feature) => {
        const id = idOf(feature);
        const on = turned.some((one) => one.id === id);
        return html`<li key=${id}><button disabled=${on || !largestOf({ known, seen }, id)} onClick=${() => {
          turn(id);
          choose(id);
        }}><span>${labelOf(feature)}</span><small>${on ? "turned up" : placeOf(id)}</small></button></li>`;
      })}</ul></section>`}
  </div>`;
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
