"""`readings` and `like`: which features are strong on a prompt, each measured by the largest activation known of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thoughtscope.microscope.features import Known, Largest, bank_of_part, known
from thoughtscope.microscope.opening import Microscope
from thoughtscope.microscope.tracing import Prompt, tokens_of

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from thoughtscope.atlas.bank import LayerRecords
    from thoughtscope.models import Tokens

COMMON = 0.1
"""Share of its examples' text on which a feature is active at most, if it is to say something of a token."""
MOST = 0.5
"""The same on a prompt alone, where nothing else is known."""


@dataclass(frozen=True, kw_only=True)
class Strength:
    """How strong a feature is at a token."""

    feature: Known
    position: int
    value: float
    share: float
    """Of the feature's largest activation; over 1 where it was never seen so strong."""

    def to_json(self) -> dict[str, Any]:
        """By the feature's id; what is known of it is told once for all tokens."""
        return {"id": self.feature.id, "value": self.value, "share": self.share}

    def found_json(self) -> dict[str, Any]:
        """With what is known of the feature, and at which token."""
        return {**self.feature.to_json(), "value": self.value, "share": self.share, "token": self.position}


@dataclass(frozen=True, kw_only=True, eq=False)
class Readings:
    """The strongest features of each token of a prompt, the strongest first."""

    tokens: Tokens
    at: tuple[tuple[Strength, ...], ...]

    @property
    def features(self) -> dict[str, Known]:
        """Every feature that is named, by its id."""
        return {found.feature.id: found.feature for here in self.at for found in here}


@dataclass(frozen=True, kw_only=True, eq=False)
class Active:
    """Everything that is active on a prompt, sorted by part, position and index, and the largest known of each."""

    tokens: Tokens
    part: Int[Tensor, " active"]
    position: Int[Tensor, " active"]
    index: Int[Tensor, " active"]
    value: Float[Tensor, " active"]
    largest: Float[Tensor, " active"]
    """The feature's largest activation in the text of its examples; where there are none, on this prompt."""
    common: Bool[Tensor, " active"]
    """True for features that are active on many tokens, and so say little of any."""

    @property
    def share(self) -> Float[Tensor, " active"]:
        return self.value / self.largest

    def of(self, number: int, index: int) -> Bool[Tensor, " active"]:
        """The rows of one feature, by its part's number."""
        return (self.part == number) & (self.index == index)

    @property
    def strongest_first(self) -> Int[Tensor, " active"]:
        """Rows by share, and by value where shares are equal."""
        order = self.value.argsort(descending=True, stable=True)
        return order[self.share[order].argsort(descending=True, stable=True)]


def readings(microscope: Microscope, prompt: Prompt | Tokens, *, n: int = 5) -> Readings:
    """The `n` strongest features of each token, by the share of its largest activation that each one reaches.

    A dictionary that says nothing of a text's first token has none there. Raises what `tokens_of` raises.
    """
    active = active_on(microscope, prompt)
    length = int(active.tokens.mask[0].sum())
    order = active.strongest_first
    order = order[active.position[order].argsort(stable=True)]
    ends = active.position.bincount(minlength=length).cumsum(0).tolist()
    rows = [order[start : min(end, start + n)].tolist() for start, end in zip([0, *ends], ends, strict=False)]
    found = _strengths(microscope, active, [row for here in rows for row in here])
    return Readings(tokens=active.tokens, at=tuple(tuple(found[row] for row in here) for here in rows))


def like(microscope: Microscope, prompt: Prompt | Tokens, *, n: int = 20) -> list[Strength]:
    """The features that are strongest anywhere on an example, each at its strongest token.

    Features that are active on many tokens come last: by their examples, or else on this prompt. Of a conversation,
    only what is said counts, not the template. Raises what `tokens_of` raises.
    """
    active = active_on(microscope, prompt)
    order = active.strongest_first
    order = order[_said(active.tokens)[active.position[order]]]
    order = order[active.common[order].long().argsort(stable=True)]
    chosen: dict[tuple[int, int], int] = {}
    for row in order.tolist():
        chosen.setdefault((int(active.part[row]), int(active.index[row])), row)
        if len(chosen) == n:
            break
    found = _strengths(microscope, active, list(chosen.values()))
    return [found[row] for row in chosen.values()]


def largest_here(
    microscope: Microscope, prompt: Prompt | Tokens, places: Sequence[tuple[str, int]]
) -> dict[tuple[str, int], Largest]:
    """The largest activations of some features, by part and index, on a prompt; none for those that are silent."""
    active = active_on(microscope, prompt)
    found = {}
    for name, index in places:
        here = active.of(microscope.dictionary.number(name), index)
        if bool(here.any()):
            found[name, index] = Largest(value=float(active.value[here].abs().max()), measured="here")
    return found


def active_on(microscope: Microscope, prompt: Prompt | Tokens) -> Active:
    """Every feature that is active on a prompt, by one forward pass. Raises what `tokens_of` raises."""
    import torch

    from thoughtscope.dictionaries import encode
    from thoughtscope.models import Tokens, capture

    tokens = prompt if isinstance(prompt, Tokens) else tokens_of(microscope, prompt)
    dictionary = microscope.dictionary
    found = encode(dictionary, capture(microscope.model, tokens, dictionary.sites))
    part, position, index, value = (
        x.detach().cpu() for x in (found.part, found.position, found.index, found.value.float())
    )
    widest = max(each.n_features for each in dictionary.parts)
    _, feature = (part * widest + index).unique(return_inverse=True)
    here = torch.zeros(len(value)).scatter_reduce(0, feature, value.abs(), "amax")[feature]
    known = _of_examples(microscope, part, index, lambda records: records.quantiles[:, -1])
    on = feature.bincount()[feature] / found.n_positions
    counts = _of_examples(microscope, part, index, lambda records: records.count)
    scanned = 1 if microscope.bank is None else microscope.bank.n_tokens
    return Active(
        tokens=tokens,
        part=part,
        position=position,
        index=index,
        value=value,
        largest=torch.where(known > 0, known, here),
        common=torch.where(known > 0, counts / scanned > COMMON, on > MOST),
    )


def _of_examples(
    microscope: Microscope,
    part: Int[Tensor, " active"],
    index: Int[Tensor, " active"],
    column: Callable[[LayerRecords], Tensor],
) -> Float[Tensor, " active"]:
    """A figure of each feature's examples; 0 where there are none."""
    import torch

    found = torch.zeros(len(index))
    for number in part.unique().tolist():
        bank, here = bank_of_part(microscope, number), part == number
        if bank is not None:
            found[here] = column(bank.layers[number])[index[here].long()].float()
    return found


def _said(tokens: Tokens) -> Bool[Tensor, " pos"]:
    """Which tokens hold what somebody said; of a plain text, or where nobody said anything, all of them."""
    import torch

    length = int(tokens.mask[0].sum())
    turns = [turn for turn in (tokens.turns[0] if tokens.turns else ()) if not turn.added]
    said = torch.tensor([any(turn.says(position) for turn in turns) for position in range(length)])
    return said if bool(said.any()) else torch.ones(length, dtype=torch.bool)


def _strengths(microscope: Microscope, active: Active, rows: Sequence[int]) -> dict[int, Strength]:
    """Some of the active features by their rows, with what is known of each."""
    labels = microscope.labels.of(microscope.dictionary.name)
    share, features = active.share, {}
    found = {}
    for row in rows:
        part = microscope.dictionary.parts[int(active.part[row])].name
        place = (part, int(active.index[row]))
        if place not in features:
            features[place] = known(microscope, *place, labels=labels, here=float(active.largest[row]))
        found[row] = Strength(
            feature=features[place],
            position=int(active.position[row]),
            value=float(active.value[row]),
            share=float(share[row]),
        )
    return found
