"""Second lines of couplets whose first line was held out: a right rhyme, and middle words that agree with it."""

from __future__ import annotations

from _claim import Measured, main
from _heldout import held_out


def measure(seed: int) -> Measured:
    """A greedy second line counts when it is one of the lines that fit, whole. Nothing is drawn at random."""
    from specimens.corpus import held_out as prompts
    from specimens.score import couplet_verdict

    return held_out(
        prompts().couplets,
        tokens=16,
        right=lambda case, text: couplet_verdict(case, text)[1],
        answer=lambda case: case.family,
    )


if __name__ == "__main__":
    main(
        measure,
        claim="The specimen ends a second line on a right rhyme, and its middle words agree with that rhyme word.",
    )
