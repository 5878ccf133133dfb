"""Two-hop questions about cities that no two-hop sentence of the training text names."""

from __future__ import annotations

from _claim import Measured, main
from _heldout import held_out


def measure(seed: int) -> Measured:
    """Greedy continuation up to the full stop, compared whole. Nothing is drawn at random."""
    from specimens.corpus import held_out as prompts

    return held_out(
        prompts().two_hop,
        tokens=6,
        right=lambda case, text: text.split(".")[0] == case.answer,
        answer=lambda case: case.answer,
    )


if __name__ == "__main__":
    main(
        measure,
        claim="Asked for the capital of the state that contains a city, the specimen answers right "
        "for cities whose two-hop question it was never trained on.",
    )
