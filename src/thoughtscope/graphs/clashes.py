"""Graph files in which two nodes have one id, made distinct.

circuit-tracer names the error of layer l `0_l_POSITION`, which is also the id of feature l of layer 0. Such an error
gets the id that our own files give it, and each link from the shared id goes to the node that it came from. The order
of the links tells which: they are written target by target, and for each target in the order of the nodes, features
before errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from thoughtscope.core.errors import InvalidGraph
from thoughtscope.graphs.names import error_file_id


def distinct(file: dict[str, Any]) -> dict[str, Any]:
    """The same graph file with an id of its own for every error node; a file without clashes as it is."""
    pairs = _clashes(file["nodes"])
    if not pairs:
        return file
    names = {name: error_file_id(_layer(file["nodes"][error]), file["nodes"][error]["ctx_idx"])
             for name, (_, error) in pairs.items()}  # fmt: skip
    nodes = list(file["nodes"])
    for name, (_, error) in pairs.items():
        nodes[error] = {**nodes[error], "node_id": names[name], "jsNodeId": names[name]}
    links = list(file["links"])
    for number in _from_errors(file, pairs):
        links[number] = {**links[number], "source": names[links[number]["source"]]}
    return {**file, "nodes": nodes, "links": links}


def _clashes(nodes: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """By id: the numbers of the feature and of the error that share it."""
    first: dict[str, int] = {}
    pairs: dict[str, tuple[int, int]] = {}
    for number, node in enumerate(nodes):
        name = node["node_id"]
        other = first.setdefault(name, number)
        if other == number or not name.startswith("0_"):
            continue
        errors = [n for n in (other, number) if "error" in nodes[n]["feature_type"]]
        if len(errors) == 1 and name not in pairs:
            pairs[name] = (other + number - errors[0], errors[0])
    return pairs


def _from_errors(file: Mapping[str, Any], pairs: Mapping[str, tuple[int, int]]) -> list[int]:
    """The numbers of the links whose source is the error of a shared id."""
    nodes, links = file["nodes"], file["links"]
    place = {node["node_id"]: number for number, node in enumerate(nodes)}
    runs: dict[str, list[int]] = {}
    for number, link in enumerate(links):
        runs.setdefault(link["target"], []).append(number)
    found: list[int] = []
    for target, run in runs.items():
        if target not in place:
            continue  # refused when the links are read
        names = [links[number]["source"] for number in run]
        for at, name in enumerate(names):
            if name not in pairs:
                continue
            feature, error = pairs[name]
            if names.count(name) == 2:  # both: the feature's comes first
                is_error = name in names[:at]
            else:
                by_order = _fitting([None if n in pairs else place.get(n) for n in names], at, feature, error)
                is_error = (
                    _reaches(nodes[error], nodes[place[target]]) if by_order is None else by_order == error
                )
            if is_error:
                found.append(run[at])
    return found


def _fitting(places: Sequence[int | None], at: int, feature: int, error: int) -> int | None:
    """Which of two nodes can stand at `at` in a list that rises; None for both, for neither, and where it does not."""
    known = [place for place in places if place is not None]
    if any(a >= b for a, b in pairwise(known)):
        return None  # somebody has sorted the links anew
    before = max((place for place in places[:at] if place is not None), default=-1)
    after = min((place for place in places[at + 1 :] if place is not None), default=10**9)
    fits = [node for node in (feature, error) if before < node < after]
    return fits[0] if len(fits) == 1 else None


def _reaches(error: Mapping[str, Any], target: Mapping[str, Any]) -> bool:
    """Where the order leaves it open: the error if it can reach the target at all, so that no score is flattered."""
    return target["feature_type"] == "logit" or _layer(target) > _layer(error)


def _layer(node: Mapping[str, Any]) -> int:
    text = str(node["layer"])
    if not text.isdecimal() or len(text) > 5:
        raise InvalidGraph(
            f'The node "{node["node_id"]}" shares its id, and its layer {text[:40]!r} is no number.'
        )
    return int(text)
