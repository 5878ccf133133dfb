// @ts-check
// The scores that the server computed for each stop of the slider. The page looks them up and computes none itself.

/** The scores at a stop of the slider, or the reason why there are none. Hidden errors count as errors all the same.
 * @param {Graph} graph @param {number} prune
 * @returns {{ replacement?: number, completeness?: number, mean_path_length?: number, reason?: string }} */
export function scoresAt({ curve, ours }, prune) {
  if (curve) {
    const at = curve.stops.findIndex((stop) => Math.abs(stop - prune) < 0.005);
    if (curve.why_unscored) return { reason: curve.why_unscored.replace(/\.$/, "") };
    if (at < 0 || !curve.replacement || !curve.completeness) return { reason: "no score is given for this part" };
    return {
      replacement: curve.replacement[at], completeness: curve.completeness[at],
      mean_path_length: curve.mean_path_length?.[at],
    };
  }
  if (!Number.isFinite(ours?.scores?.replacement)) return { reason: "the file states no scores" };
  return prune < 1 ? { reason: "the file states its scores for the whole graph alone" } : ours.scores;
}

/** The curve of a graph's answer, or null for one that is missing or broken. @returns {ScoreCurve | null} */
export function readCurve(raw) {
  return Array.isArray(raw?.stops) && raw.stops.every(Number.isFinite) ? raw : null;
}
