// @ts-check
// Ways to find features without the model: by what they are called, by tokens, by a list of words, by their neighbours.
import { idOf, labelOf, numberOf } from "./index.js";
import { detailOf, textOf } from "./details.js";

const BESIDE = 0.5; // what raising a text first, or firing right after it, counts beside firing on it
const MOST = 2000;
const MAX_WORDS = 8;

/** Features whose label has the words, people's before others, then those that fire on the words, right after them, or
 * raise a token with them. As the server and the command line search. */
export async function findWords(index, people, text) {
  const words = folded(text).split(/\s+/).filter(Boolean);
  if (!words.length) return null;
  if (words.length > MAX_WORDS) throw new Error(`A search takes at most ${MAX_WORDS} words.`);
  const has = (label) => Boolean(label) && words.every((word) => folded(label).includes(word));
  const named = Object.keys(people).filter((id) => has(people[id])).map((id) => numberOf(index, id))
    .filter((feature) => feature !== null);
  const { scores, notes } = await nearText(index, words);
  const labelled = new Set(named);
  for (let i = 0; i < index.n; i += 1) if (has(labelOf(index, people, i))) labelled.add(i);
  const rank = (feature) => (labelled.has(feature) ? 2 : 0) + scores[feature];
  const rest = range(index.n).filter((feature) => !named.includes(feature) && rank(feature) > 0)
    .sort((one, other) => rank(other) - rank(one) || one - other);
  const places = [...named, ...rest].slice(0, MOST);
  return { places, notes: places.map((feature) => (labelled.has(feature) ? "" : notes(feature))), of: text };
}

/** Features whose strongest examples peak on one token. */
export async function findToken(index, text) {
  const wanted = folded(text).trim();
  if (!wanted) return null;
  const { text: scanned } = await textOf(index);
  const is = index.pieces.map((one) => folded(one).trim() === wanted);
  const share = peakShares(index, (at) => is[scanned[at]]);
  return ranked(index, share, (feature) => `${Math.round(100 * share[feature])} % of peaks`, text);
}

/** Features that fire on the words of a list, most of their peaks first; and how many of the words each one covers. */
export async function findList(index, text) {
  const items = [...new Set(folded(text).split(/[,;\n]/).map((item) => item.trim()).filter(Boolean))];
  if (!items.length) return null;
  const { inside } = await textMatcher(index);
  const masks = items.map((item) => inside(item));
  const share = peakShares(index, (at) => masks.some((mask) => mask[at]));
  const covered = (feature) => masks.filter((mask) => peaksAt(index, feature).some((at) => mask[at])).length;
  return ranked(index, share, (feature) => `${covered(feature)} of ${items.length}`, text,
    (feature) => share[feature] * (1 + covered(feature) / items.length));
}

/** The features nearest to one, by what they write; the open one, or one that is named. */
export async function findNear(index, people, text, open) {
  const feature = text.trim() ? numberOf(index, text.trim()) : open;
  if (feature === null) throw new Error("Open a feature, or write one as part/index, to see what lies near to it.");
  const { near } = (await detailOf(index, feature)).beside;
  if (!near) throw new Error("This atlas was made without neighbours.");
  const name = labelOf(index, people, feature) || idOf(index, feature);
  return { places: [feature, ...near.map((one) => one.feature)], of: name,
    notes: ["itself", ...near.map((one) => `cosine ${one.cosine.toFixed(2)}`)] };
}

function ranked(index, share, note, of, score = (feature) => share[feature]) {
  const places = range(index.n).filter((feature) => share[feature] > 0);
  const scores = new Map(places.map((feature) => [feature, score(feature)]));
  places.sort((one, other) => Number(scores.get(other)) - Number(scores.get(one)) || one - other);
  const kept = places.slice(0, MOST);
  return { places: kept, notes: kept.map(note), of };
}

/** How near each feature is to some words: to the whole phrase, or to each word. */
async function nearText(index, words) {
  const { inside, pattern } = await textMatcher(index);
  const phrases = [...new Set([words.join(" "), ...words])];
  const near = phrases.map((phrase) => nearPhrase(index, phrase, inside(phrase), pattern(phrase)));
  const score = (feature) => Math.max(near[0].score(feature),
    near.length > 1 ? Math.min(...near.slice(1).map((one) => one.score(feature))) : 0);
  const scores = Float32Array.from({ length: index.n }, (_, feature) => score(feature));
  const notes = (feature) => near.reduce((best, one) => (one.score(feature) > best.score(feature) ? one : best))
    .note(feature);
  return { scores, notes };
}

function nearPhrase(index, phrase, mask, pattern) {
  const first = new Set(index.scanned.starts);
  const on = peakShares(index, (at) => mask[at]);
  const after = peakShares(index, (at) => at > 0 && mask[at - 1] && !mask[at] && !first.has(at));
  const matching = index.pieces.map((one) => pattern.test(folded(one)));
  const raised = (feature) => {
    if (!index.count[feature]) return 0;
    for (let i = 0; i < index.width; i += 1) if (matching[index.raised[feature * index.width + i]]) return 1 / (1 + i);
    return 0;
  };
  const score = (feature) => Math.max(on[feature], BESIDE * after[feature], BESIDE * raised(feature));
  const note = (feature) => (on[feature] === score(feature) ? `on ${phrase}`
    : BESIDE * after[feature] === score(feature) ? `after ${phrase}` : `raises ${phrase}`);
  return { score, note };
}

const range = (n) => Array.from({ length: n }, (_, i) => i);
const folded = (text) => String(text).toLowerCase();
const peaksAt = (index, feature) => index.peakToken.subarray(index.peakStarts[feature], index.peakStarts[feature + 1]);

/** Of each feature's strongest examples, the share that peaks at a token for which `holds` is true. */
function peakShares(index, holds) {
  const { peakStarts, peakToken } = index;
  const share = new Float32Array(index.n);
  for (let feature = 0; feature < index.n; feature += 1) {
    const [from, end] = [peakStarts[feature], peakStarts[feature + 1]];
    let found = 0;
    for (let i = from; i < end; i += 1) if (holds(peakToken[i])) found += 1;
    if (end > from) share[feature] = found / (end - from);
  }
  return share;
}

/** Finds phrases in the scanned text, whatever tokens they are cut into. */
async function textMatcher(index) {
  const scanned = await textOf(index);
  scanned.matcher ??= matcherOf(index, scanned.text);
  return scanned.matcher;
}

function matcherOf(index, tokens) {
  const pieces = index.pieces.map(folded);
  const ends = new Uint32Array(tokens.length);
  const parts = new Array(tokens.length);
  let length = 0;
  for (let i = 0; i < tokens.length; i += 1) {
    parts[i] = pieces[tokens[i]];
    length += parts[i].length;
    ends[i] = length;
  }
  const text = parts.join("");
  /** Which tokens hold something of an occurrence. */
  const inside = (phrase) => {
    const mask = new Uint8Array(tokens.length);
    let at = 0;
    for (const match of text.matchAll(new RegExp(patternOf(phrase), "g"))) {
      const end = match.index + match[0].length;
      while (ends[at] <= match.index) at += 1;
      for (let i = at; i < tokens.length && (i === at || ends[i - 1] < end); i += 1) mask[i] = 1;
    }
    return mask;
  };
  return { inside, pattern: (phrase) => new RegExp(patternOf(phrase)) };
}

/** A phrase with any space between its words, from a word's beginning; what is written without spaces, anywhere. */
function patternOf(phrase) {
  const words = folded(phrase).split(/\s+/).filter(Boolean);
  const escaped = words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  return (/^[0-9a-z]/.test(words[0]) ? "(?<![0-9a-z])" : "") + escaped.join("\\s+");
}
