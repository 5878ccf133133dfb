"""How good a dictionary is: what it explains, how sparsely, and what the model still does when it runs on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn.functional import cross_entropy

from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.progress import Progress, silent
from thoughtscope.core.site import Site
from thoughtscope.dictionaries.dictionary import Dictionary, Part, check_fits, resident
from thoughtscope.dictionaries.documents import Document, counted, document_batches
from thoughtscope.dictionaries.features import flat, total_by_site

if TYPE_CHECKING:
    from thoughtscope.models import Model, Step, Tokens


@dataclass(frozen=True, kw_only=True)
class DictionaryScores:
    """Figures over `n_tokens` tokens; where the dictionary skips first positions, so do the figures.

    - fvu: Σ‖y − ŷ‖² / Σ‖y − mean y‖² over all tokens, by write site; `fvu` is the sites' mean
    - l0: mean number of active features per token, by part; `l0` is their sum
    - dead: share of features that were never active on these tokens
    - loss_change: mean next-token loss in nats with every write site replaced by the reconstruction, each encoder
      reading the running replacement model's own activations (a crosscoder's, which read later than they write: the
      unedited model's), minus the model's loss
    - agreement: share of positions at which the replacement model's top token is the model's
    - kl: mean KL(model ‖ replacement model) in nats
    """

    n_tokens: int
    fvu: float
    fvu_by_site: Mapping[str, float]
    l0: float
    l0_by_part: Mapping[str, float]
    dead: float
    dead_by_part: Mapping[str, float]
    loss: float
    loss_spliced: float
    loss_change: float
    agreement: float
    kl: float

    def to_json(self) -> dict[str, Any]:
        """The scores as plain JSON values; `DictionaryScores(**values)` is the inverse."""
        return asdict(self)


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

    Raises `DictionaryMismatch` when the dictionary is for another model, `ThoughtscopeError` when there is no text.
    """
    from thoughtscope.models import capture, forward

    check_fits(dictionary, model)
    dictionary = resident(dictionary, device=model.device)
    fit, predictions = Fit.zeros(dictionary), _Predictions()
    for tokens in document_batches(model, documents, context=context, batch_tokens=batch_tokens):
        keep = counted(tokens.mask, skip_first=dictionary.skip_first).to(model.device)
        acts = capture(model, tokens, (*dictionary.sites, Site("logits")))
        fit.add(dictionary, acts, keep)
        replacement = Replacement(dictionary, tokens.mask.to(model.device), acts)
        spliced = forward(model, tokens, reads=replacement.reads, writes=replacement.writes)
        assert spliced is not None
        predictions.add(tokens, keep, acts[Site("logits")].float(), spliced.float())
        progress("evaluate", fit.n, max_tokens)
        if max_tokens is not None and fit.n >= max_tokens:
            break
    return _scores(dictionary, fit, predictions)


class Replacement:
    """The reads and writes that run the model on the dictionary: each write site gets the reconstruction from what the
    encoders read in this very pass. First positions keep the model's own output where the dictionary skips them.

    At a site that is both read and written, the write encodes what it finds there. A part that reads later than it
    writes (a crosscoder) cannot be encoded in the running pass: its inputs are those of the unedited one, `clean`.
    """

    def __init__(
        self, dictionary: Dictionary, mask: Bool[Tensor, "batch pos"], clean: Mapping[Site, Tensor]
    ) -> None:
        self.dictionary = dictionary
        self.keep = counted(mask, skip_first=dictionary.skip_first)
        self.held: dict[Site, Tensor] = {}
        """What the sites read so far hold at the kept tokens, (row, width)."""
        self.pending: dict[Site, list[Mapping[Site, Tensor]]] = {site: [] for site in dictionary.writes}
        """By write site: what the parts encoded so far write."""
        ahead = [part for part in dictionary.parts if part.looks_ahead]
        for part in ahead:
            self._encode(part, {site: flat(clean[site][self.keep], 1) for site in part.reads})
        self.waiting = [part for part in dictionary.parts if part not in ahead]
        written = set(dictionary.writes)
        read = {site for part in self.waiting for site in part.reads}
        self.reads = {site: partial(self._read, site) for site in dictionary.reads if site in read - written}
        self.writes = {site: partial(self._write, site) for site in dictionary.writes}

    def _read(self, site: Site, x: Tensor, step: Step) -> None:
        """Notes what a site holds, and encodes the parts that have then read everything."""
        self.held[site] = flat(x[self.keep], 1)
        ready = [part for part in self.waiting if all(each in self.held for each in part.reads)]
        self.waiting = [part for part in self.waiting if part not in ready]
        for part in ready:
            self._encode(part, self.held)

    def _encode(self, part: Part, x: Mapping[Site, Tensor]) -> None:
        written = reconstruct(part, x)[0]
        for site, value in written.items():
            self.pending[site].append({site: value})

    def _write(self, site: Site, y: Tensor, step: Step) -> Tensor:
        if any(site in part.reads for part in self.waiting):
            self._read(site, y, step)
        y = y.clone()
        rows = total_by_site(self.pending.pop(site))[site]  # (row, width)
        y[self.keep] = rows.view(rows.shape[0], *y.shape[2:]).to(y.dtype)
        return y


def reconstruct(part: Part, x: Mapping[Site, Tensor]) -> tuple[dict[Site, Tensor], Tensor]:
    """What a part writes for rows that its sites hold, by site, and its features (row, feature)."""
    values = part.activations(x)
    row, index = values.nonzero(as_tuple=True)
    return part.write(row, index, values[row, index], x), values


@dataclass(kw_only=True)
class Fit:
    """Running sums of what a dictionary explains, in float64 where differences of large numbers are taken."""

    squared_error: dict[Site, float]
    total: dict[Site, Tensor]
    squares: dict[Site, float]
    active: list[int]
    fired: list[Tensor]
    n: int = 0

    @classmethod
    def zeros(cls, dictionary: Dictionary) -> Fit:
        widths = {site: W.shape[1] for part in dictionary.parts for site, W in part.W_dec.items()}
        return cls(
            squared_error=dict.fromkeys(dictionary.writes, 0.0),
            total={site: torch.zeros(widths[site], dtype=torch.float64) for site in dictionary.writes},
            squares=dict.fromkeys(dictionary.writes, 0.0),
            active=[0] * len(dictionary.parts),
            fired=[torch.zeros(part.n_features, dtype=torch.bool) for part in dictionary.parts],
        )

    def add(
        self, dictionary: Dictionary, acts: Mapping[Site, Tensor], keep: Bool[Tensor, "batch pos"]
    ) -> None:
        """Adds the tokens that `keep` marks."""
        held = {site: flat(acts[site][keep], 1).float() for site in dictionary.sites}  # (row, width)
        written = []
        for number, part in enumerate(dictionary.parts):
            parts_writes, values = reconstruct(part, held)
            written.append(parts_writes)
            self.active[number] += int((values != 0).sum())
            self.fired[number] |= (values != 0).any(0).cpu()
        for site, guess in total_by_site(written).items():
            y = held[site]
            self.squared_error[site] += float((y - guess).double().square().sum())
            self.total[site] += y.double().sum(0).cpu()
            self.squares[site] += float(y.double().square().sum())
        self.n += int(keep.sum())

    def fvu(self) -> list[float]:
        """By write site, in the dictionary's order."""
        variance = {
            site: self.squares[site] - float(x.square().sum()) / self.n for site, x in self.total.items()
        }
        return [
            error / variance[site] if variance[site] else float("nan")
            for site, error in self.squared_error.items()
        ]

    def l0(self) -> list[float]:
        """By part."""
        return [count / self.n for count in self.active]

    def dead(self) -> list[float]:
        """By part."""
        return [float((~fired).double().mean()) for fired in self.fired]


@dataclass(kw_only=True)
class _Predictions:
    """Running sums of what the model predicts with and without the dictionary in place."""

    loss: float = 0.0
    spliced: float = 0.0
    kl: float = 0.0
    agree: float = 0.0
    n_next: int = 0

    def add(self, tokens: Tokens, keep: Tensor, clean: Tensor, spliced: Tensor) -> None:
        here = keep[:, :-1]
        following = tokens.ids.to(keep.device)[:, 1:][here]
        a, b = clean[:, :-1][here], spliced[:, :-1][here]
        log_a, log_b = a.log_softmax(-1), b.log_softmax(-1)
        self.loss += float(cross_entropy(a, following, reduction="sum"))
        self.spliced += float(cross_entropy(b, following, reduction="sum"))
        self.kl += float((log_a.exp() * (log_a - log_b)).sum())
        self.agree += float((clean[keep].argmax(-1) == spliced[keep].argmax(-1)).sum())
        self.n_next += len(following)


def _scores(dictionary: Dictionary, fit: Fit, predictions: _Predictions) -> DictionaryScores:
    if not predictions.n_next:
        raise ThoughtscopeError("The documents hold no text to score the dictionary on.")
    fvu, l0, dead, n = fit.fvu(), fit.l0(), fit.dead(), predictions.n_next
    names = [part.name for part in dictionary.parts]
    return DictionaryScores(
        n_tokens=fit.n,
        fvu=sum(fvu) / len(fvu),
        fvu_by_site=dict(zip(map(str, dictionary.writes), fvu, strict=True)),
        l0=sum(l0),
        l0_by_part=dict(zip(names, l0, strict=True)),
        dead=sum(dead) / len(dead),
        dead_by_part=dict(zip(names, dead, strict=True)),
        loss=predictions.loss / n,
        loss_spliced=predictions.spliced / n,
        loss_change=(predictions.spliced - predictions.loss) / n,
        agreement=predictions.agree / fit.n,
        kl=predictions.kl / n,
    )
