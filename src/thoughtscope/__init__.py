"""thoughtscope: see which features a language model computes with, trace them to the answer, change them.

The names below are the whole main path. They load on first use, so `import thoughtscope` costs nothing and the
command line answers at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thoughtscope.dictionaries import encode as encode
    from thoughtscope.dictionaries import load_dictionary as load_dictionary
    from thoughtscope.graphs import attribute as attribute
    from thoughtscope.graphs import group as group
    from thoughtscope.graphs import prune as prune
    from thoughtscope.interventions import intervene as intervene
    from thoughtscope.interventions import plan as plan
    from thoughtscope.models import capture as capture
    from thoughtscope.models import load_model as load_model
    from thoughtscope.models import tokenize as tokenize
    from thoughtscope.reports import build_report as build_report

__version__ = "0.1.0"

_HOME = {
    "load_model": "models",
    "tokenize": "models",
    "capture": "models",
    "load_dictionary": "dictionaries",
    "encode": "dictionaries",
    "attribute": "graphs",
    "prune": "graphs",
    "group": "graphs",
    "plan": "interventions",
    "intervene": "interventions",
    "build_report": "reports",
}

__all__ = [  # noqa: RUF022 - the order of the path, not of the alphabet
    "load_model",
    "load_dictionary",
    "tokenize",
    "capture",
    "encode",
    "attribute",
    "prune",
    "group",
    "plan",
    "intervene",
    "build_report",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
