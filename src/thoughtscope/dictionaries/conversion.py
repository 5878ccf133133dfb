"""What becomes of a dictionary's answers when it is written in another layout or number type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtscope.core.errors import DictionaryMismatch, describe_choices
from thoughtscope.core.site import Site
from thoughtscope.core.tensors import all_finite
from thoughtscope.dictionaries.dictionary import Dictionary, Part
from thoughtscope.dictionaries.features import total_by_site
from thoughtscope.dictionaries.replacement import reconstruct

if TYPE_CHECKING:
    from thoughtscope.models import Model

Store = Literal["float32", "bfloat16", "float16", "int8"]
STORES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.int8,
}
ROWS, PER_ROW = 64, 8
_MATRICES = ("W_enc", "W_dec", "W_skip")


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """How the answers of a dictionary changed.

    - difference: Σ‖ŷ' − ŷ‖² / Σ‖ŷ − mean ŷ‖² over rows made of its own features, all write sites together
    - fvu_before, fvu_after: FVU of a model's activations on `n_tokens` tokens of text, the write sites' mean; None
      without a model
    """

    difference: float
    fvu_before: float | None = None
    fvu_after: float | None = None
    n_tokens: int = 0

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        return asdict(self)


def stored_as(dictionary: Dictionary, dtype: torch.dtype) -> Dictionary:
    """The same dictionary with its matrices in another floating type; biases and thresholds stay as they are.

    Raises `DictionaryMismatch` where a weight is too large for the type.
    """
    parts = tuple(replace(part, **_cast(part, dtype)) for part in dictionary.parts)
    return replace(dictionary, parts=parts)


def check_store(store: str) -> torch.dtype:
    """The type of a name. Raises `DictionaryMismatch` listing those that there are."""
    if store not in STORES:
        raise DictionaryMismatch(describe_choices(store, STORES, what="number type"))
    return STORES[store]


def _cast(part: Part, dtype: torch.dtype) -> dict[str, Any]:
    def cast(weight: Tensor) -> Tensor:
        small = weight.to(dtype)
        if not all_finite(small):
            kind = str(dtype).removeprefix("torch.")
            raise DictionaryMismatch(f"Part {part.name} has weights that are too large for {kind}.")
        return small

    given = {field.name: getattr(part, field.name) for field in fields(part) if field.name in _MATRICES}
    return {
        name: {site: cast(weight) for site, weight in value.items()}
        if isinstance(value, Mapping)
        else cast(value)
        for name, value in given.items()
        if value is not None
    }


@torch.no_grad()
def compare(before: Dictionary, after: Dictionary, model: Model | None = None) -> Conversion:
    """How the answers of `after` differ from those of `before`. Reads all weights of both.

    Raises `DictionaryMismatch` when they do not read and write the same sites, or the model lacks one.
    """
    if set(before.reads) != set(after.reads) or set(before.writes) != set(after.writes):
        raise DictionaryMismatch(
            f"{before.name} and {after.name} do not read and write the same sites: "
            f"{', '.join(map(str, before.sites))}; {', '.join(map(str, after.sites))}."
        )
    rows = probe_rows(before)
    one, other = (answers(dictionary, rows) for dictionary in (before, after))
    error = sum(float((other[site] - one[site]).double().square().sum()) for site in one)
    variance = sum(float((y - y.mean(0)).double().square().sum()) for y in one.values())
    difference = error / variance if variance else (0.0 if error == 0 else float("inf"))
    if model is None:
        return Conversion(difference=difference)
    from thoughtscope.dictionaries.preflight import look

    first, second = (look(model, replace(each, card=before.card)) for each in (before, after))
    return Conversion(
        difference=difference, fvu_before=first.fvu, fvu_after=second.fvu, n_tokens=first.n_tokens
    )


def probe_rows(dictionary: Dictionary) -> dict[Site, Float[Tensor, "row _"]]:
    """Vectors for every read site, made of the encoders of a few features a row so that these are active, and noise."""
    generator = torch.Generator().manual_seed(0)
    rows: dict[Site, Tensor] = {}
    for part in dictionary.parts:
        index = torch.randint(part.n_features, (ROWS * PER_ROW,), generator=generator)
        bias = part.encoder_bias(index)
        threshold = torch.zeros_like(bias) if part.threshold is None else part.threshold[index].to(bias)
        wanted = (threshold - bias).clamp(min=0) + 1 + torch.rand(len(index), generator=generator).to(bias)
        for site, W in part.encoder_rows(index).items():
            size = W.square().sum(1).clamp(min=1e-12)
            made = (W * (wanted / size)[:, None]).view(ROWS, PER_ROW, -1).sum(1)
            noise = torch.randn(made.shape, generator=generator).to(made) * made.std() / 4
            rows[site] = rows[site] + made + noise if site in rows else made + noise
    return rows


def answers(dictionary: Dictionary, rows: Mapping[Site, Tensor]) -> dict[Site, Tensor]:
    """What a dictionary writes for rows that its sites hold, at every row."""
    return total_by_site([reconstruct(part, rows)[0] for part in dictionary.parts])
