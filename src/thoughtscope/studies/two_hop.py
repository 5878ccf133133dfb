"""Two-hop questions: is the state between the city and the capital, and does the answer hang on it?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from thoughtscope.studies.study import STUDIES, Study

if TYPE_CHECKING:
    from thoughtscope.core.ids import NodeId
    from thoughtscope.graphs import Graph

CITIES = ("Dallas", "Oakland", "Miami", "Chicago", "Seattle", "Cleveland", "Buffalo", "Tampa")


def at_the_city(graph: Graph) -> list[NodeId]:
    """Features at the tokens of the city's name: between " containing" and " is" in the question."""
    words = [token.strip() for token in graph.tokens]
    if "containing" not in words or "is" not in words:
        return []
    where = range(words.index("containing") + 1, len(words) - 1 - words[::-1].index("is"))
    return [graph.node_id(row) for row in graph.rows("feature").tolist() if graph.position[row] in where]


TWO_HOP = STUDIES.register("two-hop")(
    Study(
        question="Does the capital of the state that contains a city hang on the features at the city's name?",
        prompts=tuple(f"Fact: the capital of the state containing {city} is" for city in CITIES),
        choose=at_the_city,
        source="Lindsey et al. 2025, On the Biology of a Large Language Model, Multi-step Reasoning",
    )
)
