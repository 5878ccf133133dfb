"""sparsify's side. The loop is its `Trainer.fit`, at a model that only looks up rows.

Its best setting here: Adam, which is faster on a CPU than its default Signum, and bf16 autocast around what its hook
does (its own is for CUDA alone). What differs: the loss is divided by the batch's variance, which Adam undoes;
transcoders' decoders are free, and what competes is the pre-activation alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from sparsify import SparseCoderConfig, TrainConfig, Trainer
from torch import Tensor, nn

from bench.trainers.problem import Problem, centred
from bench.trainers.source import Source

SEQUENCES = 32
"""A batch comes to it as so many sequences."""


class Hook(nn.Module):
    """The module whose input and output are trained on."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y


class Lookup(nn.Module):
    """A model in sparsify's eyes: each forward pass hands the next batch to its one module."""

    dummy_inputs: Mapping[str, Tensor] = {"input_ids": torch.zeros(1, 1, dtype=torch.long)}

    def __init__(self, problem: Problem, source: Source) -> None:
        super().__init__()
        self.hook = Hook()
        self.device = torch.device("cpu")
        self._problem, self._source = problem, source

    @property
    def base_model(self) -> Lookup:
        return self

    def forward(self, input_ids: Tensor) -> None:
        if input_ids.shape == (1, 1):  # it asks how wide the output is
            rows = {site: torch.zeros(1, self._problem.width) for site in self._problem.sites}
        else:
            rows = next(self._source)
        shaped = {site: x.unflatten(0, (len(input_ids), -1)) for site, x in rows.items()}
        # Entered anew each step, as it keeps the weights that it has rounded for as long as it lasts.
        with torch.autocast("cpu", torch.bfloat16, enabled=self._source.options.get("autocast", True)):
            self.hook(shaped[self._problem.reads[0]], shaped[self._problem.writes[0]])


class Numbers:
    """A data set of sequences that are never read."""

    def __init__(self, length: int) -> None:
        self._ids = torch.zeros(length, dtype=torch.long)

    def __len__(self) -> int:
        return 10**12  # the learning rate falls to 0 with the last of them, so that it stays where it is

    def __getitem__(self, _: int) -> dict[str, Tensor]:
        return {"input_ids": self._ids}


def train(problem: Problem, source: Source) -> None:
    coder = SparseCoderConfig(
        num_latents=problem.n_features, k=problem.k, transcode=problem.kind == "transcoder"
    )
    config = TrainConfig(
        coder, batch_size=SEQUENCES, optimizer="adam", lr=problem.rate, lr_warmup_steps=0, hookpoints=["hook"],
        finetune="the problem's start weights", save_every=10**9, log_to_wandb=False,
    )  # fmt: skip
    trainer = Trainer(config, Numbers(problem.batch // SEQUENCES), Lookup(problem, source))  # type: ignore[arg-type]
    sae, given, target = trainer.saes["hook"], problem.start(), f"b_dec/{problem.writes[0]}"
    sae.encoder.weight.data.copy_(given["0/W_enc"])
    assert sae.W_dec is not None
    sae.W_dec.data.copy_(given["0/W_dec"])

    def weights() -> Mapping[str, Tensor]:
        own = {
            "0/W_enc": sae.encoder.weight,
            "0/W_dec": sae.W_dec,
            "0/b_enc": sae.encoder.bias,
            target: sae.b_dec,
        }
        found = {name: weight.detach() for name, weight in own.items()}
        return found if coder.transcode else centred(found, problem)

    source.weights = weights
    trainer.fit()
