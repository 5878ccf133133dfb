"""Claims of Towards Monosemanticity (Bricken et al. 2023) that hold for a one-layer model on text with known contexts.

`THOUGHTSCOPE_TOWARDS` names a folder to keep models and dictionaries in, so that a second measurement trains nothing.
"""

from __future__ import annotations

import os
import time

from _claim import Measured, Unavailable, main, told

PAPER = "the paper's own figures stand in each row"


def measure(seed: int) -> Measured:
    """Every claim with its verdict; beside them how many neurons would pass by the same bound."""
    if seed:
        raise Unavailable("the replication has its own two seeds, 0 and 1; call it with --seed 0")
    from thoughtscope.replications import HOLDS, replicate

    begun, stage = time.monotonic(), ""

    def follow(name: str, done: int, total: int | None, **figures: float) -> None:
        nonlocal stage
        if name != stage:
            stage = name
            told({"stage": name, "seconds": round(time.monotonic() - begun)})

    found = replicate("towards", folder=os.environ.get("THOUGHTSCOPE_TOWARDS"), progress=follow)
    rows = [verdict.to_json() for verdict in found.verdicts]
    compared = [row for row in rows if row["claim"]["margin"] is not None and row["seen"] is not None]
    passing = sum(
        all(x is not None and HOLDS[row["claim"]["holds"]["op"]](x, row["claim"]["holds"]["value"])
            for x in row["seen"]["controls"])
        for row in compared
    )  # fmt: skip
    return Measured(
        value=found.count("replicated"),
        n=len(rows),
        control={"controls that keep the bound themselves": passing, "of": len(compared)},
        details={
            "partly": found.count("partly"),
            "not replicated": found.count("not replicated"),
            "not measured": found.count("not measured"),
            "seeds": 2,
            "rows": rows,
            **found.details,
        },
    )


if __name__ == "__main__":
    main(
        measure,
        claim="Claims of Towards Monosemanticity that replicate on a one-layer model with planted contexts, two seeds.",
        paper=PAPER,
    )
