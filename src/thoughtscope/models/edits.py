"""`Edit`: a change to what a site holds as data, so that it can be stored, sent and replayed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from thoughtscope.core.errors import InvalidPlan, describe_choices
from thoughtscope.core.site import SITE_KINDS, Site
from thoughtscope.models.hooks import Step, Write, in_turn
from thoughtscope.models.model import Model

Op = Literal["add", "scale", "set", "ablate"]
_DTYPES = ("float64", "float32", "float16", "bfloat16")


@dataclass(frozen=True, kw_only=True, eq=False)
class Edit:
    """One change at one site that has a vector a position; `Model.width(site)` says how long it is.

    - `add`: `value * vector` is added (value 1 unless given)
    - `scale`: what is there is multiplied by `value`
    - `set`: what is there becomes `vector`
    - `ablate`: what is there becomes zero

    Where heads are kept apart (q, k, v, z) the vector is that of all heads, one after another. `positions` are
    absolute, counted in each row from its first real token; `start` means that position and all later ones, also those
    generated later. With neither, every position is edited. Padding never is.
    Raises `InvalidPlan` for a combination that means nothing.
    """

    site: Site
    op: Op
    vector: Float[Tensor, " width"] | None = None
    value: float | int | None = None
    positions: tuple[int, ...] | None = None
    start: int | None = None

    def __post_init__(self) -> None:
        if not self.site.row.is_vector:
            allowed = [name for name, kind in SITE_KINDS.items() if kind.is_vector]
            raise InvalidPlan(
                describe_choices(self.site.kind, allowed, what="site that an edit can change", limit=20)
            )
        if self.op not in get_args(Op):
            raise InvalidPlan(describe_choices(self.op, get_args(Op), what="kind of edit"))
        if (self.vector is not None) != (self.op in ("add", "set")):
            raise InvalidPlan(f'Edit "{self.op}" at {self.site} {_needs(self.op, "add set", "a vector")}.')
        if (self.op == "scale" and self.value is None) or (
            self.op in ("set", "ablate") and self.value is not None
        ):
            raise InvalidPlan(f'Edit "{self.op}" at {self.site} {_needs(self.op, "scale", "a value")}.')
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

    def apply(self, x: Float[Tensor, "batch pos *shape"], step: Step) -> Float[Tensor, "batch pos *shape"]:
        """`x` with the covered columns changed and all others left as they are, bit for bit."""
        value = 1.0 if self.value is None else self.value
        if self.op == "scale":
            changed = x * value
        elif self.vector is None:
            changed = torch.zeros_like(x)
        else:
            if self.vector.numel() != x[0, 0].numel():
                raise InvalidPlan(
                    f"Edit at {self.site}: the vector has {self.vector.numel()} numbers, the site {x[0, 0].numel()}."
                )
            vector = self.vector.to(x.device, x.dtype).view(x.shape[2:])
            changed = x + value * vector if self.op == "add" else vector.expand_as(x)
        covered = self.covers(step).to(x.device)  # (batch, pos), then an axis for each of the site's own
        return torch.where(covered.view(*covered.shape, *(1 for _ in x.shape[2:])), changed, x)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; the vector as `{"dtype", "values"}`. `from_json` is the exact inverse."""
        vector = None
        if self.vector is not None:
            dtype = str(self.vector.dtype).removeprefix("torch.")
            vector = {"dtype": dtype, "values": self.vector.detach().cpu().tolist()}
        return {
            "site": str(self.site),
            "op": self.op,
            "vector": vector,
            "value": self.value,
            "positions": None if self.positions is None else list(self.positions),
            "start": self.start,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Edit:
        """Reads what `to_json` wrote. Raises `InvalidPlan` for anything else."""
        allowed = tuple(cls.__dataclass_fields__)
        for key in data:
            if key not in allowed:
                raise InvalidPlan(describe_choices(key, allowed, what="field of an edit"))
        if data.get("op") not in get_args(Op):
            raise InvalidPlan(describe_choices(data.get("op"), get_args(Op), what="kind of edit"))
        positions = data.get("positions")
        try:
            return cls(
                site=Site.parse(str(data.get("site"))),
                op=data["op"],
                vector=_read_vector(data.get("vector")),
                value=data.get("value"),
                positions=None if positions is None else tuple(positions),
                start=data.get("start"),
            )
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise InvalidPlan(
                f"This edit cannot be read: {error}. It has: {', '.join(map(str, data))}."
            ) from None


def writes_of(model: Model, edits: Iterable[Edit]) -> dict[Site, Write]:
    """Edits as writes for `hooked`; several at one site compose in the order given.

    Raises `UnknownSite` for a site that the model lacks, `InvalidPlan` for a vector of the wrong width.
    """
    by_site: dict[Site, list[Edit]] = {}
    for edit in edits:
        site = model.site(edit.site)
        if edit.vector is not None and edit.vector.shape != (model.width(site),):
            raise InvalidPlan(
                f"Edit at {edit.site}: the vector has shape {tuple(edit.vector.shape)}, "
                f"but there {model.name} is {model.width(site)} wide."
            )
        by_site.setdefault(site, []).append(edit)
    return {site: in_turn(*(edit.apply for edit in several)) for site, several in by_site.items()}


def _read_vector(data: Mapping[str, Any] | None) -> Tensor | None:
    if data is None:
        return None
    if data["dtype"] not in _DTYPES:
        raise InvalidPlan(describe_choices(data["dtype"], _DTYPES, what="type of a direction's numbers"))
    return torch.tensor(data["values"], dtype=getattr(torch, data["dtype"]))


def _needs(op: str, needing: str, what: str) -> str:
    return f"needs {what}" if op in needing.split() else f"takes no {what.removeprefix('a ')}"
