"""Features that a text and its translation share, against those that texts of different facts share.

Sharing is the intersection over the union of the features that are active anywhere in the two texts (first positions
left out as the dictionary does).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from itertools import combinations
from statistics import fmean as mean

import torch
from jaxtyping import Bool
from torch import Tensor

from thoughtscope.dictionaries import Dictionary, encode
from thoughtscope.models import Model, capture
from thoughtscope.replications.claims import Seen
from thoughtscope.replications.scaling.material import read

MEANINGS = (
    ("big", "grand", "大"), ("hot", "chaud", "热"), ("good", "bon", "好"), ("fast", "rapide", "快"),
    ("high", "haut", "高"), ("old", "vieux", "旧"), ("strong", "fort", "强"), ("rich", "riche", "富"),
    ("happy", "heureux", "快乐"), ("open", "ouvert", "开"), ("full", "plein", "满"), ("heavy", "lourd", "重"),
    ("dark", "sombre", "暗"), ("clean", "propre", "干净"), ("hard", "dur", "硬"), ("deep", "profond", "深"),
    ("near", "proche", "近"), ("early", "tôt", "早"), ("easy", "facile", "容易"), ("true", "vrai", "真"),
    ("left", "gauche", "左"), ("day", "jour", "白天"), ("summer", "été", "夏天"), ("north", "nord", "北"),
)  # fmt: skip
"""What the specimen is asked the opposite of, in its three languages."""
QUESTIONS = ('The opposite of "{}" is "', 'Le contraire de "{}" est "', '"{}"的反义词是"')


def shipped_facts() -> list[tuple[str, ...]]:
    """Sentences in English, French and Spanish."""
    file = resources.files("thoughtscope.replications.scaling") / "facts.json"
    return [tuple(row) for row in json.loads(file.read_text(encoding="utf-8"))]


def active_in(model: Model, dictionary: Dictionary, text: str) -> list[Bool[Tensor, " feature"]]:
    """By part, which features are active anywhere in a text."""
    features = encode(dictionary, capture(model, read(model, text), dictionary.sites))
    found = []
    for number, part in enumerate(dictionary.parts):
        active = torch.zeros(part.n_features, dtype=torch.bool)
        active[features.index[features.part == number]] = True
        found.append(active)
    return found


def shared(one: Bool[Tensor, "text feature"], other: Bool[Tensor, "text feature"]) -> tuple[float, float]:
    """Mean intersection over union of texts of the same number, and of texts of different ones."""
    a, b = one.float(), other.float()
    both = a @ b.T
    union = a.sum(1)[:, None] + b.sum(1) - both
    share, same = both / union.clamp(min=1), torch.eye(len(one), dtype=torch.bool)
    return float(share[same].mean()), float(share[~same].mean())


def by_part(model: Model, dictionary: Dictionary, rows: Sequence[Sequence[str]]) -> list[tuple[float, float]]:
    """By part, `shared` averaged over all pairs of languages; a row has one fact in all of them."""
    read_by_language = [
        [active_in(model, dictionary, text) for text in texts] for texts in zip(*rows, strict=True)
    ]
    found = []
    for number in range(len(dictionary.parts)):
        active = [torch.stack([each[number] for each in texts]) for texts in read_by_language]
        pairs = [shared(one, other) for one, other in combinations(active, 2)]
        found.append((mean(same for same, _ in pairs), mean(different for _, different in pairs)))
    return found


def measure(model: Model, dictionary: Dictionary) -> dict[str, Seen]:
    """The claim about a real model: its middle part."""
    rows = shipped_facts()
    parts = by_part(model, dictionary, rows)
    same, different = parts[len(parts) // 2]
    return {
        "multilingual": Seen(values=(same,), controls=(different,), n=len(rows), note=told(dictionary, parts))
    }


def measure_layers(model: Model, dictionary: Dictionary) -> dict[str, Seen]:
    """The claim about layers: by how much shares exceed those of other facts, the best part between less the first."""
    rows = [tuple(q.format(word) for q, word in zip(QUESTIONS, words, strict=True)) for words in MEANINGS]
    parts = by_part(model, dictionary, rows)
    excess = [same - different for same, different in parts]
    return {
        "multilingual_layers": Seen(
            values=(max(excess[1:-1]) - excess[0],), n=len(rows), note=told(dictionary, parts)
        )
    }


def told(dictionary: Dictionary, parts: Sequence[tuple[float, float]]) -> str:
    """Shares by part."""
    rows = (
        f"{part.name}: {same:.2f} ({different:.2f})"
        for part, (same, different) in zip(dictionary.parts, parts, strict=True)
    )
    return "same fact (other facts): " + ", ".join(rows)
