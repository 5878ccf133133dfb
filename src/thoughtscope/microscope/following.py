"""`activations`: how strong chosen features are at each token of a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from thoughtscope.microscope.answering import place_of
from thoughtscope.microscope.opening import Microscope
from thoughtscope.microscope.reading import active_on
from thoughtscope.microscope.tracing import Prompt

if TYPE_CHECKING:
    from thoughtscope.models import Tokens


def activations(
    microscope: Microscope, prompt: Prompt | Tokens, names: Sequence[str]
) -> dict[str, list[float]]:
    """By `PART/INDEX`, a feature's activation at each token; 0 where it is silent, and where nothing is read.

    Raises `UnknownFeature`, and what `tokens_of` raises.
    """
    import torch

    places = {name: place_of(microscope, name) for name in names}
    active = active_on(microscope, prompt)
    found = {}
    for name, (part, index) in places.items():
        here = active.of(microscope.dictionary.number(part), index)
        values = torch.zeros(int(active.tokens.mask[0].sum()))
        values[active.position[here].long()] = active.value[here]
        found[name] = values.tolist()
    return found
