"""Names for features: those that people give, kept in one file, and a first guess made from examples and outputs."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thoughtscope.core.errors import CorruptArtefact, LimitExceeded, ThoughtscopeError
from thoughtscope.core.files import atomic_write_text, strict_json

MAX_LABEL = 200
"""Characters in a person's label."""
SHORT = 40
"""Characters in what `auto_label` says of the input."""
RAISED = 5
"""Places in the list of raised tokens at which the word that follows in most examples counts as the feature's doing."""
STANDS_OUT = 7.0
"""Standard deviations above the vocabulary at which a raised token is worth naming."""


class LabelStore:
    """Labels by layer and index in a JSON file of the user's; each change is on disk before `set` returns.

    Raises `CorruptArtefact` for a file that is not such a table.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._labels = self._read()

    def get(self, layer: int, index: int) -> str | None:
        return self._labels.get(f"{layer}/{index}")

    def set(self, layer: int, index: int, label: str) -> str:
        """Keeps a label, as plain text in one line; an empty one removes it. Returns what is kept.

        Raises `LimitExceeded` for more than `MAX_LABEL` characters, `ThoughtscopeError` for what is not text.
        """
        if not isinstance(label, str):
            raise ThoughtscopeError(f"A label is text; got {type(label).__name__}.")
        text = " ".join("".join(c if c.isprintable() else " " for c in label).split())
        if len(text) > MAX_LABEL:
            raise LimitExceeded(f"A label has at most {MAX_LABEL} characters; got {len(text)}.")
        with self._lock:
            labels = {**self._read(), f"{layer}/{index}": text}
            if not text:
                del labels[f"{layer}/{index}"]
            self.path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_text(
                self.path, json.dumps(labels, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
            )
            self._labels = labels
        return text

    def all(self) -> dict[str, str]:
        """Every label, by `layer/index`."""
        return dict(self._labels)

    def _read(self) -> dict[str, str]:
        if not self.path.exists():
            return {}
        labels = strict_json(self.path.read_bytes(), self.path)
        if not isinstance(labels, dict) or not all(isinstance(text, str) for text in labels.values()):
            raise CorruptArtefact(f"{self.path} is not a table of labels.")
        return labels


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
