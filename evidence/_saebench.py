"""Run by SAEBench's own Python: the library's core evaluation of one autoencoder on given tokens, as JSON.

The library's functions run unchanged. What they ask of a TransformerLens model is answered by the Hugging Face module
itself, so that both sides see the same activations.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from sae_bench.custom_saes.jumprelu_sae import JumpReluSAE
from sae_bench.evals.core.eval_config import CoreEvalConfig
from sae_bench.evals.core.eval_output import CoreEvalOutput
from sae_bench.evals.core.main import calculate_misc_metrics, replace_nans_with_negative_one, run_evals
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM


class Module:
    """The three calls that the library makes of a model."""

    def __init__(self, folder: Path, layer: int) -> None:
        self.module = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )
        self.block = self.module.get_decoder().layers[layer]

    def __call__(self, tokens: Any, return_type: str = "both", loss_per_token: bool = True) -> Any:
        logits = self.module(input_ids=tokens).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        return logits, loss.view(tokens.shape[0], -1)

    def run_with_hooks(self, tokens: Any, fwd_hooks: Any, **asked: Any) -> Any:
        ((_, hook),) = fwd_hooks
        handle = self.block.register_forward_hook(lambda _m, _i, output: hook(output, hook=None))
        try:
            return self(tokens, **asked)
        finally:
            handle.remove()

    def run_with_cache(self, tokens: Any, names_filter: list[str], **_: Any) -> Any:
        seen: dict[str, Any] = {}
        handle = self.block.register_forward_hook(
            lambda _m, _i, output: seen.__setitem__(names_filter[0], output)
        )
        try:
            return self(tokens), seen
        finally:
            handle.remove()


def main() -> None:
    """`python _saebench.py FOLDER`: reads job.json and sae.safetensors there; prints figures."""
    folder = Path(sys.argv[1])
    job, weights = json.loads((folder / "job.json").read_text()), load_file(folder / "sae.safetensors")
    width, size = weights["W_enc"].shape
    sae = JumpReluSAE(width, size, "given", job["layer"], torch.device("cpu"), torch.float32)
    sae.cfg.architecture_str = "jumprelu"  # asked for, but given by none of the library's own classes
    for name, value in weights.items():
        getattr(sae, name).data = value
    batches = torch.tensor(job["batches"])
    half = len(batches) // 2

    def store() -> Any:
        """The first half is asked for first; the library then starts over, and gets the second half."""
        left = list(batches)
        return SimpleNamespace(
            get_batch_tokens=lambda n: left.pop(0),
            reset_input_dataset=lambda: None,
            context_size=batches.shape[2],
            store_batch_size_prompts=batches.shape[1],
        )

    config = CoreEvalConfig(
        batch_size_prompts=batches.shape[1], n_eval_reconstruction_batches=half,
        n_eval_sparsity_variance_batches=len(batches) - half, context_size=batches.shape[2], compute_kl=True,
        compute_ce_loss=True, compute_l2_norms=True, compute_sparsity_metrics=True, compute_variance_metrics=True,
        compute_featurewise_density_statistics=True, compute_featurewise_weight_based_metrics=True,
        exclude_special_tokens_from_reconstruction=job["exclude_special"],
    )  # fmt: skip
    metrics, features = run_evals(
        sae, store(), Module(folder / "model", job["layer"]), config, ignore_tokens=set(job["special"])
    )
    metrics["misc_metrics"] = calculate_misc_metrics(features)
    ours = json.loads((folder / "ours.json").read_text())
    read = CoreEvalOutput(**ours)  # the library's own classes refuse a file of another layout
    found = replace_nans_with_negative_one({"metrics": metrics, "features": features})
    print(json.dumps(found | {"read": len(read.eval_result_details)}))


if __name__ == "__main__":
    main()
