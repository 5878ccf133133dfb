"""How many of the specimen's features have a rule that holds on held-out text, against tables of tokens.

Rules are found on half of the documents, chosen on a fifth and tried on the rest, every token of it: precision over all
tokens that a rule names, recall as the mean over tenths of the feature's range. The control is the list of tokens, of
any length, that says best where the feature is active. Two autoencoders, trained alike on the model and on one whose
weights are random, stand beside it.
"""

from __future__ import annotations

from _claim import Measured, main
from _labels import beside_random, shares
from _specimen import load

TOKENS, SAMPLE, SITE = 300_000, 200, "resid_post.3"
TRAINING_SEED, HELD_OUT_SEED = 1, 77
"""Of the documents that the dictionary was trained on (`specimens/dictionaries.py`), and of those here."""


def measure(seed: int) -> Measured:
    """The value and the control are shares of the features that were active often enough to be tried."""
    from specimens.corpus import sample_documents

    model, dictionary = load("clt")
    clt = shares(model, dictionary, sample_documents(HELD_OUT_SEED, 100_000), name="specimen-clt", tokens=TOKENS,
                 sample=SAMPLE, seed=seed)  # fmt: skip
    random = beside_random(
        model, SITE, lambda: sample_documents(TRAINING_SEED, 400_000), lambda: sample_documents(HELD_OUT_SEED, 100_000),
        name="specimen-sae", tokens=TOKENS, sample=6 * SAMPLE, seed=seed,
    )  # fmt: skip
    return Measured(value=clt["share"], n=clt["n"], control=clt["unigram"], details={"clt": clt, **random})


if __name__ == "__main__":
    main(
        measure,
        claim="Share of the specimen's features whose label, an executable rule, has F1 of 0.8 or more on other text.",
        paper="no figure: published scores judge texts by a language model on balanced samples",
    )
