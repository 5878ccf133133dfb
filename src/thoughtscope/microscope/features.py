"""What is known of a feature, and what people call it."""

from __future__ import annotations

import re
from typing import Any

from thoughtscope.core.errors import UnknownFeature, describe_choices
from thoughtscope.core.ids import FeatureId
from thoughtscope.microscope.opening import Microscope


def feature(microscope: Microscope, layer: int, index: int) -> dict[str, Any]:
    """Examples, outputs, figures and labels of a feature, as the page shows them. Raises `UnknownFeature`."""
    from thoughtscope.reports.payload import feature_json

    label = microscope.labels.get(feature_id(microscope, layer, index))
    return feature_json(microscope.bank, layer, index, label=label)


def label(microscope: Microscope, layer: int, index: int, text: str) -> str:
    """Gives a feature a name, or with an empty text takes it away. Returns what is kept. Raises `UnknownFeature`."""
    return microscope.labels.set(feature_id(microscope, layer, index), text)


def feature_of_viewer(microscope: Microscope, scan: str, number: int) -> dict[str, Any]:
    """`feature` by the one number that graph files carry. Raises `UnknownFeature`."""
    from thoughtscope.graphs import place_of_number

    known = {microscope.dictionary.scan, re.sub(r"[^A-Za-z0-9_.-]+", "-", microscope.model.name).strip("-.")}
    if scan not in known:
        raise UnknownFeature(describe_choices(scan, sorted(known), what="set of features on this server"))
    return feature(microscope, *place_of_number(number))


def feature_id(microscope: Microscope, layer: int, index: int) -> FeatureId:
    """The id of a feature that the dictionary has. Raises `UnknownFeature` with the range."""
    microscope.dictionary.check_feature(str(layer), index)
    return FeatureId(microscope.dictionary.name, str(layer), index)
