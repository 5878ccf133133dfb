"""How many features of SmolLM2's autoencoder have a rule that holds on held-out text, against tables of tokens.

As `labels.py`, on text that neither the model's dictionary nor the rules were made from.
"""

from __future__ import annotations

from _claim import Measured, main
from _labels import beside_random, shares
from _smollm2 import documents, load

TOKENS, SAMPLE, SITE = 400_000, 300, "resid_post.6"


def measure(seed: int) -> Measured:
    """The value and the control are shares of the features that were active often enough to be tried."""
    model, dictionary = load("sae")
    sae = shares(
        model,
        dictionary,
        documents(held_out=True),
        name="smollm2-sae",
        tokens=TOKENS,
        sample=SAMPLE,
        seed=seed,
    )
    random = beside_random(model, SITE, lambda: documents(held_out=False), lambda: documents(held_out=True),
                             name="smollm2-small", tokens=TOKENS // 2, sample=SAMPLE, seed=seed)  # fmt: skip
    return Measured(value=sae["share"], n=sae["n"], control=sae["unigram"], details={"sae": sae, **random})


if __name__ == "__main__":
    main(
        measure,
        claim="Share of the features of SmolLM2's autoencoder whose label, an executable rule, has F1 of 0.8 or more "
        "on other text.",
        paper="no figure: published scores judge texts by a language model on balanced samples",
    )
