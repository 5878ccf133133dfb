"""SAELens' synthetic benchmark: our dictionaries beside the library's own, on features that are known.

The library's own code draws the model, makes the rows, and scores what both sides save. Both train on the same rows in
the same order, as many features at the same wanted L0, each at the learning rate that suits it best of those tried.
The model has the distribution of SynthSAEBench-16k at an eighth of its features: correlated, in trees of features that
exclude each other.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _claim import ROOT, Measured, Unavailable, main
from _rows import RowStream

PEER = ROOT / "runs" / "bench" / "sae-lens" / "bin" / "python"
SITE = "resid_post.0"
FEATURES, WIDTH, LATENTS, L0 = 2048, 256, 512, 20
ROWS, HELD_OUT, BATCH = 2_000_000, 24_576, 1024
RATES = (1e-3, 3e-3)
MODEL: Mapping[str, Any] = {
    "num_features": FEATURES, "hidden_dim": WIDTH, "bias": 10.0, "dtype": "float32",
    "firing_probability": {"generator_name": "zipfian", "exponent": 0.5, "max_prob": 0.4, "min_prob": 5e-4},
    "mean_firing_magnitudes": {"generator_name": "linear", "start": 5.0, "end": 4.0},
    "std_firing_magnitudes": {"generator_name": "folded_normal", "mean": 0.5, "std": 0.5},
    "hierarchy": {
        "total_root_nodes": 128, "branching_factor": 4, "max_depth": 3, "mutually_exclusive_portion": 1.0,
        "compensate_probabilities": True,
    },
    "correlation": {"rank": 25, "correlation_scale": 0.1},
    "orthogonalization": {"num_steps": 100, "lr": 3e-4},
}  # fmt: skip
KINDS: Mapping[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "TopK": ("sae", {"k": L0}, "topk", {"k": L0}),
    "BatchTopK": ("batchtopk-sae", {"k": L0}, "batchtopk", {"k": L0}),
    "Matryoshka": (
        "matryoshka-sae", {"k": L0},
        "matryoshka_batchtopk", {"k": L0, "matryoshka_widths": [LATENTS // part for part in (16, 8, 4, 2, 1)]},
    ),
    "JumpReLU": (
        "jumprelu-sae", {"l0": L0},
        "jumprelu", {"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": L0, "jumprelu_bandwidth": 0.5},
    ),
}  # fmt: skip
"""By kind: our recipe and what is changed in it; the library's architecture and its settings."""


def measure(seed: int) -> Measured:
    """How much better ours match the true features: the smallest difference of MCC over the kinds."""
    if not PEER.exists():
        raise Unavailable(f"SAELens is not installed; {PEER.relative_to(ROOT)} is missing")
    with tempfile.TemporaryDirectory(dir=ROOT / "runs") as name:
        folder = Path(name)
        told("make", folder, {"model": {**MODEL, "seed": seed}, "n_rows": ROWS, "n_held_out": HELD_OUT})
        seconds = {
            saved(kind, side, rate): trained(folder, kind, side, rate, seed)
            for kind in KINDS for side in ("ours", "SAELens") for rate in RATES
        }  # fmt: skip
        figures = told("score", folder, {"names": list(seconds)})
        apart = max(disagreement(folder, name, found) for name, found in figures.items())
    details: dict[str, Any] = {
        "kinds": {},
        "model": dict(MODEL),
        "rows": ROWS,
        "held_out": HELD_OUT,
        "latents": LATENTS,
    }
    for kind in KINDS:
        details["kinds"][kind] = {
            side: best(
                {rate: (figures[saved(kind, side, rate)], seconds[saved(kind, side, rate)]) for rate in RATES}
            )
            for side in ("ours", "SAELens")
        }
    gains = [sides["ours"]["mcc"] - sides["SAELens"]["mcc"] for sides in details["kinds"].values()]
    details["our_scores_differ_by"] = float(f"{apart:.2g}")
    return Measured(value=round(min(gains), 4), n=len(gains), details=details)


def saved(kind: str, side: str, rate: float) -> str:
    return f"{side} {kind} {rate:g}"


def best(tried: Mapping[float, tuple[Mapping[str, Any], float]]) -> dict[str, Any]:
    """The rate whose dictionary explains most of the held-out rows, and its figures, rounded."""
    rate, (found, seconds) = max(tried.items(), key=lambda each: each[1][0]["explained_variance"])
    kept = {name.rpartition("/")[2]: round(value, 4) for name, value in found.items()}
    return {"learning_rate": rate, **kept, "seconds": round(seconds)}


def told(what: str, folder: Path, job: Mapping[str, Any]) -> Any:
    """What SAELens' own process answers."""
    script = Path(__file__).with_name("_synthsae.py")
    done = subprocess.run(
        [str(PEER), str(script), what, str(folder)], input=json.dumps(job), capture_output=True, text=True
    )
    if done.returncode:
        raise Unavailable(f"SAELens failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def trained(folder: Path, kind: str, side: str, rate: float, seed: int) -> float:
    """Trains and saves one dictionary in SAELens' layout; its seconds."""
    print(f"{side} {kind} {rate:g} …", file=sys.stderr, flush=True)
    recipe, ours, architecture, theirs = KINDS[kind]
    started = time.monotonic()
    if side == "ours":
        _ours(folder, recipe, ours, saved(kind, side, rate), rate, seed)
    else:
        told("train", folder, {
            "architecture": architecture, "config": theirs, "width": WIDTH, "n_features": LATENTS, "n_rows": ROWS,
            "batch": BATCH, "rate": rate, "seed": seed, "name": saved(kind, side, rate),
        })  # fmt: skip
    return time.monotonic() - started


def _ours(folder: Path, name: str, changes: Mapping[str, Any], to: str, rate: float, seed: int) -> None:
    from thoughtscope.dictionaries import save_dictionary
    from thoughtscope.training import train
    from thoughtscope.training.recipes import RECIPES
    from thoughtscope.training.run import finished

    schedule = {"schedule.n_tokens": ROWS, "schedule.batch": BATCH, "schedule.learning_rate": rate}
    recipe = RECIPES[name](SITE, n_features=LATENTS, **changes, **schedule).replaced({"seed": seed})
    dictionary = finished(train(rows_of(folder), recipe), name=f"synthetic/{name}", model_name="synthetic")
    save_dictionary(dictionary, folder / to, format="sae-lens")


def rows_of(folder: Path) -> RowStream:
    """The stored rows in their order."""
    import numpy as np
    import torch

    stored = np.memmap(folder / "rows.f16", np.float16, "r", shape=(ROWS, WIDTH))

    def taken(first: int, count: int) -> Any:
        return torch.from_numpy(np.array(stored[first : first + count])).float()

    return RowStream(site=SITE, first=taken(0, 32 * BATCH), batch=lambda step: taken(step * BATCH, BATCH))


def disagreement(folder: Path, name: str, theirs: Mapping[str, float]) -> float:
    """The largest difference of our scores of a saved dictionary from the library's."""
    from types import SimpleNamespace

    import torch
    from safetensors.torch import load_file

    from thoughtscope.dictionaries import load_dictionary
    from thoughtscope.evaluation import score_recovery

    held = load_file(folder / "held_out.safetensors")
    vectors = load_file(folder / "model.safetensors")["vectors"]
    truth = torch.zeros(HELD_OUT, FEATURES)
    truth[tuple(held["at"])] = held["value"]
    taken = iter(zip(held["rows"].split(4096), truth.split(4096), strict=True))
    known: Any = SimpleNamespace(vectors=vectors, batch=lambda step, rows: next(taken))
    ours = score_recovery(known, load_dictionary(folder / name), n_rows=HELD_OUT)
    pairs = [
        (ours.mcc, theirs["mcc"]), (ours.uniqueness, theirs["uniqueness"]),
        (1 - ours.fvu, theirs["explained_variance"]),
        (ours.precision, theirs["classification/precision"]), (ours.recall, theirs["classification/recall"]),
        (ours.f1, theirs["classification/f1_score"]), (ours.accuracy, theirs["classification/accuracy"]),
        (ours.l0 / LATENTS, theirs["sae_l0"] / LATENTS), (ours.dead, theirs["dead_latents"] / LATENTS),
    ]  # fmt: skip
    return max(abs(mine - value) for mine, value in pairs)


if __name__ == "__main__":
    main(
        measure,
        claim="On SAELens' synthetic benchmark at an eighth of its features, trained on the same rows at the same "
        "wanted L0 and scored by SAELens' own code: how much closer our dictionaries come to the true features than "
        "SAELens' (difference of MCC, smallest over TopK, BatchTopK, Matryoshka and JumpReLU).",
    )
