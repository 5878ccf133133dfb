"""A first guess at a name for a feature, made from its examples and outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SHORT = 40
"""Characters in what `auto_label` says of the input."""
RAISED = 5
"""Places in the list of raised tokens at which the word that follows in most examples counts as the feature's doing."""
STANDS_OUT = 7.0
"""Standard deviations above the vocabulary at which a raised token is worth naming."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a label is made of: words at and around the peaks of a feature's strongest examples, and what it raises."""

    before: Sequence[str]
    peaks: Sequence[str]
    after: Sequence[str]
    raised: Sequence[str]
    strength: float
    """By how many standard deviations of the vocabulary the most raised token stands out."""


def auto_label(detail: Mapping[str, Any]) -> str:
    """A short description in plain words: what the feature fires on, and if that is unclear, what it raises.

    `Dallas`, `Dallas, Houston`, `the state`, `after capital, city`, `raises Texas, Austin`; with ` → Austin` where the
    feature raises one token far above all others, or raises the word that follows in most examples. Empty for a
    feature without examples.
    """
    groups = detail.get("examples_quantiles") or []
    examples = [example for example in (groups[0]["examples"] if groups else []) if example["tokens"]]
    return label_of(
        Shown(
            before=[_at(example, -1) for example in examples],
            peaks=[_at(example, 0) for example in examples],
            after=[_at(example, 1) for example in examples],
            raised=[plain_word(token) for token in detail.get("top_logits") or []],
            strength=float(detail.get("output_strength", 0.0)),
        )
    )


def label_of(shown: Shown) -> str:
    """The label that `auto_label` makes, of what it is made of."""
    if not shown.peaks:
        return ""
    common = _common(shown.peaks)
    if common:
        # A word that nearly every text has says little: then the word before it tells more.
        preceding = _common(shown.before, share=0.7, most=1) if len(common) == 1 else []
        preceding = [word for word in preceding if any(character.isalnum() for character in word)]
        text = " ".join([*preceding, *common]) if preceding else ", ".join(common)
        return _shortened(text) + _output(shown)
    preceding = _common(shown.before, share=0.7, most=2)
    if preceding:
        return _shortened("after " + ", ".join(preceding)) + _output(shown)
    return _shortened("raises " + ", ".join(dict.fromkeys(word for word in shown.raised[:4] if word)))


def _output(shown: Shown) -> str:
    """The token that the feature raises, if one clearly stands out, or is what most examples go on with."""
    if shown.raised and shown.raised[0] and shown.strength >= STANDS_OUT:
        return f" → {shown.raised[0]}"
    following = _common(shown.after, share=0.6, most=1)
    return f" → {following[0]}" if following and following[0] in shown.raised[:RAISED] else ""


def _at(example: Mapping[str, Any], offset: int) -> str:
    place = example["train_token_ind"] + offset
    return plain_word(example["tokens"][place]) if 0 <= place < len(example["tokens"]) else ""


def _common(words: Sequence[str], *, share: float = 0.8, most: int = 4) -> list[str]:
    """The fewest words (at most `most`) that make up `share` of the list; empty if there are no such few."""
    counts = Counter(word.casefold() for word in words if word)
    shown = {word.casefold(): word for word in reversed(words)}
    covered, chosen = 0, []
    for word, count in counts.most_common(most):
        chosen.append(shown[word])
        covered += count
        if covered >= share * len(words):
            return chosen
    return []


def plain_word(piece: str) -> str:
    """A token as a word in a label: no space around it, line breaks as a mark."""
    return piece.replace("\n", "↵").strip() or ("␣" if piece else "")


def _shortened(text: str) -> str:
    return text if len(text) <= SHORT else text[: SHORT - 1].rstrip(" ,") + "…"
