"""delphi's child process: `python -m bench.collecting.delphi`, with the interpreter of its own environment.

Its `LatentCache`, the cache's files, then its `LatentDataset` with constructor and sampler for every latent, as its
command runs them before it explains. Its way to choose the same examples: `mix`, a quarter from the strongest and the
rest from 4 quantiles. What costs time and is not wanted is off: no examples for testing, none that do not activate, and
no latent is passed over for having few. Its encoder is its own JumpReLU; the first position is silent as on all sides.
"""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.collecting.clock import Clock, collected
from bench.peer.child import serve

WINDOW = 32
"""Tokens of its examples, by default."""
opened: dict[str, Any] = {}


def open_case(folder: str, threads: int, rows: int | None = None) -> dict[str, Any]:
    """Loads a case's files; nothing of this is measured."""
    import numpy as np
    import torch
    from delphi.sparse_coders.custom.gemmascope import JumpReluSae
    from transformers import AutoModel, AutoTokenizer

    torch.set_num_threads(threads)
    place = Path(folder)
    case = json.loads((place / "case.json").read_text())
    dtype = getattr(torch, case["dtype"])
    module = AutoModel.from_pretrained(place / "model", local_files_only=True, dtype=dtype)
    params = {name: torch.from_numpy(weight) for name, weight in np.load(place / "params.npz").items()}
    sae = JumpReluSae(*params["W_enc"].shape)
    sae.load_state_dict(params)

    def encode(x: Any) -> Any:
        latents = sae.encode(x.float())
        latents[:, 0] = 0
        return latents

    opened.update(
        case=case, module=module.eval(), encode=encode, clocks={"forward": Clock(module)},
        tokenizer=AutoTokenizer.from_pretrained(place / "model", local_files_only=True),
        ids=torch.from_numpy(np.load(place / "ids.npy")[:rows]),
    )  # fmt: skip
    return {"eai-delphi": version("eai-delphi"), "torch": torch.__version__}


def run(save: str | None = None) -> dict[str, Any]:
    """One collection."""
    return collected(
        opened["clocks"], collect, table, lambda records: sum(len(each.train) for each in records), save
    )


def collect() -> list[Any]:
    """A record of every latent that was active."""
    from delphi.config import CacheConfig, ConstructorConfig, SamplerConfig
    from delphi.latents import LatentCache, LatentDataset

    case, ids, tokenizer = opened["case"], opened["ids"], opened["tokenizer"]
    hook = f"layers.{case['site'].rpartition('.')[2]}"
    most = case["top"] + 4 * case["quarter"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = LatentCache(opened["module"], {hook: opened["encode"]}, batch_size=case["batch"])
        cache.run(ids.numel(), ids)
        settings = CacheConfig(batch_size=case["batch"], cache_ctx_len=case["context"], n_tokens=ids.numel())
        cache.save_splits(settings.n_splits, folder)
        cache.save_config(folder, settings, case["model"])
        dataset = LatentDataset(
            folder,
            SamplerConfig(
                n_examples_train=most, n_examples_test=0, n_quantiles=4, train_type="mix",
                ratio_top=case["top"] / most,
            ),
            ConstructorConfig(example_ctx_len=WINDOW, min_examples=1, n_non_activating=0),
            tokenizer=tokenizer,
        )  # fmt: skip
        return list(dataset)


def table(records: list[Any]) -> dict[str, Any]:
    """The strongest examples of every latent. A place is the number of a window."""
    import numpy as np

    windows = opened["ids"].numpy().reshape(-1, WINDOW)
    number_of = {window.tobytes(): number for number, window in enumerate(windows)}
    rows = [
        (record.latent.latent_index, number_of[example.tokens.numpy().tobytes()], example.max_activation)
        for record in sorted(records, key=lambda record: record.latent.latent_index)
        for example in record.train[: opened["case"]["top"]]
    ]
    feature, place, value = zip(*rows, strict=True)
    return {"feature": np.array(feature), "place": np.array(place), "value": np.array(value, float)}


if __name__ == "__main__":
    serve({"open": open_case, "run": run})
