"""A training that is killed and started again ends in the same weights, to the bit.

A small autoencoder is trained on rows that a model makes meanwhile; its process gets `kill -9` at random moments of the
run and is started anew. Compared is everything that the last checkpoint holds: weights, Adam's moments, how long each
feature is silent. Beside it: a flipped byte in every file of a checkpoint and of a store of activations, and what two
processes train against one (`_ranks.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from _claim import ROOT, Measured, main
from _hammering import fork, kill
from _ranks import STEPS, Until, documents, stream, trainings

MOMENTS = 20
FLIPS = 3
"""Bytes of each file that are flipped, one after the other."""


def measure(seed: int) -> Measured:
    """The share of killed and continued runs that end bit-equal."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        equal, kills = killed_and_resumed(folder / "kills", MOMENTS, seed)
        forgetful = resumed_without_moments(folder / "control", MOMENTS // 4, seed)
        named = {
            "files of a checkpoint": flipped(*a_checkpoint(folder / "checkpoint"), seed),
            "files of a store": flipped(*a_store(folder / "store"), seed),
        }
        ranks = with_ranks(folder / "ranks", 2)
    return Measured(
        value=sum(equal) / len(equal),
        n=len(equal),
        control=sum(forgetful) / len(forgetful),
        details={
            "kills": kills,
            "control": "the same, resumed with Adam's moments forgotten",
            "control n": len(forgetful),
            "flipped bytes that were named": named,
            "two processes against one, largest difference of a loss": ranks,
        },
    )


# --- kills ---------------------------------------------------------------------------------------------------------


def train_in(folder: Path, *, stop: int | None = None) -> None:
    """The training: from the start, or from where it was killed."""
    from _ranks import Stopped

    from thoughtscope.models import random_model
    from thoughtscope.training import train
    from thoughtscope.training.ranks import Ranks

    recipe = trainings()["TopK autoencoder"]
    rows = stream(random_model("llama"), recipe.sites, Ranks())
    try:
        train(Until(rows, stop) if stop else rows, recipe, folder=folder, ranks=Ranks())
    except Stopped:
        pass


def killed_and_resumed(folder: Path, n: int, seed: int) -> tuple[list[bool], dict[str, Any]]:
    """For `n` moments of a run, whether the killed and continued one ends as one that was not; what the kills met."""
    draw = random.Random(seed)
    started = time.monotonic()
    end(fork(lambda: train_in(folder / "whole")))
    step = (time.monotonic() - started) / STEPS
    wanted, equal, steps = content(folder / "whole"), [], []
    for number in range(n):
        home = folder / str(number)
        child = fork(lambda home=home: train_in(home))
        # Sooner or later in the run, also on a machine that is busy with other things; then somewhere in a step.
        wait_for(home, draw.randrange(STEPS - 1))
        time.sleep(draw.uniform(0, step))
        kill(child)
        steps.append(step_of(home))
        end(fork(lambda home=home: train_in(home)))
        equal.append(content(home) == wanted)
        print(f"killed with step {steps[-1]} saved: {'equal' if equal[-1] else 'differs'}", file=sys.stderr)
    met = {"before the first checkpoint": steps.count(0), "steps that were saved": sorted(steps)}
    return equal, met


def resumed_without_moments(folder: Path, n: int, seed: int) -> list[bool]:
    """The same from `n` steps, but that the optimiser starts anew: none should be equal."""
    from thoughtscope.training.checkpoint import load_state, save_state

    draw = random.Random(seed)
    train_in(folder / "whole")
    wanted, equal = content(folder / "whole"), []
    last = trainings()["TopK autoencoder"].schedule.n_steps
    for number in range(n):
        home = folder / str(number)
        train_in(home, stop=draw.randrange(2, last - 1))
        state = load_state(home / "state")
        assert state is not None
        for held in (state.adam.mean, state.adam.square):
            for moment in held.values():
                moment.zero_()
        save_state(state, home / "state")
        train_in(home)
        equal.append(content(home) == wanted)
    return equal


def content(folder: Path) -> str:
    """A hash of all tensors of a finished training's state; different from all others where it is not finished."""
    from thoughtscope.training.checkpoint import load_state

    state = load_state(folder / "state")
    if state is None or state.step < state.recipe.schedule.n_steps:
        return f"unfinished: {folder}"
    digest = hashlib.sha256()
    idle = {part.name: part.idle for part in state.parts}
    for held in (state.weights, state.adam.mean, state.adam.square, idle):
        for name in sorted(held):
            digest.update(name.encode() + held[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def step_of(folder: Path) -> int:
    """The step of the checkpoint in a run's folder; 0 where there is none."""
    try:
        return int(json.loads((folder / "state" / "manifest.json").read_text())["meta"]["step"])
    except FileNotFoundError:
        return 0


def wait_for(folder: Path, step: int) -> None:
    """Returns when a checkpoint of this step or a later one is there."""
    while step_of(folder) < step:
        time.sleep(0.002)


def end(child: int) -> None:
    """Waits for a child's end."""
    os.waitpid(child, 0)


# --- flipped bytes -------------------------------------------------------------------------------------------------


def a_checkpoint(folder: Path) -> tuple[Path, Any]:
    """A checkpoint, and what reads all of it."""
    from thoughtscope.training.checkpoint import load_state

    train_in(folder, stop=2)
    return folder / "state", lambda: load_state(folder / "state")


def a_store(folder: Path) -> tuple[Path, Any]:
    """A store of activations, and what reads all of it: batches, and then the rest."""
    from thoughtscope.core.errors import CorruptArtefact
    from thoughtscope.models import random_model
    from thoughtscope.training.data import Feed, harvest_to, load_store

    feed = Feed(context=16, forward_tokens=128)
    sites = ("resid_post.0", "mlp_out.1")
    harvest_to(
        folder, random_model("llama"), documents(), sites, n_tokens=600, feed=feed, shard_tokens=200, lanes=2
    )

    def read() -> None:
        problems = load_store(folder).check()
        if problems:
            raise CorruptArtefact("; ".join(f"{each.file}: {each.why}" for each in problems))

    return folder, read


def flipped(folder: Path, read: Any, seed: int) -> Mapping[str, int]:
    """Of all files, a byte flipped at random places: how often, and how often reading then named the file."""
    from thoughtscope.core.errors import ThoughtscopeError

    draw, tried, named = random.Random(seed), 0, 0
    read()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        sound = path.read_bytes()
        for at in places(len(sound), draw):
            damaged = bytearray(sound)
            damaged[at] ^= 1 << draw.randrange(8)
            path.write_bytes(damaged)
            tried += 1
            try:
                read()
                print(f"{path.name}: byte {at} flipped, and nothing said", file=sys.stderr)
            except ThoughtscopeError as error:
                named += path.name in str(error)
        path.write_bytes(sound)
    read()
    return {"flipped": tried, "named": named}


def places(size: int, draw: random.Random) -> Iterator[int]:
    """The first byte, the last and one between."""
    yield from (0, size - 1, draw.randrange(size))[:FLIPS]


# --- processes together --------------------------------------------------------------------------------------------


def with_ranks(folder: Path, n: int) -> Mapping[str, Any]:
    """What `n` processes find of trainings by one and by all of them, and of checkpoints that the others go on with."""
    folder.mkdir(parents=True)
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(n)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT))), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [*program, str(Path(__file__).with_name("_ranks.py")), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"torchrun ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return json.loads((folder / "found.json").read_text())


if __name__ == "__main__":
    main(
        measure,
        claim="Trainings that are killed at random moments (kill -9), started again, and end in the same weights and "
        "optimiser state, bit for bit.",
    )
