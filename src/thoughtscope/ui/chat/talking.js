// @ts-check
// Asking and answering: both sides at once, with one seed, and afterwards what was read at each token.
import { source } from "../actions/source.js";
import { editsOf, learnReading } from "./features.js";
import { growingTurns } from "./spans.js";
import { SIDES, getChat, setAnswer, setChat } from "./state.js";

const STRONGEST = 10; // features that are read at each token
const TOGETHER = 60; // milliseconds whose tokens are drawn at once

/** @type {Answer} */
export const BLANK = { state: "done", text: "", written: null, count: 0, ended: false, error: null, asked: "",
  turned: [], reading: null, unread: null };

let stopper = new AbortController();

/** Says something to the model; while a message is edited, in its place. */
export async function say(text) {
  const { exchanges, editing, talking } = getChat();
  if (talking || !text.trim()) return;
  const before = editing ? exchanges.slice(0, -1) : exchanges;
  setChat({ exchanges: [...before, { user: text, plain: null, turned: null }], draft: "", editing: false, token: null,
    pointed: null });
  await answerLast();
}

/** Answers the last message, on each side where the same question has not been answered already. */
export async function answerLast() {
  const { exchanges, turned, talking } = getChat();
  const number = exchanges.length - 1;
  if (talking || number < 0) return;
  const mine = stopper = new AbortController();
  const edits = editsOf(getChat());
  const sides = SIDES.filter((side) => side === "plain" || turned.length > 0);
  const wanted = sides.map((side) => ({ side, body: question(number, side, side === "plain" ? [] : edits) }))
    .filter(({ side, body }) => !isAnswered(exchanges[number][side], body));
  begin(number, wanted, turned.length > 0);
  const place = ({ side, body }) => ({ exchange: number, side, asked: JSON.stringify(body) });
  await Promise.all(wanted.map((one) => draw(place(one), one.body)));
  if (stopper === mine) setChat({ talking: false });
  for (const { side } of wanted) await read({ exchange: number, side });
}

function isAnswered(answer, body) {
  return answer?.state === "done" && answer.asked === JSON.stringify(body);
}

function begin(number, wanted, twoSides) {
  const { turned } = getChat();
  const fresh = Object.fromEntries(wanted.map(({ side, body }) => [side, {
    ...BLANK, state: "running", asked: JSON.stringify(body), turned: side === "turned" ? turned : [] }]));
  const token = getChat().token?.exchange === number ? null : getChat().token;
  setChat({ talking: wanted.length > 0, token, pointed: null, exchanges: getChat().exchanges.map((exchange, n) => (
    n === number ? { ...exchange, ...(twoSides ? {} : { turned: null }), ...fresh } : exchange)) });
}

/** The body of POST api/generate for one side of an exchange. */
function question(number, side, edits) {
  const { sampling, length } = getChat();
  const { drawn, temperature, topP, seed } = sampling;
  return { ...asked(number, side), max_new_tokens: length, edits,
    sampling: drawn ? { temperature, top_p: topP, seed } : null };
}

/** The messages and answers before an exchange, as one side has them. Where it has no answer of its own, it goes on
 * from the other’s; a message without any answer is passed over.
 * @param {Exchange[]} exchanges @returns {Message[]} */
export function heardBefore(exchanges, number, side) {
  return exchanges.slice(0, number).flatMap((exchange) => {
    const answer = (exchange[side] ?? exchange.plain)?.text;
    return answer ? [{ role: "user", content: exchange.user }, { role: "assistant", content: answer }] : [];
  });
}

/** What one side has heard and said so far, up to a message or with its answer: `{ chat }`, or `{ prompt }` for a model
 * without a template. */
export function asked(number, side, withAnswer = false) {
  const { exchanges, session, system } = getChat();
  const { user } = exchanges[number];
  const answer = withAnswer ? exchanges[number][side]?.text : "";
  const said = [...heardBefore(exchanges, number, side), { role: "user", content: user },
    ...(answer ? [{ role: "assistant", content: answer }] : [])];
  if (!session?.model?.chat) return { prompt: said.map(({ content }) => content).join("") };
  return { chat: system.trim() ? [{ role: "system", content: system }, ...said] : said };
}

async function draw(place, body) {
  let [text, prompt, pieces] = ["", /** @type {any} */ (null), /** @type {string[]} */ ([])];
  let timer = 0;
  const show = () => {
    timer = 0;
    const tokens = [...prompt.tokens, ...pieces];
    const turns = growingTurns(prompt.turns, prompt.tokens.length, tokens.length);
    setAnswer(place, { text, count: pieces.length, written: { tokens, turns, growing: true } });
  };
  const finish = (patch) => {
    clearTimeout(timer);
    timer = 0;
    setAnswer(place, patch);
  };
  try {
    for await (const { event, data } of source.answer(body, stopper.signal)) {
      if (event === "prompt") prompt = data;
      else if (event === "token") {
        text += data.text;
        pieces.push(data.piece);
      }
      if (event !== "answer") timer ||= setTimeout(show, pieces.length ? TOGETHER : 0);
      else finish({ state: "done", text: data.text, count: pieces.length, ended: data.ended,
        written: { tokens: data.tokens, turns: data.turns } });
    }
  } catch (error) {
    if (timer) show();
    const { code, message } = /** @type {any} */ (error);
    finish(code === "cancelled" ? { state: "stopped" } : { state: "error", error: message });
  }
}

/** Whether the last message would be answered otherwise now, on one side or the other. */
export function isStale(state) {
  const number = state.exchanges.length - 1;
  if (number < 0 || state.talking) return false;
  const last = state.exchanges[number];
  const changed = (side, edits) => !isAnswered(last[side], question(number, side, edits));
  return changed("plain", []) || (state.turned.length > 0 ? changed("turned", editsOf(state)) : last.turned !== null);
}

/** Ends the answers where they are. */
export function stop() {
  stopper.abort();
}

/** Reads the features at every token of one side's conversation, up to an exchange. */
export async function read({ exchange, side }) {
  const answer = getChat().exchanges[exchange]?.[side];
  if (!answer || answer.reading) return;
  const place = { exchange, side, asked: answer.asked };
  try {
    const reading = await source.readings(asked(exchange, side, true), STRONGEST);
    learnReading(reading);
    setAnswer(place, { reading, unread: null });
    await follow();
  } catch (error) {
    setAnswer(place, { unread: /** @type {Error} */ (error).message });
  }
}

/** Chooses a feature, by which the text is tinted, or none. */
export async function choose(id) {
  setChat({ feature: id });
  await follow();
}

/** Asks how strong the chosen feature is at every token, also where it is not among the strongest. */
async function follow() {
  const { exchanges, feature } = getChat();
  for (const exchange of exchanges.keys()) {
    for (const side of SIDES) {
      const answer = getChat().exchanges[exchange]?.[side];
      if (!feature || !answer?.reading || answer.reading.followed?.[feature]) continue;
      try {
        const { values } = await source.activations(asked(exchange, side, true), [feature]);
        const { reading } = getChat().exchanges[exchange]?.[side] ?? {};
        if (!reading || values[feature].length !== reading.tokens.length) continue;
        setAnswer({ exchange, side, asked: answer.asked },
          { reading: { ...reading, followed: { ...reading.followed, ...values } } });
      } catch {
        return; // the tint is then of the strongest features alone, and the legend says so
      }
    }
  }
}

/** Takes the last message back into the field, to be sent again in other words. */
export function editLast() {
  const { exchanges, talking } = getChat();
  const last = exchanges.at(-1);
  if (!talking && last) setChat({ editing: true, draft: last.user });
}

/** Forgets the conversation; what is turned stays. */
export function clear() {
  stop();
  setChat({ exchanges: [], draft: "", editing: false, token: null, pointed: null, talking: false });
}
