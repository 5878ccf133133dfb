// @ts-check
// What the chat page knows beside what every page does: the conversation, the features turned, and what is looked at.
import { getState, setState } from "../store.js";

export const MOST = 10; // the slider's end, in multiples of a feature's largest activation: beyond, models stammer
export const LIMIT = 100; // the number's
export const TURNED_FIRST = 2; // a feature that is turned up begins here
export const SIDES = /** @type {const} */ (["plain", "turned"]);

const START = {
  system: "", // the system line; empty for what the template brings
  sampling: { drawn: false, temperature: 0.7, topP: 0.9, seed: 1 },
  length: 200, // most tokens of an answer
  /** @type {Exchange[]} */ exchanges: [],
  draft: "",
  editing: false, // the draft will replace the last message
  talking: false, // answers are being drawn
  /** @type {Turning[]} */ turned: [],
  /** @type {Record<string, TalkFeature>} */ known: {}, // features by "part/index"
  /** @type {Record<string, number>} */ seen: {}, // the largest activation of each that was met here
  /** @type {TokenPlace | null} */ token: null, // the token that was chosen
  /** @type {TokenPlace | null} */ pointed: null, // the token under the pointer
  /** @type {string | null} */ feature: null, // the feature that was chosen
  find: { mode: "words", text: "" },
  /** @type {{ features: FoundFeature[], words: string } | null} */ found: null,
  finding: false,
  findError: null,
  settings: false, // on a narrow window: how answers are drawn
  shown: "both", // on a narrow window: "both" | "plain" | "turned"
  /** @type {TalkFeature[]} */ offered: [], // features worth turning, for an empty page
};

/** @returns {typeof START & ReturnType<typeof getState>} */
export function getChat() {
  return /** @type {any} */ (getState());
}

/** @param {Partial<typeof START>} patch */
export function setChat(patch) {
  setState(/** @type {any} */ (patch));
}

/** Changes one side's answer of an exchange, whatever else changed meanwhile; nothing where it has gone. */
export function setAnswer(place, patch) {
  const { exchanges } = getChat();
  const { [place.side]: answer } = exchanges[place.exchange] ?? {};
  if (!answer || (place.asked !== undefined && answer.asked !== place.asked)) return;
  setChat({ exchanges: exchanges.map((exchange, n) => (n === place.exchange
    ? { ...exchange, [place.side]: { ...answer, ...patch } } : exchange)) });
}

export function resetChat() {
  setChat(START);
}
