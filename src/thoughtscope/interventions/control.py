"""`random_control`: the same plan with random features of equal strength, to see what strength alone does."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Literal

import torch

from thoughtscope.core.errors import InvalidPlan
from thoughtscope.dictionaries.dictionary import Dictionary, Part
from thoughtscope.dictionaries.features import Features
from thoughtscope.interventions.edits import FeatureEdit, fold
from thoughtscope.interventions.plans import Plan
from thoughtscope.models.edits import Edit


def random_control(
    dictionary: Dictionary,
    plan: Plan,
    features: Features,
    *,
    seed: int,
    among: Literal["all", "active"] = "all",
) -> Plan:
    """`plan` with each feature replaced by a random one of the same part that the plan does not edit.

    The stand-in acts at the same positions, and what it adds to the model has the same norm there: its change of
    activation times the norm of its decoder rows (over all sites that it writes to) equals that of the feature whose
    place it takes, as far as the unedited run tells (`features`, from `encode`). Directions become random directions of
    the same norm. `among="active"` draws only from features that are active on the prompt, a stricter control.

    Raises `InvalidPlan` when a part has no other features to draw from, or for an edit that goes on after the prompt.
    """
    draw = random.Random(seed)
    edited: dict[tuple[str, int], list[FeatureEdit]] = {}
    for edit in plan.feature_edits:
        if edit.start is not None and edit.start >= features.n_positions:
            raise InvalidPlan("A control is matched on the prompt; this plan edits generated tokens only.")
        edited.setdefault((edit.part, edit.index), []).append(edit)
    clean = {
        (dictionary.parts[part].name, index, position): value
        for part, index, position, value in zip(
            *(x.tolist() for x in (features.part, features.index, features.position, features.value)),
            strict=True,
        )
    }
    pools = _pools(dictionary, features, set(edited), among, draw)
    edits: list[FeatureEdit | Edit] = []
    for (part, index), several in edited.items():
        stand_in, ratio = _stand_in(dictionary.part(part), index, pools[part])
        for position in range(features.n_positions):
            factor, offset = fold(edit for edit in several if edit.covers(position))
            delta = (factor - 1) * clean.get((part, index, position), 0.0) + offset
            if delta:
                edits.append(
                    FeatureEdit(
                        part=part, index=stand_in, op="add", value=delta * ratio, positions=(position,)
                    )
                )
    edits += [_random_direction(edit, draw) for edit in plan.direction_edits]
    label = f"random control of {plan.label}" if plan.label else "random control"
    return replace(plan, edits=tuple(edits), label=label, prediction=None)


def _pools(
    dictionary: Dictionary, features: Features, edited: set[tuple[str, int]], among: str, draw: random.Random
) -> dict[str, list[int]]:
    """By part, the candidates in random order; each is used at most once."""
    pools = {}
    for name in sorted({part for part, _ in edited}):
        number = dictionary.number(name)
        everything = (
            range(dictionary.parts[number].n_features)
            if among == "all"
            else sorted(set(features.index[features.part == number].tolist()))
        )
        pool = [index for index in everything if (name, index) not in edited]
        pools[name] = draw.sample(pool, len(pool))
    return pools


def _stand_in(part: Part, index: int, pool: list[int]) -> tuple[int, float]:
    """The next candidate that writes anything, and how strong the feature's decoder is compared with its own."""
    while pool:
        candidate = pool.pop()
        rows = part.decoder_rows(torch.tensor([index, candidate]))
        mine, other = torch.cat(list(rows.values()), dim=1).double().norm(dim=1).tolist()
        if other > 0:
            return candidate, mine / other
    raise InvalidPlan(f"Part {part.name} has no other feature left to stand in for {part.name}/{index}.")


def _random_direction(edit: Edit, draw: random.Random) -> Edit:
    if edit.vector is None:
        return edit
    generator = torch.Generator().manual_seed(draw.getrandbits(62))
    vector = torch.randn(edit.vector.shape, generator=generator, dtype=torch.float64)
    vector *= edit.vector.double().cpu().norm() / vector.norm()
    return replace(edit, vector=vector.to(edit.vector))
