"""Drawings of digits and shapes as text: twelve by twelve pixels, two by two of them one block character.

    python -m specimens.multimodal.drawings        # a sheet of them: trained styles, then held-out ones

A drawing is text like any other, so a language model reads it as it reads words (early fusion: Chen et al. 2020,
"Generative Pretraining from Pixels"; Chameleon 2024), and every tool that shows tokens shows the picture.

Training and held-out drawings differ in style, not by the seed alone: each way of drawing a thing is never drawn with
one of the three pens in training, and training never slants a drawing by more than `SLANTS[False]`. A held-out drawing
has that pen, and a slant beyond.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np

from specimens.multimodal.glyphs import DIGITS, GLYPHS, NARROW, THINGS

SIZE = 12
"""Pixels a side."""
BLOCKS = "·▘▝▀▖▌▞▛▗▚▐▜▄▙▟█"
"""Four pixels each: bit 0 is upper left, 1 upper right, 2 lower left, 3 lower right. The empty one is a visible dot."""
OPEN, CLOSE, ROW_END = "⟦\n", "\n⟧", "\n"
PENS = (1.1, 1.5, 2.0)
"""Widths, in pixels."""
SLANTS = {False: (0.0, 0.12), True: (0.14, 0.24)}
"""Least and largest slant to either side (pixels to the side for one up): in training, and held out."""
_CENTRES = np.stack(np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5), axis=-1).reshape(-1, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Style:
    """How one drawing is drawn. Lengths in pixels, `size` and `width` as shares of the usual."""

    variant: int
    pen: int
    slant: float
    size: float
    width: float
    shift: tuple[float, float]
    jitter: float = 0.25
    """Standard deviation by which each point of a stroke is off its place."""
    noise: float = 0.01
    """The share of pixels that are flipped."""


def held_out_pen(thing: str, variant: int) -> int:
    """The pen with which training never draws a thing in this way; it follows from the tables alone."""
    return (THINGS.index(thing) + variant) % len(PENS)


def draw_style(thing: str, rng: Random, *, held_out: bool) -> Style:
    """A style drawn at random: one that training may show, or a held-out one."""
    variant = rng.randrange(len(GLYPHS[thing]))
    kept = held_out_pen(thing, variant)
    pens = [pen for pen in range(len(PENS)) if (pen == kept) == held_out]
    return Style(
        variant=variant,
        pen=rng.choice(pens),
        slant=rng.choice((-1, 1)) * rng.uniform(*SLANTS[held_out]),
        size=rng.uniform(0.82, 1.0),
        width=rng.uniform(0.88, 1.12),
        shift=(rng.uniform(-1, 1), rng.uniform(-0.8, 0.8)),
    )


def draw(thing: str, style: Style, rng: Random) -> np.ndarray:
    """The pixels [SIZE, SIZE] of a thing, True for ink: those whose centre is within half a pen of a stroke."""
    height = style.size * (SIZE - 2)
    width = min(height * style.width * (NARROW if thing in DIGITS else 1.0), SIZE - 1.5)
    starts, ends = [], []
    for stroke in GLYPHS[thing][style.variant]:
        points = []
        for x, y in stroke:
            across, down = (x - 0.5) * width, (y - 0.5) * height
            points.append(
                (
                    SIZE / 2 + across - style.slant * down + style.shift[0] + rng.gauss(0, style.jitter),
                    SIZE / 2 + down + style.shift[1] + rng.gauss(0, style.jitter),
                )
            )
        starts += points[:-1]
        ends += points[1:]
    ink = _distance(np.array(starts), np.array(ends)) <= PENS[style.pen] / 2
    flipped = np.array([rng.random() < style.noise for _ in range(SIZE * SIZE)])
    return (ink ^ flipped).reshape(SIZE, SIZE)


def _distance(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Of every pixel's centre from the nearest of the segments."""
    along = end - start
    length = np.maximum((along**2).sum(-1), 1e-9)
    share = np.clip(((_CENTRES - start) * along).sum(-1) / length, 0, 1)
    return np.sqrt(((_CENTRES - start - share[..., None] * along) ** 2).sum(-1)).min(1)


def as_text(pixels: np.ndarray) -> str:
    """A drawing as it stands in a document; `as_pixels` is the exact inverse."""
    bits = pixels.astype(int)
    codes = bits[::2, ::2] + 2 * bits[::2, 1::2] + 4 * bits[1::2, ::2] + 8 * bits[1::2, 1::2]
    return OPEN + ROW_END.join("".join(BLOCKS[code] for code in row) for row in codes) + CLOSE


def as_pixels(text: str) -> np.ndarray:
    """The pixels of a drawing. Raises `ValueError` for text that is none."""
    rows = text.removeprefix(OPEN).removesuffix(CLOSE).split(ROW_END)
    whole = text.startswith(OPEN) and text.endswith(CLOSE) and len(rows) == SIZE // 2
    if not whole or any(len(row) != SIZE // 2 or set(row) - set(BLOCKS) for row in rows):
        raise ValueError(f"{text!r} is no drawing of {SIZE // 2} rows of {SIZE // 2} characters of {BLOCKS}")
    codes = np.array([[BLOCKS.index(block) for block in row] for row in rows])
    pixels = np.zeros((SIZE, SIZE), dtype=bool)
    for bit in range(4):
        pixels[bit // 2 :: 2, bit % 2 :: 2] = codes >> bit & 1
    return pixels


def drawing(thing: str, rng: Random, *, held_out: bool = False) -> str:
    """The text of a drawing in a style drawn at random."""
    return as_text(draw(thing, draw_style(thing, rng, held_out=held_out), rng))


def sheet(things: tuple[str, ...], rng: Random, *, held_out: bool = False) -> str:
    """Drawings side by side, one of each thing, without their frames."""
    rows = [drawing(thing, rng, held_out=held_out).split("\n")[1:-1] for thing in things]
    return "\n".join("  ".join(parts) for parts in zip(*rows, strict=True))


if __name__ == "__main__":
    for held_out in (False, True):
        print("held-out styles:" if held_out else "trained styles:")
        for seed in range(3):
            print(sheet(THINGS, Random(seed), held_out=held_out) + "\n")
