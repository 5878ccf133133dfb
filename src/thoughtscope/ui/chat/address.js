// @ts-check
// The address holds what is turned, how answers are drawn and the system line; the conversation only when it is shared.
import { LIMIT, getChat } from "./state.js";

const LONGEST = 6000; // characters of an address that programs still pass on whole

export function readAddress(hash) {
  const values = new URLSearchParams(String(hash).replace(/^#/, ""));
  const theme = values.get("theme") ?? "";
  const number = (name, least, most, usual) => {
    const value = Number(values.get(name) ?? NaN);
    return Number.isFinite(value) && value >= least && value <= most ? value : usual;
  };
  return {
    turned: onlyFirst((values.get("f") ?? "").split(",").flatMap(readTurning)),
    system: (values.get("s") ?? "").slice(0, 4000),
    sampling: {
      drawn: number("t", 0.01, 100, 0) > 0, temperature: number("t", 0.01, 100, 0.7), topP: number("p", 0.01, 1, 0.9),
      seed: Math.trunc(number("seed", 0, 2 ** 53 - 1, 1)),
    },
    length: Math.trunc(number("n", 1, 1000, 200)),
    theme: ["light", "dark"].includes(theme) ? theme : null,
    said: readSaid(values.get("c")),
  };
}

/** Each feature once. */
function onlyFirst(turned) {
  return turned.filter((one, n) => turned.findIndex(({ id }) => id === one.id) === n);
}

function readTurning(text) {
  const found = /^(.+)\/(\d{1,9}):(-?\d+(?:\.\d+)?(?:e-?\d+)?)(?:@(\d+(?:\.\d+)?))?$/.exec(text.replaceAll("%2C", ","));
  if (!found) return [];
  const [part, index, multiple] = [found[1], Number(found[2]), Number(found[3])];
  const unit = Number(found[4]) || null;
  return Math.abs(multiple) <= LIMIT ? [{ id: `${part}/${index}`, part, index, multiple, unit }] : [];
}

/** Messages and answers of a shared conversation; none where the address holds something else. */
function readSaid(text) {
  try {
    const said = JSON.parse(text ?? "[]");
    const strings = (row) => Array.isArray(row) && row.length >= 2 && row.length <= 3
      && row.every((value) => typeof value === "string");
    return Array.isArray(said) && said.every(strings) ? said : [];
  } catch {
    return [];
  }
}

function hashOf({ turned, system, sampling, length, theme, fixedTheme, exchanges }, withTalk) {
  const values = new URLSearchParams();
  const name = ({ id, multiple, unit }) => `${id.replaceAll(",", "%2C")}:${Number(multiple.toFixed(3))}${
    unit ? `@${Number(unit.toPrecision(6))}` : ""}`;
  if (turned.length) values.set("f", turned.map(name).join(","));
  if (system) values.set("s", system);
  if (sampling.drawn) {
    values.set("t", String(sampling.temperature));
    if (sampling.topP !== 0.9) values.set("p", String(sampling.topP));
    values.set("seed", String(sampling.seed));
  }
  if (length !== 200) values.set("n", String(length));
  if (fixedTheme) values.set("theme", theme);
  const said = exchanges.map(({ user, plain, turned: other }) => [user, plain?.text ?? "",
    ...(other ? [other.text] : [])]);
  if (withTalk && said.length) values.set("c", JSON.stringify(said));
  const text = values.toString().replaceAll("%2C", ",").replaceAll("%3A", ":").replaceAll("%2F", "/");
  return text ? `#${text}` : "#";
}

/** Puts the state into the address, with the conversation or without. Returns whether the conversation had room. */
export function writeAddress({ withTalk = false } = {}) {
  const state = getChat();
  const fixedTheme = readAddress(location.hash).theme !== null && ["light", "dark"].includes(state.theme);
  const whole = hashOf({ ...state, fixedTheme }, withTalk);
  const fits = whole.length <= LONGEST;
  const hash = withTalk && !fits ? hashOf({ ...state, fixedTheme }, false) : whole;
  if (hash !== (location.hash || "#")) history.replaceState(null, "", hash);
  return fits;
}
