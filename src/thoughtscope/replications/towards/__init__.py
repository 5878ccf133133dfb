"""Towards Monosemanticity (Bricken et al. 2023), done again on a corpus whose contexts are known."""

from __future__ import annotations

from importlib.resources import files

from thoughtscope.replications.claims import Claim, read_claims
from thoughtscope.replications.replication import REPLICATIONS, Replication
from thoughtscope.replications.towards.recipe import towards


def claims() -> tuple[Claim, ...]:
    """The paper's claims, as they stood before anything was measured."""
    return read_claims(files(__package__) / "expected.json")


TOWARDS = REPLICATIONS.register("towards")(
    Replication(
        paper="Bricken, Templeton, Batson et al., Towards Monosemanticity, 2023",
        claims=claims,
        recipe=towards,
    )
)
