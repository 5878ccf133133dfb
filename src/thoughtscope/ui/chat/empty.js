// @ts-check
// The page before there is a conversation: what to say, and features worth turning.
import { html } from "../html.js";
import { useEffect } from "../vendor/hooks.mjs";
import { source } from "../actions/source.js";
import { useParts } from "../store.js";
import { plainText } from "../text.js";
import { idOf, labelOf, largestOf, learn, placeOf, turn } from "./features.js";
import { setChat } from "./state.js";
import { choose, say } from "./talking.js";

const QUESTIONS = ["What should I do on a rainy Sunday?", "Write two sentences about the sea.",
  "Who are you, and what do you like?"];
const RARE = 0.05; // share of tokens: what fires more often says little
const OFFERED = 5;
const THEMES = ["family", "music", "money", "night", "animals"];
const FOUND = 12;
const ALIKE = 40;

/** The page before there is a conversation. */
export function Empty() {
  const { session, offered, turned, known, seen } = useParts("session", "offered", "turned", "known", "seen");
  useEffect(() => { if (!offered.length) offer(session); }, []);
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

/** What a reader may begin with. */
function questionsFor(session) {
  return session.model?.chat ? QUESTIONS : (session.example_prompts ?? []).slice(0, 3);
}

/** Features that are called by a theme; of a model without such, those of the first question. */
async function offer(session) {
  try {
    const called = await Promise.all(THEMES.map(async (theme) => {
      const { features } = await source.search(theme, FOUND);
      return features.filter(({ matched }) => matched === "label").find(isNamed);
    }));
    const themes = called.filter(Boolean);
    offerThese(themes.length ? themes : await ofFirstQuestion(session));
  } catch { /* an empty page without suggestions is as good */ }
}

async function ofFirstQuestion(session) {
  const [text] = questionsFor(session);
  if (!text) return [];
  const asked = session.model.chat ? { chat: [{ role: "user", content: text }] } : { prompt: text };
  return (await source.like(asked, ALIKE)).features.filter(isNamed);
}

function isNamed({ label, largest, density }) {
  return label && largest && (density ?? 1) < RARE;
}

function offerThese(features) {
  const labels = new Set();
  const offered = features.filter((one) => !labels.has(labelOf(one)) && labels.add(labelOf(one))).slice(0, OFFERED);
  learn(offered);
  setChat({ offered });
}
