"""How specific a feature is: on which share of its activations something holds, by how strong they are.

Scaling Monosemanticity (Templeton et al. 2024, "Specificity") asks this of a few features by a model's grades. Here it
is a count over a recorded text: what holds of a token is given as a boolean, whatever rule, label or concept says so.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from thoughtscope.atlas.bank import FeatureBank
from thoughtscope.atlas.columns import Columns
from thoughtscope.atlas.picking import strongest_first

DECILES = 10


def specificity(
    columns: Columns, holds: Bool[np.ndarray, " pos"], *, n: int = DECILES
) -> Float[np.ndarray, "feature decile"]:
    """The share of each feature's activations at whose token `holds` is true, by decile, the weakest first.

    NaN where a feature has fewer activations than deciles. `holds` is of the text that the columns are of.
    """
    return by_event(columns, holds[columns.token], n=n)


def by_event(
    columns: Columns, holds: Bool[np.ndarray, " event"], *, n: int = DECILES
) -> Float[np.ndarray, "feature decile"]:
    """As `specificity`, for what holds of an activation: of a feature and a token."""
    order = strongest_first(columns)
    count, feature = columns.count, columns.feature
    rank = np.arange(len(order)) - columns.offsets[:-1][feature]
    decile = n - 1 - rank * n // np.maximum(count, 1)[feature]
    slot = feature * n + decile
    size = len(count) * n
    total = np.bincount(slot, minlength=size)
    found = np.bincount(slot, weights=holds[order], minlength=size)
    share = np.where(total > 0, found / np.maximum(total, 1), np.nan).reshape(-1, n)
    share[count < n] = np.nan
    return share


def on_peak_tokens(
    columns: Columns,
    ids: Int[np.ndarray, " pos"],
    peaks: Int[np.ndarray, "feature peak"],
    *,
    n: int = DECILES,
) -> Float[np.ndarray, "feature decile"]:
    """`specificity` of the plainest rule there is: the token is one of those at which the strongest examples peak.

    `peaks` are token ids by feature, -1 for none. The strongest decile holds the examples that made the rule; the
    others tell whether it is what the feature is about or only its tip.
    """
    width = int(max(ids.max(initial=0), peaks.max(initial=0))) + 1
    feature = np.repeat(np.arange(len(peaks)), peaks.shape[1])
    known = peaks.ravel() >= 0
    rules = np.unique(feature[known] * width + peaks.ravel()[known])
    here = columns.feature * width + ids[columns.token]
    place = np.minimum(np.searchsorted(rules, here), max(0, len(rules) - 1))
    holds = rules[place] == here if len(rules) else np.zeros(len(here), bool)
    return by_event(columns, holds, n=n)


def peak_tokens(bank: FeatureBank, layer: int, *, most: int = 5) -> Int[np.ndarray, "feature peak"]:
    """The token ids at which each feature's strongest examples peak, the commonest first; -1 where there are fewer."""
    records = bank.layers[layer]
    strongest = records.example_group.numpy() == 0
    n_features = len(records.count)
    feature = np.repeat(np.arange(n_features), np.diff(records.example_offsets.numpy()))[strongest]
    token = bank.ids.numpy()[records.example_token.numpy()[strongest]].astype(np.int64)
    width = int(token.max(initial=0)) + 1
    pair, first, count = np.unique(feature * width + token, return_index=True, return_counts=True)
    order = np.lexsort((first, -count, pair // width))
    owner, token = pair[order] // width, pair[order] % width
    rank = np.arange(len(owner)) - np.searchsorted(owner, owner)
    found = np.full((n_features, most), -1, np.int64)
    kept = rank < most
    found[owner[kept], rank[kept]] = token[kept]
    return found
