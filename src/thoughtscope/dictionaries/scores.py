"""How good a dictionary is: what it explains, how sparsely, and what the model still does when it runs on it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool
from torch import Tensor

from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.progress import Progress, silent
from thoughtscope.core.site import Site
from thoughtscope.dictionaries.dictionary import Dictionary, check_fits, resident
from thoughtscope.dictionaries.documents import Document, counted, document_batches
from thoughtscope.dictionaries.fit import Fit
from thoughtscope.dictionaries.predictions import Predictions
from thoughtscope.dictionaries.replacement import Constant, Replacement

if TYPE_CHECKING:
    from thoughtscope.models import Model, Tokens


@dataclass(frozen=True, kw_only=True)
class DictionaryScores:
    """Figures over `n_tokens` tokens; where the dictionary skips first positions, so do the figures.

    What it explains; y is what the model held at a written site, ŷ what the dictionary writes. Each is the sites' mean:

    - fvu: Σ‖y − ŷ‖² / Σ‖y − mean y‖² over all tokens
    - shrinkage: mean ‖ŷ‖ / ‖y‖
    - bias: Σ‖ŷ‖² / Σ⟨y, ŷ⟩, the relative reconstruction bias (Rajamanoharan et al. 2024, eq. 10)
    - cosine: mean cosine between y and ŷ

    How sparsely, by part and in all:

    - l0: mean number of active features per token; `l0` is the parts' sum
    - l1: mean sum of activations per token; the parts' sum
    - dead: share of features that were never active on these tokens; `dead` is the parts' mean
    - dense: share of features active on more than a tenth of the tokens; the parts' mean
    - densities: living features by log10 of the share of tokens on which they are active (`fit.DENSITY_EDGES`)

    What the model still does when every written site gets the reconstruction, each encoder reading the running
    replacement model's own activations (a crosscoder's, which read later than they write: the unedited model's):

    - loss, loss_spliced, loss_change: mean next-token loss in nats without, with, and the difference
    - loss_zero, loss_mean: the loss with zeros in the place of the reconstruction, and with the mean of y
    - loss_recovered_zero, loss_recovered_mean: (loss_zero − loss_spliced) / (loss_zero − loss), likewise for the mean
    - agreement: share of positions at which the replacement model's top token is the model's
    - kl, kl_zero, kl_mean: mean KL(model ‖ changed model) in nats
    - kl_score_zero, kl_score_mean: 1 − kl / kl_zero, likewise for the mean

    A ratio whose denominator is zero is NaN.
    """

    n_tokens: int
    fvu: float
    fvu_by_site: Mapping[str, float]
    shrinkage: float
    shrinkage_by_site: Mapping[str, float]
    bias: float
    bias_by_site: Mapping[str, float]
    cosine: float
    cosine_by_site: Mapping[str, float]
    l0: float
    l0_by_part: Mapping[str, float]
    l1: float
    l1_by_part: Mapping[str, float]
    dead: float
    dead_by_part: Mapping[str, float]
    dense: float
    dense_by_part: Mapping[str, float]
    densities: Mapping[str, tuple[int, ...]]
    loss: float
    loss_spliced: float
    loss_change: float
    loss_zero: float
    loss_mean: float
    loss_recovered_zero: float
    loss_recovered_mean: float
    agreement: float
    kl: float
    kl_zero: float
    kl_mean: float
    kl_score_zero: float
    kl_score_mean: float

    def to_json(self) -> dict[str, Any]:
        """The scores as plain JSON values, NaN as null; `from_json` is the exact inverse."""
        return _each(asdict(self), lambda x: None if isinstance(x, float) and math.isnan(x) else x)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DictionaryScores:
        found = _each(dict(data), lambda x: math.nan if x is None else x)
        densities = {name: tuple(counts) for name, counts in found.pop("densities").items()}
        return cls(densities=densities, **found)


def _each(data: dict[str, Any], change: Any) -> dict[str, Any]:
    """Plain values, also one level down, each changed; tuples as lists."""
    return {
        name: _each(value, change)
        if isinstance(value, dict)
        else list(value)
        if isinstance(value, tuple)
        else change(value)
        for name, value in data.items()
    }


def declare(dictionary: Dictionary, scores: DictionaryScores) -> Dictionary:
    """The same dictionary with these scores on its card, which every later load is checked against."""
    names = ("fvu", "l0", "dead", "loss_change", "agreement", "kl")
    declared = {name: getattr(scores, name) for name in names}
    return replace(dictionary, card=replace(dictionary.card, declared=declared))


@torch.no_grad()
def evaluate_dictionary(
    model: Model,
    dictionary: Dictionary,
    documents: Iterable[Document],
    *,
    max_tokens: int | None = None,
    context: int = 128,
    batch_tokens: int = 4096,
    progress: Progress = silent,
) -> DictionaryScores:
    """Scores over `documents`, or their first `max_tokens` tokens, which `progress` counts.

    The model runs over the documents twice: first for the fit and the mean activations, stopping after the last site,
    then four times in full (as it is, on the dictionary, on zeros, on the mean).

    Raises `DictionaryMismatch` when the dictionary is for another model, `ThoughtscopeError` when there is no text.
    """
    from thoughtscope.models import capture

    check_fits(dictionary, model)
    dictionary = resident(dictionary, device=model.device)
    fit = Fit.zeros(dictionary)
    batches: list[tuple[Tokens, Tensor]] = []
    for tokens in document_batches(model, documents, context=context, batch_tokens=batch_tokens):
        keep = counted(tokens.mask, skip_first=dictionary.skip_first).to(model.device)
        fit.add(dictionary, capture(model, tokens, dictionary.sites), keep)
        batches.append((tokens, keep))
        progress("encode", fit.n, max_tokens)
        if max_tokens is not None and fit.n >= max_tokens:
            break
    runs = Runs(means=fit.means() if fit.n else {})
    for tokens, keep in batches:
        runs.add(model, dictionary, tokens, replaced=keep, counted=keep)
        progress("evaluate", runs.clean.n, fit.n)
    return _scores(dictionary, fit, runs)


class Runs:
    """What the model predicts as it is, on a dictionary, and with zeros or `means` in the place of what that writes."""

    def __init__(self, means: Mapping[Site, Tensor]) -> None:
        self.means = means
        self.clean, self.spliced, self.zero, self.mean = (Predictions() for _ in range(4))

    def add(
        self,
        model: Model,
        dictionary: Dictionary,
        tokens: Tokens,
        *,
        replaced: Bool[Tensor, "batch pos"],
        counted: Bool[Tensor, "batch pos"],
        ablated: Bool[Tensor, "batch pos"] | None = None,
    ) -> None:
        """Adds the positions of `counted`, with the changes made at those of `replaced` (ablations: of `ablated`)."""
        from thoughtscope.models import capture, forward

        ahead = tuple(
            dict.fromkeys(site for part in dictionary.parts if part.looks_ahead for site in part.reads)
        )
        acts = capture(model, tokens, (*ahead, Site("logits")))
        replacement = Replacement(dictionary, replaced, acts)
        ablated = replaced if ablated is None else ablated
        zeros = {site: torch.zeros(model.width(site)) for site in dictionary.writes}
        changes = [(self.spliced, replacement.reads, replacement.writes)]
        changes += [
            (found, {}, Constant(values, ablated).writes)
            for found, values in ((self.zero, zeros), (self.mean, self.means))
            if values
        ]
        clean = acts[Site("logits")]
        self.clean.add(tokens.ids, counted, clean, clean)
        for found, reads, writes in changes:
            logits = forward(model, tokens, reads=reads, writes=writes)
            assert logits is not None
            found.add(tokens.ids, counted, clean, logits)


def _scores(dictionary: Dictionary, fit: Fit, runs: Runs) -> DictionaryScores:
    if not runs.clean.n_next:
        raise ThoughtscopeError("The documents hold no text to score the dictionary on.")
    sites = [str(site) for site in dictionary.writes]
    parts = [part.name for part in dictionary.parts]
    found: dict[str, Any] = {"n_tokens": fit.n, "agreement": runs.spliced.agree / runs.spliced.n}
    for name in ("fvu", "shrinkage", "bias", "cosine"):
        values = getattr(fit, name)()
        found |= {name: _mean(values), f"{name}_by_site": dict(zip(sites, values, strict=True))}
    for name, total in (("l0", sum), ("l1", sum), ("dead", _mean), ("dense", _mean)):
        values = getattr(fit, name)()
        found |= {name: total(values), f"{name}_by_part": dict(zip(parts, values, strict=True))}
    found["densities"] = dict(zip(parts, fit.density_histograms(), strict=True))
    return DictionaryScores(**found | _behaviour(runs))


def _behaviour(runs: Runs) -> dict[str, float]:
    """Losses and divergences, and what is recovered of the damage that each ablation does."""
    loss, spliced, zero, mean = (
        one.loss / one.n_next for one in (runs.clean, runs.spliced, runs.zero, runs.mean)
    )
    kl, kl_zero, kl_mean = (one.kl / one.n for one in (runs.spliced, runs.zero, runs.mean))
    return {
        "loss": loss,
        "loss_spliced": spliced,
        "loss_change": spliced - loss,
        "loss_zero": zero,
        "loss_mean": mean,
        "loss_recovered_zero": recovered(loss, spliced, zero),
        "loss_recovered_mean": recovered(loss, spliced, mean),
        "kl": kl,
        "kl_zero": kl_zero,
        "kl_mean": kl_mean,
        "kl_score_zero": recovered(0.0, kl, kl_zero),
        "kl_score_mean": recovered(0.0, kl, kl_mean),
    }


def recovered(clean: float, spliced: float, ablated: float) -> float:
    """(ablated − spliced) / (ablated − clean): 1 where the reconstruction does no damage, 0 where it does as much."""
    return (ablated - spliced) / (ablated - clean) if ablated != clean else math.nan


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
