"""thoughtscope: see which features a language model computes with, trace them to the answer, change them.

The names are listed in `__init__.pyi`, one line each: the functions of the main path in its order, then the nouns that
they take and return. They load on first use, so `import thoughtscope` costs nothing and the command line answers at
once.
"""

import re
from importlib import import_module
from pathlib import Path

__version__ = "0.1.0"

_HOME = {
    name: module
    for module, name in re.findall(
        r"^from (thoughtscope\.\w+(?:\.\w+)*) import (\w+) as \2$",
        Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
}
__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
