"""How long the real model's graphs take as the page makes them, and how true the price is that is said before.

A prompt of 16 tokens is traced with the limits that a large graph has by itself. The first picture and the last one
are timed until they are the JSON that the page gets.
"""

from __future__ import annotations

import json
import resource
import time
from statistics import median
from typing import Any

from _claim import Measured, main
from _smollm2 import load

PROMPT = "Question: What is the capital of Japan?\nAnswer: Its capital is"
REPEATS = 3


def measure(seed: int) -> Measured:
    """Nothing is drawn at random; the first trace, which warms up, is not counted."""
    from thoughtscope.microscope import Microscope, tokens_of

    model, dictionary = load("transcoders")
    opened = Microscope(model=model, dictionary=dictionary, bank=None, max_tokens=64)
    tokens = tokens_of(opened, PROMPT)
    before = peak()
    traced(opened)
    grown = peak() - before
    rows = [traced(opened) for _ in range(REPEATS)]
    price = rows[-1]["price"]
    return Measured(
        value=round(median(row["seconds"] for row in rows), 2),
        n=REPEATS,
        details={
            "tokens": int(tokens.mask.sum()),
            "first_picture": round(median(row["pictures"][0] for row in rows), 2),
            "pictures": len(rows[-1]["pictures"]),
            "price": price,
            "memory_grown": grown,
            **{name: rows[-1][name] for name in ("bound", "limits", "scores")},
        },
    )


def peak() -> int:
    """The most bytes that this process has held so far."""
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def traced(opened: Any) -> dict[str, Any]:
    """Seconds until each picture and until the kept graph, and what was said before."""
    from thoughtscope import microscope
    from thoughtscope.microscope import page_snapshot

    start, prices, pictures = time.perf_counter(), [], []

    def picture(graph: Any) -> None:
        json.dumps(page_snapshot(graph))
        pictures.append(time.perf_counter() - start)

    graph = microscope.trace(opened, PROMPT, approve=prices.append, on_snapshot=picture)
    seconds = time.perf_counter() - start
    assert graph.certificate is not None
    return {
        "seconds": seconds,
        "pictures": pictures,
        "price": prices[0].to_json(),
        "bound": graph.certificate.bound,
        "limits": graph.provenance.get("limits"),
        "scores": vars(graph.scores),
    }


if __name__ == "__main__":
    main(
        measure,
        claim="Seconds until the graph of a 16-token prompt of SmolLM2-135M-Instruct is whole on the page, as it is "
        "traced by default on this machine's cores (details: its first picture, memory said and memory taken).",
    )
