"""What activations cost: rows a second against the bare forward pass, and a store's gigabytes a second."""

from __future__ import annotations

import shutil
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import _sides
import torch

from thoughtscope.models import Model, pad_left, random_model
from thoughtscope.models.hooks import run
from thoughtscope.training.data import Feed, HarvestStream, Moments, StoreStream, harvest, harvest_to
from thoughtscope.training.data.harvest import encoder, packed_contexts

LAYERS, WIDTH, BATCH = 6, 512, 4096
SITES = ("mlp_in.4", "mlp_out.4", "resid_post.4")
FEED = Feed(context=256, forward_tokens=4096)


def documents(n: int) -> list[list[int]]:
    """Random token ids, 20 to 600 a document."""
    random = torch.Generator().manual_seed(0)
    lengths = torch.randint(20, 600, (n,), generator=random).tolist()
    return [torch.randint(3, 250, (length,), generator=random).tolist() for length in lengths]


def build() -> Model:
    """A Llama of 6 layers and width 512."""
    return random_model(
        "llama", layers=LAYERS, prove_sites=False, hidden_size=WIDTH, num_attention_heads=8, num_key_value_heads=8,
        intermediate_size=4 * WIDTH, max_position_embeddings=512, head_dim=64,
    )  # fmt: skip


def harvesting(model: Model, docs: list[list[int]], rounds: int) -> dict[str, Any]:
    """The bare forward pass over the same batches, stopped after the same block; and rows at three sites of it."""
    packed = list(packed_contexts(encoder(model), enumerate(docs), FEED))
    batches = [pad_left([context.ids.tolist() for context in each.contexts]) for each in packed]
    n_rows = sum(map(len, packed))

    @torch.no_grad()
    def bare() -> None:
        for tokens in batches:
            run(model, tokens.ids, tokens.mask, last_layer=4)

    def rows() -> int:
        return sum(len(found) for found in harvest(model, docs, SITES, FEED))

    seconds, results = _sides.take_turns({"bare forward": bare, "harvest": rows}, rounds=rounds)
    padded = sum(tokens.ids.numel() for tokens in batches)
    return {
        "name": "harvest",
        "case": f"{n_rows:,} rows at {len(SITES)} sites of width {WIDTH}, {LAYERS} layers",
        "seconds": seconds,
        "ratio": seconds["harvest"] / seconds["bare forward"],
        "rounds": rounds,
        "difference": abs(results["harvest"] - n_rows) / n_rows,
        "scale": "the number of rows",
        "notes": [
            *(f"{name}: {n_rows / taken:,.0f} tokens/s" for name, taken in seconds.items()),
            f"{1 - sum(int(tokens.mask.sum()) for tokens in batches) / padded:.1%} of the tokens are padding",
        ],
    }


def storing(model: Model, docs: list[list[int]], folder: Path, rounds: int) -> dict[str, Any]:
    """A store of those rows: how fast it is written beside the harvest, hashed when opened, and read in batches."""
    started = time.perf_counter()
    store = harvest_to(folder / "store", model, docs, SITES, feed=FEED, shard_tokens=8192)
    written = time.perf_counter() - started
    assert store is not None
    size = sum(path.stat().st_size for path in store.path.rglob("*.safetensors")) / 1e9
    stream, steps = StoreStream(store, batch=BATCH), store.n_rows // BATCH

    def check() -> int:
        return len(store.check())

    def read() -> int:
        return sum(len(next(iter(batch.values()))) for batch in islice(stream.batches(), steps))

    seconds, results = _sides.take_turns({"hash": check, "batches": read}, rounds=rounds)
    read_size = size * steps * BATCH / store.n_rows
    return {
        "name": "store",
        "case": f"{size:.2f} GB in {len(store.shards)} shards, batches of {BATCH}",
        "seconds": seconds,
        "ratio": seconds["batches"] / seconds["hash"],
        "rounds": rounds,
        "difference": float(results["hash"]),
        "scale": "damaged files",
        "notes": [
            f"written along with the harvest in {written:.2f} s: {size / written:.3f} GB/s",
            f"hash: {size / seconds['hash']:.2f} GB/s; batches: {read_size / seconds['batches']:.2f} GB/s, "
            f"{steps * BATCH / seconds['batches']:,.0f} rows/s",
        ],
    }


def streaming(model: Model, docs: list[list[int]], rounds: int) -> dict[str, Any]:
    """Batches of a stream against the harvest of as many rows: what the mixing costs."""
    steps = 8

    def mixed() -> int:
        made = HarvestStream(model, docs, SITES, batch=BATCH, feed=FEED, buffer_tokens=12 * BATCH)
        return sum(len(next(iter(batch.values()))) for batch in islice(made.batches(), steps))

    def rows() -> int:
        n_rows = 0
        for found in harvest(model, docs, SITES, FEED):
            n_rows += len(found)
            if n_rows >= (steps + 2) * BATCH:  # half of a piece is held back for the next window
                break
        return n_rows

    seconds, _ = _sides.take_turns({"harvest": rows, "mixed batches": mixed}, rounds=rounds)
    x = torch.randn(65_536, WIDTH).bfloat16()
    started = time.perf_counter()
    Moments.of(x)
    return {
        "name": "stream",
        "case": f"{steps} batches of {BATCH}, a window of 4",
        "seconds": seconds,
        "ratio": seconds["mixed batches"] / seconds["harvest"],
        "rounds": rounds,
        "difference": 0.0,
        "notes": [
            f"moments in float64: {len(x) / (time.perf_counter() - started):,.0f} rows of one site a second"
        ],
    }


def main() -> None:
    """Command line: prints three results."""
    args = _sides.arguments(__doc__ or "", {"documents": {"type": int, "default": 200, "help": "documents"}})
    torch.set_num_threads(args.threads)
    model, docs = build(), documents(args.documents)
    _sides.show(harvesting(model, docs, args.rounds), as_json=args.json)
    _sides.show(streaming(model, docs, args.rounds), as_json=args.json)
    folder = Path(tempfile.mkdtemp(prefix="harvest-"))
    try:
        _sides.show(storing(model, docs, folder, args.rounds), as_json=args.json)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
