"""One server's state: the microscope, which only one thread ever uses, and the work folder."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, TypeVar

import thoughtscope
from thoughtscope.core.errors import NoModel, Problem
from thoughtscope.microscope import Microscope, Prompt, WorkFolder, heard, keep, tokens_of, trace
from thoughtscope.server.errors import Busy, Stopped

T = TypeVar("T")
MAX_WAITING = 32
MAX_ANSWERS = 8
"""Answers that are drawn side by side; each keeps the keys and values of its tokens in memory."""

EXAMPLE_PROMPTS = (
    "Fact: the capital of the state containing Dallas is",
    "Fact: the capital of the state containing Oakland is",
    'The opposite of "small" is "',
    'Le contraire de "petit" est "',
    "calc: 36+59=",
)


class Session:
    """Runs verbs on the model one after the other, in one worker thread, so that no request sees another's edits.

    `load` is called once, in that thread, at once: the server answers while the model still loads. None serves graph
    files only. What people call features is kept in `folder`, whatever labels the microscope came with.
    """

    def __init__(
        self,
        load: Callable[[], Microscope] | None,
        *,
        folder: WorkFolder,
        example_prompts: Sequence[str] = EXAMPLE_PROMPTS,
    ) -> None:
        self.folder = folder
        self.example_prompts = tuple(example_prompts)
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._waiting = threading.Semaphore(MAX_WAITING)
        self._answers = threading.Semaphore(MAX_ANSWERS)
        self._closed = threading.Event()
        self._pending: dict[str, Future[str]] = {}
        self.loading: Future[Microscope] | None = (
            None if load is None else self._pool.submit(self._opened, load)
        )

    def _opened(self, load: Callable[[], Microscope]) -> Microscope:
        microscope = load()
        self.folder.labels_of(
            microscope.dictionary.name, microscope.dictionary.scan
        )  # older files move in first
        others = tuple(problem for problem in microscope.problems if problem != microscope.labels.problem)
        return replace(microscope, labels=self.folder.labels, problems=others)

    @property
    def ready(self) -> bool:
        """Whether the model is loaded (or none is needed)."""
        return self.loading is None or (self.loading.done() and self.loading.exception() is None)

    def close(self) -> None:
        """Lets the verb at work stop at its next word of progress, and starts no other."""
        self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def check_open(self) -> None:
        """Raises `Stopped` once the session is closed; verbs call it as they report progress."""
        if self._closed.is_set():
            raise Stopped("The server stopped before this was done.")

    def submit(self, verb: Callable[[Microscope], T]) -> Future[T]:
        """Queues `verb` for the model's thread. Raises `Busy` when too many wait and `NoModel` when there is none."""
        loading = self._require()
        if not self._waiting.acquire(blocking=False):
            raise Busy(f"{MAX_WAITING} requests already wait for the model. Try again in a moment.")
        future = self._pool.submit(lambda: verb(loading.result()))
        future.add_done_callback(lambda _: self._waiting.release())
        return future

    @contextmanager
    def answering(self) -> Iterator[None]:
        """A place among the answers that are drawn side by side. Raises `Busy` where there is none left."""
        if not self._answers.acquire(blocking=False):
            raise Busy(f"{MAX_ANSWERS} answers are being given already. Try again in a moment.")
        try:
            yield
        finally:
            self._answers.release()

    async def run(self, verb: Callable[[Microscope], T]) -> T:
        """`submit`, awaited."""
        return await asyncio.wrap_future(self.submit(verb))

    def trace_at_start(self, prompt: Prompt, slug: str) -> None:
        """Queues a trace behind the loading; a request for the graph `slug` waits for it."""

        def progress(stage: str, done: int, total: int | None, **figures: float) -> None:
            self.check_open()

        def verb(microscope: Microscope) -> str:
            with heard():
                tokens = tokens_of(microscope, prompt)
            return keep(self.folder, trace(microscope, tokens, progress=progress), slug)

        self._pending[slug] = self.submit(verb)

    async def settled(self, slug: str) -> None:
        """Waits until the graph `slug` is no longer being made. Raises what its trace raised."""
        if slug in self._pending:
            await asyncio.shield(asyncio.wrap_future(self._pending[slug]))

    async def microscope(self) -> Microscope:
        """The loaded microscope, for what reads files and does not touch the model."""
        return await asyncio.shield(asyncio.wrap_future(self._require()))

    def _require(self) -> Future[Microscope]:
        if self.loading is None:
            raise NoModel(
                "This server shows graph files only. Start it with --model (and --dictionary) to trace."
            )
        return self.loading

    async def describe(self) -> dict[str, Any]:
        """The answer of GET /api/session."""
        about: dict[str, Any] = {"version": thoughtscope.__version__, "model": None, "dictionary": None}
        problems: list[Problem] = []
        if self.loading is not None:
            opened = await self.microscope()
            about.update(describe_microscope(opened))
            problems += opened.problems
        problems += await asyncio.to_thread(self.folder.problems)
        summaries = await asyncio.to_thread(self.folder.summaries)
        graphs = [
            {key: row[key] for key in ("slug", "prompt", "title", "number", "created")} for row in summaries
        ]
        prompts = list(self.example_prompts) if self.loading is not None else []
        return {
            **about,
            "graphs": graphs,
            "problems": [asdict(problem) for problem in problems],
            "example_prompts": prompts,
        }


def describe_microscope(microscope: Microscope) -> dict[str, Any]:
    """Model and dictionary as the page's header shows them."""
    model, dictionary = microscope.model, microscope.dictionary
    return {
        "model": {
            "name": model.name,
            "n_layers": model.n_layers,
            "d_model": model.d_model,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": str(model.device),
            "max_tokens": microscope.max_tokens,
            "chat": model.has_chat_template,
        },
        "dictionary": {
            "name": dictionary.name,
            "kind": dictionary.kind,
            "n_features": max(part.n_features for part in dictionary.parts),
            "sites": [str(site) for site in dictionary.reads],
            "layers": list(dict.fromkeys(part.layer for part in dictionary.parts)),
            "scores": finite(dictionary.card.declared),
        },
    }


def finite(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Scores as JSON can carry them: what is not a finite number becomes null."""
    number = {key: float(value) for key, value in scores.items() if isinstance(value, (int, float))}
    return {key: value if abs(value) < float("inf") else None for key, value in number.items()}
