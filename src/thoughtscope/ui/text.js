// @ts-check
// How tokens and numbers are written, the same everywhere.

const VISIBLE = { " ": "·", "\n": "↵", "\r": "␍", "\t": "⇥", "\u00a0": "⍽", "\u200b": "∅" };
// Control characters, direction overrides and other marks that could hide or reorder what a reader sees.
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\u00a0]/;
/** What a reader calls them; all others are named by their code point. */
const NAMES = {
  "\u0000": "NUL", "\u001b": "escape", "\u00ad": "soft hyphen", "\u200c": "non-joiner", "\u200d": "joiner",
  "\u200e": "left-to-right mark", "\u200f": "right-to-left mark", "\u2028": "line separator",
  "\u2029": "paragraph separator", "\u202a": "left-to-right embedding", "\u202b": "right-to-left embedding",
  "\u202c": "end of direction", "\u202d": "left-to-right override", "\u202e": "right-to-left override",
  "\u2060": "word joiner", "\u2066": "left-to-right isolate", "\u2067": "right-to-left isolate",
  "\u2068": "isolate", "\u2069": "end of isolate", "\ufeff": "byte-order mark",
};

/** Splits a token into runs of plain text and of marks that stand for spaces and invisible characters. */
export function tokenRuns(token) {
  const text = String(token ?? "");
  if (text === "") return [{ mark: true, text: "∅" }];
  const runs = [];
  const characters = [...text];
  characters.forEach((character, i) => {
    const outer = character === " " && (i === 0 || i === characters.length - 1 || characters[i - 1] === " ");
    const mark = outer || (character !== " " && HIDDEN.test(character));
    const shown = mark ? VISIBLE[character] ?? spelt(character) : character;
    const last = runs[runs.length - 1];
    if (last && last.mark === mark) last.text += shown;
    else runs.push({ mark, text: shown });
  });
  return runs;
}

function spelt(character) {
  const code = Number(character.codePointAt(0)).toString(16).toUpperCase().padStart(4, "0");
  return `[${NAMES[character] ?? `U+${code}`}]`;
}

/** A token as one string, spaces and invisible characters made visible. */
export function tokenText(token) {
  return tokenRuns(token).map((run) => run.text).join("");
}

/** A token in running text: a word as itself, anything else in quotes so that it can be seen. */
export function tokenWord(token) {
  const bare = String(token ?? "").trim();
  return bare && !HIDDEN.test(bare) ? bare : `“${tokenText(token)}”`;
}

// In running text, joiners are part of the letters around them.
const DISGUISING = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** Text that runs on over several lines, without the characters that could disguise it. */
export function runningText(text) {
  return String(text ?? "").replace(DISGUISING, "\ufffd");
}

/** A label or a prompt without the characters that could disguise it. */
export function plainText(text) {
  return [...String(text ?? "")].map((c) => (HIDDEN.test(c) && c !== "\u00a0" ? VISIBLE[c] ?? spelt(c) : c)).join("");
}

const TURNS = /[\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu;

/** A text to be edited: marks that would turn its direction are spelt out in brackets. */
export function spellTurns(text) {
  return String(text ?? "").replace(TURNS, spelt);
}

/** What was meant by an edited text in which marks are spelt out: the inverse of `spellTurns`. */
export function readTurns(text) {
  return Object.entries(NAMES).reduce((left, [character, name]) => left.replaceAll(`[${name}]`, character), text);
}

/** The start of a text, with an ellipsis where something was cut off. */
export function clip(text, most) {
  const characters = [...text];
  return characters.length > most ? `${characters.slice(0, Math.max(1, most - 1)).join("").trimEnd()}…` : text;
}

export function percent(share, digits) {
  if (!Number.isFinite(share)) return "not known";
  const value = share * 100;
  const fine = (value !== 0 && Math.abs(value) < 9.95) || (value >= 99 && value < 99.95);
  const places = digits ?? (fine ? 1 : 0);
  if (value > 0 && value < 0.05) return "<0.1 %";
  return `${value.toFixed(places)} %`;
}

export function signed(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  const text = size >= 100 ? size.toFixed(0) : size >= 10 ? size.toFixed(1)
    : size >= 0.01 || size === 0 ? size.toFixed(2) : size.toExponential(0);
  return `${value < 0 ? "−" : "+"}${text}`;
}

export function plainNumber(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e6)) return value.toExponential(1).replace("-", "−");
  return Number(value.toPrecision(3)).toLocaleString("en-US").replace("-", "−");
}

export function count(n, singular, plural) {
  return `${n.toLocaleString("en-US")} ${n === 1 ? singular : plural ?? singular + "s"}`;
}
