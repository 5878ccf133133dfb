// How tokens and numbers are written, the same everywhere.

const VISIBLE = { " ": "·", "\n": "↵", "\r": "␍", "\t": "⇥", "\u00a0": "⍽", "\u200b": "∅" };
// Control characters, direction overrides and other marks that could hide or reorder what a reader sees.
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\u00a0]/;

/** Splits a token into runs of plain text and of marks that stand for spaces and invisible characters. */
export function tokenRuns(token) {
  const text = String(token ?? "");
  if (text === "") return [{ mark: true, text: "∅" }];
  const runs = [];
  const characters = [...text];
  characters.forEach((character, i) => {
    const outer = character === " " && (i === 0 || i === characters.length - 1 || characters[i - 1] === " ");
    const mark = outer || (character !== " " && HIDDEN.test(character));
    const shown = mark ? VISIBLE[character] ?? codePoint(character) : character;
    const last = runs[runs.length - 1];
    if (last && last.mark === mark) last.text += shown;
    else runs.push({ mark, text: shown });
  });
  return runs;
}

function codePoint(character) {
  return `‹${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}›`;
}

/** A token as one string, spaces and invisible characters made visible. */
export function tokenText(token) {
  return tokenRuns(token).map((run) => run.text).join("");
}

/** A label without the characters that could disguise it. */
export function plainText(text) {
  return [...String(text ?? "")].map((c) => (HIDDEN.test(c) && c !== "\u00a0" ? codePoint(c) : c)).join("");
}

export function percent(share, digits) {
  if (!Number.isFinite(share)) return "–";
  const value = share * 100;
  const fine = (value !== 0 && Math.abs(value) < 9.95) || (value >= 99 && value < 99.95);
  const places = digits ?? (fine ? 1 : 0);
  if (value > 0 && value < 0.05) return "<0.1 %";
  return `${value.toFixed(places)} %`;
}

export function signed(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  const text = size >= 100 ? size.toFixed(0) : size >= 10 ? size.toFixed(1) : size >= 0.01 || size === 0 ? size.toFixed(2) : size.toExponential(0);
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
