"""The strokes of ten digits and five shapes, each in several ways of writing it, on a square from 0 to 1, y downwards.

A stroke is a line through points. Rows of `GLYPHS` are ways of writing the same thing: a four open or closed, a seven
with or without its bar, a filled star or its outline.
"""

from __future__ import annotations

from math import cos, pi, radians, sin

DIGITS = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
SHAPES = ("circle", "square", "triangle", "cross", "star")
THINGS = (*DIGITS, *SHAPES)

Stroke = tuple[tuple[float, float], ...]
Glyph = tuple[Stroke, ...]


def arc(x: float, y: float, rx: float, ry: float, start: float = 0, end: float = 360) -> Stroke:
    """A part of an ellipse about (x, y), in degrees: 0 is right, 90 is down."""
    steps = max(3, round(abs(end - start) / 30))
    angles = [radians(start + (end - start) * step / steps) for step in range(steps + 1)]
    return tuple((x + rx * cos(angle), y + ry * sin(angle)) for angle in angles)


def line(*points: float) -> Stroke:
    """Through x, y, x, y, …"""
    return tuple(zip(points[::2], points[1::2], strict=True))


def _star(radius: float) -> Stroke:
    corners = [(0.5 + radius * sin(4 * pi * k / 5), 0.53 - radius * cos(4 * pi * k / 5)) for k in range(6)]
    return tuple(corners)


def _inside(*strokes: Stroke, centre: tuple[float, float]) -> Glyph:
    """The strokes, and the same again at smaller sizes, so that a pen fills them."""
    x, y = centre
    return tuple(
        tuple((x + size * (px - x), y + size * (py - y)) for px, py in stroke)
        for stroke in strokes
        for size in (1.0, 0.75, 0.5, 0.25)
    )


_SQUARE = line(0, 0, 1, 0, 1, 1, 0, 1, 0, 0)
_TRIANGLE = line(0.5, 0, 1, 1, 0, 1, 0.5, 0)

GLYPHS: dict[str, tuple[Glyph, ...]] = {
    "0": (
        (arc(0.5, 0.5, 0.42, 0.5),),
        (arc(0.5, 0.5, 0.45, 0.5), line(0.75, 0.2, 0.25, 0.8)),
        (line(0.2, 0, 0.8, 0, 0.95, 0.15, 0.95, 0.85, 0.8, 1, 0.2, 1, 0.05, 0.85, 0.05, 0.15, 0.2, 0),),
    ),
    "1": (
        (line(0.5, 0, 0.5, 1),),
        (line(0.15, 0.25, 0.55, 0, 0.55, 1),),
        (line(0.15, 0.25, 0.5, 0, 0.5, 1), line(0.1, 1, 0.9, 1)),
    ),
    "2": (
        (arc(0.5, 0.28, 0.45, 0.28, 190, 390) + line(0, 1, 1, 1),),
        (line(0, 0, 1, 0, 1, 0.5, 0, 0.5, 0, 1, 1, 1),),
        (arc(0.45, 0.26, 0.45, 0.26, 180, 400) + line(0.1, 0.9, 0.35, 0.85, 0.7, 1, 1, 0.9),),
    ),
    "3": (
        (arc(0.45, 0.25, 0.45, 0.25, 200, 450), arc(0.45, 0.75, 0.5, 0.26, -90, 160)),
        (line(0, 0, 0.95, 0, 0.4, 0.4), arc(0.42, 0.7, 0.52, 0.3, -90, 150)),
        (line(0, 0, 1, 0, 1, 1, 0, 1), line(0.2, 0.5, 1, 0.5)),
    ),
    "4": (
        (line(0.15, 0, 0, 0.6, 1, 0.6), line(0.75, 0.2, 0.75, 1)),
        (line(0.7, 1, 0.7, 0, 0, 0.68, 1, 0.68),),
        (line(0.05, 0, 0.05, 0.5, 0.95, 0.5), line(0.95, 0, 0.95, 1)),
    ),
    "5": (
        (line(0.95, 0, 0.12, 0, 0.08, 0.42) + arc(0.42, 0.68, 0.5, 0.32, -100, 150),),
        (line(1, 0, 0, 0, 0, 0.5, 1, 0.5, 1, 1, 0, 1),),
        (line(0.15, 0, 0.1, 0.45) + arc(0.4, 0.7, 0.5, 0.3, -100, 140), line(0.15, 0, 1, 0.05)),
    ),
    "6": (
        (line(0.8, 0, 0.3, 0.25, 0.05, 0.65), arc(0.5, 0.7, 0.45, 0.3)),
        (line(0.12, 0, 0.05, 0.7), arc(0.5, 0.7, 0.45, 0.3)),
        (line(1, 0, 0, 0, 0, 1, 1, 1, 1, 0.5, 0, 0.5),),
    ),
    "7": (
        (line(0, 0, 1, 0, 0.4, 1),),
        (line(0, 0, 1, 0, 0.4, 1), line(0.25, 0.5, 0.95, 0.5)),
        (line(0, 0.25, 0, 0, 1, 0, 0.55, 0.5, 0.45, 1),),
    ),
    "8": (
        (arc(0.5, 0.25, 0.38, 0.25), arc(0.5, 0.75, 0.48, 0.26)),
        (line(0, 0, 1, 0, 1, 1, 0, 1, 0, 0), line(0, 0.5, 1, 0.5)),
        (line(0.1, 0, 0.9, 0, 0.1, 1, 0.9, 1, 0.1, 0),),
    ),
    "9": (
        (arc(0.5, 0.3, 0.45, 0.3), line(0.95, 0.3, 0.85, 1)),
        (arc(0.5, 0.3, 0.45, 0.3), line(0.95, 0.3, 0.85, 0.8, 0.5, 1, 0.1, 0.95)),
        (line(1, 0.5, 0, 0.5, 0, 0, 1, 0, 1, 1, 0, 1),),
    ),
    "circle": ((arc(0.5, 0.5, 0.5, 0.5),), _inside(arc(0.5, 0.5, 0.5, 0.5), centre=(0.5, 0.5))),
    "square": ((_SQUARE,), _inside(_SQUARE, centre=(0.5, 0.5))),
    "triangle": ((_TRIANGLE,), _inside(_TRIANGLE, centre=(0.5, 0.67))),
    "cross": (
        (line(0.5, 0, 0.5, 1), line(0, 0.5, 1, 0.5)),
        (line(0, 0, 1, 1), line(1, 0, 0, 1)),
    ),
    "star": ((_star(0.58),), _inside(_star(0.58), centre=(0.5, 0.53))),
}  # fmt: skip
"""By what is drawn: the ways of drawing it. Digits stand in a box that is `NARROW` as wide as high."""

NARROW = 0.62
