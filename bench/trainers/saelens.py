"""SAELens' child process: `python -m bench.trainers.saelens`. The loop is its `SAETrainer.fit`.

Its best setting here: bf16 autocast, and no `rescale_acts_by_decoder_norm`, which costs a pass over all activations
and, with decoders that start at norm 1, ranks the same. `torch.compile` gains nothing on a CPU, and sparse activations
cannot go backward there. What differs: decoders are free. Clipping to norm 1 is undone (`without_clipping`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

from bench.trainers.problem import Problem, centred
from bench.trainers.source import Source, without_clipping


def train(problem: Problem, source: Source) -> None:
    without_clipping()
    sae = TopKTrainingSAE(
        TopKTrainingSAEConfig(
            d_in=problem.width, d_sae=problem.n_features, k=problem.k, apply_b_dec_to_input=True,
            rescale_acts_by_decoder_norm=False, dtype="float32", device="cpu",
        )
    )  # fmt: skip
    site, given = problem.sites[0], problem.start()
    sae.W_enc.data.copy_(given["0/W_enc"].T)
    sae.W_dec.data.copy_(given["0/W_dec"])
    sae.b_enc.data.copy_(given["0/b_enc"])
    sae.b_dec.data.copy_(given[f"b_dec/{site}"])
    config = SAETrainerConfig(
        total_training_samples=10**12, train_batch_size_samples=problem.batch, device="cpu", autocast=True,
        lr=problem.rate, lr_end=problem.rate, lr_scheduler_name="constant", lr_warm_up_steps=0,
        lr_decay_steps=0, n_restart_cycles=1, adam_beta1=0.9, adam_beta2=0.999,
        dead_feature_window=1000, feature_sampling_window=2000,
        n_checkpoints=0, checkpoint_path=None, save_final_checkpoint=False,
        logger=LoggingConfig(log_to_wandb=False),
    )  # fmt: skip

    def weights() -> Mapping[str, Tensor]:
        own = {"0/W_enc": sae.W_enc.T, "0/W_dec": sae.W_dec, "0/b_enc": sae.b_enc, f"b_dec/{site}": sae.b_dec}
        return centred({name: weight.detach() for name, weight in own.items()}, problem)

    def rows() -> Iterator[Tensor]:
        for batch in source:
            yield batch[site]

    source.weights = weights
    SAETrainer(config, sae, rows()).fit()
