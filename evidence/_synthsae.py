"""Run by SAELens' own Python: its synthetic model, its trainers on rows of that model, and its scores of saved files.

    make    draws the model, and writes what it is, the rows to train on and the rows to score on
    train   trains one dictionary on the rows, and saves it
    score   scores every saved dictionary on the same rows, by the library's own evaluation
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.registry import get_sae_training_class
from sae_lens.saes.sae import SAE
from sae_lens.synthetic import SyntheticModel, SyntheticModelConfig, eval_sae_on_synthetic_data
from sae_lens.training.sae_trainer import SAETrainer

BLOCK = 8192


def make(folder: Path, job: dict[str, Any]) -> None:
    """`model.safetensors` (vectors; scale: what rows are divided by), `rows.f16`, `held_out.safetensors`."""
    model = SyntheticModel(SyntheticModelConfig.from_dict(job["model"]))
    torch.manual_seed(job["model"]["seed"] + 1)
    width = job["model"]["hidden_dim"]
    scale = model.sample(BLOCK).square().mean().sqrt()
    rows = np.memmap(folder / "rows.f16", np.float16, "w+", shape=(job["n_rows"], width))
    for start in range(0, job["n_rows"], BLOCK):
        block = model.sample(min(BLOCK, job["n_rows"] - start)) / scale
        rows[start : start + len(block)] = block.half().numpy()
    rows.flush()
    features = [model.activation_generator.sample(BLOCK) for _ in range(job["n_held_out"] // BLOCK)]
    held = torch.cat([model.feature_dict(each) / scale for each in features])
    which = torch.cat(features).to_sparse().coalesce()
    save_file({"vectors": model.feature_dict.feature_vectors.data.contiguous()}, folder / "model.safetensors")
    save_file(
        {"rows": held, "at": which.indices().contiguous(), "value": which.values()}, folder / "held_out.safetensors"
    )


def train(folder: Path, job: dict[str, Any]) -> None:
    """One dictionary by the library's own trainer."""
    torch.manual_seed(job["seed"])
    kind, config = get_sae_training_class(job["architecture"])
    width, batch = job["width"], job["batch"]
    sae = kind(config.from_dict({"d_in": width, "d_sae": job["n_features"], "device": "cpu", **job["config"]}))
    stored = np.memmap(folder / "rows.f16", np.float16, "r", shape=(job["n_rows"], width))

    def rows() -> Iterator[torch.Tensor]:
        while True:
            for start in range(0, job["n_rows"] - batch + 1, batch):
                yield torch.from_numpy(np.array(stored[start : start + batch])).float()

    steps = job["n_rows"] // batch
    trainer = SAETrainerConfig(
        total_training_samples=steps * batch, train_batch_size_samples=batch, device="cpu", autocast=False,
        lr=job["rate"], lr_end=0.0, lr_scheduler_name="constant", lr_warm_up_steps=steps // 50,
        lr_decay_steps=steps // 2, n_restart_cycles=1, adam_beta1=0.9, adam_beta2=0.999,
        dead_feature_window=200, feature_sampling_window=1000, n_checkpoints=0, checkpoint_path=None,
        save_final_checkpoint=False, logger=LoggingConfig(log_to_wandb=False),
    )  # fmt: skip
    SAETrainer(trainer, sae, rows()).fit()
    sae.save_inference_model(str(folder / job["name"]))


def score(folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    """Figures by name of the dictionary."""
    vectors, held = load_file(folder / "model.safetensors")["vectors"], load_file(folder / "held_out.safetensors")
    size = (len(held["rows"]), len(vectors))
    truth = torch.sparse_coo_tensor(held["at"], held["value"], size).to_dense()
    return {name: scored(SAE.load_from_disk(str(folder / name)), vectors, truth, held["rows"]) for name in job["names"]}


def scored(sae: Any, vectors: torch.Tensor, truth: torch.Tensor, rows: torch.Tensor) -> dict[str, float]:
    """The library's evaluation, which asks a model for samples: here it is given those that there are."""
    blocks = iter(zip(truth.split(BLOCK), rows.split(BLOCK), strict=True))
    now: list[torch.Tensor] = []

    def sample(_: int) -> torch.Tensor:
        features, x = next(blocks)
        now[:] = [x]
        return features

    class Vectors:
        feature_vectors = vectors

        def __call__(self, _: torch.Tensor) -> torch.Tensor:
            return now[0]

    found = eval_sae_on_synthetic_data(
        sae.float(), Vectors(), SimpleNamespace(sample=sample), num_samples=len(rows), batch_size=BLOCK  # type: ignore[arg-type]
    )  # fmt: skip
    return found.to_log_dict()


def main() -> None:
    folder, job = Path(sys.argv[2]), json.loads(sys.stdin.read())
    done = {"make": make, "train": train, "score": score}[sys.argv[1]](folder, job)
    print(json.dumps(done))


if __name__ == "__main__":
    main()
