"""Figures in the pages: `<!--=NAME.FIELD:FORMAT-->98.2 %<!--/-->` shows a measured value of `docs/evidence.json`.

`NAME` is an evidence script; `FIELD` a path into its result (`value`, `n`, `details.clt.fvu`); `FORMAT` a Python
format, `.1%` for a share. A figure whose measurement is not there yet shows a dash.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "evidence.json"
ABSENT = "–"
_FIGURE = re.compile(r"<!--=(?P<path>[\w.\-]+)(?::(?P<format>[^>]*?))?-->.*?<!--/-->", flags=re.DOTALL)


def stored() -> dict[str, Any]:
    """What the last run wrote: `provenance` and `results`."""
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def results() -> dict[str, Any]:
    """The last measurements, by name; empty before the first."""
    return stored()["results"] if RESULTS.exists() else {}


def pages() -> list[Path]:
    """The pages that may hold figures."""
    return [
        *sorted(ROOT.glob("*.md")),
        *sorted((ROOT / "docs").glob("*.md")),
        *sorted((ROOT / "specimens").glob("*.md")),
    ]


def fill(text: str, measured: Mapping[str, Any]) -> str:
    """`text` with every figure as measured. Raises `KeyError` for a field that its measurement lacks."""

    def figure(match: re.Match[str]) -> str:
        name, *fields = match["path"].split(".")
        shown = ABSENT
        if name in measured and "unavailable" not in measured[name]:
            value = measured[name]
            for part in fields:
                if not isinstance(value, Mapping) or part not in value:
                    raise KeyError(f"{match['path']}: {part!r} is not in the measurement of {name}")
                value = value[part]
            shown = show(value, match["format"] or "")
        opening = match[0][: match[0].index("-->") + 3]
        return f"{opening}{shown}<!--/-->"

    return _FIGURE.sub(figure, text)


def show(value: Any, form: str = "") -> str:
    """A value for a reader: shares with a space before the sign, numbers short."""
    if value is None:
        return ABSENT
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {show(item, form)}" for key, item in value.items())
    if isinstance(value, int | float) and not isinstance(value, bool):
        text = format(value, form or (",d" if isinstance(value, int) else ".4g"))
        return text.replace("%", " %")
    return str(value)


def refill() -> list[Path]:
    """Writes the measured figures into every page; returns the pages that changed."""
    changed = []
    measured = results()
    for page in pages():
        text = page.read_text(encoding="utf-8")
        filled = fill(text, measured)
        if filled != text:
            page.write_text(filled, encoding="utf-8")
            changed.append(page)
    return changed
