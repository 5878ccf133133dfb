"""`FeatureId` and `NodeId`: names that are injective and survive a round trip through text."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum

from thoughtscope.core.errors import UnknownFeature, describe_choices

_INT = r"(0|[1-9][0-9]*)"
_LARGEST_NUMBER = 2**53  # scripts cannot hold larger integers


@dataclass(frozen=True, order=True)
class FeatureId:
    """A feature of a dictionary: `str` gives `dictionary/part/index`, `parse` is its exact inverse.

    The dictionary's own name may contain slashes (`org/repo`), a part's may not: part and index are the last two. The
    parts of a set of transcoders are named by their layers.

    >>> FeatureId.parse("specimen/clt/3/1042")
    FeatureId(dictionary='specimen/clt', part='3', index=1042)
    """

    dictionary: str
    part: str
    index: int

    def __post_init__(self) -> None:
        if not self.dictionary or not self.part or "/" in self.part or self.index < 0:
            raise UnknownFeature(
                f"A feature needs a dictionary name, a part without a slash and an index ≥ 0; "
                f"got {self.dictionary!r}, {self.part!r}, {self.index}."
            )

    def __str__(self) -> str:
        return f"{self.dictionary}/{self.part}/{self.index}"

    @classmethod
    def parse(cls, text: str) -> FeatureId:
        """Reads what `str` gave. Raises `UnknownFeature`."""
        match = re.fullmatch(rf"(.+)/([^/]+)/{_INT}", text, flags=re.DOTALL)
        if match is None:
            raise UnknownFeature(
                f'"{text}" is not a feature id. Write dictionary/part/index, for example "clt/3/1042".'
            )
        return cls(match[1], match[2], int(match[3]))


class NodeKind(StrEnum):
    """What a node of an attribution graph stands for."""

    TOKEN = "token"
    FEATURE = "feature"
    ERROR = "error"
    LOGIT = "logit"


@dataclass(frozen=True, order=True)
class NodeId:
    """A node of an attribution graph. Kinds never share an id, whatever the numbers.

    - token:    `token:POSITION`                    the embedding at a position
    - feature:  `feature:LAYER:POSITION:INDEX`      an active feature
    - error:    `error:LAYER:POSITION`              what the dictionary misses there
    - logit:    `logit:POSITION:INDEX`              output target number INDEX (a vocabulary id or a virtual id)
    """

    kind: NodeKind
    position: int
    layer: int | None = None
    index: int | None = None

    def __post_init__(self) -> None:
        needs_layer = self.kind in (NodeKind.FEATURE, NodeKind.ERROR)
        needs_index = self.kind in (NodeKind.FEATURE, NodeKind.LOGIT)
        ok = (self.layer is not None) == needs_layer and (self.index is not None) == needs_index
        if not ok or min(self.position, self.layer or 0, self.index or 0) < 0:
            raise UnknownFeature(
                f"A {self.kind} node has "
                f"{'a layer' if needs_layer else 'no layer'} and {'an index' if needs_index else 'no index'}, "
                f"all ≥ 0; got layer={self.layer}, position={self.position}, index={self.index}."
            )

    def __str__(self) -> str:
        parts = [self.kind, self.layer, self.position, self.index]
        return ":".join(str(part) for part in parts if part is not None)

    @classmethod
    def parse(cls, text: str) -> NodeId:
        name, _, rest = text.partition(":")
        try:
            kind = NodeKind(name)
        except ValueError:
            raise UnknownFeature(describe_choices(name, list(NodeKind), what="node kind")) from None
        if re.fullmatch(rf"{_INT}(:{_INT})*", rest) is None:
            raise UnknownFeature(
                f'"{text}" is not a node id: after "{name}:" come numbers separated by colons.'
            )
        numbers = [int(part) for part in rest.split(":")]
        fields = {
            NodeKind.TOKEN: ("position",),
            NodeKind.FEATURE: ("layer", "position", "index"),
            NodeKind.ERROR: ("layer", "position"),
            NodeKind.LOGIT: ("position", "index"),
        }[kind]
        if len(numbers) != len(fields):
            raise UnknownFeature(f'"{text}" is not a node id: a {kind} node has {", ".join(fields)}.')
        return cls(kind, **dict(zip(fields, numbers, strict=True)))


def feature_number(layer: int, index: int) -> int:
    """Layer and index as one number, `(l + i)(l + i + 1)/2 + i` (Cantor's pairing, schema version 1).

    The index alone where the number would be too large for a script.
    """
    pair = (layer + index) * (layer + index + 1) // 2 + index
    return pair if pair <= _LARGEST_NUMBER else index


def place_of_number(number: int) -> tuple[int, int]:
    """The layer and index whose `feature_number` this is."""
    diagonal = (math.isqrt(8 * number + 1) - 1) // 2
    index = number - diagonal * (diagonal + 1) // 2
    return diagonal - index, index


def plain_name(text: str, length: int) -> str:
    """`text` as a slug: letters, digits, `_`, `.` and `-` only, at most `length` of them; empty when none is left."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.")[:length].strip("-.")
