"""How long a graph takes at the size of a real model: seconds to its first picture, to those after it, and to the end.

No sides: `python bench/size/trace.py` makes a random-weight Llama of SmolLM2-135M's shape with random skip transcoders
for all of its layers, 38 features active a token a layer, and traces a prompt of 16 tokens as the page does. `--model`
and `--dictionary` take real ones. How fast influence runs out depends on the weights; what a row costs does not.
`--all` traces everything, `--profile` says where the time goes.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import sys
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from thoughtscope import microscope  # noqa: E402
from thoughtscope.core.memory import free_memory  # noqa: E402
from thoughtscope.core.site import Site  # noqa: E402
from thoughtscope.dictionaries import (  # noqa: E402
    Activation,
    Card,
    Dictionary,
    LayerWeights,
    load_dictionary,
    transcoders,
)
from thoughtscope.graphs import Graph, Price  # noqa: E402
from thoughtscope.microscope import Microscope, page_snapshot  # noqa: E402
from thoughtscope.models import Model, Tokens, capture, load_model, tokens_from_ids  # noqa: E402
from thoughtscope.models.random_models import random_model  # noqa: E402

SHAPE = {
    "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3,
    "vocab_size": 49152, "head_dim": 64,
}  # fmt: skip
LAYERS, FEATURES, ACTIVE = 30, 4096, 38


def random_transcoders(model: Model, tokens: Tokens, seed: int = 0) -> Dictionary:
    """Skip transcoders with random directions, whose features write about as much as the MLPs do."""
    generator = torch.Generator().manual_seed(seed)
    kinds = ("mlp_in", "mlp_out")
    held = capture(model, tokens, [Site(kind, layer) for layer in range(model.n_layers) for kind in kinds])

    def rows(count: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(count, model.d_model, generator=generator), dim=-1)

    layers = []
    for layer in range(model.n_layers):
        read, written = (held[f"{kind}.{layer}"][0, 1:].float() for kind in kinds)
        encoder, decoder, skip = rows(FEATURES), rows(FEATURES), rows(model.d_model)
        active = (read @ encoder.T).topk(ACTIVE, dim=-1).values.mean()
        size = written.norm(dim=-1).median()
        layers.append(
            LayerWeights(
                W_enc=encoder,
                b_enc=torch.zeros(FEATURES),
                decoder=(decoder * size / (active * ACTIVE**0.5))[:, None],
                b_dec=torch.zeros(model.d_model),
                W_skip=0.3 * skip * size / read.norm(dim=-1).median(),
            )
        )
    chosen = Activation(kind="topk", k=ACTIVE)
    card = Card(declared={"l0": float(ACTIVE * model.n_layers)})
    return transcoders(name="random", model_name=model.name, activation=chosen, layers=layers, card=card)


def traced(opened: Microscope, tokens: Tokens, influence_bound: float | None) -> dict[str, Any]:
    """One trace as the page asks for it: what was told of it before, and what came when."""
    start, prices, pictures = time.perf_counter(), [], []

    def approve(price: Price) -> None:
        prices.append(price)
        print(f"price: {price}; free: {(free_memory() or 0) / 1e9:.1f} GB", file=sys.stderr)

    def picture(graph: Graph) -> None:
        size = len(json.dumps(page_snapshot(graph)))
        made = time.perf_counter() - start
        pictures.append(told(graph) | {"made": round(made, 2), "bytes": size})
        print(pictures[-1], file=sys.stderr, flush=True)

    graph = microscope.trace(
        opened, tokens, influence_bound=influence_bound, approve=approve, on_snapshot=picture
    )
    picture(graph)
    return {"price": prices[0].to_json(), "pictures": pictures, "end": told(graph)} | {
        "limits": graph.provenance.get("limits"),
        "seconds": pictures[-1]["made"],
        "scores": vars(graph.scores),
    }


def told(graph: Graph) -> dict[str, Any]:
    assert graph.certificate is not None
    sizes = {"nodes": len(graph), "edges": graph.edges.nnz}
    return {"expanded": graph.certificate.expanded, "bound": round(graph.certificate.bound, 4)} | sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="a name or a path (default: random weights)")
    parser.add_argument("--dictionary", help="a folder that fits it (default: random skip transcoders)")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--all", action="store_true", help="everything that has any influence")
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = load_model(given.model) if given.model else random_model("llama", layers=LAYERS, **SHAPE)
    ids = [model.tokenizer.bos_token_id or 1, *range(1000, 1000 + given.tokens - 1)]
    tokens = tokens_from_ids(model, ids)
    dictionary = (
        load_dictionary(given.dictionary, model) if given.dictionary else random_transcoders(model, tokens)
    )
    opened = Microscope(model=model, dictionary=dictionary, bank=None, max_tokens=len(ids))
    watch = cProfile.Profile()
    if given.profile:
        watch.enable()
    found = traced(opened, tokens, 0.0 if given.all else None)
    watch.disable()
    print(json.dumps(found))
    if given.profile:
        pstats.Stats(watch, stream=sys.stderr).sort_stats("tottime").print_stats(20)


if __name__ == "__main__":
    main()
