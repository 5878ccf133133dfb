"""`trace`: a prompt's graph, pruned and labelled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from thoughtscope.core.errors import LimitExceeded
from thoughtscope.core.progress import Progress, silent
from thoughtscope.microscope.opening import Microscope

if TYPE_CHECKING:
    from thoughtscope.graphs import Graph
    from thoughtscope.models import Tokens

NODE_MASS = 0.8
EDGE_MASS = 0.98


def tokens_of(microscope: Microscope, prompt: str, *, bos: bool | None = None) -> Tokens:
    """Tokenizes within the microscope's limit; `bos` as in `models.tokenize`, which may warn with `MissingBos`.

    Raises `LimitExceeded` before anything large is allocated.
    """
    from thoughtscope.models import tokenize

    # No tokenizer makes fewer tokens than this from so many characters; the check spares it absurd inputs.
    if len(prompt) > 200 * microscope.max_tokens:
        raise LimitExceeded(
            f"The prompt has {len(prompt):,} characters; {microscope.max_tokens} tokens are the limit."
        )
    return tokenize(microscope.model, prompt, bos=bos, max_tokens=microscope.max_tokens)


@contextmanager
def heard() -> Iterator[list[str]]:
    """Collects what `MissingBos` would say in this thread, in place of warning."""
    from thoughtscope.models import tokens

    with tokens.heard() as said:
        yield said


def trace(
    microscope: Microscope,
    prompt: str | Tokens,
    *,
    node_mass: float | None = NODE_MASS,
    edge_mass: float = EDGE_MASS,
    max_nodes: int | None = None,
    progress: Progress = silent,
) -> Graph:
    """A prompt's pruned graph, with what people call its features, and else what the feature bank does.

    Where the dictionary has concepts, what they read of the prompt stands as supernodes; see `naming.named`.
    `node_mass=None` gives the whole graph, with people's labels alone: a bank takes long to name all its features.
    Raises `LimitExceeded` for a prompt over the microscope's limit, and what `attribute` and `prune` raise.
    """
    from thoughtscope.graphs import attribute, prune
    from thoughtscope.microscope.naming import named
    from thoughtscope.reports.payload import labelled

    tokens = tokens_of(microscope, prompt) if isinstance(prompt, str) else prompt
    graph = attribute(microscope.model, microscope.dictionary, tokens, max_nodes=max_nodes, progress=progress)
    if node_mass is None:
        return labelled(named(microscope, graph, tokens), bank=None, labels=microscope.labels)
    small = named(microscope, prune(graph, node_mass=node_mass, edge_mass=edge_mass), tokens)
    return labelled(small, bank=microscope.bank, labels=microscope.labels)
