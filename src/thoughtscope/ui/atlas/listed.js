// @ts-check
// Which features are listed, and in which order.

export const SORTS = [{ value: "strong", name: "best first", title: "As they were found; else by what stands out" },
  { value: "often", name: "how often", title: "Those that fire on most tokens first" },
  { value: "cluster", name: "cluster", title: "Neighbours on the map together" },
  { value: "number", name: "number", title: "As the dictionary counts them" }];

/** The features to list. Without a search all that ever fired, and behind them the others. */
export function listed(index, found, sort) {
  const places = found ? [...found.places] : Array.from({ length: index.n }, (_, i) => i);
  const often = (one, other) => index.count[other] - index.count[one];
  if (sort === "number") return places.sort((one, other) => one - other);
  if (sort === "often") return places.sort((one, other) => often(one, other) || one - other);
  if (sort === "cluster" && index.cluster) {
    const rank = (i) => (index.cluster[i] < 0 ? Infinity : index.cluster[i]);
    return places.sort((one, other) => (rank(one) === rank(other) ? one - other : rank(one) - rank(other)));
  }
  if (found) return places;
  return places.sort((one, other) => tellingly(index, other) - tellingly(index, one) || one - other);
}

/** Whether a feature is worth a look before others: it fires, yet on few tokens, and its label says on what. */
function tellingly(index, i) {
  const label = index.labels[i];
  if (!index.count[i] || !label) return -1;
  const share = index.count[i] / Math.max(1, index.tokens);
  const rare = share < 0.02 ? 1 : 0;
  const seen = Math.min(1, index.count[i] / 20);
  const plain = label.startsWith("raises") || label.startsWith("after") ? 0 : 1;
  return rare + seen + plain + (label.includes("→") ? 0.5 : 0);
}
