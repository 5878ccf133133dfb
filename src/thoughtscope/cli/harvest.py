"""`thoughtscope harvest`: a model's activations at some sites, as a store that trainings read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thoughtscope.cli.console import emit, printable, progress_lines, warn
from thoughtscope.cli.options import Device, DType, Json
from thoughtscope.cli.training import SOURCES, command, opened
from thoughtscope.core.errors import ThoughtscopeError


def harvest(
    model: Annotated[str, typer.Argument(help="A Hugging Face causal LM by name or path, or the specimen.")],
    data: Annotated[str, typer.Option("--data", help=f"Documents: {SOURCES}.")],
    sites: Annotated[
        list[str], typer.Option(help="resid_post.3; several with commas; resid_post alone for every layer's.")
    ],
    out: Annotated[Path, typer.Option(help="The store's folder; one that was stopped goes on there.")],
    n_tokens: Annotated[
        int | None, typer.Option(min=1, help="Rows to write (default: all documents once).")
    ] = None,
    context: Annotated[int, typer.Option(min=2, help="Tokens that the model sees at once.")] = 128,
    rows: Annotated[str, typer.Option(help="Type of the rows: bfloat16, float16, float32.")] = "bfloat16",
    keep_first: Annotated[
        bool, typer.Option("--keep-first", help="Also keep the first position of each context.")
    ] = False,
    shard_tokens: Annotated[int, typer.Option(min=1, help="Rows of a shard; two are in memory.")] = 65_536,
    seed: Annotated[int, typer.Option(help="Of the order within shards.")] = 0,
    device: Device = None,
    dtype: DType = None,
    as_json: Json = False,
) -> None:
    """Writes the store; shards that are there already are passed over."""
    import torch

    from thoughtscope.training.data import Feed, harvest_to
    from thoughtscope.training.naming import spread

    if rows not in ("bfloat16", "float16", "float32"):
        raise ThoughtscopeError(f'--rows is bfloat16, float16 or float32; got "{rows}".')
    again = command(
        "harvest", model, data=data, sites=sites, out=out, n_tokens=n_tokens, context=context, rows=rows,
        keep_first=keep_first, shard_tokens=shard_tokens, seed=seed, device=device, dtype=dtype,
    )  # fmt: skip
    loaded = opened(model, device, dtype)
    assert loaded is not None
    feed = Feed(
        context=context,
        forward_tokens=max(4096, context),
        skip_first=not keep_first,
        dtype=getattr(torch, rows),
    )
    try:
        with progress_lines(quiet=as_json) as progress:
            store = harvest_to(
                out, loaded, data, spread(sites, loaded.n_layers), n_tokens=n_tokens, feed=feed,
                shard_tokens=shard_tokens, seed=seed, progress=progress,
            )  # fmt: skip
    except KeyboardInterrupt:
        if not as_json:
            print(f"Stopped; the shards that were written stay.\n\nGo on with:\n  {again}", flush=True)
        raise
    assert store is not None  # one process closes the store itself
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    if n_tokens is not None and store.n_rows < n_tokens:
        warn(
            [f"The documents gave {store.n_rows:,} of {n_tokens:,} rows. Give more of them."], as_json=as_json
        )
    following = command("train", "sae", store=out, sites=str(store.sites[0]), out=out.with_name("trained"))
    if as_json:
        found = {str(site): number for site, number in store.outliers.items()}
        emit({"store": str(out), "rows": store.n_rows, "shards": len(store.shards), "bytes": size,
              "sites": [str(site) for site in store.sites], "outliers": found, "next": following})  # fmt: skip
        return
    print(
        f"{store.n_rows:,} rows at {', '.join(map(str, store.sites))}: {len(store.shards)} shards, {size / 1e9:.2f} GB"
    )
    for site, number in store.outliers.items():
        if number:
            print(f"{number:,} rows at {site} are outliers: more than 10 times the median norm")
    print(f"Written: {printable(str(out))}\n\nNext:\n  {following}")
