"""What is known of a feature, and what people call it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from thoughtscope.core.errors import UnknownFeature, describe_choices
from thoughtscope.core.ids import FeatureId
from thoughtscope.microscope.opening import Microscope

if TYPE_CHECKING:
    from thoughtscope.atlas import FeatureBank

N_PEAKS = 5
"""Tokens by which a feature is told apart from others."""


@dataclass(frozen=True, kw_only=True)
class Largest:
    """The largest activation that is known of a feature: the unit in which it is turned."""

    value: float
    measured: Literal["examples", "here"]
    """Over the text of its examples, or only on the prompt at hand."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of a feature, in short; None for what is not."""

    part: str
    index: int
    label: str | None
    """A person's, or else the one made from its examples."""
    largest: Largest | None
    density: float | None
    """On what share of the tokens of its examples' text it is active."""
    tokens: tuple[str, ...]
    """At which its strongest examples peak, the commonest first."""

    @property
    def id(self) -> str:
        return f"{self.part}/{self.index}"

    def to_json(self) -> dict[str, Any]:
        """The feature as pages and `--json` get it."""
        return {
            "part": self.part,
            "index": self.index,
            "label": self.label,
            "largest": None if self.largest is None else self.largest.value,
            "measured": None if self.largest is None else self.largest.measured,
            "density": self.density,
            "tokens": list(self.tokens),
        }


def feature(microscope: Microscope, part: str, index: int) -> dict[str, Any]:
    """Examples, outputs, figures and labels of a feature, as the page shows them. Raises `UnknownFeature`."""
    from thoughtscope.reports.payload import feature_json

    given = microscope.labels.given(feature_id(microscope, part, index))
    number = microscope.dictionary.number(part)
    layer = microscope.dictionary.parts[number].layer
    return {**feature_json(microscope.bank, number, index, given=given), "layer": layer, "part": part}


def known(
    microscope: Microscope,
    part: str,
    index: int,
    *,
    labels: Mapping[str, str] | None = None,
    here: float | None = None,
) -> Known:
    """What is known of a feature, in short. Raises `UnknownFeature`.

    `labels` are people's, by `PART/INDEX`, for who asks often. `here` is the largest activation on a prompt at hand,
    which counts where there is none of examples.
    """
    named = microscope.labels.of(microscope.dictionary.name) if labels is None else labels
    unit = largest(microscope, part, index)
    if unit is None and here is not None:
        unit = Largest(value=here, measured="here")
    label, number = named.get(f"{part}/{index}"), microscope.dictionary.number(part)
    bank = bank_of_part(microscope, number)
    if bank is None:
        return Known(part=part, index=index, label=label, largest=unit, density=None, tokens=())
    return Known(
        part=part,
        index=index,
        label=label or bank.auto_label(number, index),
        largest=unit,
        density=bank.density(number, index),
        tokens=bank.peaks(number, index, N_PEAKS),
    )


def largest(microscope: Microscope, part: str, index: int) -> Largest | None:
    """The largest activation in the text of its examples; None where there are none. Raises `UnknownFeature`."""
    feature_id(microscope, part, index)
    number = microscope.dictionary.number(part)
    bank = bank_of_part(microscope, number)
    value = None if bank is None else bank.largest(number, index)
    return Largest(value=value, measured="examples") if value is not None and value > 0 else None


def bank_of_part(microscope: Microscope, number: int) -> FeatureBank | None:
    """The bank, if it knows the features of a part: one that was made for another dictionary may not."""
    bank, part = microscope.bank, microscope.dictionary.parts[number]
    fits = (
        bank is not None and number < len(bank.layers) and len(bank.layers[number].count) == part.n_features
    )
    return bank if fits else None


def label(microscope: Microscope, part: str, index: int, text: str, *, author: str | None = None) -> str:
    """Gives a feature an author's name, or with an empty text takes it away. Returns the one that is shown now.

    Raises `UnknownFeature`.
    """
    return microscope.labels.set(feature_id(microscope, part, index), text, author=author)


def feature_of_viewer(microscope: Microscope, scan: str, number: int) -> dict[str, Any]:
    """`feature` by the one number that graph files carry. Raises `UnknownFeature`."""
    from thoughtscope.graphs import place_of_number

    known = {microscope.dictionary.scan, re.sub(r"[^A-Za-z0-9_.-]+", "-", microscope.model.name).strip("-.")}
    if scan not in known:
        raise UnknownFeature(describe_choices(scan, sorted(known), what="set of features on this server"))
    layer, index = place_of_number(number)
    return feature(microscope, str(layer), index)


def feature_id(microscope: Microscope, part: str, index: int) -> FeatureId:
    """The id of a feature that the dictionary has. Raises `UnknownFeature` with the range."""
    microscope.dictionary.check_feature(part, index)
    return FeatureId(microscope.dictionary.name, part, index)
