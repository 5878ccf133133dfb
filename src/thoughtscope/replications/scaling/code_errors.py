"""A feature for errors in code: snippets with a mistake beside the same snippets without it.

The mistakes are of many kinds (a wrong name, a division by zero, a missing bracket, a missing key), so that a feature
of one token does not tell them (Templeton et al. 2024, Code Errors).
"""

from __future__ import annotations

from thoughtscope.dictionaries import Dictionary
from thoughtscope.models import Model
from thoughtscope.replications.claims import Seen
from thoughtscope.replications.scaling import pairs

KIND = "code"


def measure(model: Model, dictionary: Dictionary) -> dict[str, Seen]:
    """The claim about snippets with errors."""
    return pairs.measure(model, dictionary, {KIND: pairs.shipped_pairs()[KIND]})
