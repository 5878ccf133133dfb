"""What holds between features: across seeds, across sizes, and from one token to the next."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Bool, Float64, Int64
from scipy.sparse.csgraph import connected_components

from thoughtscope.atlas.alike import best_matches, correlations
from thoughtscope.atlas.splitting import splitting
from thoughtscope.atlas.tables import explained, last_tokens
from thoughtscope.atlas.transitions import Transitions, transitions
from thoughtscope.replications.towards.contexts import LABEL, TEN, counts
from thoughtscope.replications.towards.corpus import LENGTH
from thoughtscope.replications.towards.rows import Row
from thoughtscope.replications.towards.subject import Activity, Subject, Units

SCRIPTS = ("tamil", "chinese")
"""Those whose letters are several tokens."""
OWN = 0.8
"""A feature is a context's own where this share of its activation is in it."""


def own(units: Units, name: str) -> Int64[np.ndarray, " unit"]:
    """Live units of which `OWN` of the activation is in the context, on the text for choosing."""
    shares = np.nan_to_num(units.choose.intervals.mass_share[:, LABEL[name]])
    return np.intersect1d(units.live, np.flatnonzero(shares >= OWN))


# --- across seeds --------------------------------------------------------------------------------------------------


def universality(subject: Subject, other: Subject) -> dict[str, Row]:
    """Correlations with the other seed's best match: of the four contexts' features, and of all, beside neurons'."""
    ours, theirs = subject.main, other.main
    found = np.nan_to_num(correlations(ours.test.matrix, theirs.test.matrix), nan=-1.0)
    of_neurons = np.nan_to_num(correlations(subject.neurons.test.matrix, other.neurons.test.matrix), nan=-1.0)
    n = len(ours.test.text.ids)
    rows = {
        f"{name}_across_seeds": Row(
            value=float(found[ours.best[LABEL[name]]].max()),
            control=float(of_neurons[subject.neurons.best[LABEL[name]]].max()),
            n=n,
        )
        for name in ("arabic", "dna", "base64", "hebrew")
    }
    live = ours.live
    rows["universality"] = Row(
        value=float(np.median(best_matches(found[live]))),
        control=float(np.median(best_matches(of_neurons[subject.neurons.live]))),
        n=len(live),
    )
    return rows | _logits_across(ours, theirs, found, live)


def _logits_across(ours: Units, theirs: Units, found: np.ndarray, live: np.ndarray) -> dict[str, Row]:
    """Of pairs that are alike in what they fire on, how alike are their logit weights?"""
    match = found[live].argmax(axis=1)
    alike = found[live].max(axis=1)
    pairs = alike >= 0.8
    a, b = ours.logits[torch.from_numpy(live[pairs])], theirs.logits[torch.from_numpy(match[pairs])]
    cosine = torch.nn.functional.cosine_similarity(a, b).double().numpy()
    if not len(cosine):
        return {"logits_across_seeds": Row(value=float("nan"), control=float("nan"), n=0)}
    return {
        "logits_across_seeds": Row(
            value=float(np.median(cosine)), control=float(np.median(alike[pairs])), n=int(pairs.sum())
        )
    }


# --- across sizes --------------------------------------------------------------------------------------------------


def splits(subject: Subject) -> dict[str, Row]:
    """How many features a context has in dictionaries of growing size, and whether children stay in the family."""
    sizes = subject.scale.sizes
    by_size = {name: [len(own(subject.features[size], name)) for size in sizes] for name in TEN}
    rising = [all(a <= b for a, b in pairwise(each)) for each in by_size.values()]
    base64 = by_size["base64"]
    total = [sum(each[at] for each in by_size.values()) for at in range(len(sizes))]
    return {
        "base64_splits": Row(
            value=base64[-1] / max(base64[0], 1),
            n=len(sizes),
            note=f"base64 features by size {sizes}: {base64}",
        ),
        "splitting_rises": Row(
            value=float(np.mean(rising)), n=len(TEN), note=f"features of the ten by size {sizes}: {total}"
        ),
        "base64_by_kind": Row(value=len(kinds_of_base64(subject)), n=base64[-1]),
        "children_stay": Row(value=children_stay(subject), n=len(TEN)),
    }


def kinds_of_base64(subject: Subject) -> set[str]:
    """Kinds of characters to which a base64 feature of the largest dictionary keeps: 0.9 of its activation there."""
    units = subject.features[subject.scale.sizes[-1]]
    activity, picked = units.test, own(units, "base64")
    inside = activity.text.truth == LABEL["base64"]
    matrix = activity.matrix[:, picked]
    total = np.asarray((inside[:, None] * np.ones(1)).T @ matrix).ravel()
    found = set()
    for name, characters in _KINDS.items():
        of_kind = inside & np.isin(activity.text.ids, list(characters))
        share = np.asarray(of_kind.astype(float)[None] @ matrix).ravel() / np.maximum(total, 1e-9)
        if (share >= 0.9).any():
            found.add(name)
    return found


_KINDS = {
    "upper": b"ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "lower": b"abcdefghijklmnopqrstuvwxyz",
    "digit": b"0123456789",
}


def children_stay(subject: Subject) -> float:
    """Share of the children of the contexts' features, over all sizes, that are most active in the same context."""
    sizes = subject.scale.sizes
    stay = n = 0
    splits_of = splitting([subject.features[size].part for size in sizes])
    for (small, large), split in zip(pairwise(sizes), splits_of, strict=True):
        parents, units = subject.features[small], subject.features[large]
        kin = np.nan_to_num(units.test.intervals.mass_share).argmax(axis=1)
        for name in TEN:
            children = split.children(int(parents.best[LABEL[name]]), least=0.4).numpy()
            children = np.intersect1d(children, units.live)
            stay += int((kin[children] == LABEL[name]).sum())
            n += len(children)
    return stay / n if n else float("nan")


# --- from token to token -------------------------------------------------------------------------------------------


def automata(subject: Subject) -> dict[str, Row]:
    """Features that lead to one another: base64 to itself, lead bytes and following bytes, marks of HTML."""
    units, neurons = subject.main, subject.neurons
    found, of_neurons = _transitions(units.test), _transitions(neurons.test)
    base64, neuron = (int(each.best[LABEL["base64"]]) for each in (units, neurons))
    rows = {
        "self_loop": Row(
            value=float(found.after[base64, base64]),
            control=float(found.base[base64]),
            n=int(found.n[base64]),
            note=f"neuron {of_neurons.after[neuron, neuron]:.2f}, over a base rate of {of_neurons.base[neuron]:.2f}",
        ),
        "self_loop_emits": Row(value=_emits_itself(units, base64), control=float(found.base[base64]), n=10),
        "prefix_suffix": Row(
            value=sum(spells(units, found, name) for name in SCRIPTS),
            control=sum(spells(neurons, of_neurons, name) for name in SCRIPTS),
            n=len(SCRIPTS),
        ),
        "snake_automaton": Row(
            value=largest_circle(units, found, "snake"),
            control=largest_circle(neurons, of_neurons, "snake"),
            n=len(own(units, "snake")),
        ),
    }
    for name in ("html", "irc"):
        rows[f"{name}_automaton"] = Row(
            value=longest_chain(units, found, name),
            control=longest_chain(neurons, of_neurons, name),
            n=len(own(units, name)),
        )
    return rows


def _transitions(activity: Activity) -> Transitions:
    return transitions(activity.matrix, activity.text.starts)


def _emits_itself(units: Units, unit: int) -> float:
    """Mean share of the tokens, among those that the unit raises most, on which it is active right after itself."""
    raised = units.logits[unit].topk(10).indices.numpy()
    active = units.test.matrix[:, [unit]].toarray()[:, 0] > 0
    ids = units.test.text.ids
    after = np.flatnonzero(active[:-1]) + 1
    shares = [
        float(active[after][ids[after] == token].mean()) for token in raised if (ids[after] == token).any()
    ]
    return float(np.sum(shares) / 10)


def spells(units: Units, found: Transitions, name: str) -> bool:
    """Whether features of a script lead in a circle through lead bytes and following bytes: one of the circle has 0.8
    of its activation on lead bytes, one on following bytes."""
    picked, edges = automaton(units, found, name)
    if len(picked) < 2:
        return False
    ids, matrix = units.test.text.ids, units.test.matrix[:, picked]
    lead, follow = (ids >= 0xC0) & (ids < 0x100), (ids >= 0x80) & (ids < 0xC0)
    total = np.maximum(np.asarray(matrix.sum(axis=0)).ravel(), 1e-9)
    on_lead, on_follow = (
        np.asarray(each.astype(float)[None] @ matrix).ravel() / total for each in (lead, follow)
    )
    of = connected_components(edges, directed=True, connection="strong")[1]
    return bool(np.intersect1d(of[on_lead >= 0.8], of[on_follow >= 0.8]).size)


def largest_circle(units: Units, found: Transitions, name: str) -> int:
    """The most features of a context each of which leads to every other; 0 where none leads to another and back."""
    picked, edges = automaton(units, found, name)
    if not len(picked):
        return 0
    n, of = connected_components(edges, directed=True, connection="strong")
    largest = int(np.bincount(of, minlength=n).max())
    return largest if largest > 1 else 0


def longest_chain(units: Units, found: Transitions, name: str) -> int:
    """The most features of a context that lead one to the next, circles counted once; 0 where none leads on."""
    edges = automaton(units, found, name)[1]
    if not edges.nnz:
        return 0
    n, of = connected_components(edges, directed=True, connection="strong")
    between = np.zeros((n, n), dtype=bool)
    source, target = edges.nonzero()
    between[of[source], of[target]] = True
    np.fill_diagonal(between, False)
    size = np.bincount(of, minlength=n)
    length = size.copy()
    for _ in range(n):  # without circles, a chain of n is found after n rounds
        length = size + np.where(between, length[:, None], 0).max(axis=0)
    return int(length.max())


def automaton(
    units: Units, found: Transitions, name: str
) -> tuple[Int64[np.ndarray, " unit"], scipy.sparse.csr_array]:
    """A context's own features, and which of them leads to which other.

    It does where the other follows in at least 0.3 of the cases, three times as often as anywhere, and mostly on tokens
    that the first one raises: those whose logit weight is above 0.
    """
    picked = own(units, name)
    after = np.nan_to_num(found.after[np.ix_(picked, picked)])
    edges = (after >= 0.3) & (after >= 3 * found.base[picked][None]) & _drives(units, picked)
    np.fill_diagonal(edges, False)
    return picked, scipy.sparse.csr_array(edges)


def _drives(units: Units, picked: Int64[np.ndarray, " unit"]) -> Bool[np.ndarray, "source target"]:
    """Whether the tokens on which the target is active are, by its activation, mostly such as the source raises."""
    ids, matrix = units.test.text.ids, units.test.matrix[:, picked]
    n_tokens, vocab = matrix.shape[0], units.logits.shape[1]
    member = scipy.sparse.csr_array((np.ones(n_tokens), (ids, np.arange(n_tokens))), shape=(vocab, n_tokens))
    on = (member @ matrix).toarray()  # (vocab, target)
    raised = (units.logits[torch.from_numpy(picked)] > 0).double().numpy()  # (source, vocab)
    shares: Float64[np.ndarray, "source target"] = raised @ on / np.maximum(on.sum(axis=0), 1e-9)
    return shares >= 0.5


# --- control and context -------------------------------------------------------------------------------------------


def single_tokens(subject: Subject, random: Subject) -> dict[str, Row]:
    """Share of features that a table of tokens explains (R² at least 0.8): of a model with its first weights, and of
    the trained one."""
    known, of_trained = (_explained_by_tokens(each.main, positions=False) for each in (random, subject))
    placed = _explained_by_tokens(random.main, positions=True)
    note = (
        f"median R² {np.median(known):.2f}, trained model {np.median(of_trained):.2f}; with sixteen stretches of "
        f"positions in the table {np.mean(placed >= 0.8):.2f} reach 0.8"
    )
    value, control = float(np.mean(known >= 0.8)), float(np.mean(of_trained >= 0.8))
    return {"random_single_tokens": Row(value=value, control=control, n=len(known), note=note)}


def _explained_by_tokens(units: Units, *, positions: bool) -> Float64[np.ndarray, " unit"]:
    """R² of a table of tokens, or of tokens by position, for every live unit."""
    text = units.test.text
    groups = last_tokens(text.ids, text.starts, 1)
    if positions:
        stretch = np.arange(len(text.ids)) % LENGTH // (LENGTH // 16)
        groups = np.unique(groups * 16 + stretch, return_inverse=True)[1].astype(np.int64)
    half = np.arange(len(text.ids)) < text.starts[len(text.starts) // 2]
    return np.nan_to_num(explained(units.test.matrix, groups, half)[units.live])


def token_in_context(subject: Subject) -> dict[str, Row]:
    """How well the strongest unit on a token that many contexts share tells which context it is in."""
    return {
        "token_in_context": Row(
            value=_told_by_strongest(subject.main), control=_told_by_strongest(subject.neurons), n=len(SHARED)
        )
    }


SHARED = b"ACE15ce "
"""Tokens that at least three contexts share."""


def _told_by_strongest(units: Units) -> float:
    """Mean over tokens and over the contexts that they stand in: the share told right."""
    largest = np.maximum(np.asarray(units.choose.matrix.max(axis=0).todense()).ravel(), 1e-6)
    taught_rows = _strongest(units.choose, largest)
    asked_rows = _strongest(units.test, largest)
    n_units, n_labels = len(largest), counts().shape[0]
    found = []
    for token in SHARED:
        here = units.choose.text.ids == token
        cell = taught_rows[here] * n_labels + units.choose.text.truth[here]
        table = np.bincount(cell, minlength=n_units * n_labels).reshape(n_units, n_labels)
        # by share of the label's own tokens, so that frequent contexts do not win by being frequent
        guess = (table / np.maximum(table.sum(axis=0), 1)).argmax(axis=1)
        there = units.test.text.ids == token
        truth, said = units.test.text.truth[there], guess[asked_rows[there]]
        labels = np.flatnonzero(np.bincount(truth, minlength=n_labels) >= 20)
        found += [float((said[truth == label] == label).mean()) for label in labels]
    return float(np.mean(found)) if found else float("nan")


def _strongest(activity: Activity, largest: np.ndarray) -> Int64[np.ndarray, " token"]:
    """At each token the unit that is closest to its largest activation."""
    scaled = (activity.matrix / largest[None]).tocsr()
    return np.asarray(scaled.argmax(axis=1)).ravel().astype(np.int64)
