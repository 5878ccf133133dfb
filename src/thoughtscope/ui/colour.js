// @ts-check
// Signs and strengths as colours. The same two hues everywhere: blue raises, orange lowers (safe for colour blindness).

/** The value of a style sheet variable, for the canvas. */
export function themeColour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

export function signName(weight) {
  return weight < 0 ? "lowers" : "raises";
}

export function signVariable(weight) {
  return weight < 0 ? "var(--lower)" : "var(--raise)";
}

/** The fill of a node that has an edge of this share of the strongest: pale to full. */
export function signFill(weight, share) {
  const strength = Math.round(28 + 72 * Math.sqrt(Math.min(1, Math.abs(share))));
  return `color-mix(in srgb, ${signVariable(weight)} ${strength}%, var(--surface))`;
}

/** The heat behind a token of an example; activation is at most `most`. */
export function heat(activation, most) {
  if (!(activation > 0) || !(most > 0)) return "transparent";
  return `color-mix(in srgb, var(--raise) ${Math.round(8 + 42 * Math.min(1, activation / most))}%, transparent)`;
}
