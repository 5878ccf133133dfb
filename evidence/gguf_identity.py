"""Kept copies of GGUF files against transformers' own reading of the same files, logit by logit.

Random models of the real classes, one of each family that both know, written in three kinds of numbers. The control
changes one weight of each kept copy.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from _claim import Measured, Unavailable, main

KINDS = ("Q4_1", "Q8_0", "BF16")
TOKENS = 48
OVERRIDES = {"gpt2": {"n_inner": 256, "n_positions": 1024}, "qwen3": {"head_dim": 128}}
"""Sizes that transformers' reader takes for granted: with others it reads no such file, where this package does."""


def measure(seed: int) -> Measured:
    """The number of logits that differ in any bit."""
    import torch

    try:
        from tests.gguf_files import FAMILIES
    except ImportError as error:
        raise Unavailable(f"the extra for GGUF files is not installed ({error.name})") from None
    torch.set_num_threads(1)
    differing = compared = changed = 0
    by_case: dict[str, int] = {}
    for family in FAMILIES:
        for kind in KINDS:
            with tempfile.TemporaryDirectory() as folder:
                wanted, found, control = logits_of(family, kind, Path(folder), seed)
            by_case[f"{family} {kind}"] = count = int((wanted != found).sum())
            differing, compared = differing + count, compared + wanted.numel()
            changed += int((wanted != control).sum())
    details = {
        "families": list(FAMILIES),
        "kinds": list(KINDS),
        "by_case": by_case,
        "control": "the same with one weight of each kept copy changed",
    }
    return Measured(value=differing, n=compared, control=changed, details=details)


def logits_of(family: str, kind: str, folder: Path, seed: int) -> tuple[Any, Any, Any]:
    """Logits of transformers' own reading, of the kept copy, and of the copy with a weight changed."""
    import torch
    from transformers import AutoModelForCausalLM

    from tests.gguf_files import tiny, write_gguf
    from thoughtscope import load_model
    from thoughtscope.models.quiet import quiet

    file = write_gguf(tiny(family, seed=seed, **OVERRIDES.get(family, {})), folder / f"{family}.gguf", kind)
    ids = torch.randint(256, (1, TOKENS), generator=torch.Generator().manual_seed(seed))
    with quiet(), torch.no_grad():
        load_model(str(file))  # makes the copy
        kept = load_model(str(file)).module
        theirs = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name, dtype=torch.float32)
        wanted, found = theirs(ids).logits, kept(ids).logits
        weight = kept.get_input_embeddings().weight
        weight[ids[0, 0], 0] += 0.01
        control = kept(ids).logits
    return wanted, found, control


if __name__ == "__main__":
    main(
        measure,
        claim="Logits of a GGUF file's kept copy that differ from transformers' own reading of the file (a number).",
    )
