"""The specimen with its two dictionaries, and the held-out prompts that graphs are drawn from."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

from _claim import ROOT, Unavailable

ASSETS = ROOT / "src" / "thoughtscope" / "assets" / "specimen"
KINDS = ("clt", "plt")


@cache
def specimen() -> Any:
    """The shipped model, loaded as every user loads it."""
    if not (ASSETS / "config.json").is_file():
        raise Unavailable("the specimen's weights are not in this checkout; `make specimen` trains them")
    from thoughtscope import load_model

    return load_model("specimen")


def load(kind: str) -> tuple[Any, Any]:
    """The shipped model and one of its dictionaries, as every user loads them."""
    if not (ASSETS / kind / "manifest.json").is_file():
        raise Unavailable(f"the specimen's {kind} is not in this checkout; `make specimen` trains it")
    from thoughtscope import load_dictionary

    model = specimen()
    return model, load_dictionary(f"specimen/{kind}", model, preflight=False)


def held_out_prompts(seed: int, each: int) -> list[str]:
    """`each` held-out prompts of every task (opposites: of every language), drawn by `seed`."""
    from specimens.corpus import held_out

    draw, held = random.Random(seed), held_out()
    groups = [held.two_hop, held.sums, held.couplets]
    for language in ("en", "fr", "zh"):
        groups.append(tuple(case for case in held.opposites if case.language == language))
    return [case.prompt for group in groups for case in draw.sample(group, min(each, len(group)))]
