"""`validate_json`: whether an object is a graph file that the published viewers take.

The schema is data (`graph_schema.json`, draft-07); this is the small part of a checker that it needs, so that reading
a file asks for no further package.
"""

from __future__ import annotations

import json
import math
from functools import cache
from importlib.resources import files
from typing import Any

from thoughtscope.core.errors import InvalidGraph, LimitExceeded

_SIZED = {"maxLength": str, "maxItems": list, "maxProperties": dict}
_LARGEST = 2**53  # beyond it JavaScript, which the viewers are written in, rounds integers
_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


@cache
def graph_schema() -> dict[str, Any]:
    """The schema of a graph file (draft-07)."""
    return json.loads(files("thoughtscope.graphs").joinpath("graph_schema.json").read_text("utf-8"))


def validate_json(obj: Any) -> None:
    """Checks `obj` against the schema and the rules that it cannot say.

    Those are: numbers finite, node ids and `jsNodeId`s unique, links between nodes that exist, and a probability in
    the label of every logit, without which the viewers stop. Raises `InvalidGraph` naming the first field at fault.
    """
    check_schema(obj)
    seen: dict[str, int] = {}
    script_ids: set[str] = set()
    for number, node in enumerate(obj["nodes"]):
        for name, known in (("node_id", seen), ("jsNodeId", script_ids)):
            if node[name] in known:
                raise InvalidGraph(f'nodes[{number}].{name}: "{node[name]}" is the id of another node too.')
        seen[node["node_id"]] = number
        script_ids.add(node["jsNodeId"])
        if node["feature_type"] == "logit" and "(p=" not in node["clerp"]:
            raise InvalidGraph(
                f'nodes[{number}].clerp: a logit\'s label needs "(p=0.123)"; viewers read it there.'
            )
    for number, link in enumerate(obj["links"]):
        for end in ("source", "target"):
            if link[end] not in seen:
                raise InvalidGraph(f'links[{number}].{end}: there is no node "{link[end]}".')


def check_schema(obj: Any) -> None:
    """Raises `InvalidGraph` naming the first field that the schema does not allow, `LimitExceeded` one too long."""
    _check(graph_schema(), obj, "")


def _check(schema: dict[str, Any], value: Any, path: str) -> None:
    types = schema.get("type")
    if types is not None:
        _check_type(types if isinstance(types, list) else [types], value, path)
    if "minimum" in schema and isinstance(value, (int, float)) and value < schema["minimum"]:
        raise InvalidGraph(f"{path}: {value} is less than {schema['minimum']}.")
    if "maximum" in schema and isinstance(value, (int, float)) and value > schema["maximum"]:
        raise InvalidGraph(f"{path}: {value} is more than {schema['maximum']}.")
    for word, what in (("maxLength", "characters"), ("maxItems", "entries"), ("maxProperties", "entries")):
        if word in schema and isinstance(value, _SIZED[word]) and len(value) > schema[word]:
            raise LimitExceeded(f"{path} has {len(value):,} {what}; {schema[word]:,} are the limit.")
    if isinstance(value, dict):
        for name in schema.get("required", ()):
            if name not in value:
                raise InvalidGraph(f"{_at(path, name)} is missing.")
        for name, part in schema.get("properties", {}).items():
            if name in value:
                _check(part, value[name], _at(path, name))
    elif isinstance(value, list) and "items" in schema:
        part = schema["items"]
        for number, item in enumerate(value):
            _check(part, item, f"{path}[{number}]")


def _check_type(types: list[str], value: Any, path: str) -> None:
    for name in types:
        if isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool)):
            break
    else:
        raise InvalidGraph(
            f"{path or 'the file'}: expected {' or '.join(types)}, got {type(value).__name__}."
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidGraph(f"{path}: {value} is not a finite number.")
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise InvalidGraph(f"{path}: the number has too many digits.")


def _at(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
