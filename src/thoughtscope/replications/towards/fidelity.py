"""What the dictionaries keep of the model: loss recovered, active features a token, dead and ultralow ones."""

from __future__ import annotations

import numpy as np

from thoughtscope.dictionaries import DictionaryScores, evaluate_dictionary
from thoughtscope.replications.towards.corpus import make_corpus
from thoughtscope.replications.towards.rows import Row
from thoughtscope.replications.towards.subject import Subject

ULTRALOW = 1e-4
"""Share of tokens below which a feature's density is ultralow; the paper's is 1e-6 of 10 million tokens."""


def scores(subject: Subject) -> dict[int, DictionaryScores]:
    """The scores of every dictionary on the same held-out text."""
    corpus = make_corpus(max(40, subject.scale.test // 3), seed=104)
    return {
        size: evaluate_dictionary(subject.model, dictionary, corpus.documents())
        for size, dictionary in subject.dictionaries.items()
    }


def fidelity(subject: Subject) -> dict[str, Row]:
    """Loss recovered by the main and the largest dictionary against zeros, L0, and the share hardly ever active."""
    found = scores(subject)
    main, large = found[subject.scale.main], found[subject.scale.sizes[-1]]
    n_tokens = sum(len(units.text.ids) for units in (subject.main.choose, subject.main.test))
    density = (subject.main.choose.columns.count + subject.main.test.columns.count) / n_tokens
    dead = float((density == 0).mean())
    losses = f"loss {main.loss:.3f}, on the dictionary {main.loss_spliced:.3f}, on zeros {main.loss_zero:.3f}"
    return {
        "loss_recovered": Row(value=main.loss_recovered_zero, n=main.n_tokens, note=losses),
        "larger_recovers_more": Row(
            value=large.loss_recovered_zero, control=main.loss_recovered_zero, n=large.n_tokens
        ),
        "active_features": Row(value=main.l0, n=main.n_tokens),
        "hardly_active": Row(
            value=float(np.mean(density < ULTRALOW)), n=len(density), note=f"of these {dead:.3f} never active"
        ),
    }
