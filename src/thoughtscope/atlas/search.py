"""`find_text`: the features of a bank that fire on a text, right after it, or that raise it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int

from thoughtscope.atlas.bank import FeatureBank, LayerRecords
from thoughtscope.core.errors import LimitExceeded

MAX_WORDS = 8
BESIDE = 0.5
"""What raising a text first of all, or firing right after it in every example, counts beside firing on it."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A feature that has to do with a text."""

    layer: int
    """Number of the part in the dictionary, as a bank counts."""
    index: int
    score: float
    """Share of the strongest examples that peak inside of the text, or `BESIDE` for what is near to it; up to 1."""
    what: str
    """`Dallas`, `after capital`, `raises Texas`: the token that matched, and how."""


@dataclass(frozen=True, kw_only=True)
class _Near:
    """How near each feature of a bank is to one pattern, all layers behind one another: shares from 0 to 1."""

    on: Float[np.ndarray, " feature"]
    after: Float[np.ndarray, " feature"]
    raised: Float[np.ndarray, " feature"]

    @property
    def score(self) -> Float[np.ndarray, " feature"]:
        return np.maximum(self.on, BESIDE * np.maximum(self.after, self.raised))


def find_text(bank: FeatureBank, text: str, *, n: int) -> list[Found]:
    """The `n` features nearest to a text, the nearest first: to the whole of it, or to each of its words.

    A text is looked for in what was scanned, whatever tokens it is cut into, without regard to case. It begins where a
    word begins, so that "paris" does not find "comparison". A character that is itself cut is not found.
    Raises `LimitExceeded` for more than `MAX_WORDS` words.
    """
    words = text.split()
    if len(words) > MAX_WORDS:
        raise LimitExceeded(f"A search takes at most {MAX_WORDS} words; got {len(words)}.")
    if not words:
        return []
    phrases = list(dict.fromkeys([" ".join(words), *words]))
    near = {phrase: _near(bank, phrase) for phrase in phrases}
    whole, *each = (near[phrase].score for phrase in phrases)
    score = np.maximum(whole, np.minimum.reduce(each)) if each else whole
    widths = [len(records.count) for records in bank.layers]
    ends = np.cumsum(widths)
    found = []
    for place in np.argsort(-score, kind="stable")[:n].tolist():
        if not score[place]:
            break
        layer = int(np.searchsorted(ends, place, side="right"))
        index = place - int(ends[layer]) + widths[layer]
        closest = max(phrases, key=lambda phrase: near[phrase].score[place])
        what = _what(bank, near[closest], closest, place, layer, index)
        found.append(Found(layer=layer, index=index, score=float(score[place]), what=what))
    return found


def _near(bank: FeatureBank, phrase: str) -> _Near:
    on, after, raised = [], [], []
    inside = _inside(bank, phrase)
    behind = np.concatenate([[False], inside[:-1]])
    behind[bank.starts.numpy()[:-1]] = False  # another document's end stands before these
    behind &= ~inside
    pattern = _pattern(phrase)
    listed = [token for token, piece in bank.pieces.items() if pattern.search(piece.casefold())]
    matching = np.array(listed, np.int64)
    for records in bank.layers:
        on.append(_share(records, inside))
        after.append(_share(records, behind))
        raised.append(_raised(records, matching))
    return _Near(on=np.concatenate(on), after=np.concatenate(after), raised=np.concatenate(raised))


def _share(records: LayerRecords, mask: Bool[np.ndarray, " pos"]) -> Float[np.ndarray, " feature"]:
    """Of each feature's strongest examples, the share that peaks where the mask is true."""
    n_features = len(records.count)
    feature = np.repeat(np.arange(n_features), np.diff(records.example_offsets.numpy()))
    strongest = records.example_group.numpy() == 0
    feature, at = feature[strongest], records.example_token.numpy()[strongest]
    total = np.bincount(feature, minlength=n_features)
    return np.bincount(feature, weights=mask[at], minlength=n_features) / np.maximum(total, 1)


def _raised(records: LayerRecords, tokens: Int[np.ndarray, " token"]) -> Float[np.ndarray, " feature"]:
    """1 where one of the tokens is the most raised one, 1/2 where it is the second, …, 0 where none is listed.

    A feature that never fired in the scanned text raises nothing.
    """
    top = np.isin(records.top_logits.numpy(), tokens)  # (feature, rank)
    ranks = 1.0 / (1.0 + np.arange(top.shape[1]))
    return (top * ranks).max(axis=1, initial=0.0) * (records.count.numpy() > 0)


def _inside(bank: FeatureBank, phrase: str) -> Bool[np.ndarray, " pos"]:
    """Which scanned tokens hold something of an occurrence of the phrase."""
    text, ends = _scanned(bank)
    spans = np.array([match.span() for match in _pattern(phrase).finditer(text)], np.int64).reshape(-1, 2)
    first = np.searchsorted(ends, spans[:, 0], side="right")
    last = np.searchsorted(ends, spans[:, 1] - 1, side="right")
    # +1 where an occurrence begins and -1 behind its end: the running sum counts those that a token is in.
    n = bank.n_tokens + 1
    return (np.bincount(first, minlength=n) - np.bincount(last + 1, minlength=n)).cumsum()[:-1] > 0


@lru_cache(maxsize=2)
def _scanned(bank: FeatureBank) -> tuple[str, Int[np.ndarray, " pos"]]:
    """The scanned text without regard to case, and where in it each token ends."""
    folded = {token: piece.casefold() for token, piece in bank.pieces.items()}
    pieces = [folded[token] for token in bank.ids.tolist()]
    return "".join(pieces), np.cumsum([len(piece) for piece in pieces])


def _pattern(phrase: str) -> re.Pattern[str]:
    """A phrase with any space between its words. What is written without spaces may begin anywhere."""
    words = phrase.casefold().split()
    start = r"(?<![0-9a-z])" if words[0][0].isascii() and words[0][0].isalnum() else ""
    return re.compile(start + r"\s+".join(map(re.escape, words)))


def _what(bank: FeatureBank, near: _Near, phrase: str, place: int, layer: int, index: int) -> str:
    score = near.score[place]
    if near.on[place] == score:
        return phrase
    if BESIDE * near.after[place] == score:
        return f"after {phrase}"
    pattern = _pattern(phrase)
    raised = (bank.pieces[token] for token in bank.layers[layer].top_logits[index].tolist())
    return "raises " + next(piece.strip() for piece in raised if pattern.search(piece.casefold()))
