"""`collect_examples`: one scan over text, then for every feature its examples, figures and outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtscope.atlas.bank import FeatureBank, LayerRecords, window_of
from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.progress import Progress, silent
from thoughtscope.core.site import Site
from thoughtscope.dictionaries import Dictionary, Part, check_fits, resident
from thoughtscope.dictionaries.documents import Document, counted, document_batches
from thoughtscope.dictionaries.features import flat

if TYPE_CHECKING:
    from thoughtscope.models import Model

GROUPS = ("Top activations", "Upper quarter", "Upper middle", "Lower middle", "Lower quarter")
BINS = 30
N_LOGITS = 10
_TO_RESIDUAL = ("embed", "resid_pre", "resid_mid", "resid_post", "attn_raw", "attn_out", "mlp_raw", "mlp_out")
_LARGEST = torch.finfo(torch.float16).max  # an infinity would spoil the histogram


@dataclass(kw_only=True)
class _Scan:
    """What one pass over the text found: its tokens, and by layer each (feature, token, value) that was active."""

    ids: list[np.ndarray] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    events: list[list[tuple[np.ndarray, np.ndarray, np.ndarray]]]
    n_tokens: int = 0


@torch.no_grad()
def collect_examples(
    model: Model,
    dictionary: Dictionary,
    documents: Iterable[Document],
    *,
    max_tokens: int = 200_000,
    n_top: int = 10,
    n_quantile: int = 3,
    context: int = 128,
    window: tuple[int, int] = (28, 14),
    progress: Progress = silent,
) -> FeatureBank:
    """Runs the model over the first `max_tokens` tokens and keeps, of each feature, `n_top` examples, `n_quantile` of
    each quarter of its activations, a histogram, and the tokens that it raises and lowers most.

    No two examples of a feature show the same text. Memory: about 10 bytes per active feature and token.
    Raises `DictionaryMismatch` for a dictionary of another model, `ThoughtscopeError` when there is no text.
    """
    check_fits(dictionary, model)
    scan = _scan(model, resident(dictionary, device=model.device), documents, max_tokens, context, progress)
    ids = np.concatenate(scan.ids)
    starts = np.concatenate([[0], np.cumsum(scan.lengths)])
    layers: list[LayerRecords] = []
    used = set(ids.tolist())
    for part, events in zip(dictionary.parts, scan.events, strict=True):
        outputs = output_tokens(model, part)
        used |= set(outputs["top_logits"].flatten().tolist()) | set(
            outputs["bottom_logits"].flatten().tolist()
        )
        picker = _Picker(
            ids=ids, starts=starts, window=window, n_top=n_top, n_quantile=n_quantile, seed=len(layers)
        )
        layers.append(picker.records(events, part.n_features, outputs))
    return FeatureBank(
        dictionary_name=dictionary.name,
        scan=dictionary.scan,
        model_name=dictionary.model_name,
        n_features=max(part.n_features for part in dictionary.parts),
        groups=GROUPS,
        window=window,
        pieces=_pieces(model, used),
        ids=torch.from_numpy(ids),
        starts=torch.from_numpy(starts),
        layers=tuple(layers),
    )


def _scan(
    model: Model,
    dictionary: Dictionary,
    documents: Iterable[Document],
    max_tokens: int,
    context: int,
    progress: Progress,
) -> _Scan:
    from thoughtscope.models import capture

    scan = _Scan(events=[[] for _ in dictionary.parts])
    for tokens in document_batches(model, documents, context=min(context, model.max_positions)):
        acts = capture(model, tokens, dictionary.reads)
        keep = counted(tokens.mask, skip_first=dictionary.skip_first)
        # The number of each real token in the text scanned so far.
        number = (tokens.mask.flatten().cumsum(0) - 1).view(tokens.mask.shape) + scan.n_tokens
        numbers = number[keep].numpy()
        held = {site: flat(acts[site][keep.to(acts[site].device)], 1) for site in dictionary.reads}
        for events, part in zip(scan.events, dictionary.parts, strict=True):
            values = part.activations(held).cpu()
            row, feature = values.nonzero(as_tuple=True)
            found = (
                feature.numpy().astype(np.int32),
                numbers[row].astype(np.int32),
                values[row, feature].clamp(max=_LARGEST).half().numpy(),
            )
            events.append(found)
        scan.ids.append(tokens.ids[tokens.mask].numpy().astype(np.int32))
        scan.lengths += tokens.mask.sum(-1).tolist()
        scan.n_tokens += int(tokens.mask.sum())
        progress("collect", min(scan.n_tokens, max_tokens), max_tokens)
        if scan.n_tokens >= max_tokens:
            break
    if not scan.n_tokens:
        raise ThoughtscopeError("The documents hold no text to collect examples from.")
    return scan


@dataclass(frozen=True, kw_only=True)
class _Picker:
    """Chooses the examples of one layer's features."""

    ids: np.ndarray
    starts: np.ndarray
    window: tuple[int, int]
    n_top: int
    n_quantile: int
    seed: int

    def records(
        self, events: Sequence[tuple[np.ndarray, ...]], n_features: int, outputs: Mapping[str, Tensor]
    ) -> LayerRecords:
        feature, token, value = (np.concatenate(column) for column in zip(*events, strict=True))
        order = np.lexsort((token, feature))
        feature, token, value = feature[order], token[order], value[order]
        bounds = np.searchsorted(feature, np.arange(n_features + 1))
        random = np.random.default_rng(self.seed)
        histogram = np.zeros((n_features, BINS), np.int32)
        quantiles = np.zeros((n_features, 5), np.float32)
        examples: list[tuple[int, int]] = []
        example_offsets, active_offsets, actives = [0], [0], []
        for index in range(n_features):
            where, strength = (
                token[bounds[index] : bounds[index + 1]],
                value[bounds[index] : bounds[index + 1]],
            )
            if len(where):
                wide = strength.astype(np.float32)
                histogram[index] = np.histogram(wide, bins=BINS, range=(0.0, float(wide.max())))[0]
                quantiles[index] = np.quantile(wide, (0, 0.25, 0.5, 0.75, 1))
            for group, chosen in self._choose(where, strength, random):
                start, end = window_of(self.starts, int(where[chosen]), self.window)
                inside = slice(*np.searchsorted(where, (start, end)))
                actives.append((where[inside], strength[inside]))
                active_offsets.append(active_offsets[-1] + inside.stop - inside.start)
                examples.append((int(where[chosen]), group))
            example_offsets.append(len(examples))
        return LayerRecords(
            count=torch.from_numpy(np.diff(bounds).astype(np.int32)),
            histogram=torch.from_numpy(histogram),
            quantiles=torch.from_numpy(quantiles),
            **outputs,
            example_offsets=torch.tensor(example_offsets, dtype=torch.int32),
            example_token=torch.tensor([at for at, _ in examples], dtype=torch.int32),
            example_group=torch.tensor([group for _, group in examples], dtype=torch.uint8),
            active_offsets=torch.tensor(active_offsets, dtype=torch.int32),
            active_token=torch.from_numpy(
                np.concatenate([at for at, _ in actives] or [np.zeros(0, np.int32)])
            ),
            active_value=torch.from_numpy(
                np.concatenate([v for _, v in actives] or [np.zeros(0, np.float16)])
            ),
        )

    def _choose(
        self, where: np.ndarray, strength: np.ndarray, random: np.random.Generator
    ) -> Iterator[tuple[int, int]]:
        """Groups and event numbers: the strongest, then some of each quarter by rank; no text twice."""
        ranked = np.argsort(-strength, kind="stable")
        seen: set[bytes] = set()
        quarters = np.array_split(ranked, 4) if len(ranked) >= 8 else []
        wanted = [(0, ranked, self.n_top)]
        wanted += [
            (1 + n, random.permutation(quarter), self.n_quantile) for n, quarter in enumerate(quarters)
        ]
        for group, candidates, n in wanted:
            # Look a while for texts not shown yet; a feature of one phrase has few.
            for event in candidates[: 20 * n]:
                start, end = window_of(self.starts, int(where[event]), self.window)
                text = self.ids[start:end].tobytes()
                if text in seen:
                    continue
                seen.add(text)
                yield group, int(event)
                n -= 1
                if not n:
                    break


def output_tokens(model: Model, part: Part) -> dict[str, Tensor]:
    """The tokens whose logits each feature of a part raises and lowers most, directly: `top_logits`, `bottom_logits`
    (feature, n). `output_strength` (feature): how many standard deviations the most raised one is above the vocabulary.

    Features that write elsewhere than to the residual stream (to heads, to neurons) have empty lists.
    """
    if not _residual_writes(part):
        empty = torch.zeros(part.n_features, 0, dtype=torch.int32)
        strength = torch.zeros(part.n_features, dtype=torch.float16)
        return {"top_logits": empty, "bottom_logits": empty, "output_strength": strength}
    n = min(N_LOGITS, model.vocab_size)
    found: dict[str, list[Tensor]] = {"top_logits": [], "bottom_logits": [], "output_strength": []}
    for index in torch.arange(part.n_features).split(max(1, 2**24 // model.vocab_size)):
        logits = direct_logits(model, part, index)
        spread, mean = torch.std_mean(logits, dim=-1)
        found["top_logits"].append(logits.topk(n, dim=-1).indices.int().cpu())
        found["bottom_logits"].append((-logits).topk(n, dim=-1).indices.int().cpu())
        found["output_strength"].append(((logits.amax(-1) - mean) / spread.clamp(min=1e-12)).half().cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}


def direct_logits(model: Model, part: Part, index: Int[Tensor, " feature"]) -> Float[Tensor, "feature vocab"]:
    """What a unit of each feature adds to the logits directly, up to the final norm's scale, common to all tokens.

    A feature's decoders to the residual stream are added up and go through the final norm's weight and the unembedding.
    """
    norm, unembed = model.family.final_norm, model.family.unembed.float()
    rows = part.decoder_rows(index)
    direction = torch.stack([rows[site] for site in _residual_writes(part)]).sum(0).to(unembed.device)
    if norm is not None:
        direction = norm.centre(direction) * norm.weight.float()  # (feature, d_model)
    return direction @ unembed.T


def _residual_writes(part: Part) -> list[Site]:
    """The written sites that are sums in the residual stream."""
    return [site for site in part.writes if site.kind in _TO_RESIDUAL]


def _pieces(model: Model, ids: Iterable[int]) -> dict[int, str]:
    from thoughtscope.models.tokens import describe

    ordered = sorted(ids)
    # One by one: what a token looks like does not depend on its neighbours.
    return {token: describe(model, [token])[1][0] for token in ordered}
