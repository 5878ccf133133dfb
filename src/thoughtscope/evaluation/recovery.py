"""How many of the features that activations were made of a dictionary finds again."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import normalize

from thoughtscope.core.errors import DictionaryMismatch
from thoughtscope.dictionaries import Dictionary, Fit
from thoughtscope.evaluation.synthetic import SyntheticModel

ALIKE = 0.9
"""A true feature is recovered when a decoder has this cosine with it."""
BATCH = 4096


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """Figures over `n_rows` rows of a synthetic model.

    - recovered: share of true features to which a decoder has a cosine of at least `ALIKE`
    - mcc: mean |cosine| of decoders and true features, matched one to one so that it is largest (Hungarian method;
      O'Neill et al. 2025, arXiv:2505.20254)
    - uniqueness: how many true features are some decoder's nearest (by |cosine|), over the number of decoders
    - precision, recall, f1, accuracy: each feature as a detector of its nearest true one, "active" for "fires"; means
      over the dictionary's features, 0 where undefined
    - fvu, shrinkage, l0, dead: as for any dictionary; true_l0: features that the rows were made of
    """

    n_rows: int
    recovered: float
    mcc: float
    uniqueness: float
    precision: float
    recall: float
    f1: float
    accuracy: float
    fvu: float
    shrinkage: float
    l0: float
    true_l0: float
    dead: float

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON values; `Recovery(**values)` is the inverse."""
        return asdict(self)


@torch.no_grad()
def score_recovery(
    model: SyntheticModel, dictionary: Dictionary, *, n_rows: int = 100_000, start: int = 2**31
) -> Recovery:
    """Scores an autoencoder of the model's activations on the batches from step `start` on, far from any training's.

    Raises `DictionaryMismatch` for a dictionary that is no autoencoder of one site of the model's width.
    """
    decoder = _decoder(model, dictionary)
    cosine = normalize(decoder) @ model.vectors.T  # (feature, true feature)
    nearest = cosine.abs().argmax(1)
    fit, counts = Fit.zeros(dictionary), torch.zeros(3, len(decoder), dtype=torch.float64)
    active = 0
    (part,) = dictionary.parts
    (site,) = part.reads
    for step in range(-(-n_rows // BATCH)):
        x, features = model.batch(start + step, min(BATCH, n_rows - step * BATCH))
        fit.add(dictionary, {site: x[None]}, torch.ones(1, len(x), dtype=torch.bool))
        counts += _counts(part.activations({site: x}) != 0, features[:, nearest] > 0)
        active += int((features > 0).sum())
    row, column = linear_sum_assignment(-cosine.abs().numpy())
    return Recovery(
        n_rows=fit.n,
        recovered=float((cosine.amax(0) >= ALIKE).double().mean()),
        mcc=float(cosine.abs()[row, column].double().mean()),
        uniqueness=len(nearest.unique()) / len(decoder),
        fvu=fit.fvu()[0],
        shrinkage=fit.shrinkage()[0],
        l0=fit.l0()[0],
        true_l0=active / fit.n,
        dead=fit.dead()[0],
        **_detection(counts, fit.n),
    )


def _decoder(model: SyntheticModel, dictionary: Dictionary) -> Float[Tensor, "feature width"]:
    sites = {site for part in dictionary.parts for site in (*part.reads, *part.writes)}
    width = model.vectors.shape[1]
    found = [weight for part in dictionary.parts for weight in part.W_dec.values()]
    if len(dictionary.parts) != 1 or len(sites) != 1 or found[0].shape[1] != width:
        raise DictionaryMismatch(
            f"Recovery is scored on an autoencoder of one site of width {width}; {dictionary.name} has "
            f"{len(dictionary.parts)} part(s) on {', '.join(map(str, sites))}, of width {found[0].shape[1]}."
        )
    return found[0].float()


def _counts(
    fires: Bool[Tensor, "row feature"], truth: Bool[Tensor, "row feature"]
) -> Float[Tensor, "3 feature"]:
    """Rows where a feature is active and its true one fires, where it is active, and where the true one fires."""
    return torch.stack([(fires & truth).sum(0), fires.sum(0), truth.sum(0)]).double()


def _detection(counts: Float[Tensor, "3 feature"], n: int) -> dict[str, float]:
    hits, fires, truth = counts
    precision, recall = hits / fires.clamp(min=1), hits / truth.clamp(min=1)
    f1 = 2 * hits / (fires + truth).clamp(min=1)
    accuracy = 1 - (fires + truth - 2 * hits) / n
    return {
        "precision": float(precision.mean()),
        "recall": float(recall.mean()),
        "f1": float(f1.mean()),
        "accuracy": float(accuracy.mean()),
    }
