// How much of the answer a set of nodes accounts for (Ameisen et al. 2025, "Circuit Tracing", graph scores).
// Input from anything outside the set counts as error, so leaving nodes out can only lower the scores.

/** Replacement and completeness of the graph when only the nodes in `kept` (a Set of ids) explain anything. */
export function subsetScores(graph, kept) {
  const influence = new Map();
  const outputs = graph.nodes.filter((node) => node.kind === "logit" && kept.has(node.id));
  const mass = outputs.reduce((sum, node) => sum + (node.probability ?? 1), 0) || 1;
  for (const node of outputs) influence.set(node, (node.probability ?? 1) / mass);
  let [reached, explained, weighed] = [0, 0, 0];
  const targets = graph.nodes.filter((node) => node.kind === "feature" || node.kind === "logit").sort((a, b) => b.row - a.row);
  for (const target of targets) {
    const weight = influence.get(target) ?? 0;
    if (weight <= 0 || !kept.has(target.id)) continue;
    weighed += weight;
    for (const { source, fraction } of graph.inputs.get(target.id)) {
      const share = weight * Math.abs(fraction);
      if (source.kind === "error" || !kept.has(source.id)) continue;
      explained += share;
      if (source.kind === "token") reached += share;
      else influence.set(source, (influence.get(source) ?? 0) + share);
    }
  }
  return { replacement: outputs.length ? reached : 0, completeness: weighed ? explained / weighed : 0 };
}

/** The scores that the file states, or else those computed from what the file holds. */
export function graphScores(graph) {
  const stated = graph.ours?.scores;
  if (Number.isFinite(stated?.replacement) && Number.isFinite(stated?.completeness)) return { ...stated, stated: true };
  graph.computed ??= { ...subsetScores(graph, new Set(graph.nodes.map((node) => node.id))), stated: false };
  return graph.computed;
}
