"""Dictionaries of other libraries, loaded and saved again: the share of files that are the same to the byte.

Every layout, kind and number type, several times with other weights. The files are written as the libraries write them
Every layout, kind and number type, several times with other weights. Files are written as the libraries write them
compared with the answers of what was loaded. `bench/formats.py` does the same with the libraries themselves.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from _claim import Measured, main

SEEDS = 3
LOSSY = 0.25
"""What the control takes off every encoder's bias before it saves: its files must not pass for the ones it had."""


def measure(seed: int) -> Measured:
    """The share of files that are identical after they were loaded and saved."""
    import torch

    from tests.foreign_layers import CASES

    torch.set_num_threads(1)
    same: Counter[str] = Counter()
    total: Counter[str] = Counter()
    control: Counter[str] = Counter()
    errors: dict[str, float] = {}
    for name in CASES:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for more in range(SEEDS):
                torch.manual_seed(1000 * seed + more)
                with tempfile.TemporaryDirectory() as folder:
                    layout, found, lossy, error = round_trip(name, dtype, Path(folder))
                same[layout] += sum(found)
                total[layout] += len(found)
                control["same"] += sum(lossy)
                control["all"] += len(lossy)
                errors[name] = max(errors.get(name, 0.0), error)
    return Measured(
        value=sum(same.values()) / sum(total.values()),
        n=sum(total.values()),
        control=control["same"] / control["all"],
        details={
            "kinds": len(CASES),
            "number_types": 3,
            "seeds": SEEDS,
            "identical_by_layout": {layout: same[layout] / total[layout] for layout in sorted(total)},
            "largest_difference_of_answers": max(errors.values()),
            "where": max(errors, key=lambda name: errors[name]),
            "control": f"weights' files where {LOSSY} was taken off each encoder's bias between load and save",
        },
    )


def round_trip(name: str, dtype: Any, folder: Path) -> tuple[str, list[bool], list[bool], float]:
    """The layout; for each file, whether it came back the same; the same of weights' files after a change; and the
    largest difference of answers, relative to the largest one."""
    from dataclasses import replace

    from tests.foreign_layers import CASES, rows_for
    from thoughtscope.core.site import Site
    from thoughtscope.dictionaries import load_dictionary, save_dictionary
    from thoughtscope.dictionaries.conversion import answers

    case = CASES[name](folder / "a", dtype)
    dictionary = load_dictionary(folder / "a")
    rows = rows_for(case)
    wanted = case.forward(rows)
    found = answers(dictionary, {Site.parse(site): x for site, x in rows.items()})
    error = max(
        float((found[Site.parse(site)] - y).abs().max() / y.abs().max()) for site, y in wanted.items()
    )
    save_dictionary(dictionary, folder / "b", format=case.format)
    parts = tuple(replace(part, b_enc=part.b_enc - LOSSY) for part in dictionary.parts)
    save_dictionary(replace(dictionary, parts=parts), folder / "c")
    changed = load_dictionary(folder / "c")
    try:
        save_dictionary(changed, folder / "d", format=case.format)
    except ValueError:
        pass  # the layout cannot hold what the part has folded: nothing is written
    weights = [path for path in files(folder / "a") if path.suffix in (".safetensors", ".pt")]
    return (
        case.format,
        [same(path, folder / "a", folder / "b") for path in files(folder / "a")],
        [same(path, folder / "a", folder / "d") for path in weights if path.name != "sparsity.safetensors"],
        error,
    )


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def same(path: Path, folder: Path, other: Path) -> bool:
    """Whether another folder has a file with the same bytes."""
    copy = other / path.relative_to(folder)
    return copy.is_file() and copy.read_bytes() == path.read_bytes()


if __name__ == "__main__":
    main(
        measure,
        claim="Dictionaries of SAELens, sparsify, clt-training, dictionary_learning, crosslayer-coding, Llama Scope "
        "and OpenAI are the same files, to the byte, after they were loaded and saved.",
    )
