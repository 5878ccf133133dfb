"""crosslayer-coding's side. The loop is its `CLTTrainer.train`.

JumpReLU, its default: its TopK ranks pre-activations in units of their spread over the batch, which is another problem.
Its best setting here: no penalties, evaluations or checkpoints; autocast it has on accelerators alone. With weights and
optimiser states in bf16 it is faster, and learns in coarser steps. What differs: each decoder has its own constant.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from typing import Any

import torch
from clt.config import CLTConfig, TrainingConfig
from clt.training import trainer as library
from clt.training.data.base_store import BaseActivationStore
from torch import Tensor

from bench.trainers.problem import Problem
from bench.trainers.source import Source

NEVER = 10**9


class Store(BaseActivationStore):
    """A store of activations in crosslayer-coding's eyes."""

    def __init__(self, problem: Problem, source: Source) -> None:
        self._problem, self._source = problem, source

    def get_batch(self) -> Any:
        batch = next(self._source)
        reads, writes = self._problem.reads, self._problem.writes
        return (
            {layer: batch[site] for layer, site in enumerate(reads)},
            {layer: batch[site] for layer, site in enumerate(writes)},
        )

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


def train(problem: Problem, source: Source) -> None:
    logging.disable(logging.CRITICAL)
    library.create_activation_store = lambda **_: Store(problem, source)
    dictionary = CLTConfig(
        num_features=problem.n_features, num_layers=problem.layers, d_model=problem.width, activation_fn="jumprelu",
        jumprelu_threshold=problem.threshold, clt_dtype=source.options.get("dtype"),
    )  # fmt: skip
    # So many steps that the learning rate, which falls over them, stays where it is.
    config = TrainingConfig(
        learning_rate=problem.rate, training_steps=NEVER, train_batch_size_tokens=problem.batch, optimizer="adam",
        sparsity_lambda=0.0, preactivation_coef=0.0, normalization_method="none", activation_path="none",
        eval_interval=NEVER, checkpoint_interval=NEVER, log_interval=NEVER,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        trainer = library.CLTTrainer(dictionary, config, log_dir=folder, device="cpu")
        load(trainer.model, problem)
        source.weights = lambda: weights(trainer.model, problem)
        trainer.train()


def load(model: Any, problem: Problem) -> None:
    """Puts the problem's start weights into their model."""
    given = problem.start()
    for part in range(problem.layers):
        encoder = model.encoder_module.encoders[part]
        encoder.weight.data.copy_(given[f"{part}/W_enc"])
        encoder.bias_param.data.copy_(given[f"{part}/b_enc"])
        rows = given[f"{part}/W_dec"].split(problem.width, dim=1)
        for target, written in enumerate(rows, part):
            model.decoder_module.decoders[f"{part}->{target}"].weight.data.copy_(written.T)


def weights(model: Any, problem: Problem) -> Mapping[str, Tensor]:
    """What their model holds, in the problem's layout; the decoders' constants at one site are added up."""
    decoders = model.decoder_module.decoders
    found = {f"b_dec/{site}": torch.zeros(problem.width) for site in problem.writes}
    for part in range(problem.layers):
        own = [decoders[f"{part}->{target}"] for target in range(part, problem.layers)]
        encoder = model.encoder_module.encoders[part]
        found[f"{part}/W_enc"] = encoder.weight.detach().float()
        found[f"{part}/b_enc"] = encoder.bias_param.detach().float()
        found[f"{part}/W_dec"] = torch.cat([decoder.weight.detach().float().T for decoder in own], dim=1)
        found[f"{part}/log_threshold"] = model.theta_manager.log_threshold[part].detach().float()
        for site, decoder in zip(problem.writes[part:], own, strict=True):
            if getattr(decoder, "bias_param", None) is not None:
                found[f"b_dec/{site}"] += decoder.bias_param.detach().float()
    return found
