"""How long the real model's graphs take as the page makes them, and how true the price is that is said before.

A prompt of 16 tokens is traced with the limits that a large graph has by itself. The first picture and the last one
are timed until they are the JSON that the page gets.
"""

from __future__ import annotations

from statistics import median

from _claim import Measured, main
from _smollm2 import load
from trace_price import forget_peak, peak

PROMPT = "Question: What is the capital of Japan? Answer: The capital of Japan is"
REPEATS = 3


def measure(seed: int) -> Measured:
    """Nothing is drawn at random; the first trace, which warms up, is not timed, but its memory is measured."""
    from bench._sides import cores
    from bench.size.trace import traced
    from thoughtscope import tokenize
    from thoughtscope.microscope import Microscope

    model, dictionary = load("transcoders")
    tokens = tokenize(model, PROMPT, bos=False)
    opened = Microscope(model=model, dictionary=dictionary, bank=None, max_tokens=64)
    before = forget_peak()
    traced(opened, tokens, influence_bound=None)
    grown = peak() - before
    rows = [traced(opened, tokens, influence_bound=None) for _ in range(REPEATS)]
    last = rows[-1]
    return Measured(
        value=round(median(row["seconds"] for row in rows), 2),
        n=REPEATS,
        details={
            "tokens": int(tokens.mask.sum()),
            "cores": cores(),
            "first_picture": round(median(row["pictures"][0]["made"] for row in rows), 2),
            "pictures": len(last["pictures"]),
            "price": last["price"],
            "memory_grown": grown,
            **{name: last[name] for name in ("end", "limits", "scores")},
        },
    )


if __name__ == "__main__":
    main(
        measure,
        claim="Seconds until the graph of a 16-token prompt of SmolLM2-135M-Instruct is whole on the page, as it is "
        "traced by default on this machine's cores (details: its first picture, memory said and memory taken).",
    )
