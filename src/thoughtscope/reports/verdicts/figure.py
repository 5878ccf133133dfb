"""`Figure`: a few series over categories or steps; `svg`: the same as a drawing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from html import escape
from typing import Any, Literal

from thoughtscope.core.errors import ThoughtscopeError

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 640, 240, 48, 24, 44
MOST = 4
"""Series that the page has colours for."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Series of numbers over the same places, drawn from 0. NaN is left out."""

    title: str
    kind: Literal["bars", "lines"]
    x: tuple[str, ...]
    y: str
    """What the numbers are."""
    series: Mapping[str, tuple[float, ...]]

    def __post_init__(self) -> None:
        if not self.x or not 1 <= len(self.series) <= MOST:
            raise ThoughtscopeError(
                f"A figure has places and 1 to {MOST} series; got {len(self.x)}, {len(self.series)}."
            )
        if any(len(values) != len(self.x) for values in self.series.values()):
            raise ThoughtscopeError(
                f"Every series of a figure has a number for each of its {len(self.x)} places."
            )

    def to_json(self) -> dict[str, Any]:
        """The figure as plain JSON values, NaN as null."""
        series = {
            name: [None if math.isnan(v) else v for v in values] for name, values in self.series.items()
        }
        return {**asdict(self), "series": series}


def svg(figure: Figure) -> str:
    """The drawing; colours and type are the page's."""
    finite = [value for values in figure.series.values() for value in values if math.isfinite(value)]
    top = _round_up(max([0.0, *finite]))
    bottom = -_round_up(-min([0.0, *finite])) if min([0.0, *finite]) < 0 else 0.0
    plot = HEIGHT - TOP - BOTTOM

    def at(value: float) -> float:
        return TOP + plot * (top - value) / (top - bottom)

    ticks = "".join(
        f'<line class="tick" x1="{LEFT}" x2="{WIDTH}" y1="{at(value):.1f}" y2="{at(value):.1f}"/>'
        f'<text class="scale" x="{LEFT - 6}" y="{at(value) + 4:.1f}">{value:g}</text>'
        for value in (bottom, (top + bottom) / 2, top)
    )
    step = (WIDTH - LEFT) / len(figure.x)
    shown = max(1, math.ceil(len(figure.x) / 14))
    names = "".join(
        f'<text class="name" x="{LEFT + step * (number + 0.5):.1f}" y="{HEIGHT - BOTTOM + 16}">{escape(name)}</text>'
        for number, name in enumerate(figure.x)
        if number % shown == 0
    )
    draw = _bars if figure.kind == "bars" else _line
    drawn = "".join(
        draw(values, number, len(figure.series), step, at)
        for number, values in enumerate(figure.series.values())
    )
    keys = "".join(
        f'<tspan class="key{number}" dx="12">■ {escape(name)}</tspan>'
        for number, name in enumerate(figure.series)
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(figure.title, quote=True)}">{ticks}{drawn}'
        f'{names}<text class="unit" x="0" y="12">{escape(figure.y)}</text>'
        f'<text class="keys" x="{LEFT - 12}" y="{HEIGHT - 6}">{keys}</text></svg>'
    )


def _bars(values: tuple[float, ...], number: int, of: int, step: float, at: Any) -> str:
    width = step * 0.8 / of
    return "".join(
        f'<rect class="fill{number}" x="{LEFT + step * (place + 0.1) + width * number:.1f}" '
        f'y="{min(at(value), at(0.0)):.1f}" width="{width:.1f}" height="{abs(at(value) - at(0.0)):.1f}">'
        f"<title>{value:.3g}</title></rect>"
        for place, value in enumerate(values)
        if math.isfinite(value)
    )


def _line(values: tuple[float, ...], number: int, of: int, step: float, at: Any) -> str:
    points = " ".join(
        f"{LEFT + step * (place + 0.5):.1f},{at(value):.1f}"
        for place, value in enumerate(values)
        if math.isfinite(value)
    )
    return f'<polyline class="line{number}" points="{points}"/>'


def _round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 5, 10 times a power of ten; 1 for 0."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return next((unit * step for step in (1, 2, 2.5, 5) if value <= unit * step), unit * 10)
