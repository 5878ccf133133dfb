// @ts-check
// The scores that the server computed for each stop of the slider. The page looks them up and computes none itself.

/** @returns {ScoreCurve | null} */
export function readCurve(raw) {
  if (!raw || typeof raw !== "object") return null;
  const rows = (list) => (Array.isArray(list) ? list.filter((row) => Number.isFinite(row?.stop)) : []);
  const without = rows(raw.rows_without_errors);
  return { reason: raw.reason ?? null, rows: rows(raw.rows), ...(without.length ? { rows_without_errors: without } : {}) };
}

/** The scores at a stop of the slider, or the reason why there are none.
 * @param {Graph} graph @param {number} prune @param {boolean} showErrors
 * @returns {{ replacement?: number, completeness?: number, mean_path_length?: number, reason?: string }} */
export function scoresAt(graph, prune, showErrors) {
  if (graph.curve) {
    const rows = (!showErrors && graph.curve.rows_without_errors) || graph.curve.rows;
    const row = rows.find((candidate) => Math.abs(candidate.stop - prune) < 0.005);
    if (graph.curve.reason) return { reason: graph.curve.reason };
    if (row && Number.isFinite(row.replacement) && Number.isFinite(row.completeness)) return /** @type {any} */ (row);
    return { reason: "no score is given for this part of the graph" };
  }
  const stated = graph.ours?.scores;
  if (!Number.isFinite(stated?.replacement)) return { reason: "the file states no scores" };
  if (prune < 1) return { reason: "the file states its scores for the whole graph alone" };
  return stated;
}
