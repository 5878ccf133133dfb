"""`collect_examples`: one pass over text, then for every feature its examples, figures and outputs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtscope.atlas.bank import FeatureBank, LayerRecords
from thoughtscope.atlas.columns import Columns
from thoughtscope.atlas.picking import GROUPS, Windows, figures, pick, strongest_first
from thoughtscope.atlas.recording import Recording, record
from thoughtscope.core.errors import DictionaryMismatch
from thoughtscope.core.progress import Progress, silent
from thoughtscope.core.site import Site
from thoughtscope.dictionaries import Dictionary, Part
from thoughtscope.dictionaries.documents import Document

if TYPE_CHECKING:
    from thoughtscope.models import Model

N_LOGITS = 10
BLOCK = 2**24
"""Activations that are looked at together; a feature's are never parted."""
_TO_RESIDUAL = ("embed", "resid_pre", "resid_mid", "resid_post", "attn_raw", "attn_out", "mlp_raw", "mlp_out")


def collect_examples(
    model: Model,
    dictionary: Dictionary,
    documents: Iterable[Document],
    *,
    folder: str | os.PathLike[str] | None = None,
    max_tokens: int = 200_000,
    n_top: int = 10,
    n_quantile: int = 3,
    context: int = 128,
    window: tuple[int, int] = (28, 14),
    progress: Progress = silent,
) -> FeatureBank:
    """Runs the model over the first `max_tokens` tokens and keeps, of each feature, `n_top` examples, `n_quantile` of
    each quarter of its activations, a histogram, and the tokens that it raises and lowers most.

    No two examples of a feature show the same text. With `folder`, what is active is written there on the way, and a
    call that was killed goes on: see `record`, which also tells the memory, and `bank_of_recording`.
    Raises `DictionaryMismatch` for a dictionary of another model, `ThoughtscopeError` when there is no text.
    """
    found = record(
        model, dictionary, documents, folder, max_tokens=max_tokens, context=context, progress=progress
    )
    assert found is not None  # one process sees to all of it
    return bank_of_recording(
        model, dictionary, found, n_top=n_top, n_quantile=n_quantile, window=window, progress=progress
    )


@torch.no_grad()
def bank_of_recording(
    model: Model,
    dictionary: Dictionary,
    recording: Recording,
    *,
    n_top: int = 10,
    n_quantile: int = 3,
    window: tuple[int, int] = (28, 14),
    progress: Progress = silent,
) -> FeatureBank:
    """The bank of a recording, made without another pass over the text, some features after the others.

    Raises `DictionaryMismatch` for the recording of another dictionary.
    """
    check_recorded(recording, dictionary)
    ids, starts = recording.ids, recording.starts
    windows = Windows.over(ids, starts, window)
    layers: list[LayerRecords] = []
    used = set(ids.tolist())
    progress("examples", 0, len(dictionary.parts))
    for number, part in enumerate(dictionary.parts):
        outputs = output_tokens(model, part)
        used |= {
            token for name in ("top_logits", "bottom_logits") for token in outputs[name].flatten().tolist()
        }
        blocks = [
            _records(columns, windows, n_top, n_quantile, seed=number + 1000 * at)
            for at, columns in enumerate(in_blocks(recording, number))
        ]
        layers.append(LayerRecords(**_together(blocks), **outputs))
        progress("examples", number + 1, len(dictionary.parts))
    return FeatureBank(
        dictionary_name=dictionary.name,
        scan=dictionary.scan,
        model_name=dictionary.model_name,
        n_features=max(part.n_features for part in dictionary.parts),
        groups=GROUPS,
        window=window,
        pieces=pieces_of(model, used),
        ids=torch.from_numpy(ids),
        starts=torch.from_numpy(starts),
        layers=tuple(layers),
    )


def check_recorded(recording: Recording, dictionary: Dictionary) -> None:
    """Raises `DictionaryMismatch` for the recording of another dictionary."""
    if recording.plan.scan != dictionary.scan or recording.plan.n_features != tuple(
        part.n_features for part in dictionary.parts
    ):
        raise DictionaryMismatch(
            f"This is a recording of {recording.plan.dictionary} with {recording.plan.n_features} features; "
            f"{dictionary.name} is another dictionary. Record it anew."
        )


def in_blocks(recording: Recording, part: int) -> Iterator[Columns]:
    """A part's features in as few blocks as `BLOCK` allows."""
    total = np.cumsum(recording.count(part))
    first = 0
    while first < len(total):
        before = int(total[first - 1]) if first else 0
        end = max(first + 1, int(np.searchsorted(total, before + BLOCK, side="right")))
        yield recording.columns(part, first, end)
        first = end


def _records(
    columns: Columns, windows: Windows, n_top: int, n_quantile: int, seed: int
) -> dict[str, np.ndarray]:
    """What a bank keeps of some features, in the fields of `LayerRecords`."""
    ranked = strongest_first(columns)
    histogram, quantiles = figures(columns, ranked)
    picked = pick(columns, ranked, windows, n_top=n_top, n_quantile=n_quantile, seed=seed)
    return {
        "count": columns.count.astype(np.int32),
        "histogram": histogram,
        "quantiles": quantiles,
        "example_offsets": picked.offsets.astype(np.int32),
        "example_token": columns.token[picked.event],
        "example_group": picked.group,
        "active_offsets": picked.active_offsets.astype(np.int32),
        "active_token": columns.token[picked.active],
        "active_value": columns.value[picked.active],
    }


def _together(blocks: list[dict[str, np.ndarray]]) -> dict[str, Tensor]:
    """The records of all blocks: what counts examples or activations goes on where the block before ends."""
    whole: dict[str, np.ndarray] = {}
    for name in blocks[0]:
        columns = [block[name] for block in blocks]
        if name.endswith("_offsets"):
            lasts = np.cumsum([0, *(column[-1] for column in columns)]).astype(np.int32)
            moved = [column[1:] + last for column, last in zip(columns, lasts, strict=False)]
            columns = [np.zeros(1, np.int32), *moved]
        whole[name] = np.concatenate(columns)
    return {name: torch.from_numpy(column) for name, column in whole.items()}


def output_tokens(model: Model, part: Part) -> dict[str, Tensor]:
    """The tokens whose logits each feature of a part raises and lowers most, directly: `top_logits`, `bottom_logits`
    (feature, n). `output_strength` (feature): how many standard deviations the most raised one is above the vocabulary.

    Features that write elsewhere than to the residual stream or to neurons (to heads, say) have empty lists.
    """
    if not _reaching_logits(model, part):
        empty = torch.zeros(part.n_features, 0, dtype=torch.int32)
        strength = torch.zeros(part.n_features, dtype=torch.float16)
        return {"top_logits": empty, "bottom_logits": empty, "output_strength": strength}
    n = min(N_LOGITS, model.vocab_size)
    found: dict[str, list[Tensor]] = {"top_logits": [], "bottom_logits": [], "output_strength": []}
    for index in torch.arange(part.n_features).split(max(1, 2**24 // model.vocab_size)):
        logits = direct_logits(model, part, index)
        top, bottom = (logits.topk(n, dim=-1, largest=largest) for largest in (True, False))
        found["top_logits"].append(top.indices.int().cpu())
        found["bottom_logits"].append(bottom.indices.int().cpu())
        # Σ(x − mean)² as Σx² − n mean²: sums and norms are many times as fast as a running variance.
        mean, size = logits.mean(-1), logits.shape[-1]
        squares = torch.linalg.vector_norm(logits, dim=-1).square() - size * mean.square()
        spread = (squares.clamp(min=0) / max(size - 1, 1)).sqrt()
        found["output_strength"].append(((top.values[:, 0] - mean) / spread.clamp(min=1e-12)).half().cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}


def direct_logits(model: Model, part: Part, index: Int[Tensor, " feature"]) -> Float[Tensor, "feature vocab"]:
    """What a unit of each feature adds to the logits directly, up to the final norm's scale, common to all tokens.

    A feature's decoders to the residual stream are added up, those to neurons through the MLP's last projection, and go
    through the final norm's weight and the unembedding.
    """
    norm, unembed = model.family.final_norm, model.family.unembed.float()
    rows = part.decoder_rows(index)
    writes = _reaching_logits(model, part)
    direction = torch.stack(
        [_in_residual(model, site, rows[site].to(unembed.device)) for site in writes]
    ).sum(0)
    if norm is not None:
        direction = norm.centre(direction) * norm.weight.float()  # (feature, d_model)
    return direction @ unembed.T


def residual_writes(part: Part) -> list[Site]:
    """The written sites that are sums in the residual stream."""
    return [site for site in part.writes if site.kind in _TO_RESIDUAL]


def _reaching_logits(model: Model, part: Part) -> list[Site]:
    """The written sites that are sums in the residual stream, or become such by a matrix."""
    return [site for site in part.writes if site.kind in _TO_RESIDUAL or _projects(model, site)]


def _projects(model: Model, site: Site) -> bool:
    """Whether these are neurons from which one matrix leads to the residual stream, with no norm behind it."""
    if site.kind != "mlp_act" or site.layer is None:
        return False
    block = model.family.blocks[site.layer]
    return block.neurons is not None and block.mlp_post_norm is None


def _in_residual(
    model: Model, site: Site, rows: Float[Tensor, "feature _"]
) -> Float[Tensor, "feature d_model"]:
    if site.kind in _TO_RESIDUAL:
        return rows
    assert site.layer is not None
    neurons = model.family.blocks[site.layer].neurons
    assert neurons is not None
    return rows @ neurons.W_out.to(rows)


def pieces_of(model: Model, ids: Iterable[int]) -> dict[int, str]:
    """Each token as a person reads it."""
    from thoughtscope.models.tokens import describe

    ordered = sorted(ids)
    # One by one: what a token looks like does not depend on its neighbours.
    return {token: describe(model, [token])[1][0] for token in ordered}
