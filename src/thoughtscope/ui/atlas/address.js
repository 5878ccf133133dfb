// @ts-check
// The address holds the open feature, what was looked for, and where on the map one is.
import { idOf, numberOf } from "./index.js";
import { getAtlas } from "./state.js";

const MODES = ["words", "token", "list", "near", "sentence", "effect"];
const SORTS = ["strong", "often", "cluster", "number"];
const COLOURS = ["cluster", "often", "part", "held"];

let known = ""; // the address as it was last read or written here

export function readAddress(hash, index) {
  known = hash;
  const values = new URLSearchParams(String(hash).replace(/^#/, ""));
  const among = (name, allowed) => (allowed.includes(values.get(name) ?? "") ? String(values.get(name)) : allowed[0]);
  const [x, y, scale] = (values.get("z") ?? "").split(",").map(Number);
  const theme = values.get("theme") ?? "";
  return {
    feature: values.has("f") ? numberOf(index, values.get("f") ?? "") : null,
    find: { mode: among("m", MODES), text: (values.get("q") ?? "").slice(0, 4000) },
    sort: among("s", SORTS), colour: among("c", COLOURS),
    place: [x, y, scale].every(Number.isFinite) ? { x, y, scale: Math.min(400, Math.max(0.6, scale)) }
      : { x: 0, y: 0, scale: 1 },
    theme: ["light", "dark"].includes(theme) ? theme : null,
  };
}

function hashOf({ index, feature, find, sort, colour, place, theme }, fixedTheme) {
  const values = new URLSearchParams();
  if (feature !== null) values.set("f", idOf(index, feature));
  if (find.text) values.set("q", find.text);
  if (find.mode !== MODES[0] && (find.text || find.mode === "near")) values.set("m", find.mode);
  if (sort !== SORTS[0]) values.set("s", sort);
  if (colour !== COLOURS[0]) values.set("c", colour);
  if (place.scale !== 1 || place.x || place.y) {
    values.set("z", [place.x, place.y, place.scale].map((value) => Number(value.toPrecision(4))).join(","));
  }
  if (fixedTheme && ["light", "dark"].includes(theme)) values.set("theme", theme);
  const text = values.toString().replaceAll("%2C", ",").replaceAll("%2F", "/");
  return text ? `#${text}` : "#";
}

let timer = 0;

/** Puts the state into the address, a moment later, as a moving map would else write it sixty times a second. */
export function writeAddress() {
  timer ||= /** @type {any} */ (setTimeout(() => {
    timer = 0;
    const state = getAtlas();
    if (!state.index || location.hash !== known) return; // somebody went elsewhere, which is about to be followed
    const fixedTheme = /[#&]theme=/.test(location.hash);
    const hash = hashOf(state, fixedTheme);
    if (hash !== (location.hash || "#")) history.replaceState(null, "", hash);
    known = location.hash;
  }, 120));
}

/** The view with a feature in the middle. */
export function focusOf(index, feature, scale) {
  return { scale, x: (index.place[2 * feature] - index.box.x) / index.box.size,
    y: (index.place[2 * feature + 1] - index.box.y) / index.box.size };
}
