"""What `training_resume` runs under torchrun: trainings by one process and by all, restores, and a sharded model.

torchrun --standalone --nproc_per_node 2 evidence/_ranks.py FOLDER     writes FOLDER/found.json
... evidence/_ranks.py FOLDER forever                                  trains until it is killed
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import _claim  # noqa: F401  (the paths of the checkout)

STEPS, BATCH = 24, 64
HALF = STEPS // 2


class Stopped(Exception):
    """What a training meets instead of its next batch."""


class Until:
    """A stream that breaks off at a step, as if the process had been killed there."""

    def __init__(self, stream: Any, stop: int) -> None:
        self.sites, self.widths, self.share = stream.sites, stream.widths, stream.share
        self._stream, self._stop = stream, stop

    @property
    def moments(self) -> Any:
        return self._stream.moments

    def batches(self, start: int = 0) -> Iterator[Any]:
        yield from islice(self._stream.batches(start), self._stop - start)
        raise Stopped


def trainings(**changes: Any) -> dict[str, Any]:
    """One recipe of each way in which features compete; in float32, where equal scores are rare."""
    from thoughtscope.training import recipes

    plan = {
        "n_features": 96, "precision": "float32", "schedule.n_tokens": STEPS * BATCH, "schedule.batch": BATCH,
        "schedule.dead_after": 4 * BATCH, "checkpoint_minutes": 1e-9, "data.context": 16,
    } | changes  # fmt: skip
    return {
        "TopK autoencoder": recipes.sae("resid_post.0", k=4, **plan),
        "BatchTopK cross-layer transcoder": recipes.clt(2, k=4, **plan),
        "JumpReLU autoencoder": recipes.jumprelu_sae("resid_post.1", l0=6, **plan),
    }


def documents(n: int = 150) -> list[list[int]]:
    """Texts of random tokens, of very different lengths."""
    import torch

    random = torch.Generator().manual_seed(5)
    lengths = torch.randint(2, 60, (n,), generator=random).tolist()
    return [torch.randint(3, 250, (length,), generator=random).tolist() for length in lengths]


def stream(model: Any, sites: Any, ranks: Any, seed: int = 0) -> Any:
    """Batches from a model, of which each rank harvests its share."""
    from thoughtscope.training.data import Feed, HarvestStream, Share

    share = Share(rank=ranks.rank, world=ranks.world)
    feed = Feed(context=16, forward_tokens=128)
    return HarvestStream(
        model, documents(), sites, batch=BATCH, feed=feed, buffer_tokens=12 * BATCH, seed=seed, share=share
    )


def losses(model: Any, recipe: Any, ranks: Any, folder: Path | None = None, stop: int | None = None) -> Any:
    """The loss of every step that this training makes, as the first rank hears it."""
    from thoughtscope.training import train

    heard: dict[int, float] = {}

    def progress(stage: str, done: int, total: int | None, **figures: float) -> None:
        heard[done] = figures["loss"]

    rows = stream(model, recipe.sites, ranks)
    try:
        train(Until(rows, stop) if stop else rows, recipe, folder=folder, progress=progress, ranks=ranks)
    except Stopped:
        pass
    return heard


def compared(model: Any, recipe: Any, ranks: Any, folder: Path) -> dict[str, Any]:
    """The largest differences from the losses of one process that was never interrupted."""
    from thoughtscope.training.ranks import Ranks

    alone = losses(model, recipe, Ranks())
    found = {f"{ranks.world} ranks": losses(model, recipe, ranks)}
    one, many = folder / "one", folder / "many"
    if ranks.first:
        losses(model, recipe, Ranks(), one, stop=HALF)
    ranks.told("one process has saved")
    found[f"1 to {ranks.world}"] = losses(model, recipe, ranks, one)
    losses(model, recipe, ranks, many, stop=HALF)
    ranks.told("all have saved")
    if ranks.first:
        found[f"{ranks.world} to 1"] = losses(model, recipe, Ranks(), many)
    ranks.told("and one has gone on")
    return {name: worst(heard, alone) for name, heard in found.items()} | {
        "steps": {name: sorted(heard) for name, heard in found.items()},
        "first and last loss": [alone[1], alone[STEPS]],
    }


def worst(heard: dict[int, float], wanted: dict[int, float]) -> float | None:
    """The largest difference; None where nothing was heard."""
    return max((abs(heard[step] - wanted[step]) for step in heard), default=None)


def sharded_rows(ranks: Any) -> bool:
    """Whether a model whose weights are spread over the ranks gives the rows of the whole one, to the bit."""
    import torch

    from thoughtscope.models import random_model, shard_model

    same = True
    for family in ("llama", "gpt2"):
        whole = random_model(family)
        wanted = list(islice(stream(whole, ("resid_post.0", "z.1"), ranks).batches(), 12))
        spread = shard_model(random_model(family))
        found = list(islice(stream(spread, ("resid_post.0", "z.1"), ranks).batches(), 12))
        same = same and len(found) == 12 and all(
            torch.equal(a[site], b[site]) for a, b in zip(wanted, found, strict=True) for site in a
        )  # fmt: skip
    return not ranks.any(not same)


def main(folder: Path, *, forever: bool) -> None:
    import torch

    from thoughtscope.models import random_model
    from thoughtscope.training import train
    from thoughtscope.training.ranks import Ranks, ranks_here

    torch.set_num_threads(1)
    ranks, model = ranks_here(), random_model("llama")
    if forever:
        recipe = trainings(**{"schedule.n_tokens": 10**9})["TopK autoencoder"]
        train(
            stream(model, recipe.sites, ranks),
            recipe,
            ranks=ranks,
            progress=lambda *said, **_: print(said[1], flush=True),
        )
    found: dict[str, Any] = {"ranks": ranks.world, "sharded model": sharded_rows(ranks)}
    for name, recipe in trainings().items():
        found[name] = compared(model, recipe, ranks, folder / name)
    low = trainings(precision="bfloat16")["TopK autoencoder"]
    found["TopK autoencoder, products in bfloat16"] = worst(
        losses(model, low, ranks), losses(model, low, Ranks())
    )
    if ranks.first:
        (folder / "found.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), forever="forever" in sys.argv)
