"""A feature for a difference between paired texts: sought on some pairs, judged on the others.

A text counts as the mean of a feature's activations over its tokens, or as their maximum: some differences are in a
single token, and which of the two is taken belongs to the search. On one half of the pairs the feature is taken that
tells the first texts from the second ones best; what counts is how well the same feature does on the other half,
averaged over many ways to halve. Beside it: the same search where each pair's order is drawn at random, the best single
channel of the residual stream, the direction between the two means, and random features.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtscope.dictionaries import Dictionary
from thoughtscope.dictionaries.documents import counted
from thoughtscope.dictionaries.features import flat
from thoughtscope.models import Model, capture
from thoughtscope.replications.claims import Seen
from thoughtscope.replications.scaling.material import read

SPLITS = 40
"""Ways to halve the pairs, over which figures are averaged."""


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Pairs of texts. Columns are the features of all parts as means over tokens, then as maxima; `x` are means
    of what the parts read.
    """

    first: Float[Tensor, "pair column"]
    second: Float[Tensor, "pair column"]
    x_first: Float[Tensor, "pair width"]
    x_second: Float[Tensor, "pair width"]

    def __len__(self) -> int:
        return len(self.first)


def shipped_pairs() -> dict[str, list[tuple[str, str]]]:
    """The pairs that come along, by kind."""
    file = resources.files("thoughtscope.replications.scaling") / "pairs.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    return {kind: [(one, other) for one, other in rows] for kind, rows in found.items()}


def paired(model: Model, dictionary: Dictionary, pairs: Sequence[tuple[str, str]]) -> Paired:
    """Reads the texts with every part of the dictionary."""
    (first, x_first), (second, x_second) = (
        pooled(model, dictionary, texts) for texts in zip(*pairs, strict=True)
    )
    return Paired(first=first, second=second, x_first=x_first, x_second=x_second)


@torch.no_grad()
def pooled(
    model: Model, dictionary: Dictionary, texts: Sequence[str]
) -> tuple[Float[Tensor, "text column"], Float[Tensor, "text width"]]:
    """Columns of `Paired`, and means of what is read; first positions are left out where the dictionary does so."""
    tokens = read(model, texts)
    acts = capture(model, tokens, dictionary.reads)
    keep = counted(tokens.mask, skip_first=dictionary.skip_first)
    rows, means = [], []
    for row, here in enumerate(keep):
        held = {site: flat(x[row][here], 1).float() for site, x in acts.items()}
        values = torch.cat([part.activations(held) for part in dictionary.parts], dim=1)  # (token, feature)
        rows.append(torch.cat([values.mean(0), values.amax(0)]))
        means.append(torch.cat([x.mean(0) for x in held.values()]))
    return torch.stack(rows), torch.stack(means)


def aurocs(
    first: Float[Tensor, "one feature"], second: Float[Tensor, "other feature"]
) -> Float[Tensor, " feature"]:
    """By feature, the chance that a first text has more of it than a second one; ties count a half."""
    return ((first[:, None] > second).float() + 0.5 * (first[:, None] == second).float()).mean((0, 1))


def best_feature(first: Float[Tensor, "one feature"], second: Float[Tensor, "other feature"]) -> int:
    """The feature with the highest AUROC; of several, the one whose means lie furthest apart for their spread."""
    spread = torch.cat([first, second]).std(0).clamp(min=1e-9)
    distance = ((first.mean(0) - second.mean(0)) / spread).clamp(-3, 3)
    return int((aurocs(first, second) + 1e-4 * distance).argmax())


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Mean AUROCs on the halves that nothing was chosen on."""

    feature: float
    shuffled: float
    channel: float
    direction: float
    random: float
    chosen: tuple[tuple[int, int], ...]
    """Features, and in how many of the searches each was the best; the most frequent first."""


def judged(pairs: Paired, *, splits: int = SPLITS, seed: int = 0) -> Judged:
    """All searches, over `splits` ways to halve the pairs."""
    random = torch.Generator().manual_seed(seed)
    rows: list[tuple[float, ...]] = []
    chosen: Counter[int] = Counter()
    for _ in range(splits):
        order = torch.randperm(len(pairs), generator=random)
        search, test = order[: len(pairs) // 2], order[len(pairs) // 2 :]
        flip = torch.rand(len(pairs), 1, generator=random) < 0.5
        mixed = torch.where(flip, pairs.second, pairs.first), torch.where(flip, pairs.first, pairs.second)
        index, score = _sought(pairs.first, pairs.second, search, test)
        chosen[index] += 1
        direction = pairs.x_first[search].mean(0) - pairs.x_second[search].mean(0)
        along = [(x[test] @ direction)[:, None] for x in (pairs.x_first, pairs.x_second)]
        active = ((pairs.first[search] > 0).any(0) | (pairs.second[search] > 0).any(0)).nonzero()[:, 0]
        drawn = active[torch.randint(len(active), (64,), generator=random)]
        any_one = aurocs(pairs.first[test][:, drawn], pairs.second[test][:, drawn]).mean()
        rows.append(
            (score, _sought(*mixed, search, test)[1], _sought(*_both_ways(pairs), search, test)[1],
             float(aurocs(*along)[0]), float(any_one))
        )  # fmt: skip
    feature, shuffled, channel, towards, by_chance = torch.tensor(rows, dtype=torch.float64).mean(0).tolist()
    return Judged(feature=feature, shuffled=shuffled, channel=channel, direction=towards, random=by_chance,
                  chosen=tuple(chosen.most_common(3)))  # fmt: skip


def _both_ways(pairs: Paired) -> tuple[Tensor, Tensor]:
    """The channels of the residual stream, each with either sign."""
    first, second = pairs.x_first, pairs.x_second
    return torch.cat([first, -first], dim=1), torch.cat([second, -second], dim=1)


def _sought(
    first: Tensor, second: Tensor, search: Int[Tensor, " _"], test: Int[Tensor, " _"]
) -> tuple[int, float]:
    """The best feature of the pairs in `search`, and its AUROC on those in `test`."""
    index = best_feature(first[search], second[search])
    return index, float(aurocs(first[test][:, index : index + 1], second[test][:, index : index + 1])[0])


def named(dictionary: Dictionary, column: int) -> tuple[int, int, str]:
    """Number of the part, index and way to pool of a column of `Paired`."""
    mean, column = divmod(column, dictionary.n_features)
    for number, part in enumerate(dictionary.parts):
        if column < part.n_features:
            return number, column, ("mean", "maximum")[mean]
        column -= part.n_features
    raise IndexError(column)


def measure(
    model: Model, dictionary: Dictionary, kinds: Mapping[str, Sequence[tuple[str, str]]]
) -> dict[str, Seen]:
    """A claim a kind: the best feature's AUROC on pairs that it was not chosen on."""
    seen = {}
    for kind, pairs in kinds.items():
        found = judged(paired(model, dictionary, pairs))
        chosen = [(*named(dictionary, column), times) for column, times in found.chosen]
        names = ", ".join(
            f"{dictionary.parts[part].name}/{index} by its {way} ({times} of {SPLITS})"
            for part, index, way, times in chosen
        )
        note = (
            f"{names}; best channel {found.channel:.2f}, direction {found.direction:.2f}, "
            f"random features {found.random:.2f}"
        )
        seen[kind] = Seen(values=(found.feature,), controls=(found.shuffled,), n=len(pairs), note=note)
    return seen
