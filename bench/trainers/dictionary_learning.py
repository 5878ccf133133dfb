"""dictionary_learning's side. The loop is its `trainSAE`.

Its best setting here: bf16 autocast around the whole training, which `trainSAE` itself leaves out on a CPU. What
differs: b_dec starts at the geometric median of the first batch. Clipping to norm 1 is undone (`without_clipping`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from dictionary_learning.trainers.top_k import TopKTrainer
from dictionary_learning.training import trainSAE
from torch import Tensor

from bench.trainers.problem import Problem, centred
from bench.trainers.source import Source, without_clipping


def train(problem: Problem, source: Source) -> None:
    without_clipping()
    site = problem.sites[0]

    class Given(TopKTrainer):
        """Their trainer, with the problem's start weights."""

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            given = problem.start()
            self.ae.encoder.weight.data.copy_(given["0/W_enc"])
            self.ae.decoder.weight.data.copy_(given["0/W_dec"].T)
            source.weights = self.weights

        def weights(self) -> Mapping[str, Tensor]:
            own = {
                "0/W_enc": self.ae.encoder.weight, "0/W_dec": self.ae.decoder.weight.T,
                "0/b_enc": self.ae.encoder.bias, f"b_dec/{site}": self.ae.b_dec,
            }  # fmt: skip
            return centred({name: weight.detach() for name, weight in own.items()}, problem)

    def rows() -> Iterator[Tensor]:
        for batch in source:
            yield batch[site]

    steps = 10**9  # never reached: the learning rate stays where it is
    options = dict(
        trainer=Given, activation_dim=problem.width, dict_size=problem.n_features, k=problem.k, lr=problem.rate,
        warmup_steps=0, steps=steps, layer=0, lm_name="bench", device="cpu",
    )  # fmt: skip
    with torch.autocast(
        "cpu", torch.bfloat16, cache_enabled=False, enabled=source.options.get("autocast", True)
    ):
        trainSAE(rows(), [options], steps=steps, device="cpu")
