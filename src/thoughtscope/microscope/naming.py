"""Groups of a graph named by rule: what the dictionary's concepts read of the prompt, and how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from thoughtscope.microscope.opening import Microscope

if TYPE_CHECKING:
    from thoughtscope.atlas import Concept, Reading
    from thoughtscope.graphs import Graph, Supernode
    from thoughtscope.models import Tokens

NAMED = "named_by_rule"
"""Where a graph's provenance says which of its supernodes got their names by rule, and how sure that is."""


def named(microscope: Microscope, graph: Graph, tokens: Tokens) -> Graph:
    """The graph with a supernode for each value that the dictionary's concepts read of the prompt.

    Takes a forward pass of its own, as readings rest on all active features and not on those that pruning left.
    Without concepts the graph comes back as it is.
    """
    if not microscope.concepts:
        return graph
    from thoughtscope.atlas import name_nodes, read_concepts
    from thoughtscope.dictionaries import encode
    from thoughtscope.graphs import group_named
    from thoughtscope.models import capture

    dictionary = microscope.dictionary
    features = encode(dictionary, capture(microscope.model, tokens, dictionary.sites))
    readings = read_concepts(microscope.concepts, features)
    before = {supernode.label for supernode in graph.supernodes}
    grouped = group_named(graph, name_nodes(readings))
    concepts = {concept.name: concept for concept in microscope.concepts}
    new = [
        _record(supernode, readings, concepts)
        for supernode in grouped.supernodes
        if supernode.label not in before
    ]
    return replace(grouped, provenance={**graph.provenance, NAMED: new}) if new else grouped


def _record(
    supernode: Supernode, readings: Sequence[Reading], concepts: dict[str, Concept]
) -> dict[str, Any]:
    """Which reading named a supernode, and how far the names of its concept hold."""
    members = set(supernode.members)
    naming = [
        reading
        for reading in readings
        if supernode.label.startswith(reading.label) and members & set(reading.members)
    ]
    surest = max(naming, key=lambda reading: reading.log_odds)
    check = concepts[surest.concept].check
    return {
        "label": supernode.label,
        "members": [str(member) for member in supernode.members],
        "concept": surest.concept,
        "value": surest.value,
        "position": surest.position,
        "log_odds": round(surest.log_odds, 2),
        "margin": round(surest.margin, 2),
        "right": round(check.right, 4),
        "mistaken": round(check.mistaken, 4),
    }
