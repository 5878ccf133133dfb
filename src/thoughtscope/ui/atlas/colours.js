// @ts-check
// What the map's colours say: the cluster, how often a feature fires, or its part of the dictionary.
import { themeColour } from "../colour.js";
import { mixed, pixelOf } from "./drawing.js";

const HUES = [212, 28, 158, 340, 46, 268, 188, 8, 96, 310, 128, 236];
const WORD = /[\p{L}\p{N}]/u; // what a name of a cluster holds at least
const UNPLACED = 0.3; // how much of the ink a point in no cluster has

export const COLOURS = [{ value: "cluster", name: "cluster", title: "Features that lie densely share a hue" },
  { value: "often", name: "how often", title: "Pale features fire on few tokens, dark ones on many" },
  { value: "part", name: "layer", title: "From the first layer, pale, to the last, dark" },
  { value: "held", name: "label", title: "Pale where the label did not hold on other text (F1), dark where it did" }];

/** The colours that this atlas has something to say with. */
export function choices(index) {
  return COLOURS.filter(({ value }) => value !== "held" || index.held);
}

/** A colour for each feature, as the theme has it. */
export function coloursOf(index, kind) {
  const ground = pixelOf(themeColour("--surface"));
  const ink = pixelOf(themeColour("--ink"));
  const strong = pixelOf(themeColour("--raise"));
  const colours = new Uint32Array(index.n);
  if (kind === "cluster") {
    const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
    const hues = HUES.map((hue) => pixelOf(`hsl(${hue} ${dark ? 38 : 34}% ${dark ? 62 : 47}%)`));
    const none = mixed(ground, ink, UNPLACED);
    for (let i = 0; i < index.n; i += 1) {
      const cluster = index.cluster[i];
      colours[i] = cluster < 0 ? none : hues[cluster % hues.length];
    }
    return colours;
  }
  const steps = Array.from({ length: 65 }, (_, i) => mixed(mixed(ground, ink, 0.2), strong, i / 64));
  const scale = { often: oftenScale, part: partScale, held: heldScale }[kind](index);
  for (let i = 0; i < index.n; i += 1) colours[i] = steps[Math.round(64 * scale(i))];
  return colours;
}

/** From once in the text to on a tenth of it, by the logarithm. */
function oftenScale(index) {
  const most = Math.log(Math.max(2, index.tokens / 10));
  return (i) => Math.min(1, Math.log(Math.max(1, index.count[i])) / most);
}

function partScale(index) {
  const part = new Float32Array(index.n);
  index.parts.forEach((one, number) => part.fill(number / Math.max(1, index.parts.length - 1), one.first,
    one.first + one.n));
  return (i) => part[i];
}

/** The F1 of the label; a label that was not tried is as pale as one that never held. */
function heldScale(index) {
  return (i) => index.held?.[i] || 0;
}

/** What large clusters are about: the commonest label of their features, and where they are; the largest first. */
export function clusterNames(index, labels) {
  const names = new Map();
  for (let i = 0; i < index.n; i += 1) {
    const cluster = index.cluster[i];
    if (cluster < 0) continue;
    const found = names.get(cluster) ?? { x: 0, y: 0, n: 0, counts: new Map() };
    found.x += index.place[2 * i];
    found.y += index.place[2 * i + 1];
    found.n += 1;
    const name = labels(i).split(" → ")[0].split(",")[0].toLowerCase();
    if (WORD.test(name)) found.counts.set(name, (found.counts.get(name) ?? 0) + 1);
    names.set(cluster, found);
  }
  return [...names].sort((one, other) => one[0] - other[0]).map(([cluster, { x, y, n, counts }]) => {
    const [name = "", most = 0] = [...counts].reduce((best, one) => (one[1] > best[1] ? one : best), ["", 0]);
    return { cluster, x: x / n, y: y / n, n, name: most >= Math.max(2, n / 4) ? name : "" };
  }).filter(({ name }) => name);
}
