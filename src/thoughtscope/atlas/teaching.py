"""`learn_concept`: a concept from a table of tokens at which its value is known, with a check and its control."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Int

from thoughtscope.atlas.collect import direct_logits
from thoughtscope.atlas.concepts import CHANCE, SHARE, Check, Concept, Counts, feature_keys
from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.progress import Progress, silent
from thoughtscope.dictionaries import Dictionary, check_fits, encode

if TYPE_CHECKING:
    from thoughtscope.models import Model

FOLDS = 6


@dataclass(frozen=True, kw_only=True)
class Occurrence:
    """A token of a text, and the value that the concept has there; None where it has none."""

    text: str
    position: int
    """From the text's first token on, which is 0."""
    value: str | None


@dataclass(frozen=True, kw_only=True)
class ConceptTable:
    """Tokens with the values of one concept, and tokens without any.

    Tokens count as independent witnesses: give each thing that has a value (each city, say) one token.
    """

    name: str
    tokens: tuple[Occurrence, ...]
    says: Mapping[str, str] = field(default_factory=dict)
    """What the model is about to say, by value, where the concept is that; empty where it is what a token is about."""

    @property
    def values(self) -> tuple[str, ...]:
        return tuple(sorted({token.value for token in self.tokens if token.value is not None}))


@torch.no_grad()
def learn_concept(
    model: Model, dictionary: Dictionary, table: ConceptTable, *, seed: int = 0, progress: Progress = silent
) -> Concept:
    """Counts which features are active at the table's tokens; the check shuffles and divides them by `seed`.

    Features that are active on fewer than two tokens with a value are left out. Raises `DictionaryMismatch` for a
    dictionary of another model, `ThoughtscopeError` for a table that cannot teach a difference or whose positions lie
    outside its texts.
    """
    check_fits(dictionary, model)
    _check_table(table)
    value, layer, index = _activations(model, dictionary, table, progress)
    numbers = {name: number for number, name in enumerate(table.values)}
    label = np.array([-1 if token.value is None else numbers[token.value] for token in table.tokens])
    activity = sp.csr_array(value > 0).astype(np.int32)
    counts = _count(activity, label, len(numbers))
    summed = _one_hot(label, len(numbers)) @ value
    raised = None
    if table.says:
        share = _raised(model, dictionary, layer, index, [table.says[name] for name in table.values])
        raised = np.where(counts.active > 0, share, np.float32(1))
    return Concept(
        name=table.name,
        dictionary_name=dictionary.name,
        model_name=dictionary.model_name,
        says=raised is not None,
        values=table.values,
        layer=layer,
        index=index,
        counts=counts,
        strength=(summed.toarray() / np.maximum(counts.active, 1)).astype(np.float32),
        raised=raised,
        check=_check(activity, label, table, seed),
    )


def _check_table(table: ConceptTable) -> None:
    if len(table.values) < 2 or all(token.value is not None for token in table.tokens):
        raise ThoughtscopeError(
            f'Table "{table.name}" needs tokens of two or more values and tokens without any; '
            f"it has {len(table.values)} values."
        )
    if table.says and set(table.says) != set(table.values):
        odd = sorted(set(table.says) ^ set(table.values))
        raise ThoughtscopeError(f'Table "{table.name}": `says` and the tokens differ in the values {odd}.')


def _activations(
    model: Model, dictionary: Dictionary, table: ConceptTable, progress: Progress
) -> tuple[sp.csr_array, Int[np.ndarray, " feature"], Int[np.ndarray, " feature"]]:
    """(token, feature) activations, and each column's layer and index, in that order."""
    from thoughtscope.models import capture, tokenize

    of_text: dict[str, list[int]] = {}
    for number, token in enumerate(table.tokens):
        of_text.setdefault(token.text, []).append(number)
    found: list[tuple[np.ndarray, ...]] = []
    for done, (text, numbers) in enumerate(of_text.items(), start=1):
        features = encode(dictionary, capture(model, tokenize(model, text), dictionary.sites))
        columns = (features.position, features.part, features.index, features.value)
        position, layer, index, value = (column.cpu().numpy() for column in columns)
        for number in numbers:
            if not 0 <= table.tokens[number].position < features.n_positions:
                raise ThoughtscopeError(
                    f'"{text}" has {features.n_positions} tokens; there is no position {table.tokens[number].position}.'
                )
            here = position == table.tokens[number].position
            row = np.full(here.sum(), number)
            found.append((row, feature_keys(layer[here], index[here]), value[here].astype(np.float32)))
        progress("concept", done, len(of_text))
    row, key, value = (np.concatenate(column) for column in zip(*found, strict=True))
    has_value = np.array([token.value is not None for token in table.tokens])
    keys, often = np.unique(key[has_value[row]], return_counts=True)
    keys = keys[often >= 2]
    ours = np.isin(key, keys)
    shape = (len(table.tokens), len(keys))
    values = sp.csr_array((value[ours], (row[ours], np.searchsorted(keys, key[ours]))), shape=shape)
    return values, (keys >> 32).astype(np.int32), (keys & 0xFFFFFFFF).astype(np.int32)


def _one_hot(label: Int[np.ndarray, " token"], n_values: int) -> sp.csr_array:
    has = np.flatnonzero(label >= 0)
    ones = np.ones(len(has), dtype=np.int32)
    return sp.csr_array((ones, (label[has], has)), shape=(n_values, len(label)))


def _count(activity: sp.csr_array, label: Int[np.ndarray, " token"], n_values: int) -> Counts:
    return Counts(
        tokens=np.bincount(label[label >= 0], minlength=n_values).astype(np.int32),
        active=(_one_hot(label, n_values) @ activity).toarray().astype(np.int32),
        tokens_none=int((label < 0).sum()),
        active_none=np.asarray(activity[label < 0].sum(axis=0)).ravel().astype(np.int32),
    )


def _raised(
    model: Model,
    dictionary: Dictionary,
    layer: Int[np.ndarray, " feature"],
    index: Int[np.ndarray, " feature"],
    said: list[str],
) -> Float[np.ndarray, "value feature"]:
    """For each value and feature, the share of the vocabulary that it raises at least as much as the value's token."""
    tokens = [model.tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in said]
    found = np.ones((len(said), len(layer)), dtype=np.float32)
    for number in np.unique(layer):
        here = np.flatnonzero(layer == number)
        for part in np.array_split(here, max(1, len(here) * model.vocab_size >> 24)):
            logits = direct_logits(model, dictionary.parts[int(number)], torch.from_numpy(index[part]).long())
            order = logits.sort(dim=-1).values
            below = torch.searchsorted(order, logits[:, tokens].contiguous())
            found[:, part] = (1 - below.T / logits.shape[-1]).cpu().numpy()
    return found


def _check(activity: sp.csr_array, label: Int[np.ndarray, " token"], table: ConceptTable, seed: int) -> Check:
    """Every token read with the counts of the texts in the other folds; and all of it again with shuffled values."""
    random = np.random.default_rng(seed)
    fold = _folds(label, table, random)
    has = label >= 0
    shuffled = label.copy()
    shuffled[has] = random.permutation(label[has])
    read, by_chance = (_cross_read(activity, labels, fold, len(table.values)) for labels in (label, shuffled))
    real, null = (_members(_count(activity, labels, len(table.values))) for labels in (label, shuffled))
    return Check(
        right=float((read == label)[has].mean()),
        named=float((read >= 0)[has].mean()),
        mistaken=float((read >= 0)[~has].mean()),
        shuffled=float((by_chance == shuffled)[has].mean()),
        chance_members=null / max(real, 1),
        by_value={
            name: (
                int((label == number).sum()),
                int((read == number)[label == number].sum()),
                int((read == number)[label != number].sum()),
            )
            for number, name in enumerate(table.values)
        },
    )


def _members(counts: Counts) -> int:
    return int(((counts.chance <= CHANCE) & (counts.active >= SHARE * counts.tokens[:, None])).sum())


def _folds(
    label: Int[np.ndarray, " token"], table: ConceptTable, random: np.random.Generator
) -> Int[np.ndarray, " token"]:
    """A fold for each token: the same for all tokens of a text, and every value spread over the folds."""
    of_text: dict[str, int] = {}
    for number in np.lexsort((random.random(len(label)), -label)):
        of_text.setdefault(table.tokens[number].text, len(of_text))
    return np.array([of_text[token.text] % FOLDS for token in table.tokens])


def _cross_read(
    activity: sp.csr_array,
    label: Int[np.ndarray, " token"],
    fold: Int[np.ndarray, " token"],
    n_values: int,
) -> Int[np.ndarray, " token"]:
    """The value read at each token, or -1, by the counts of the other folds."""
    read = np.full(len(label), -1)
    for number in np.unique(fold):
        here = fold == number
        odds = _count(activity[~here], label[~here], n_values).log_odds(activity[here])
        read[here] = np.where(odds.max(axis=1) > 0, odds.argmax(axis=1), -1)
    return read
