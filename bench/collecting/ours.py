"""thoughtscope's child process: `python -m bench.collecting.ours`."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.collecting.clock import Clock, collected
from bench.peer.child import serve

opened: dict[str, Any] = {}


def open_case(folder: str, threads: int, rows: int | None = None) -> dict[str, Any]:
    """Loads a case's files; nothing of this is measured. `rows`: only so many, to warm up."""
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import thoughtscope
    from thoughtscope import load_dictionary
    from thoughtscope.atlas import collect
    from thoughtscope.models import model_from

    torch.set_num_threads(threads)
    place = Path(folder)
    case = json.loads((place / "case.json").read_text())
    dtype = getattr(torch, case["dtype"])
    module = AutoModelForCausalLM.from_pretrained(place / "model", local_files_only=True, dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(place / "model", local_files_only=True)
    model = model_from(module, tokenizer, name=case["model"])
    dictionary = load_dictionary(place / "sae-lens", model, preflight=False)
    clocks = {"forward": Clock(module), "outputs": Clock(collect, "output_tokens")}
    opened.update(
        case=case, model=model, dictionary=replace(dictionary, skip_first=True), clocks=clocks,
        ids=np.load(place / "ids.npy")[:rows],
    )  # fmt: skip
    return {"thoughtscope": thoughtscope.__version__, "torch": torch.__version__}


def run(save: str | None = None) -> dict[str, Any]:
    """One collection, every activation written to disk on the way."""
    from thoughtscope.atlas import collect_examples

    case, ids = opened["case"], opened["ids"]

    def collect() -> Any:
        with tempfile.TemporaryDirectory() as folder:
            return collect_examples(
                opened["model"], opened["dictionary"], ids.tolist(), folder=folder, max_tokens=ids.size,
                context=case["context"], n_top=case["top"], n_quantile=case["quarter"],
            )  # fmt: skip

    return collected(opened["clocks"], collect, table, lambda bank: len(bank.layers[0].example_token), save)


def table(bank: Any) -> dict[str, Any]:
    """The strongest examples of every feature; places count along the case's rows."""
    import numpy as np

    ids, (records,) = opened["ids"], bank.layers
    row_of = {row.tobytes(): number for number, row in enumerate(ids)}
    context = ids.shape[1]
    stored = bank.ids.numpy().astype(np.int64).reshape(-1, context)
    row = np.array([row_of[each.tobytes()] for each in stored])
    peak = records.example_token.numpy().astype(np.int64)
    place = row[peak // context] * context + peak % context
    feature = np.repeat(np.arange(len(records.count)), np.diff(records.example_offsets.numpy()))
    active = records.active_offsets.numpy()
    example = np.repeat(np.arange(len(peak)), np.diff(active))
    value = np.zeros(len(peak))
    at_peak = records.active_token.numpy() == peak[example]
    value[example[at_peak]] = records.active_value.numpy()[at_peak]
    top = records.example_group.numpy() == 0
    return {"feature": feature[top], "place": place[top], "value": value[top]}


if __name__ == "__main__":
    serve({"open": open_case, "run": run})
