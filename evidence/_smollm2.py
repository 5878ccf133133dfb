"""SmolLM2-135M-Instruct with its dictionaries, and text that none of them was trained on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from random import Random
from typing import Any

from _claim import ROOT, Unavailable

BOUND, MOST = 0.1, 8000
"""Graphs' features are expanded until this share of the influence waits at others, or so many are; what waits counts
as error."""
HELD_OUT = ROOT / "runs" / "smollm2" / "text" / "held_out.jsonl"
TRAIN = HELD_OUT.with_name("train.jsonl")


@cache
def smollm2(dtype: str = "float32") -> Any:
    """The model, loaded as every user loads it; nothing here asks a network."""
    from thoughtscope import load_model
    from thoughtscope.models.downloads import fetched

    if fetched("smollm2") is None:
        raise Unavailable("smollm2 is not on this machine (thoughtscope fetch smollm2)")
    return load_model("smollm2", dtype=dtype)


@cache
def load(kind: str, dtype: str = "float32") -> tuple[Any, Any]:
    """The model and one of its dictionaries, "transcoders" or "sae"."""
    from thoughtscope import load_dictionary
    from thoughtscope.core.errors import DictionaryMismatch

    model = smollm2(dtype)
    try:
        return model, load_dictionary(f"smollm2/{kind}", model, preflight=False)
    except DictionaryMismatch:
        raise Unavailable(f"there is no smollm2/{kind} on this machine (make smollm2)") from None


def graph_of(prompt: Any) -> tuple[Any, Any]:
    """The tokens and the graph of a text or a conversation, by the transcoders, expanded as far as `BOUND` and `MOST`
    say."""
    from thoughtscope import attribute, tokenize

    model, dictionary = load("transcoders")
    text = isinstance(prompt, str)
    tokens = tokenize(model, prompt, bos=False) if text else tokenize(model, chat=prompt)
    return tokens, attribute(model, dictionary, tokens, influence_bound=BOUND, max_nodes=MOST)


def documents(held_out: bool) -> Iterator[Any]:
    """What the dictionaries were trained on, or what was held out (whole files, and conversations of another seed), in
    an order of its own, so that the first of them are of every kind."""
    path = HELD_OUT if held_out else TRAIN
    if not path.is_file():
        raise Unavailable(f"{path.relative_to(ROOT)} is not there (make smollm2 TEXT=FOLDER)")
    with path.open(encoding="utf-8") as file:  # no splitlines(): texts hold line separators of other kinds
        lines = list(file)
    for line in Random(0).sample(lines, len(lines)):
        yield json.loads(line)["text"]
