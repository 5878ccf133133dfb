"""`trace`: a prompt's graph, pruned and labelled."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TypedDict

from thoughtscope.core.errors import LimitExceeded
from thoughtscope.core.memory import memory_told
from thoughtscope.core.progress import Progress, silent
from thoughtscope.core.turns import Message, conversation
from thoughtscope.microscope.opening import Microscope

if TYPE_CHECKING:
    from thoughtscope.graphs import Graph, Price
    from thoughtscope.models import Tokens

Prompt = str | Sequence[Message]
"""A text, or a conversation: messages with a role and a content."""
NODE_MASS = 0.8
EDGE_MASS = 0.98
MOST_EDGES = 100_000
"""Of a pruned graph, unless somebody says what share of them stays: more can be neither drawn nor read."""
INFLUENCE_BOUND = 0.02
WORTH_SECONDS = 25.0
WORTH_MEMORY = 3 * 2**29
MOST_NODES = 20_000
"""Where a graph that is large ends, unless somebody says otherwise; see `limits_of`."""
FIRST_PICTURE, NEXT_PICTURE = 2.0, 1.5
"""Seconds until the first picture of a graph in the making, and at least between two; see `Pace`."""
FIX = "Use a shorter prompt, fewer nodes (max_nodes, --max-nodes) or lower masses (--node-mass, --edge-mass)."


class Limits(TypedDict):
    """How far a graph is expanded; None for no limit."""

    max_nodes: int | None
    influence_bound: float | None


def tokens_of(microscope: Microscope, prompt: Prompt, *, bos: bool | None = None) -> Tokens:
    """Tokenizes within the microscope's limit; `bos` as in `models.tokenize`, which may warn with `MissingBos`.

    Raises `LimitExceeded` before anything large is allocated, and what `tokenize` raises.
    """
    from thoughtscope.models import tokenize

    # No tokenizer makes fewer tokens than this from so many characters; the check spares it absurd inputs.
    length = sum(len(message["content"]) for message in conversation(prompt))
    if length > 200 * microscope.max_tokens:
        raise LimitExceeded(
            f"The prompt has {length:,} characters; {microscope.max_tokens} tokens are the limit."
        )
    limit = microscope.max_tokens
    if isinstance(prompt, str):
        return tokenize(microscope.model, prompt, bos=bos, max_tokens=limit)
    return tokenize(microscope.model, chat=prompt, bos=bos, max_tokens=limit)


@contextmanager
def heard() -> Iterator[list[str]]:
    """Collects what `MissingBos` would say in this thread, in place of warning."""
    from thoughtscope.models import tokens

    with tokens.heard() as said:
        yield said


def trace(
    microscope: Microscope,
    prompt: Prompt | Tokens,
    *,
    node_mass: float | None = NODE_MASS,
    edge_mass: float | None = None,
    max_nodes: int | None = None,
    influence_bound: float | None = None,
    approve: Callable[[Price], None] | None = None,
    on_snapshot: Callable[[Graph], None] | None = None,
    progress: Progress = silent,
) -> Graph:
    """A prompt's pruned graph, with what people call its features, and else what the feature bank does.

    Where the dictionary has concepts, what they read of the prompt stands as supernodes; see `naming.named`.
    Without `edge_mass` the edges that carry `EDGE_MASS` stay, but at most `MOST_EDGES`.
    `node_mass=None` gives the whole graph, with people's labels alone: a bank takes long to name all its features.
    Without `max_nodes` and `influence_bound` everything is traced that can reach an answer, unless that `is_large`:
    then as much as `limits_of` says. The graph's certificate says what was left out, its provenance by which limits.
    `influence_bound=0` asks for everything with any influence, whatever it costs.
    `approve` is told the price before it is paid, and may refuse by raising; see `attribute`.
    `on_snapshot` gets the graph of what is known so far, pruned and named, at growing intervals; see `Pace`.
    `progress("attribute", …)` has the figures of `Attribution.expand`, and `memory` (bytes), `memory_share` (of what is
    free) and `seconds` of the price.
    Raises `LimitExceeded` for a prompt over the microscope's limit and for a graph too large to be made, or to be read
    again once it is kept, and what `attribute` and `prune` raise.
    """
    from thoughtscope.graphs import (
        begin_attribution,
        prune,
        require_affordable,
        require_keepable,
        require_readable,
    )
    from thoughtscope.graphs.attribute import check_limits
    from thoughtscope.microscope.naming import named
    from thoughtscope.models import Tokens
    from thoughtscope.reports.payload import labelled

    check_limits(max_nodes, influence_bound)
    tokens = prompt if isinstance(prompt, Tokens) else tokens_of(microscope, prompt)
    device = str(microscope.model.device)
    most = MOST_NODES if max_nodes is None and influence_bound is None else max_nodes
    max_edges = MOST_EDGES if edge_mass is None else None
    edge_mass = EDGE_MASS if edge_mass is None else edge_mass
    begun = begin_attribution(
        microscope.model, microscope.dictionary, tokens, max_nodes=most, progress=progress
    )
    limits = limits_of(begun.price(), max_nodes, influence_bound)
    price = begun.price(limits["max_nodes"])
    require_affordable(price, device)
    if node_mass is not None:
        price = price.pruned(node_mass, edge_mass, max_edges)
        require_keepable(price, sure=node_mass == edge_mass == 1)
        require_affordable(price, device)
    if approve is not None:
        approve(price)

    def finished() -> Graph:
        whole = begun.graph()
        if any(limits.values()):
            whole = replace(whole, provenance={**whole.provenance, "limits": limits})
        with memory_told("What follows a trace", FIX):
            if node_mass is None:
                return labelled(named(microscope, whole, tokens), bank=None, labels=microscope.labels)
            small = prune(whole, node_mass=node_mass, edge_mass=edge_mass, max_edges=max_edges)
            del whole
            require_readable(small)
            return labelled(named(microscope, small, tokens), bank=microscope.bank, labels=microscope.labels)

    pace, told = Pace(), _with_price(progress, price, device)
    for _ in begun.expand(**limits, progress=told):
        if on_snapshot is not None and pace.is_due():
            with pace.looking():
                on_snapshot(finished())
    progress("graph", 0, 1)
    graph = finished()
    progress("graph", 1, 1)
    return graph


def limits_of(whole: Price, max_nodes: int | None, influence_bound: float | None) -> Limits:
    """How far a graph is expanded: as somebody said, else all of it; a large one only in part.

    Then it ends where at most `INFLUENCE_BOUND` of the influence is still to come, or after as many features as the
    whole graph's price says for `WORTH_SECONDS` of one core. Both follow from the prompt alone, not from the machine.
    """
    if max_nodes is None and influence_bound is None and whole.is_large:
        most = min(whole.within(WORTH_SECONDS, WORTH_MEMORY), MOST_NODES)
        return {"max_nodes": most, "influence_bound": INFLUENCE_BOUND}
    return {"max_nodes": max_nodes, "influence_bound": influence_bound}


class Pace:
    """When somebody who watches gets the next picture: soon, then so seldom that pictures take a tenth of the time."""

    def __init__(self) -> None:
        self._next = time.monotonic() + FIRST_PICTURE

    def is_due(self) -> bool:
        """Whether it is time for a picture."""
        return time.monotonic() >= self._next

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Around the making of a picture: what it takes decides when the next one is due."""
        began = time.monotonic()
        yield
        now = time.monotonic()
        self._next = now + max(NEXT_PICTURE, 9 * (now - began))


def _with_price(progress: Progress, price: Price, device: str) -> Progress:
    """`progress`, with what the trace takes beside how far it is."""
    share = price.share_of_free(device)
    known = {"memory": float(price.memory + price.device_memory), "seconds": price.seconds}
    known |= {} if share is None else {"memory_share": share}

    def told(stage: str, done: int, total: int | None, **figures: float) -> None:
        progress(stage, done, total, **figures, **known)

    return told
