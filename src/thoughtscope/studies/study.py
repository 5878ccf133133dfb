"""`Study`: what to ask, of which prompts, and what to change in each prompt's graph; and which studies there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.registry import Registry

if TYPE_CHECKING:
    from thoughtscope.core.ids import NodeId
    from thoughtscope.graphs import Graph


@dataclass(frozen=True, kw_only=True)
class Study:
    """A question that any model and dictionary can be asked.

    For each prompt the graph is traced, `choose` names the nodes that are thought to carry the answer, and turning
    them to `scale` times their activation should move the answer as the graph predicts, and more than equally strong
    random features do.
    """

    question: str
    """One sentence, with its question mark."""
    prompts: Sequence[str]
    choose: Callable[[Graph], Sequence[NodeId | str]]
    """The nodes, supernodes or labels of a graph that are changed; none where the question does not arise."""
    scale: float = -1.0
    """Of their activations: 0 takes them out, -1 turns them around."""
    source: str = ""
    """The paper whose claim this is, if it is one's."""

    def __post_init__(self) -> None:
        if not self.question.strip() or not self.prompts or isinstance(self.prompts, str):
            raise ThoughtscopeError("A study has a question and a list of one or more prompts.")


STUDIES: Registry[Study] = Registry("study", ThoughtscopeError, group="thoughtscope.studies")
"""By name. Installed packages add theirs (docs/extending.md)."""
