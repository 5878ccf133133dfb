// @ts-check
// Features by their names "part/index": what is known of them, and what they are set to.
import { source } from "../actions/source.js";
import { notify } from "../actions/notice.js";
import { plainText } from "../text.js";
import { writeAddress } from "./address.js";
import { LIMIT, TURNED_FIRST, getChat, setChat } from "./state.js";

const details = new Map(); // id -> promise of the detail

/** @param {{ part: string, index: number }} feature */
export function idOf({ part, index }) {
  return `${part}/${index}`;
}

/** The part and the index of an id; null for what is none. */
export function partsOfId(id) {
  const found = /^(.+)\/(\d{1,9})$/.exec(id);
  return found ? { part: found[1], index: Number(found[2]) } : null;
}

/** Takes in what the server told of features. */
export function learn(features) {
  const known = { ...getChat().known };
  for (const { part, index, label, largest, measured, density, tokens } of features) {
    known[idOf({ part, index })] = { part, index, label, largest, measured, density, tokens };
  }
  setChat({ known });
}

/** Takes in the activations of a reading: where nothing else is known, the largest of them is the measure. */
export function learnReading(reading) {
  const seen = { ...getChat().seen };
  for (const strongest of reading.at) {
    for (const { id, value } of strongest) seen[id] = Math.max(seen[id] ?? 0, value);
  }
  setChat({ seen });
  learn(Object.values(reading.features));
}

/** The largest activation that is known of a feature: of its examples, or what was met in this conversation. */
export function largestOf({ known, seen }, id) {
  const { largest, measured } = known[id] ?? {};
  if (measured !== "here" && typeof largest === "number" && largest > 0) return { value: largest, here: false };
  const met = Math.max(seen[id] ?? 0, largest ?? 0);
  return met > 0 ? { value: met, here: true } : null;
}

/** A feature's name for a person: where it is, and its number. */
export function placeOf(id) {
  const { part, index } = partsOfId(id) ?? { part: id, index: 0 };
  return /^\d+$/.test(part) ? `L${part} #${index}` : `${plainText(part)} #${index}`;
}

export function labelOf(feature) {
  return plainText(feature?.label || (feature?.tokens?.length ? `at ${feature.tokens.slice(0, 3).join(" ")}` : ""));
}

/** Examples and figures of a feature, asked for once. */
export function detailOf(id) {
  if (!details.has(id)) {
    const { part, index } = partsOfId(id) ?? {};
    const promise = source.feature(part, index);
    promise.catch(() => details.delete(id));
    details.set(id, promise);
  }
  return details.get(id);
}

/** Learns of features that only an address named. What cannot be read is said, and let go. */
export async function meet(ids) {
  const missing = ids.filter((id) => !getChat().known[id]);
  await Promise.all(missing.map(async (id) => {
    try {
      const detail = await detailOf(id);
      const { part, index } = /** @type {any} */ (partsOfId(id));
      learn([{ part, index, label: detail.label || detail.auto_label || null, largest: detail.act_max ?? null,
        measured: "examples", density: detail.activation_frequency ?? null, tokens: null }]);
    } catch (error) {
      letGo(id);
      notify(`${placeOf(id)} was let go: ${/** @type {Error} */ (error).message}`, "error");
    }
  }));
}

// --- turned -------------------------------------------------------------------------------------------------------

/** What a turned feature is a multiple of. What was met here stays the unit, however much more is met later. */
export function unitOf(state, { id, unit }) {
  const largest = largestOf(state, id);
  return largest?.here && unit ? { value: unit, here: true } : largest ?? (unit ? { value: unit, here: true } : null);
}

/** Sets a feature to a multiple of its largest activation; without one, to where a turned feature begins. */
export function turn(id, multiple = TURNED_FIRST) {
  const { turned } = getChat();
  const largest = largestOf(getChat(), id);
  if (!Number.isFinite(multiple)) return;
  const wanted = Math.max(-LIMIT, Math.min(LIMIT, multiple));
  const { part, index } = /** @type {any} */ (partsOfId(id));
  const there = turned.some((one) => one.id === id);
  setChat({ turned: there ? turned.map((one) => (one.id === id ? { ...one, multiple: wanted } : one))
    : [...turned, { id, part, index, multiple: wanted, unit: largest?.here ? largest.value : null }] });
  writeAddress();
}

export function letGo(id) {
  setChat({ turned: getChat().turned.filter((one) => one.id !== id) });
  writeAddress();
}

/** The edits of what is turned, as the server takes them. A feature of which no activation is known is left out. */
export function editsOf(state) {
  return state.turned.flatMap((one) => {
    const { part, index, multiple } = one;
    const unit = unitOf(state, one);
    if (!unit && multiple !== 0) return [];
    return [{ part, index, op: "set", value: multiple * (unit?.value ?? 0), start: 0 }];
  });
}
