// @ts-check
// All features in short: columns by feature, one part of the dictionary behind the other.
import { column, starts } from "./pieces.js";

export function readIndex(json) {
  const count = column(json.count);
  const largest = column(json.largest);
  const raised = column(json.raised);
  const width = Number(json.raised.width);
  const place = json.place ? column(json.place) : null;
  return {
    name: String(json.name), model: String(json.model), kind: String(json.kind), n: count.length, parts: json.parts,
    shard: json.shard, tokens: json.tokens, groups: json.groups, window: json.window, pieces: json.pieces,
    labels: json.labels, held: json.held ? column(json.held) : null, count, largest, raised, width,
    peakStarts: starts(column(json.peak_count)),
    peakToken: column(json.peak_token), place, cluster: json.cluster ? column(json.cluster) : null,
    box: place ? boxOf(place) : null,
    /** @type {{ text: Uint32Array, starts: Uint32Array } | null} */ scanned: null, // the text, once it is there
  };
}

/** The square that all places lie in. */
function boxOf(place) {
  let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
  for (let i = 0; i < place.length; i += 2) {
    const [x, y] = [place[i], place[i + 1]];
    if (Number.isNaN(x)) continue;
    left = Math.min(left, x);
    right = Math.max(right, x);
    low = Math.min(low, y);
    high = Math.max(high, y);
  }
  const size = Math.max(right - left, high - low, 1e-6);
  return { x: (left + right) / 2, y: (low + high) / 2, size };
}

/** Part and index of a feature. */
export function placed(index, feature) {
  const part = index.parts.findLast((one) => one.first <= feature);
  return { part, number: index.parts.indexOf(part), index: feature - part.first };
}

export function idOf(index, feature) {
  const { part, index: own } = placed(index, feature);
  return `${part.name}/${own}`;
}

/** The number of a feature by `part/index`; null for one that is not in here. */
export function numberOf(index, id) {
  const cut = String(id).lastIndexOf("/");
  const part = index.parts.find((one) => one.name === id.slice(0, cut));
  const own = Number(id.slice(cut + 1));
  return part && Number.isInteger(own) && own >= 0 && own < part.n ? part.first + own : null;
}

/** What a feature is called: a person's label first, else the automatic one; empty for one that never fired. */
export function labelOf(index, people, feature) {
  return people[idOf(index, feature)] ?? index.labels[feature];
}

/** The tokens at which the strongest examples peak, the commonest first; none before the text is there. */
export function peaksOf(index, feature, most = 5) {
  if (!index.scanned) return [];
  const counts = new Map();
  for (let i = index.peakStarts[feature]; i < index.peakStarts[feature + 1]; i += 1) {
    const token = index.scanned.text[index.peakToken[i]];
    counts.set(token, (counts.get(token) ?? 0) + 1);
  }
  return [...counts].sort((one, other) => other[1] - one[1]).slice(0, most).map(([token]) => index.pieces[token]);
}
