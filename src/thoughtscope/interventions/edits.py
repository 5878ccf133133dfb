"""`FeatureEdit`: a change to one feature as data, and what several such changes to one feature add up to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from thoughtscope.core.errors import InvalidPlan, describe_choices
from thoughtscope.models.edits import Edit

Op = Literal["set", "scale", "add", "ablate"]

LARGEST = 1e9
"""Limit of an edit's value. Far beyond any activation, and its square is still finite inside a norm."""


@dataclass(frozen=True, kw_only=True)
class FeatureEdit:
    """One change to the activation of one feature. Values are in units of the feature's activation.

    - `set`: the activation becomes `value`
    - `scale`: it is multiplied by `value` (0 ablates, -1 flips)
    - `add`: `value` is added to it
    - `ablate`: it becomes zero

    `positions` count from the first real token; `start` means that position and all later ones, also those generated
    later. With neither, every position is edited. Raises `InvalidPlan` for a combination that means nothing.
    """

    part: str
    """The part's name; of transcoders, the number of the layer."""
    index: int
    op: Op
    value: float | int = 0.0
    positions: tuple[int, ...] | None = None
    start: int | None = None

    def __post_init__(self) -> None:
        name = f"Edit of feature {self.part}/{self.index}"
        if self.op not in get_args(Op):
            raise InvalidPlan(describe_choices(self.op, get_args(Op), what="feature operation"))
        if not isinstance(self.part, str) or not self.part:
            raise InvalidPlan(f'{name}: the part is a name, such as "3" for layer 3; got {self.part!r}.')
        _check_count(name, "index", self.index)
        if (
            isinstance(self.value, bool)
            or not isinstance(self.value, (int, float))
            or not math.isfinite(self.value)
        ):
            raise InvalidPlan(f"{name}: the value must be a finite number; got {self.value!r}.")
        if abs(self.value) > LARGEST:
            raise InvalidPlan(
                f"{name}: the value is {self.value}; allowed are values up to {LARGEST:g} either way."
            )
        if self.op == "ablate" and self.value != 0:
            raise InvalidPlan(f'{name}: "ablate" takes no value; got {self.value}. Use "set" for a value.')
        if self.positions is not None:
            if self.start is not None:
                raise InvalidPlan(f"{name}: give positions or start, not both.")
            if not isinstance(self.positions, tuple) or not self.positions:
                raise InvalidPlan(
                    f"{name}: positions must be a tuple of one or more; got {self.positions!r}."
                )
            for position in self.positions:
                _check_count(name, "position", position)
        if self.start is not None:
            _check_count(name, "start", self.start)
        object.__setattr__(self, "value", float(self.value))

    def covers(self, position: int) -> bool:
        """True when the edit changes the feature at this absolute position."""
        if self.start is not None:
            return position >= self.start
        return self.positions is None or position in self.positions

    def to_json(self) -> dict[str, Any]:
        """The edit as plain JSON values; `from_json` is the exact inverse."""
        return asdict(self) | {"positions": None if self.positions is None else list(self.positions)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FeatureEdit:
        """Reads what `to_json` wrote. Raises `InvalidPlan` for a field that an edit does not have."""
        allowed = tuple(cls.__dataclass_fields__)
        for key in data:
            if key not in allowed:
                raise InvalidPlan(describe_choices(key, allowed, what="field of a feature edit"))
        positions = data.get("positions")
        return cls(**{**data, "positions": None if positions is None else tuple(positions)})


def fold(edits: Iterable[FeatureEdit]) -> tuple[float, float]:
    """Edits of one feature at one position, in order, as `a -> factor * a + offset`.

    >>> fold([FeatureEdit(part="0", index=0, op="add", value=1.0), FeatureEdit(part="0", index=0, op="scale", value=3)])
    (3.0, 3.0)
    """
    factor, offset = 1.0, 0.0
    for edit in edits:
        if edit.op == "add":
            offset += edit.value
        elif edit.op == "scale":
            factor, offset = factor * edit.value, offset * edit.value
        else:
            factor, offset = 0.0, edit.value
    return factor, offset


def read_edit(data: Mapping[str, Any]) -> FeatureEdit | Edit:
    """Reads what `to_json` of either kind of edit wrote; a direction's has a site. Raises `InvalidPlan`."""
    if not isinstance(data, Mapping):
        raise InvalidPlan(f"An edit is an object with named fields; got {type(data).__name__}.")
    try:
        return Edit.from_json(data) if "site" in data else FeatureEdit.from_json(data)
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidPlan(
            f"This edit cannot be read: {error}. It has: {', '.join(map(str, data))}."
        ) from None


def _check_count(name: str, field: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidPlan(f"{name}: the {field} must be a whole number of 0 or more; got {value!r}.")
