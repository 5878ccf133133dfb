"""thoughtscope's child process: `python -m bench.peer.ours`."""

from __future__ import annotations

from typing import Any

from bench.peer.child import measured, serve
from bench.peer.equality import KINDS

opened: dict[str, Any] = {}


def open_case(model: str, dictionary: str, ids: list[int], threads: int, **_: Any) -> dict[str, Any]:
    """Loads a case's files; nothing of this is measured."""
    import torch
    from transformers import AutoModelForCausalLM

    import thoughtscope
    from thoughtscope import load_dictionary
    from thoughtscope.models import model_from, tokens_from_ids

    torch.set_num_threads(threads)
    bound = model_from(AutoModelForCausalLM.from_pretrained(model, local_files_only=True), name="bench")
    opened["model"] = bound
    opened["dictionary"] = load_dictionary(dictionary, bound, preflight=False)
    opened["tokens"] = tokens_from_ids(bound, ids)
    return {"thoughtscope": thoughtscope.__version__, "torch": torch.__version__}


def run(max_nodes: int | None, save: str | None = None) -> dict[str, Any]:
    """One attribution. With `save`, the graph goes into that file, for comparing."""
    from thoughtscope import attribute

    model, dictionary, tokens = opened["model"], opened["dictionary"], opened["tokens"]
    graph, cost = measured(lambda: attribute(model, dictionary, tokens, max_nodes=max_nodes))
    if save is not None:
        _save(graph, save)
    ids = graph.node_ids()
    return cost | {"nodes": len(ids), "features": sum(node.kind == "feature" for node in ids)}


def _save(graph: Any, path: str) -> None:
    import numpy as np

    from thoughtscope import capture, encode

    features = encode(
        opened["dictionary"], capture(opened["model"], opened["tokens"], opened["dictionary"].sites)
    )
    place = [features.part, features.position, features.index]
    nodes = [
        (
            KINDS.index(node.kind),
            -1 if node.layer is None else node.layer,
            node.position,
            -1 if node.index is None else node.index,
        )
        for node in graph.node_ids()
    ]
    np.savez(
        path,
        active=np.stack([part.numpy() for part in place], axis=1),
        activation=features.value.numpy(),
        nodes=np.array(nodes),
        edges=graph.edges.toarray(),
    )


if __name__ == "__main__":
    serve({"open": open_case, "run": run})
