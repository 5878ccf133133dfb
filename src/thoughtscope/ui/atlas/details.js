// @ts-check
// One feature in full, from its piece: in the fields of feature files, as the other pages read them.
import { placed } from "./index.js";
import { column, piece, starts } from "./pieces.js";

/** The piece that a feature is in, its columns read. */
async function shardOf(index, feature) {
  const { number, index: own } = placed(index, feature);
  const json = await piece(`${number}-${Math.floor(own / index.shard)}`);
  json.read ??= readShard(json);
  return { shard: json.read, row: own - json.first, json };
}

function readShard(json) {
  const columns = Object.fromEntries(["histogram", "quantiles", "top_logits", "bottom_logits", "strength", "peak",
    "group", "offset", "value"].map((name) => [name, column(json[name])]));
  const rows = columns.strength.length;
  return { ...columns, rows, examples: starts(column(json.examples)), active: starts(column(json.active)) };
}

/** Rows of a table that lie side by side: the feature's own. */
const rowOf = (table, rows, row) => table.subarray(row * (table.length / rows), (row + 1) * (table.length / rows));

/** Examples, histogram and outputs of a feature, in the fields of feature files. */
export async function detailOf(index, feature) {
  const [{ shard, row, json }, scanned] = await Promise.all([shardOf(index, feature), textOf(index)]);
  const groups = index.groups.map((name) => ({ quantile_name: name, examples: /** @type {any[]} */ ([]) }));
  for (let i = shard.examples[row]; i < shard.examples[row + 1]; i += 1) {
    groups[shard.group[i]].examples.push(exampleOf(index, scanned, shard, i));
  }
  const quantiles = [...rowOf(shard.quantiles, shard.rows, row)];
  const words = (table) => [...rowOf(table, shard.rows, row)].map((token) => index.pieces[token]);
  return {
    examples_quantiles: groups.filter((group) => group.examples.length), top_logits: words(shard.top_logits),
    bottom_logits: words(shard.bottom_logits), output_strength: shard.strength[row], quantile_values: quantiles,
    act_min: quantiles[0], act_max: quantiles.at(-1), histogram: [...rowOf(shard.histogram, shard.rows, row)],
    activation_frequency: index.count[feature] / Math.max(1, index.tokens),
    auto: json.made?.[row] ?? null, beside: besideOf(json, shard.rows, row),
  };
}

/** The tokens around an example's peak, within its own document, and how active the feature is at each. */
function exampleOf(index, { text, starts: documents }, shard, number) {
  const peak = shard.peak[number];
  const document = lastAtMost(documents, peak);
  const from = Math.max(documents[document], peak - index.window[0]);
  const end = Math.min(documents[document + 1], peak + index.window[1] + 1);
  const values = new Array(end - from).fill(0);
  for (let i = shard.active[number]; i < shard.active[number + 1]; i += 1) {
    values[peak + shard.offset[i] - from] = shard.value[i];
  }
  const tokens = [...text.subarray(from, end)].map((token) => index.pieces[token]);
  return { tokens, tokens_acts_list: values, train_token_ind: peak - from };
}

/** The last entry of a rising list that is at most `value`. */
function lastAtMost(list, value) {
  let [low, high] = [0, list.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (list[middle] <= value) low = middle;
    else high = middle;
  }
  return low;
}

/** Neighbours, co-firing, family and specificity: null for what this atlas does not know. */
function besideOf(json, rows, row) {
  const list = (table, figures) => {
    if (!table) return null;
    const columns = Object.fromEntries(["index", ...figures].map((name) => [name,
      [...rowOf(column(table[name]), rows, row)]]));
    return columns.index.map((feature, i) => ({ feature,
      ...Object.fromEntries(figures.map((name) => [name, columns[name][i]])) })).filter((one) => one.feature >= 0);
  };
  const specific = json.specific ? [...rowOf(column(json.specific), rows, row)] : null;
  return { near: list(json.near, ["cosine"]), together: list(json.together, ["jaccard", "given"]),
    family: json.family?.[row] ?? null, specific: specific?.some(Number.isFinite) ? specific : null };
}

/** The scanned text, read once and kept with the index. */
export async function textOf(index) {
  if (!index.scanned) {
    const json = await piece("text");
    index.scanned ??= { text: column(json.text), starts: column(json.starts) };
  }
  return index.scanned;
}
