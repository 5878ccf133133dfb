"""Sums of two-digit numbers that were held out, in both orders."""

from __future__ import annotations

from _claim import Measured, main
from _heldout import held_out


def measure(seed: int) -> Measured:
    """Greedy continuation up to the end of the line, compared whole. Nothing is drawn at random."""
    from specimens.corpus import held_out as prompts

    return held_out(
        prompts().sums,
        tokens=5,
        right=lambda case, text: text.split("\n")[0] == case.answer,
        answer=lambda case: case.answer,
    )


if __name__ == "__main__":
    main(measure, claim="The specimen adds two-digit numbers that it never saw added, in either order.")
