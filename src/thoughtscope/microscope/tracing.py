"""`trace`: a prompt's graph, pruned and labelled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

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
FIX = "Use a shorter prompt, fewer nodes (max_nodes, --max-nodes) or lower masses (--node-mass, --edge-mass)."


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
    edge_mass: float = EDGE_MASS,
    max_nodes: int | None = None,
    approve: Callable[[Price], None] | None = None,
    progress: Progress = silent,
) -> Graph:
    """A prompt's pruned graph, with what people call its features, and else what the feature bank does.

    Where the dictionary has concepts, what they read of the prompt stands as supernodes; see `naming.named`.
    `node_mass=None` gives the whole graph, with people's labels alone: a bank takes long to name all its features.
    `approve` is told the price before it is paid, and may refuse by raising; see `attribute`.
    Raises `LimitExceeded` for a prompt over the microscope's limit and for a graph too large to be made, or to be read
    again once it is kept, and what `attribute` and `prune` raise.
    """
    from thoughtscope.graphs import attribute, prune, require_affordable, require_keepable, require_readable
    from thoughtscope.microscope.naming import named
    from thoughtscope.models import Tokens
    from thoughtscope.reports.payload import labelled

    tokens = prompt if isinstance(prompt, Tokens) else tokens_of(microscope, prompt)
    device = str(microscope.model.device)

    def check(price: Price) -> None:
        if node_mass is not None:
            price = price.pruned(node_mass, edge_mass)
            require_keepable(price, sure=node_mass == edge_mass == 1)
            require_affordable(price, device)
        if approve is not None:
            approve(price)

    graph = attribute(
        microscope.model,
        microscope.dictionary,
        tokens,
        max_nodes=max_nodes,
        approve=check,
        progress=progress,
    )
    with memory_told("What follows a trace", FIX):
        if node_mass is None:
            return labelled(named(microscope, graph, tokens), bank=None, labels=microscope.labels)
        small = prune(graph, node_mass=node_mass, edge_mass=edge_mass)
        del graph
        require_readable(small)
        return labelled(named(microscope, small, tokens), bank=microscope.bank, labels=microscope.labels)
