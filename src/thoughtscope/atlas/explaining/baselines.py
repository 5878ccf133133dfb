"""What a label has to beat: the tokens on which a feature is strongest, another feature's label, a table of tokens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from jaxtyping import Float

from thoughtscope.atlas.explaining.contexts import Context, Excerpts
from thoughtscope.atlas.explaining.scores import Score, auroc, pearson
from thoughtscope.atlas.explaining.shown import plain
from thoughtscope.core.errors import ThoughtscopeError

if TYPE_CHECKING:
    from thoughtscope.atlas.recording import Recording

Key = TypeVar("Key", bound=Hashable)


def unigram_label(contexts: Sequence[Context], n: int = 5) -> str:
    """The label that needs no assistant: the `n` tokens that hold most of the feature's activation in some contexts."""
    mass: defaultdict[str, float] = defaultdict(float)
    for context in contexts:
        for token, value in zip(context.pieces, context.values, strict=True):
            mass[plain(token) or "␣"] += max(0.0, value)
    tokens = [token for token in sorted(mass, key=lambda each: -mass[each])[:n] if mass[token] > 0]
    return "tokens: " + ", ".join(f'"{token}"' for token in tokens)


def shuffled(labels: Mapping[Key, str], seed: int = 0) -> dict[Key, str]:
    """Each feature with the label of another one, in a ring by chance. Raises `ThoughtscopeError` for fewer than 2."""
    if len(labels) < 2:
        raise ThoughtscopeError(f"Labels can be exchanged from 2 on; got {len(labels)}.")
    keys = list(labels)
    ring = [keys[place] for place in np.random.default_rng(seed).permutation(len(keys)).tolist()]
    return {key: labels[other] for key, other in zip(ring, ring[1:] + ring[:1], strict=True)}


def unigram_table(
    recording: Recording, part: int, feature: int, excerpts: Excerpts
) -> Float[np.ndarray, " vocab"]:
    """A feature's mean activation on each token of the vocabulary, over the excerpts for explaining; 0 for others."""
    ids, events = recording.ids, recording.columns(part, feature, feature + 1)
    counted = np.concatenate([excerpts.explains, [False]])[excerpts.of_token]  # -1 is the last: of no excerpt
    size = int(ids.max()) + 1
    inside = counted[events.token]
    total = np.bincount(
        ids[events.token[inside]], weights=events.value[inside].astype(np.float64), minlength=size
    )
    seen = np.bincount(ids[counted], minlength=size)
    return total / np.maximum(seen, 1)


def table_score(table: Float[np.ndarray, " vocab"], contexts: Sequence[Context]) -> Score:
    """What a table of tokens does by itself: its largest value tells active contexts, its values simulate them."""
    guesses = [table[np.minimum(context.ids, len(table) - 1)] for context in contexts]
    truth = np.array([context.is_active for context in contexts], dtype=bool)
    values = np.array([value for context in contexts for value in context.values], float)
    return Score(
        scorer="unigram table",
        asked=len(contexts),
        n=len(contexts),
        auroc=auroc(np.array([guess.max() for guess in guesses], float), truth) if contexts else None,
        pearson=pearson(np.concatenate(guesses), values) if contexts else None,
    )
