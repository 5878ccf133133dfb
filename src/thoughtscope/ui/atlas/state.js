// @ts-check
// What the atlas page knows beside what every page does: the index, what was looked for, and what is shown.
import { getState, setState } from "../store.js";

const START = {
  /** @type {any} */ index: null, // all features in short: what `readIndex` made
  mapping: false, // the server makes the map
  find: { mode: "words", text: "" },
  /** @type {{ places: number[], notes: string[] | null, of: string } | null} */ found: null, // null: all features
  finding: false,
  findError: null,
  sort: "strong", // "strong" | "often" | "cluster" | "number"
  /** @type {number | null} */ feature: null, // the feature that is open, by its number
  /** @type {number | null} */ pointed: null, // the feature under the pointer, on the map or in the list
  colour: "cluster", // "cluster" | "often" | "part" | "held"
  place: { x: 0, y: 0, scale: 1 }, // the map: what is in the middle, and how near; 1 shows everything
  /** @type {Record<string, string>} */ people: {}, // people's labels, by "part/index"
  steer: { prompt: "", multiple: 4 },
};

/** @returns {typeof START & ReturnType<typeof getState>} */
export function getAtlas() {
  return /** @type {any} */ (getState());
}

/** @param {Partial<typeof START>} patch */
export function setAtlas(patch) {
  setState(/** @type {any} */ (patch));
}

export function resetAtlas() {
  setAtlas(START);
}
