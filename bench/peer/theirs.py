"""circuit-tracer's child process: `python -m bench.peer.theirs`, with the interpreter of its own environment.

Its TransformerLens backend, which is its default, from a folder: `from_pretrained` takes names of a list only, so the
configuration and the weights are converted by the library's own functions and put into `from_config`'s model.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.peer.child import measured, serve
from bench.peer.equality import KINDS

opened: dict[str, Any] = {}


def open_case(
    model: str, dictionary: str, ids: list[int], threads: int, reads: str, layers: int, **_: Any
) -> dict[str, Any]:
    """Loads a case's files, encoders and decoders in memory; nothing of this is measured."""
    import torch
    from circuit_tracer import ReplacementModel
    from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set
    from transformer_lens import loading_from_pretrained as loading
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(threads)
    transcoders = load_transcoder_set(
        {layer: str(Path(dictionary) / f"layer_{layer}.safetensors") for layer in range(layers)},
        scan="bench",
        feature_input_hook=reads,
        feature_output_hook="hook_mlp_out",
        device=torch.device("cpu"),
        dtype=torch.float32,
        lazy_encoder=False,
        lazy_decoder=False,
    )
    module = AutoModelForCausalLM.from_pretrained(model, local_files_only=True)
    config = loading.get_pretrained_model_config(model, device="cpu", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    replacement = ReplacementModel.from_config(config, transcoders, tokenizer=tokenizer)
    weights = loading.get_pretrained_state_dict(model, config, module, dtype=torch.float32)
    # The replacement model wraps what it replaces, which changes the names of these weights.
    wrapped = {
        name.replace(".mlp.", ".mlp.old_mlp.").replace("unembed.", "unembed.old_unembed."): weight
        for name, weight in weights.items()
    }
    report = replacement.load_state_dict(wrapped, strict=False)
    # A bias that the model does not have is not converted, and stays at 0.
    absent = {name for name in report.missing_keys if name.endswith(".b_U")}
    wanted = {name for name, _ in replacement.named_parameters() if not name.startswith("transcoders.")}
    lost = sorted((wanted & set(report.missing_keys)) - absent) + list(report.unexpected_keys)
    if lost:
        raise RuntimeError(f"weights that do not match: {', '.join(lost[:5])}")
    opened["model"], opened["ids"] = replacement, torch.tensor(ids)
    packages = ("circuit-tracer", "transformer-lens", "transformers", "torch")
    return {package: version(package) for package in packages}


def run(
    max_nodes: int | None, batch_size: int, rank_once: bool = False, save: str | None = None
) -> dict[str, Any]:
    """One attribution. With `save`, the graph goes into that file, for comparing.

    `rank_once` expands the first `max_nodes` features without ranking them anew in between: the cost of so many rows,
    as when every feature is expanded.
    """
    from circuit_tracer import attribute

    options = {"update_interval": 1_000_000} if rank_once else {}
    graph, cost = measured(
        lambda: attribute(
            opened["ids"], opened["model"], batch_size=batch_size, max_feature_nodes=max_nodes, **options
        )
    )
    if graph.input_tokens.tolist() != opened["ids"].tolist():
        raise RuntimeError("the prompt was changed before it was traced")
    if save is not None:
        _save(graph, save)
    return cost | {"nodes": len(graph.adjacency_matrix), "features": len(graph.selected_features)}


def _save(graph: Any, path: str) -> None:
    import numpy as np

    feature, error, token, logit = range(len(KINDS))
    n_layers, n_pos, last = graph.cfg.n_layers, graph.n_pos, graph.n_pos - 1
    chosen = graph.active_features[graph.selected_features]
    nodes = [(feature, layer, position, index) for layer, position, index in chosen.tolist()]
    nodes += [(error, layer, position, -1) for layer in range(n_layers) for position in range(n_pos)]
    nodes += [(token, -1, position, -1) for position in range(n_pos)]
    nodes += [(logit, -1, last, target.vocab_idx) for target in graph.logit_targets]
    np.savez(
        path,
        active=graph.active_features.numpy(),
        activation=graph.activation_values.detach().numpy(),
        nodes=np.array(nodes),
        edges=graph.adjacency_matrix.numpy(),
    )


if __name__ == "__main__":
    serve({"open": open_case, "run": run})
