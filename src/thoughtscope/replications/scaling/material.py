"""What the autoencoders are trained and judged on: the specimen's own samples, and its residual stream on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtscope.core.progress import Progress, silent
from thoughtscope.core.site import Site
from thoughtscope.models import Model, Tokens, load_model, tokenize
from thoughtscope.models.tokens import heard
from thoughtscope.training.data import Feed, Store, StoreStream, Stream, harvest_to
from thoughtscope.training.data.samples import Sampling, samples

SITE = "resid_post.2"
"""The middle of the specimen's six blocks."""
LONGEST = 48
"""Tokens of a sample."""
TOGETHER = 1024
BATCH = 128


@dataclass(frozen=True, kw_only=True)
class Material:
    """The model, what autoencoders are trained on, and held-out rows with their tokens."""

    model: Model
    stream: Callable[[int], Stream]
    """Batches to train on, in the order of a seed."""
    counts: Int[Tensor, " vocab"]
    """How often each token is among them."""
    rows: Float[Tensor, "row width"]
    token: Int[Tensor, " row"]

    @property
    def site(self) -> Site:
        return Site.parse(SITE)


@contextmanager
def specimen_material(documents: int, held_out: int, progress: Progress = silent) -> Iterator[Material]:
    """Samples of two seeds, so many documents each; the store is there until the context is left."""
    model = load_model("specimen", device="cpu")
    with TemporaryDirectory(prefix="thoughtscope-scaling-") as folder:
        store, other = (
            _harvested(Path(folder) / name, model, n, seed, progress)
            for name, n, seed in (("store", documents, 0), ("held out", held_out, 1))
        )
        token = _tokens(store)
        yield Material(
            model=model,
            stream=partial(_stream, store),
            counts=torch.bincount(token, minlength=model.vocab_size),
            rows=torch.cat([other.rows(shard, Site.parse(SITE)).float() for shard in other.shards]),
            token=_tokens(other),
        )


def _harvested(folder: Path, model: Model, documents: int, seed: int, progress: Progress) -> Store:
    written = []
    for document in samples(
        model, Sampling(tokens=LONGEST, seed=seed, n=documents, together=min(TOGETHER, documents))
    ):
        written.append(document)
        progress("sample", len(written), documents)
    store = harvest_to(folder, model, written, [SITE], feed=Feed(context=LONGEST), seed=seed)
    assert store is not None  # one process writes all of it
    return store


def _stream(store: Store, seed: int) -> Stream:
    return StoreStream(store, batch=BATCH, seed=seed)


def _tokens(store: Store) -> Int[Tensor, " row"]:
    return torch.cat([store.tokens(shard)["token"] for shard in store.shards]).long()


def read(model: Model, texts: str | Sequence[str]) -> Tokens:
    """Texts as the tokenizer takes them by itself, whether or not it begins them with a token of its own."""
    with heard():
        return tokenize(model, texts)
