"""How every command traces a prompt: it says what speaks against the prompt, then the price, then how far it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thoughtscope.cli.console import progress_bar, tell_price, warn
from thoughtscope.microscope.tracing import NODE_MASS, Prompt

if TYPE_CHECKING:
    from thoughtscope.graphs import Graph, Price
    from thoughtscope.microscope import Microscope


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A prompt's graph, what was told of its price, and what was warned of."""

    graph: Graph
    price: Price
    warnings: Sequence[str]


def traced(
    opened: Microscope,
    prompt: Prompt,
    *,
    bos: bool | None,
    as_json: bool,
    node_mass: float | None = NODE_MASS,
    edge_mass: float | None = None,
    max_nodes: int | None = None,
    influence_bound: float | None = None,
    keep_partial: bool = False,
) -> Traced:
    """`microscope.trace` with everything that a person at a terminal is told. Raises what it raises.

    With `keep_partial` an interrupt ends it with the last picture of the graph, if there has been one.
    """
    from thoughtscope import microscope

    with microscope.heard() as said:
        tokens = microscope.tokens_of(opened, prompt, bos=bos)
    warn(said, as_json=as_json)
    prices: list[Price] = []

    def approve(price: Price) -> None:
        prices.append(price)
        tell_price(price, as_json=as_json, device=str(opened.model.device))

    pictures: list[Graph] = []

    def keep(picture: Graph) -> None:
        pictures[:] = [picture]

    with progress_bar(quiet=as_json) as bar:

        def progress(stage: str, done: int, total: int | None, **figures: float) -> None:
            shown = {"bound": figures["bound"]} if "bound" in figures else {}
            bar(stage, done, total, **shown)

        try:
            graph = microscope.trace(
                opened,
                tokens,
                node_mass=node_mass,
                edge_mass=edge_mass,
                max_nodes=max_nodes,
                influence_bound=influence_bound,
                approve=approve,
                on_snapshot=keep if keep_partial else None,
                progress=progress,
            )
        except KeyboardInterrupt:
            if not pictures:
                raise
            graph = pictures[0]
    return Traced(graph=graph, price=prices[0], warnings=said)
