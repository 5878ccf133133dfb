"""A first guess at a name for a feature, made from its examples and outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

SHORT = 40
"""Characters in what `auto_label` says of the input."""
RAISED = 5
"""Places in the list of raised tokens at which the word that follows in most examples counts as the feature's doing."""
STANDS_OUT = 7.0
"""Standard deviations above the vocabulary at which a raised token is worth naming."""


def auto_label(detail: Mapping[str, Any]) -> str:
    """A short description in plain words: what the feature fires on, and if that is unclear, what it raises.

    `Dallas`, `Dallas, Houston`, `the state`, `after capital, city`, `raises Texas, Austin`; with ` → Austin` where the
    feature raises one token far above all others, or raises the word that follows in most examples. Empty for a
    feature without examples.
    """
    groups = detail.get("examples_quantiles") or []
    examples = [example for example in (groups[0]["examples"] if groups else []) if example["tokens"]]
    if not examples:
        return ""
    peaks = [_at(example, 0) for example in examples]
    before = [_at(example, -1) for example in examples]
    common = _common(peaks)
    if common:
        # A word that nearly every text has says little: then the word before it tells more.
        preceding = _common(before, share=0.7, most=1) if len(common) == 1 else []
        preceding = [word for word in preceding if any(character.isalnum() for character in word)]
        text = " ".join([*preceding, *common]) if preceding else ", ".join(common)
        return _shortened(text) + _output(detail)
    preceding = _common(before, share=0.7, most=2)
    if preceding:
        return _shortened("after " + ", ".join(preceding)) + _output(detail)
    raised = [_plain(token) for token in detail.get("top_logits") or []]
    return _shortened("raises " + ", ".join(dict.fromkeys(word for word in raised[:4] if word)))


def _output(detail: Mapping[str, Any]) -> str:
    """The token that the feature raises, if one clearly stands out, or is what most examples go on with."""
    raised = [_plain(token) for token in detail.get("top_logits") or []]
    if raised and raised[0] and detail.get("output_strength", 0.0) >= STANDS_OUT:
        return f" → {raised[0]}"
    after = [_at(example, 1) for example in detail["examples_quantiles"][0]["examples"] if example["tokens"]]
    following = _common(after, share=0.6, most=1)
    return f" → {following[0]}" if following and following[0] in raised[:RAISED] else ""


def _at(example: Mapping[str, Any], offset: int) -> str:
    place = example["train_token_ind"] + offset
    return _plain(example["tokens"][place]) if 0 <= place < len(example["tokens"]) else ""


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


def _plain(piece: str) -> str:
    """A token as a word in a label: no space around it, line breaks as a mark."""
    return piece.replace("\n", "↵").strip() or ("␣" if piece else "")


def _shortened(text: str) -> str:
    return text if len(text) <= SHORT else text[: SHORT - 1].rstrip(" ,") + "…"
