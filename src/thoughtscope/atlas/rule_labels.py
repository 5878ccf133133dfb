"""`label_by_rules`: for every feature the rule that says best where it is active, and how far it holds on other text.

All of it is counted, on whole documents that the rule was not made from; beside it stands what a table of single tokens
does, for a label that is no better than that has found nothing of what stands around the token.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from thoughtscope.atlas.collect import check_recorded, in_blocks, output_tokens, pieces_of
from thoughtscope.atlas.columns import Columns
from thoughtscope.atlas.fitting import Ground, Part, Tally, Wanted, best_set, fit_rule, parts_of
from thoughtscope.atlas.made_labels import KIND, MadeLabel, MadeLabels
from thoughtscope.atlas.recording import Recording
from thoughtscope.atlas.rules import Among, Rule
from thoughtscope.atlas.text import Text
from thoughtscope.core.errors import DictionaryMismatch
from thoughtscope.core.progress import Progress, silent
from thoughtscope.core.store import is_artefact

if TYPE_CHECKING:
    from thoughtscope.dictionaries import Dictionary
    from thoughtscope.models import Model

AUTHOR = "rules"
PACE = 60.0
"""Seconds between two saves."""
FEWEST = 10
"""Held-out tokens on which a feature has to be active for its label to be tried."""
PROMOTED = (1, 3, 10)
"""How many of the tokens that a feature raises most are asked for as the next one."""
SHORT = 60
"""Characters of a label."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How a rule does on held-out text: every token of it counts."""

    precision: float
    """Of the tokens that the rule names, the share on which the feature is active."""
    recall: Mapping[int, float]
    """By tenth of the feature's range, of the tokens on which it is so active, the share that the rule names."""
    plain_recall: float
    """The same of all tokens on which it is active, most of them weakly."""
    silent: float
    """Of the tokens on which it is silent, the share that the rule names."""
    n: int
    """Held-out tokens on which the feature is active."""

    @property
    def f1(self) -> float:
        """The harmonic mean of the precision and the mean of the tenths' recalls."""
        return _mean(self.precision, float(np.mean(list(self.recall.values()))))

    @property
    def plain_f1(self) -> float:
        """The same with every active token counting the same."""
        return _mean(self.precision, self.plain_recall)

    @property
    def even_f1(self) -> float:
        """As if active and silent tokens were equally many, as published scores of labels take them: a list of tokens
        that is long enough does well."""
        hits = self.plain_recall
        return _mean(hits / (hits + self.silent) if hits else 0.0, hits)


def _mean(precision: float, recall: float) -> float:
    total = precision + recall
    return 2 * precision * recall / total if total else 0.0


def label_by_rules(
    model: Model,
    dictionary: Dictionary,
    recording: Recording,
    folder: str | os.PathLike[str] | None = None,
    *,
    features: Mapping[int, Sequence[int]] | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> MadeLabels:
    """Labels for `features` (indices by number of the part; all by default) that are active on enough of a recording.

    Half of the documents make a rule, a fifth chooses among the candidates, three tenths try it. A feature that never
    fires there has no label; one with fewer than `FEWEST` held-out active tokens has one without figures. With
    `folder`, labels are saved there on the way, beside what others made, and a call that was killed goes on.
    Raises `DictionaryMismatch` for the recording of another dictionary.
    """
    check_recorded(recording, dictionary)
    of = {AUTHOR: {"documents": recording.plan.documents, "tokens": int(recording.starts[-1]), "seed": seed}}
    made = MadeLabels(dictionary=dictionary.name, scan=dictionary.scan, labels={}, made_of=of)
    made = _begun(made, folder)
    text = text_of(model, recording)
    ground, saved = Ground(text=text, part=parts_of(text, seed)), time.monotonic()
    chosen = features or {part: range(each.n_features) for part, each in enumerate(dictionary.parts)}
    found, done, total = dict(made.labels), 0, sum(map(len, chosen.values()))
    for number, some in chosen.items():
        raised = output_tokens(model, dictionary.parts[number])["top_logits"].numpy()
        for index, at, value in _events(recording, number, some):
            if (number, index) not in found:
                label = _labelled(ground, at, value, raised[index])
                found |= {} if label is None else {(number, index): label}
            done += 1
            progress("rules", done, total)
            if folder is not None and (done == total or time.monotonic() > saved + PACE):
                replace(made, labels=found).save(folder)
                saved = time.monotonic()
    return replace(made, labels=found)


def _begun(made: MadeLabels, folder: str | os.PathLike[str] | None) -> MadeLabels:
    """What is there of the same labels, and of others' of the same dictionary."""
    if folder is None or not is_artefact(folder, kind=KIND):
        return made
    there = MadeLabels.load(folder)
    if there.scan != made.scan:
        raise DictionaryMismatch(
            f"{folder} has labels of {there.dictionary}, not of {made.dictionary}; name another folder."
        )
    if there.made_of.get(AUTHOR) != made.made_of[AUTHOR]:
        kept = {place: label for place, label in there.labels.items() if label.author != AUTHOR}
        there = replace(there, labels=kept)
    return there | made


def text_of(model: Model, recording: Recording) -> Text:
    """The text of a recording, with every token of the vocabulary as a person reads it."""
    known = pieces_of(model, range(model.vocab_size))
    return Text(ids=recording.ids.astype(np.int64), starts=recording.starts, pieces=list(known.values()))


def _events(
    recording: Recording, part: int, some: Sequence[int]
) -> Iterator[tuple[int, Int[np.ndarray, " event"], Float[np.ndarray, " event"]]]:
    """Index, positions and activations of the wanted features of a part."""
    wanted, first = set(some), 0
    for columns in in_blocks(recording, part):
        for place in range(len(columns.count)):
            if first + place in wanted:
                yield (first + place, *_column(columns, place))
        first += len(columns.count)


def _column(columns: Columns, place: int) -> tuple[np.ndarray, np.ndarray]:
    here = slice(columns.offsets[place], columns.offsets[place + 1])
    return columns.token[here].astype(np.int64), columns.value[here]


def _labelled(
    ground: Ground,
    at: Int[np.ndarray, " event"],
    value: Float[np.ndarray, " event"],
    raised: Int[np.ndarray, " rank"],
) -> MadeLabel | None:
    wanted = Wanted.of(ground, at, value)
    pieces, rule = ground.text.pieces, fit_rule(ground, wanted)
    promoted = _promoted(ground, at, raised)
    if not rule.clauses and promoted is None:
        return None
    tried = tried_on(ground, rule, wanted)
    beside = None if promoted is None else tried_on(ground, promoted, wanted)
    figures = {
        "unigram_f1": _f1(tried_on(ground, unigram_table(ground, wanted), wanted)),
        "lift": lift(ground, at, raised),
    }
    if beside is not None and promoted is not None and (not rule.clauses or _f1(beside) > _f1(tried)):
        words = f"raises {_next(promoted, pieces)}"
        return MadeLabel(text=_short(words), author=AUTHOR, side="output", whole=words, rule=promoted,
                         figures=_figures(beside) | figures)  # fmt: skip
    words = rule.say(pieces)
    return MadeLabel(text=_short(words), author=AUTHOR, side="input", whole=words, rule=rule,
                     figures=_figures(tried) | figures)  # fmt: skip


def _next(promoted: Rule, pieces: Sequence[str]) -> str:
    return promoted.say(pieces).removeprefix("before ")


def _short(words: str) -> str:
    return words if len(words) <= SHORT else words[: SHORT - 1].rstrip(" ,;") + "…"


def _f1(trial: Trial | None) -> float:
    return 0.0 if trial is None else trial.f1


def _figures(trial: Trial | None) -> dict[str, float]:
    if trial is None:
        return {}
    tenths = {f"recall_{tenth}": share for tenth, share in trial.recall.items()}
    recall = float(np.mean(list(trial.recall.values())))
    figures = {"f1": trial.f1, "precision": trial.precision, "recall": recall, "plain_f1": trial.plain_f1,
               "even_f1": trial.even_f1, **tenths}  # fmt: skip
    return {name: round(figure, 4) for name, figure in figures.items()} | {"n": trial.n}


# --- trials --------------------------------------------------------------------------------------------------------


def tried_on(ground: Ground, rule: Rule, wanted: Wanted) -> Trial | None:
    """A rule on the held-out part of the text; None where the feature is active on fewer than `FEWEST` tokens of it."""
    here = ground.part[wanted.at] == Part.HELD_OUT
    at, tenth = wanted.at[here], wanted.tenth[here]
    if len(at) < FEWEST:
        return None
    named, everywhere = len(ground.at(rule, Part.HELD_OUT)), len(ground.positions[Part.HELD_OUT])
    right = rule.holds(ground.text, at)
    return Trial(
        precision=float(right.sum() / named) if named else 0.0,
        recall={each: float(right[tenth == each].mean()) for each in np.unique(tenth).tolist()},
        plain_recall=float(right.mean()),
        silent=float((named - right.sum()) / max(1, everywhere - len(at))),
        n=len(at),
    )


def unigram_table(ground: Ground, wanted: Wanted) -> Rule:
    """The control: the list of tokens, as long as one likes, that says best where a feature is active."""
    seen, ids, size = ground.part != Part.HELD_OUT, ground.text.ids, ground.text.n_kinds + 1
    at = wanted.at[seen[wanted.at]]
    tally = Tally(
        worth=np.bincount(ids[at], wanted.worth[at], size),
        right=np.bincount(ids[at], minlength=size),
        there=np.bincount(ids[seen], minlength=size),
    )
    _, tokens = best_set(tally, float(wanted.worth[at].sum()), size)
    return Rule(clauses=((Among(tokens=tokens),),)) if tokens else Rule()


def _promoted(ground: Ground, at: Int[np.ndarray, " event"], raised: Int[np.ndarray, " rank"]) -> Rule | None:
    """That the next token is one of those that the feature raises most: as many of them as say it best."""
    seen = at[ground.part[at] != Part.HELD_OUT]
    if not len(raised) or not len(seen):
        return None
    following, here = ground.text.beside(seen, 1), ground.part != Part.HELD_OUT
    counts = np.bincount(ground.text.beside(np.flatnonzero(here), 1), minlength=ground.text.n_kinds + 1)
    best, value = 0, 0.0
    for most in PROMOTED:
        right = np.isin(following, raised[:most]).sum()
        f1 = 2 * right / (counts[raised[:most]].sum() + len(seen))
        if f1 > value:
            best, value = most, f1
    return Rule(clauses=((Among(tokens=tuple(raised[:best].tolist()), at=1),),)) if best else None


def lift(ground: Ground, at: Int[np.ndarray, " event"], raised: Int[np.ndarray, " rank"]) -> float:
    """How many times as often the held-out text goes on with one of some tokens where the feature is active, as it
    does anywhere; 0 where that is never."""
    held_out = ground.positions[Part.HELD_OUT]
    at = at[ground.part[at] == Part.HELD_OUT]
    anywhere = float(np.isin(ground.text.beside(held_out, 1), raised).mean()) if len(held_out) else 0.0
    here = float(np.isin(ground.text.beside(at, 1), raised).mean()) if len(at) else 0.0
    return round(here / anywhere, 3) if anywhere else 0.0
