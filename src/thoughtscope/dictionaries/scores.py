"""How good a dictionary is: what it explains, how sparsely, and what the model still does when it runs on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cross_entropy, embedding_bag

from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.site import Site
from thoughtscope.dictionaries.dictionary import Dictionary, check_fits, resident
from thoughtscope.dictionaries.documents import Document, counted, document_batches

if TYPE_CHECKING:
    from thoughtscope.models import Model, Step, Tokens


@dataclass(frozen=True, kw_only=True)
class DictionaryScores:
    """Figures over `n_tokens` tokens; where the dictionary skips first positions, so do the figures.

    - fvu: Σ‖y − ŷ‖² / Σ‖y − mean y‖² over all tokens, by layer; `fvu` is the layers' mean
    - l0: mean number of active features per token, by layer; `l0` is their sum
    - dead: share of features that were never active on these tokens
    - loss_change: mean next-token loss in nats with every write site replaced by the reconstruction, each encoder
      reading the running replacement model's own activations, minus the model's loss
    - agreement: share of positions at which the replacement model's top token is the model's
    - kl: mean KL(model ‖ replacement model) in nats
    """

    n_tokens: int
    fvu: float
    fvu_by_layer: tuple[float, ...]
    l0: float
    l0_by_layer: tuple[float, ...]
    dead: float
    dead_by_layer: tuple[float, ...]
    loss: float
    loss_spliced: float
    loss_change: float
    agreement: float
    kl: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def declare(dictionary: Dictionary, scores: DictionaryScores) -> Dictionary:
    """The same dictionary with these scores as its declared ones, which every later load is checked against."""
    names = ("fvu", "l0", "dead", "loss_change", "agreement", "kl")
    return replace(dictionary, declared={name: getattr(scores, name) for name in names})


@torch.no_grad()
def evaluate_dictionary(
    model: Model,
    dictionary: Dictionary,
    documents: Iterable[Document],
    *,
    max_tokens: int | None = None,
    context: int = 128,
    batch_tokens: int = 4096,
    progress: Callable[[int], None] | None = None,
) -> DictionaryScores:
    """Scores over `documents`, or their first `max_tokens` tokens. `progress` gets the number of tokens done.

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
        replacement = Replacement(dictionary, tokens.mask.to(model.device))
        spliced = forward(model, tokens, reads=replacement.reads, writes=replacement.writes)
        assert spliced is not None
        predictions.add(tokens, keep, acts[Site("logits")].float(), spliced.float())
        if progress:
            progress(fit.n)
        if max_tokens is not None and fit.n >= max_tokens:
            break
    return _scores(fit, predictions)


class Replacement:
    """The reads and writes that run the model on the dictionary: each write site gets the reconstruction from what the
    encoders read in this very pass. First positions keep the model's own output where the dictionary skips them."""

    def __init__(self, dictionary: Dictionary, mask: Bool[Tensor, "batch pos"]) -> None:
        self.dictionary = dictionary
        self.keep = counted(mask, skip_first=dictionary.skip_first)
        self.pending: dict[int, Tensor] = {}
        self.reads = {site: self._read(layer) for layer, site in enumerate(dictionary.reads)}
        self.writes = {site: self._write(layer) for layer, site in enumerate(dictionary.writes)}

    def _read(self, layer: int) -> Callable[[Tensor, Step], None]:
        def read(x: Tensor, step: Step) -> None:
            rows = x[self.keep]
            written = decode_dense(self.dictionary, layer, self.dictionary.activations(layer, rows))
            skip = self.dictionary.skip(layer, rows)
            if skip is not None:
                written[0] += skip
            for offset, target in enumerate(self.dictionary.targets(layer)):
                bias = self.dictionary.bias(target).to(written) if target not in self.pending else 0
                self.pending[target] = self.pending.get(target, 0) + written[offset] + bias

        return read

    def _write(self, layer: int) -> Callable[[Tensor, Step], Tensor]:
        def write(y: Tensor, step: Step) -> Tensor:
            y = y.clone()
            y[self.keep] = self.pending.pop(layer).to(y.dtype)
            return y

        return write


def decode_dense(
    dictionary: Dictionary, layer: int, activations: Float[Tensor, "pos feature"]
) -> Float[Tensor, "target pos d_out"]:
    """What dense activations of one layer write to each of its targets. Reads the decoders of active features only."""
    position, index = activations.nonzero(as_tuple=True)
    used, which = index.unique(return_inverse=True)
    rows = dictionary.decoder_rows(layer, used).to(activations)
    n_targets, d_out = rows.shape[1:]
    if not len(used):
        return activations.new_zeros(n_targets, len(activations), d_out)
    counts = torch.bincount(position, minlength=len(activations))
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    written = embedding_bag(
        which,
        rows.flatten(1),
        offsets,
        mode="sum",
        per_sample_weights=activations[position, index],
        include_last_offset=True,
    )
    return written.view(len(activations), n_targets, d_out).transpose(0, 1).contiguous()


@dataclass(kw_only=True)
class Fit:
    """Running sums of what a dictionary explains, in float64 where differences of large numbers are taken."""

    squared_error: Tensor
    total: Tensor
    squares: Tensor
    active: Tensor
    fired: Tensor
    n: int = 0

    @classmethod
    def zeros(cls, dictionary: Dictionary) -> Fit:
        layers, wide = dictionary.n_layers, torch.float64
        return cls(
            squared_error=torch.zeros(layers, dtype=wide),
            total=torch.zeros(layers, dictionary.d_model, dtype=wide),
            squares=torch.zeros(layers, dtype=wide),
            active=torch.zeros(layers, dtype=wide),
            fired=torch.zeros(layers, dictionary.n_features, dtype=torch.bool),
        )

    def add(
        self, dictionary: Dictionary, acts: Mapping[Site, Tensor], keep: Bool[Tensor, "batch pos"]
    ) -> None:
        """Adds the tokens that `keep` marks."""
        written = [acts[site][keep].float() for site in dictionary.writes]
        predicted = [dictionary.bias(layer).to(y).expand_as(y).clone() for layer, y in enumerate(written)]
        for layer, site in enumerate(dictionary.reads):
            x = acts[site][keep]
            values = dictionary.activations(layer, x)
            self.active[layer] += (values != 0).sum().cpu()
            self.fired[layer] |= (values != 0).any(0).cpu()
            skip = dictionary.skip(layer, x)
            predicted[layer] += 0 if skip is None else skip
            for target, part in zip(
                dictionary.targets(layer), decode_dense(dictionary, layer, values), strict=True
            ):
                predicted[target] += part
        for layer, (y, guess) in enumerate(zip(written, predicted, strict=True)):
            self.squared_error[layer] += (y - guess).double().square().sum().cpu()
            self.total[layer] += y.double().sum(0).cpu()
            self.squares[layer] += y.double().square().sum().cpu()
        self.n += int(keep.sum())

    def fvu(self) -> list[float]:
        variance = self.squares - self.total.square().sum(-1) / self.n
        return (self.squared_error / variance).tolist()

    def l0(self) -> list[float]:
        return (self.active / self.n).tolist()

    def dead(self) -> list[float]:
        return (~self.fired).double().mean(-1).tolist()


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


def _scores(fit: Fit, predictions: _Predictions) -> DictionaryScores:
    if not predictions.n_next:
        raise ThoughtscopeError("The documents hold no text to score the dictionary on.")
    fvu, l0, dead, n = fit.fvu(), fit.l0(), fit.dead(), predictions.n_next
    return DictionaryScores(
        n_tokens=fit.n,
        fvu=sum(fvu) / len(fvu),
        fvu_by_layer=tuple(fvu),
        l0=sum(l0),
        l0_by_layer=tuple(l0),
        dead=sum(dead) / len(dead),
        dead_by_layer=tuple(dead),
        loss=predictions.loss / n,
        loss_spliced=predictions.spliced / n,
        loss_change=(predictions.spliced - predictions.loss) / n,
        agreement=predictions.agree / fit.n,
        kl=predictions.kl / n,
    )
