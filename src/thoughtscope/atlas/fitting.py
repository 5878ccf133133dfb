"""`fit_rule`: the rule that says best where a feature is active, found on one part of a text and chosen on another.

Of a set of tokens at one place the best is found exactly: sorted by how surely the feature is active there, the set of
the highest F1 is a beginning of the list. Conditions of different kinds are tried one by one, then beside each other
(and), then one after the other on what the rule does not say yet (or).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property, partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from thoughtscope.atlas.patterns import PASSAGES, TOKENS
from thoughtscope.atlas.rules import Among, Condition, Early, Like, Rule, Spelt, Within
from thoughtscope.atlas.text import Text

PLACES = 4
"""Tokens and words that are looked at: the one itself and those before."""
WINDOWS = (4, 16, 64)
EARLY = (1, 4)
MOST = 64
"""Tokens in one set."""
MOST_WITHIN = 8
"""Tokens in one set of what came before: what they are has to be read off a label."""
TENTHS = 10
"""Stretches of a feature's range that count the same: weak activations are many, and strong ones are what it is for."""
RANGE = 0.99
"""Share of the activations that are within a feature's range: a few can be many times the others."""
CLAUSES, CONDITIONS = 3, 3
TRIED = 3
"""Conditions that are refined, the best ones."""
LOOKED_AT = 2048
"""Positions at which what came before is looked at; a share of the others stands for all."""
WORTH = 0.02
"""F1 that a further condition or clause has to bring on the text that it is chosen on."""
SLIGHT = 0.005
"""F1 that is given up for a smaller set of tokens: a label is read by people."""
ENOUGH = 0.97
"""F1 at which nothing further is tried."""


class Part(IntEnum):
    """What a document is for: rules are found on some, chosen on others, and tried on those held out."""

    FINDING = 0
    CHOOSING = 1
    HELD_OUT = 2


def parts_of(text: Text, seed: int = 0) -> Int[np.ndarray, " pos"]:
    """The `Part` of each position: half of the documents, a fifth, and three tenths, by chance from `seed`."""
    tenth = np.random.default_rng(seed).permutation(len(text.starts) - 1) % 10
    return np.array([Part.FINDING] * 5 + [Part.CHOOSING] * 2 + [Part.HELD_OUT] * 3)[tenth][text.document]


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """One place at which a text is looked at: what stands there, seen from every position."""

    ids: Int[np.ndarray, " pos"]
    """The token or word there; `n_kinds` for none."""
    n_kinds: int
    orders: tuple[Int[np.ndarray, " _"], ...]
    """The positions of each part of the text by what they see."""
    starts: tuple[Int[np.ndarray, " _"], ...]
    """In `orders`, where the positions that see each kind begin, the last that see nothing."""
    among: Callable[[tuple[int, ...]], Among | Spelt]
    """The condition that one of some stands there."""

    @cached_property
    def counts(self) -> Int[np.ndarray, " _"]:
        """How often each is there, seen from the positions that rules are found on."""
        return np.diff(self.starts[Part.FINDING])

    def positions(self, kinds: Sequence[int], part: Part) -> Int[np.ndarray, " n"]:
        """From where, in one part of the text, one of some is seen."""
        order, starts = self.orders[part], self.starts[part]
        return np.concatenate([order[:0], *(order[starts[kind] : starts[kind + 1]] for kind in kinds)])


@dataclass(frozen=True, kw_only=True, eq=False)
class Ground:
    """The text that rules are found on, with what is the same for all features."""

    text: Text
    part: Int[np.ndarray, " pos"]
    """The `Part` of each position."""

    @cached_property
    def positions(self) -> tuple[Int[np.ndarray, " _"], ...]:
        """Those of each part."""
        return tuple(np.flatnonzero(self.part == part) for part in Part)

    @cached_property
    def views(self) -> tuple[View, ...]:
        """Tokens and words, at the place itself and before it."""
        text, everywhere, found = self.text, np.arange(len(self.text)), list[View]()
        names = list(text.words)
        for back in range(PLACES):
            ids = text.beside(everywhere, -back)
            found.append(self._view(ids, text.n_kinds, partial(_tokens_at, -back)))
            ids = text.word(everywhere, back)
            found.append(self._view(ids, len(names), partial(_words_back, names, back)))
        return tuple(found)

    def _view(self, ids: Int[np.ndarray, " pos"], n_kinds: int, among: Callable[..., Among | Spelt]) -> View:
        orders = tuple(each[np.argsort(ids[each], kind="stable")] for each in self.positions)
        starts = tuple(np.searchsorted(ids[order], np.arange(n_kinds + 2)) for order in orders)
        return View(ids=ids, n_kinds=n_kinds, orders=orders, starts=starts, among=among)

    @cached_property
    def within(self) -> dict[int, Int[np.ndarray, " kind"]]:
        """By window, at how many positions each token came shortly before."""
        seen = {last: _before(self.text, self.positions[Part.FINDING], last)[1] for last in WINDOWS}
        return {last: np.bincount(ids, minlength=self.text.n_kinds + 1) for last, ids in seen.items()}

    @cached_property
    def patterns(self) -> tuple[tuple[Like, ...], Bool[np.ndarray, "pattern pos"]]:
        """Every pattern that holds somewhere, and where: of the token itself, and kinds of the one before."""
        asked = [Like(pattern=name) for name in (*TOKENS, *PASSAGES)]
        asked += [Like(pattern=name, at=-1) for name in TOKENS]
        everywhere = np.arange(len(self.text))
        masks = np.stack([each.holds(self.text, everywhere) for each in asked])
        some = masks.any(axis=1)
        return tuple(asked[each] for each in np.flatnonzero(some)), masks[some]

    @cached_property
    def pattern_counts(self) -> Int[np.ndarray, " pattern"]:
        return self.patterns[1][:, self.positions[Part.FINDING]].sum(axis=1)

    def at(self, rule: Rule, part: Part) -> Int[np.ndarray, " n"]:
        """Where in one part of the text a rule holds, in no order."""
        found = [self.at_clause(clause, part) for clause in rule.clauses]
        if len(found) == 1:
            return found[0]
        return _different(np.concatenate([np.zeros(0, np.int64), *found]))

    def at_clause(self, clause: Sequence[Condition], part: Part) -> Int[np.ndarray, " n"]:
        """Where all conditions hold: found from where the tokens of one of them are, if it names some."""
        for first in clause:
            at = self._listed(first, part)
            if at is not None:
                break
        else:
            first, at = None, self.positions[part]
        for condition in clause:
            if condition is not first:
                at = at[condition.holds(self.text, at)]
        return at

    def _listed(self, condition: Condition, part: Part) -> Int[np.ndarray, " n"] | None:
        """Where a condition that names tokens or words holds, without trying every position; None for others."""
        match condition:
            case Among(tokens=tokens, at=place) if -PLACES < place <= 0:
                return self.views[-2 * place].positions(tokens, part)
            case Spelt(words=words, back=back) if back < PLACES:
                known = [self.text.words[word] for word in words if word in self.text.words]
                return self.views[2 * back + 1].positions(known, part)
            case Within(tokens=tokens, last=last):
                at, text = self.views[0].positions(tokens, part), self.text
                end = np.minimum(at + 1 + last, text.starts[text.document[at] + 1])
                return _covered(at + 1, end, len(text))
        return None


def _tokens_at(place: int, tokens: tuple[int, ...]) -> Among:
    return Among(tokens=tokens, at=place)


def _words_back(names: Sequence[str], back: int, words: tuple[int, ...]) -> Spelt:
    return Spelt(words=tuple(names[word] for word in words), back=back)


def _covered(
    first: Int[np.ndarray, " n"], end: Int[np.ndarray, " n"], size: int
) -> Int[np.ndarray, " covered"]:
    """The positions in at least one of some stretches, in rising order."""
    change = np.bincount(first, minlength=size + 1) - np.bincount(end, minlength=size + 1)
    return np.flatnonzero(np.cumsum(change))


# --- one feature ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Wanted:
    """Where a feature is active, and what it is worth to say so: each tenth of its range counts the same."""

    at: Int[np.ndarray, " event"]
    """In rising order."""
    tenth: Int[np.ndarray, " event"]
    """Which of ten equal stretches of the range, which goes from 0 to where `RANGE` of the activations (of those not
    held out) are below."""
    worth: Float[np.ndarray, " pos"]
    """By position of the text, 0 where the feature is silent; 1 in sum over each part in which it is active."""

    @classmethod
    def of(cls, ground: Ground, at: Int[np.ndarray, " event"], value: Float[np.ndarray, " event"]) -> Wanted:
        part, strength = ground.part[at], np.abs(value.astype(np.float64))
        largest = (
            np.quantile(strength[part != Part.HELD_OUT], RANGE) if (part != Part.HELD_OUT).any() else 1.0
        )
        tenth = np.minimum((strength / largest * TENTHS).astype(np.int64), TENTHS - 1)
        counts = np.bincount(part * TENTHS + tenth, minlength=len(Part) * TENTHS).reshape(len(Part), TENTHS)
        worth = np.zeros(len(ground.text))
        worth[at] = 1 / (counts[part, tenth] * (counts > 0).sum(axis=1)[part])
        return cls(at=at, tenth=tenth, worth=worth)


@dataclass(frozen=True, kw_only=True, eq=False)
class Tally:
    """Of conditions, or of the tokens that one might name: what they are worth, how often right, how often there."""

    worth: Num[np.ndarray, " kind"]
    right: Num[np.ndarray, " kind"]
    there: Num[np.ndarray, " kind"]

    def f1(self, total: float) -> Float[np.ndarray, " kind"]:
        """The harmonic mean of precision and of the share of what could be had; 0 without a hit."""
        return _harmonic(self.right / np.maximum(self.there, 1e-12), self.worth / max(total, 1e-12))


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """Positions at which a condition is looked for, and how many each stands for."""

    at: Int[np.ndarray, " n"]
    worth: Float[np.ndarray, " n"]
    active: Bool[np.ndarray, " n"]
    weight: Float[np.ndarray, " n"]
    total: float
    """What there is to be had, in this sample or outside of it."""

    def tally(self, ids: Int[np.ndarray, " pair"], owner: Int[np.ndarray, " pair"], n_kinds: int) -> Tally:
        """Of what is seen: `ids`, each at the position of the sample that `owner` says."""
        weight, size = self.weight[owner], n_kinds + 1
        return Tally(
            worth=np.bincount(ids, weight * self.worth[owner], size),
            right=np.bincount(ids, weight * self.active[owner], size),
            there=np.bincount(ids, weight, size),
        )


def fit_rule(ground: Ground, wanted: Wanted) -> Rule:
    """The rule of the highest F1; an empty one where none does better than chance.

    F1 is the harmonic mean of precision, over all tokens, and of recall, as the mean over tenths of the range.
    """
    found = wanted.at[ground.part[wanted.at] == Part.FINDING]
    rule, value = Rule(), 0.0
    while len(rule.clauses) < CLAUSES and value < ENOUGH:
        left = found[~rule.holds(ground.text, found)]
        if not len(left):
            break
        tried = [Rule(clauses=(*rule.clauses, clause)) for clause in _clauses(ground, left, wanted)]
        values = [f1_of(wanted, ground.at(each, Part.CHOOSING)) for each in tried]
        if not values or max(values) < value + WORTH:
            break
        value = max(values)
        simplest = [each for each, one in zip(tried, values, strict=True) if one > value - WORTH / 2]
        rule = min(simplest, key=_length)
    return rule


def _length(rule: Rule) -> int:
    return sum(len(clause) for clause in rule.clauses)


def f1_of(wanted: Wanted, at: Int[np.ndarray, " n"]) -> float:
    """F1 of saying "active" at some positions of one part of the text."""
    worth = wanted.worth[at]
    precision = np.count_nonzero(worth) / max(1, len(at))
    return float(_harmonic(np.float64(precision), worth.sum()))


def _harmonic(precision: Any, recall: Any) -> Any:
    return 2 * precision * recall / np.maximum(precision + recall, 1e-12)


def _clauses(
    ground: Ground, left: Int[np.ndarray, " event"], wanted: Wanted
) -> Iterator[tuple[Condition, ...]]:
    """Candidates for the positions `left`: each condition alone, and the best ones with others beside them."""
    singles = sorted(_alone(ground, left, wanted), key=lambda found: -found[0])
    yield from ((condition,) for _, condition in singles)
    if singles and singles[0][0] >= ENOUGH:
        return
    total = float(wanted.worth[left].sum())
    for _, condition in singles[:TRIED]:
        clause = (condition,)
        yield from _refined(ground, clause, ground.at_clause(clause, Part.FINDING), wanted, total)


def _refined(
    ground: Ground, clause: tuple[Condition, ...], at: Int[np.ndarray, " n"], wanted: Wanted, total: float
) -> Iterator[tuple[Condition, ...]]:
    """A clause, which holds at `at`, with one condition more, and with two: at first two are followed, then one."""
    for best in _beside(ground, clause, _sample(at, wanted, total))[: CONDITIONS - len(clause)]:
        longer = (*clause, best)
        yield longer
        yield _anew(ground, longer, wanted, total)
        if len(longer) < CONDITIONS:
            yield from _refined(ground, longer, at[best.holds(ground.text, at)], wanted, total)


def _anew(
    ground: Ground, clause: tuple[Condition, ...], wanted: Wanted, total: float
) -> tuple[Condition, ...]:
    """The clause with the first condition's tokens found anew where the others hold: it asks for more than alone."""
    first, *others = clause
    match first:
        case Among(at=place) if -PLACES < place <= 0:
            view = ground.views[-2 * place]
        case Spelt(back=back) if back < PLACES:
            view = ground.views[2 * back + 1]
        case _:
            return clause
    sample = _sample(ground.at_clause(others, Part.FINDING), wanted, total)
    _, kinds = best_set(_seen(view, sample), total, MOST)
    return (view.among(kinds), *others) if kinds else clause


def _seen(view: View, sample: Sample) -> Tally:
    return sample.tally(view.ids[sample.at], np.arange(len(sample.at)), view.n_kinds)


def _sample(at: Int[np.ndarray, " n"], wanted: Wanted, total: float) -> Sample:
    """As many of the positions as are looked at, evenly: of the active ones and of the others."""
    active = wanted.worth[at] > 0
    kept, weight = [], []
    for each in (at[active], at[~active]):
        kept.append(each[:: max(1, -(-len(each) // (LOOKED_AT // 2)))])
        weight.append(np.full(len(kept[-1]), len(each) / max(1, len(kept[-1]))))
    chosen = np.concatenate(kept)
    worth = wanted.worth[chosen]
    return Sample(at=chosen, worth=worth, active=worth > 0, weight=np.concatenate(weight), total=total)


def _alone(ground: Ground, left: Int[np.ndarray, " event"], wanted: Wanted) -> list[tuple[float, Condition]]:
    """The best condition of each kind, with its F1 for the positions `left` among all."""
    text, found = ground.text, list[tuple[float, Condition]]()
    sample = Sample(at=left, worth=wanted.worth[left], active=np.ones(len(left), bool), weight=np.ones(len(left)),
                    total=float(wanted.worth[left].sum()))  # fmt: skip
    for view in ground.views:
        value, kinds = best_set(replace(_seen(view, sample), there=view.counts), sample.total, MOST)
        found.append((value, view.among(kinds)))
    some = _sample(left, wanted, sample.total)
    for last in WINDOWS:
        owner, ids = _before(text, some.at, last)
        tally = replace(some.tally(ids, owner, text.n_kinds), there=ground.within[last])
        value, tokens = best_set(tally, sample.total, MOST_WITHIN)
        found.append((value, Within(tokens=tokens, last=last)))
    patterns, masks = ground.patterns
    held = masks[:, left]
    values = Tally(worth=held @ sample.worth, right=held.sum(axis=1), there=ground.pattern_counts).f1(
        sample.total
    )
    found += [(float(values[each]), patterns[each]) for each in np.argsort(-values)[:TRIED]]
    for n in EARLY:
        early, there = text.place[left] < n, (text.place[ground.positions[Part.FINDING]] < n).sum()
        value = _harmonic(early.sum() / max(1, there), sample.worth[early].sum() / sample.total)
        found.append((float(value), Early(n=n)))
    return [(value, condition) for value, condition in found if value > 0]


def _beside(ground: Ground, clause: Sequence[Condition], sample: Sample) -> list[Condition]:
    """Conditions that, asked beside a clause where it holds, raise F1, the best first."""
    text, found = ground.text, list[tuple[float, Condition]]()
    right, had = (float((sample.weight * each).sum()) for each in (sample.active, sample.worth))
    alone = _harmonic(right / max(float(sample.weight.sum()), 1e-12), had / sample.total)
    for view in ground.views:
        value, kinds = best_set(_seen(view, sample), sample.total, MOST)
        found.append((value, view.among(kinds)))
    for last in WINDOWS:
        owner, ids = _before(text, sample.at, last)
        value, tokens = best_set(sample.tally(ids, owner, text.n_kinds), sample.total, MOST_WITHIN)
        found.append((value, Within(tokens=tokens, last=last)))
    patterns, masks = ground.patterns
    held = masks[:, sample.at] * sample.weight
    values = Tally(worth=held @ sample.worth, right=held @ sample.active, there=held.sum(axis=1)).f1(
        sample.total
    )
    best = int(values.argmax())
    found.append((float(values[best]), patterns[best]))
    found.sort(key=lambda each: -each[0])
    return [condition for value, condition in found if value > alone + WORTH and condition not in clause]


def best_set(tally: Tally, total: float, most: int) -> tuple[float, tuple[int, ...]]:
    """Of the tokens of a tally the set of the highest F1, and that F1; a smaller one where it does nearly as well.

    The tokens are taken in the order of what each is worth a sighting; one sighting says little, so each is taken to
    have been seen once more, and silent. The last id, "no token there", is no token.
    """
    seen = np.flatnonzero(tally.worth[:-1])
    order = seen[np.argsort(-tally.worth[seen] / (tally.there[seen] + 1), kind="stable")][:most]
    if not len(order):
        return 0.0, ()
    values = Tally(worth=np.cumsum(tally.worth[order]), right=np.cumsum(tally.right[order]),
                   there=np.cumsum(tally.there[order])).f1(total)  # fmt: skip
    best = int((values >= values.max() - SLIGHT).argmax())
    return float(values[best]), tuple(order[: best + 1].tolist())


def _before(
    text: Text, at: Int[np.ndarray, " n"], last: int
) -> tuple[Int[np.ndarray, " pair"], Int[np.ndarray, " pair"]]:
    """The different tokens among the `last` before each position: number of the position, id."""
    kinds = text.n_kinds + 1
    pairs = np.concatenate(
        [np.arange(len(at)) * kinds + text.beside(at, -back) for back in range(1, last + 1)]
    )
    pairs = _different(pairs)
    owner, ids = pairs // kinds, pairs % kinds
    real = ids < text.n_kinds
    return owner[real], ids[real]


def _different(numbers: Int[np.ndarray, " n"]) -> Int[np.ndarray, " different"]:
    """The different ones of some numbers from 0, in rising order: quicker than by a hash of them."""
    numbers = np.sort(numbers)
    return numbers[np.diff(numbers, prepend=-1) > 0]
