"""The price of a trace, as told before it is made, beside what the trace then takes: memory, edges, file, seconds.

Each case is a process of its own, so that its peak is its own. The peak counts from what is resident once model and
dictionary are open.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from _claim import Measured, main

TEXT = (
    "The capital of the state containing Dallas is Austin and the opposite of small is big while the price of tea in "
    "Paris was never what she thought it would be when she went to the market on a cold morning in the spring. "
)
WORTH_TELLING = 50e6
"""Bytes; under it, what Python and torch keep for themselves is most of what is measured."""
CASES: list[dict[str, Any]] = [
    *({"dictionary": name, "tokens": n} for name in ("specimen/clt", "specimen/plt") for n in (12, 75, 150, 256)),
    *({"dictionary": name, "tokens": n, "mass": 1.0} for name in ("specimen/clt", "specimen/plt") for n in (30, 75)),
    {"width": 256, "tokens": 400, "l0": 2},
    {"width": 512, "tokens": 200, "l0": 6, "cross_layer": True},
    {"width": 1024, "tokens": 100, "l0": 12},
    {"width": 1024, "tokens": 400, "l0": 4, "max_nodes": 500},
]  # fmt: skip


def measure(seed: int) -> Measured:
    """The share of cases over `WORTH_TELLING` whose memory is within a factor of two of the price."""
    found = []
    for case in CASES:
        print(f"{case} …", file=sys.stderr, flush=True)
        found.append(in_its_own_process(case | {"seed": seed}))
    told = [one for one in found if one["memory"] > WORTH_TELLING]
    ratios = [one["price"]["memory"] / one["memory"] for one in told]
    edges = [one["price"]["n_edges"] / one["edges"] for one in found]
    # Without what the counts tell: the price of the median case for all.
    middle = sorted(one["price"]["memory"] for one in told)[len(told) // 2]
    return Measured(
        value=share_within(ratios),
        n=len(told),
        control=share_within([middle / one["memory"] for one in told]),
        details={
            "price_over_memory": [round(min(ratios), 2), round(max(ratios), 2)],
            "price_over_edges": [round(min(edges), 3), round(max(edges), 3)],
            "cases": found,
        },
    )


def share_within(ratios: list[float], factor: float = 2.0) -> float:
    return round(sum(1 / factor <= ratio <= factor for ratio in ratios) / max(len(ratios), 1), 3)


def in_its_own_process(case: dict[str, Any]) -> dict[str, Any]:
    """What `one_trace` finds in a fresh interpreter."""
    here = str(Path(__file__).resolve().parent)
    code = f"import sys; sys.path.insert(0, {here!r}); import trace_price; trace_price.one_trace({case!r})"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def one_trace(case: dict[str, Any]) -> None:
    """Traces and writes one prompt; prints the price, and what it took."""
    import tempfile

    from thoughtscope import microscope
    from thoughtscope.graphs import attribute
    from thoughtscope.graphs.json_write import write_text
    from thoughtscope.reports.payload import graph_file

    opened, tokens = make(case)
    mass = case.get("mass")
    masses = {} if mass is None else {"node_mass": mass, "edge_mass": mass}
    prices: list[Any] = []
    limit = case.get("max_nodes")
    attribute(opened.model, opened.dictionary, tokens, max_nodes=1)  # what is loaded when first used
    before = forget_peak()
    start = time.process_time()
    graph = microscope.trace(opened, tokens, approve=prices.append, max_nodes=limit, **masses)
    with tempfile.TemporaryDirectory() as folder:
        path = write_text(graph_file(graph), Path(folder) / "graph.json")
        size = path.stat().st_size
    seconds, memory = time.process_time() - start, peak() - before
    # `pruned` is what `trace` keeps: the whole graph is made again, behind the measurement.
    whole = attribute(opened.model, opened.dictionary, tokens, max_nodes=limit)
    took = {
        "nodes": len(whole),
        "edges": whole.edges.nnz,
        "memory": memory,
        "file": size,
        "seconds": round(seconds, 2),
    }
    print(json.dumps({**case, "price": prices[0].to_json(), **took, "kept_edges": graph.edges.nnz}))


def make(case: dict[str, Any]) -> tuple[Any, Any]:
    """The case's microscope, and a prompt of so many tokens."""
    from thoughtscope import microscope
    from thoughtscope.models import tokenize, tokens_from_ids

    if "width" not in case:
        opened = microscope.open_microscope("specimen", case["dictionary"])
        ids = tokenize(opened.model, TEXT * 2).ids[0].tolist()
        return opened, tokens_from_ids(opened.model, (ids * 4)[: case["tokens"]])
    model = random_model_of(case)
    dictionary = random_dictionary_of(case, model)
    opened = microscope.Microscope(model=model, dictionary=dictionary, bank=None, max_tokens=case["tokens"])
    return opened, tokens_from_ids(model, [256, *TEXT.encode(), *TEXT.encode()][: case["tokens"]])


def random_model_of(case: dict[str, Any]) -> Any:
    from thoughtscope.models.random_models import random_model

    width = case["width"]
    return random_model("llama", layers=6, seed=case["seed"], hidden_size=width, intermediate_size=width,
                        num_attention_heads=8, num_key_value_heads=4, head_dim=width // 8,
                        max_position_embeddings=512)  # fmt: skip


def random_dictionary_of(case: dict[str, Any], model: Any) -> Any:
    """Random transcoders, of which the strongest few are active at each position."""
    import torch

    from thoughtscope.dictionaries import Activation, LayerWeights, transcoders

    generator = torch.Generator().manual_seed(case["seed"])
    n_features, width = 4 * case["width"], case["width"]

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) / shape[-1] ** 0.5

    layers = [
        LayerWeights(
            W_enc=random(n_features, width),
            b_enc=torch.zeros(n_features),
            decoder=random(n_features, model.n_layers - layer if case.get("cross_layer") else 1, width),
            b_dec=torch.zeros(width),
        )
        for layer in range(model.n_layers)
    ]
    return transcoders(name="random", layers=layers, activation=Activation(kind="topk", k=case["l0"]))


def forget_peak() -> int:
    """Bytes that are resident now, from which the peak counts on."""
    import gc

    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return field("VmRSS:")
    except OSError:
        return peak()


def peak() -> int:
    """The most bytes that were resident at once: since `forget_peak` where the system can forget, else ever."""
    try:
        return field("VmHWM:")
    except OSError:
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used if sys.platform == "darwin" else used * 1024


def field(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


if __name__ == "__main__":
    main(
        measure,
        claim="Traces that need more than 50 MB whose memory the price, told before the run, states within a factor of "
        "two; the control tells all of them one price.",
    )
