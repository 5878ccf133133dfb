"""`Edit`: a change to the residual stream as data, so that it can be stored, sent and replayed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from thoughtscope.core.errors import InvalidPlan, describe_choices
from thoughtscope.core.site import Site
from thoughtscope.models.hooks import Step, Write
from thoughtscope.models.model import Model

Op = Literal["add", "scale", "replace", "ablate"]
_VECTOR_KINDS = (
    "embed", "resid_pre", "resid_mid", "resid_post", "attn_norm", "attn_in", "attn_raw", "attn_out",
    "mlp_norm", "mlp_in", "mlp_raw", "mlp_out", "final_norm",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Edit:
    """One change at one site.

    - `add`: `factor * vector` is added (factor 1 unless given)
    - `scale`: the value is multiplied by `factor`
    - `replace`: the value becomes `vector`
    - `ablate`: the value becomes zero

    `positions` are absolute, counted in each row from its first real token; `start` means that position and all later
    ones, also those generated later. With neither, every position is edited. Padding never is.
    Raises `InvalidPlan` for a combination that means nothing.
    """

    site: Site
    op: Op
    positions: tuple[int, ...] | None = None
    vector: Float[Tensor, " d_model"] | None = None
    factor: float | None = None
    start: int | None = None

    def __post_init__(self) -> None:
        if self.site.kind not in _VECTOR_KINDS:
            raise InvalidPlan(
                describe_choices(self.site.kind, _VECTOR_KINDS, what="site that an edit can change", limit=20)
            )
        if (self.vector is not None) != (self.op in ("add", "replace")):
            raise InvalidPlan(
                f'Edit "{self.op}" at {self.site} {_needs(self.op, "add replace", "a vector")}.'
            )
        if (self.op == "scale" and self.factor is None) or (
            self.op in ("replace", "ablate") and self.factor is not None
        ):
            raise InvalidPlan(f'Edit "{self.op}" at {self.site} {_needs(self.op, "scale", "a factor")}.')
        if self.positions is not None and self.start is not None:
            raise InvalidPlan(f"Edit at {self.site}: give positions or start, not both.")
        if min([0, *(self.positions or ()), self.start or 0]) < 0:
            raise InvalidPlan(
                f"Edit at {self.site}: positions count from 0 at the first token of a row; "
                f"got {self.positions if self.start is None else self.start}."
            )

    def covers(self, step: Step) -> Bool[Tensor, "batch pos"]:
        """Which columns of this forward pass the edit changes."""
        at = step.positions
        if self.start is not None:
            return at >= self.start
        if self.positions is None:
            return at >= 0
        return torch.isin(at, torch.tensor(self.positions, device=at.device, dtype=at.dtype))

    def apply(self, x: Float[Tensor, "batch pos d_model"], step: Step) -> Float[Tensor, "batch pos d_model"]:
        """`x` with the covered columns changed and all others left as they are, bit for bit."""
        vector = None if self.vector is None else self.vector.to(x.device, x.dtype)
        if vector is not None and vector.shape != x.shape[-1:]:
            raise InvalidPlan(
                f"Edit at {self.site}: the vector has shape {tuple(vector.shape)}, the site is {x.shape[-1]} wide."
            )
        factor = 1.0 if self.factor is None else self.factor
        if self.op == "scale":
            changed = x * factor
        elif vector is None:
            changed = torch.zeros_like(x)
        else:
            changed = x + factor * vector if self.op == "add" else vector.expand_as(x)
        return torch.where(self.covers(step).to(x.device)[..., None], changed, x)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the vector, as plain JSON values; the vector is stored beside it as a tensor."""
        return {
            "site": str(self.site),
            "op": self.op,
            "positions": None if self.positions is None else list(self.positions),
            "factor": self.factor,
            "start": self.start,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], vector: Tensor | None = None) -> Edit:
        """The exact inverse of `to_dict`. Raises `InvalidPlan` for unknown keys."""
        allowed = ("site", "op", "positions", "factor", "start")
        for key in data:
            if key not in allowed:
                raise InvalidPlan(describe_choices(key, allowed, what="field of an edit"))
        if data.get("op") not in get_args(Op):
            raise InvalidPlan(describe_choices(data.get("op"), get_args(Op), what="kind of edit"))
        positions = data.get("positions")
        return cls(
            site=Site.parse(str(data.get("site"))),
            op=data["op"],
            positions=None if positions is None else tuple(positions),
            vector=vector,
            factor=data.get("factor"),
            start=data.get("start"),
        )


def writes_of(model: Model, edits: Iterable[Edit]) -> dict[Site, Write]:
    """Edits as writes for `hooked`; several at one site compose in the order given.

    Raises `UnknownSite` for a site that the model lacks, `InvalidPlan` for a vector of the wrong width.
    """
    by_site: dict[Site, list[Edit]] = {}
    for edit in edits:
        if edit.vector is not None and edit.vector.shape != (model.d_model,):
            raise InvalidPlan(
                f"Edit at {edit.site}: the vector has shape {tuple(edit.vector.shape)}, "
                f"but {model.name} is {model.d_model} wide."
            )
        by_site.setdefault(model.site(edit.site), []).append(edit)

    def composed(several: list[Edit]) -> Write:
        def write(x: Tensor, step: Step) -> Tensor:
            for edit in several:
                x = edit.apply(x, step)
            return x

        return write

    return {site: composed(several) for site, several in by_site.items()}


def _needs(op: str, needing: str, what: str) -> str:
    return f"needs {what}" if op in needing.split() else f"takes no {what.removeprefix('a ')}"
