"""Where a training's figures go: JSON lines in its folder, the caller's progress bar, and trackers where installed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.files import atomic_write_text, read_file, writing
from thoughtscope.core.progress import Progress
from thoughtscope.core.registry import Registry
from thoughtscope.training.recipe import Recipe

METRICS = "metrics.jsonl"
LARGEST = 64 * 2**20
"""Bytes of the largest that is read."""
LINES = 400
"""About how many lines a whole training writes."""


@runtime_checkable
class Tracker(Protocol):
    """One experiment tracker, opened for one run."""

    def log(self, figures: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


TRACKERS: Registry[Callable[[str, Recipe, Path | None], Tracker]] = Registry(
    "tracker", ThoughtscopeError, group="thoughtscope.trackers"
)
"""By name: a function of the run's name, recipe and folder. Each needs its own package, which we do not install."""


class Log:
    """Takes the figures of every step; writes some of them down."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        name: str,
        folder: Path | None,
        progress: Progress,
        trackers: Iterable[str] = (),
        start: int = 0,
    ) -> None:
        self.recipe, self.progress = recipe, progress
        self.path = None if folder is None else folder / METRICS
        self.every = max(1, recipe.schedule.n_steps // LINES)
        self.trackers = [TRACKERS[tracker](name, recipe, folder) for tracker in trackers]
        self.gigabytes = 0.0
        self._clock, self._tokens = time.monotonic(), 0
        if self.path is not None and self.path.exists():
            _keep_until(self.path, start)

    def write(
        self, step: int, figures: Mapping[str, float], *, n_tokens: int, n_bytes: int, seconds: float
    ) -> None:
        """Takes the figures of one finished step, counted from 1."""
        self._tokens += n_tokens
        self.gigabytes += n_bytes / 1e9
        elapsed = time.monotonic() - self._clock
        shown = dict(figures) | {
            "tokens_per_second": round(self._tokens / max(elapsed, 1e-9), 1),
            "gigabytes": round(self.gigabytes, 4),
        }
        n_steps = self.recipe.schedule.n_steps
        if step % self.every == 0 or step >= n_steps:
            self._keep(step, n_steps, seconds, shown)
        told = {name: float(figure) for name, figure in shown.items()}
        self.progress(
            "train", step, n_steps, **told
        )  # last: what it raises stops the training after this step

    def _keep(self, step: int, n_steps: int, seconds: float, shown: Mapping[str, float]) -> None:
        line = {"step": step, "n_steps": n_steps, "tokens": step * self.recipe.schedule.batch,
                "seconds": round(seconds, 3), **shown}  # fmt: skip
        if self.path is not None:
            with writing(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
        for tracker in self.trackers:
            tracker.log(shown, step)

    def close(self) -> None:
        """Ends the trackers' runs."""
        for tracker in self.trackers:
            tracker.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a training's `metrics.jsonl`; a line that a kill cut short is left out.

    Raises `CorruptArtefact` for what is no regular file, `LimitExceeded` for one of more than 64 MiB.
    """
    found = []
    for line in read_file(folder / METRICS, limit=LARGEST).splitlines():
        try:
            read = json.loads(line)
        except ValueError:
            continue
        found += [read] if isinstance(read, dict) else []
    return found


def find_runs(folders: Iterable[Path]) -> dict[str, Path]:
    """The trainings' folders among `folders` and in them, each by a name that tells it from the others."""
    found: list[Path] = []
    for folder in folders:
        inside = [path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{METRICS}")]
        found += [folder] if (folder / METRICS).is_file() else sorted(inside)
    found = list(dict.fromkeys(found))
    names = [folder.resolve().name for folder in found]
    return {
        name if names.count(name) == 1 else str(folder): folder
        for name, folder in zip(names, found, strict=True)
    }


def _keep_until(path: Path, step: int) -> None:
    """Takes back what was written after the checkpoint from which a run goes on: those steps are made again."""
    kept = [line for line in read_metrics(path.parent) if line.get("step", 0) <= step]
    atomic_write_text(path, "".join(json.dumps(line) + "\n" for line in kept))


# --- trackers, each of a package that may be there -----------------------------------------------------------------


def _missing(name: str, package: str) -> ThoughtscopeError:
    return ThoughtscopeError(f"Tracking with {name} needs its package: pip install {package}.")


class _Runs:
    """A tracker with wandb's interface, which trackio has too."""

    def __init__(self, module: Any, name: str, recipe: Recipe) -> None:
        self._module = module
        module.init(project="thoughtscope", name=name, config=recipe.model_dump(mode="json"))

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._module.log(dict(figures), step=step)

    def close(self) -> None:
        self._module.finish()


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise _missing("TensorBoard", "tensorboard") from None
        self._writer = SummaryWriter(str(folder))

    def log(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


@TRACKERS.register("trackio")
def _trackio(name: str, recipe: Recipe, folder: Path | None) -> Tracker:
    try:
        import trackio
    except ImportError:
        raise _missing("trackio", "trackio") from None
    return _Runs(trackio, name, recipe)


@TRACKERS.register("wandb")
def _wandb(name: str, recipe: Recipe, folder: Path | None) -> Tracker:
    try:
        import wandb
    except ImportError:
        raise _missing("Weights & Biases", "wandb") from None
    return _Runs(wandb, name, recipe)


@TRACKERS.register("tensorboard")
def _tensorboard(name: str, recipe: Recipe, folder: Path | None) -> Tracker:
    return _TensorBoard((folder or Path("runs")) / "tensorboard")
