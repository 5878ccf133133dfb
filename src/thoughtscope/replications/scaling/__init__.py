"""Templeton et al. 2024, Scaling Monosemanticity, done again on small models."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from thoughtscope.core.progress import Progress
from thoughtscope.replications.claims import Claim, read_claims
from thoughtscope.replications.replication import REPLICATIONS, Measured, Replication


def claims() -> tuple[Claim, ...]:
    """What the paper says, as `expected.json` has it."""
    return read_claims(resources.files(__name__) / "expected.json")


def recipe(*, quick: bool, folder: Path | None, progress: Progress) -> Measured:
    """All experiments; none of them keeps anything in `folder`."""
    from thoughtscope.replications.scaling.experiments import measured

    return Measured(seen=measured(quick=quick, progress=progress))


SCALING = REPLICATIONS.register("scaling")(
    Replication(
        paper="Templeton et al. 2024, Scaling Monosemanticity: Extracting Interpretable Features from Claude 3 Sonnet",
        claims=claims,
        recipe=recipe,
    )
)
