"""Features that are easily taken for one another: of like decoders, or active on the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from thoughtscope.atlas.recording import Recording
    from thoughtscope.dictionaries import Part


@torch.no_grad()
def nearest_decoders(part: Part, features: Sequence[int], n: int = 5) -> dict[int, list[int]]:
    """For each feature the `n` others whose decoders have the largest cosine with its own, over all written sites."""
    every = part.decoder_rows(torch.arange(part.n_features))
    rows = torch.cat([every[site].flatten(1) for site in part.writes], dim=1)
    rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)  # (feature, d)
    cosine = rows[list(features)] @ rows.T
    cosine[torch.arange(len(features)), list(features)] = -torch.inf
    near = cosine.topk(min(n, part.n_features - 1), dim=1).indices.tolist()
    return dict(zip(features, near, strict=True))


def firing_together(
    recording: Recording, part: int, features: Sequence[int], n: int = 5
) -> dict[int, list[int]]:
    """For each feature the `n` others whose active tokens overlap most with its own (Jaccard), if any do."""
    from scipy.sparse import csc_array

    columns = recording.columns(part, 0, recording.plan.n_features[part])
    shape = (len(recording.ids), len(columns.offsets) - 1)
    fires = csc_array((np.ones(len(columns.token), np.float32), columns.token, columns.offsets), shape=shape)
    both = (fires[:, list(features)].T @ fires).toarray()  # (asked, feature)
    either = columns.count[list(features)][:, None] + columns.count[None] - both
    overlap = np.divide(both, either, out=np.zeros_like(both), where=either > 0)
    overlap[np.arange(len(features)), list(features)] = 0
    order = np.argsort(-overlap, axis=1, kind="stable")[:, :n]
    return {
        feature: [other for other in order[row].tolist() if overlap[row, other] > 0]
        for row, feature in enumerate(features)
    }
