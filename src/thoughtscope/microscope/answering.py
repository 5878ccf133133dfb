"""`answer`: what the model says to a prompt, with or without changes to its features, a token at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from thoughtscope.core.errors import InvalidPlan, UnknownFeature
from thoughtscope.microscope.features import largest
from thoughtscope.microscope.intervening import Attention
from thoughtscope.microscope.opening import Microscope
from thoughtscope.microscope.reading import largest_here
from thoughtscope.microscope.tracing import Prompt, tokens_of

if TYPE_CHECKING:
    from thoughtscope.interventions import FeatureEdit
    from thoughtscope.models import NewTokens, Sampling, Tokens


def answer(
    microscope: Microscope,
    prompt: Prompt | Tokens,
    edits: Sequence[Mapping[str, Any]] = (),
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    attention: Attention = "free",
) -> Iterator[NewTokens]:
    """The model's answer under `edits`, each as `FeatureEdit.to_json` writes it; none for the model as it is.

    Nothing is held between two tokens, so answers with and without edits can be drawn side by side, and whoever wants
    no more stops asking. Raises what `interventions.stream_under` and `tokens_of` raise, at the call.
    """
    from thoughtscope.interventions import FeatureEdit, Plan, stream_under
    from thoughtscope.models import Tokens

    tokens = prompt if isinstance(prompt, Tokens) else tokens_of(microscope, prompt)
    plan = Plan(edits=tuple(map(FeatureEdit.from_json, edits)), attention=attention)
    return stream_under(
        microscope.model,
        microscope.dictionary,
        tokens,
        plan,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
    )


def turned(
    microscope: Microscope, multiples: Mapping[str, float], *, prompt: Prompt | Tokens | None = None
) -> tuple[FeatureEdit, ...]:
    """Features set to multiples of their largest activation, at every token; by `PART/INDEX`, 0 switches one off.

    What the dictionary misses stays, as only the difference is added. Where a feature has no examples, its largest
    activation on the `prompt` is the unit. Raises `UnknownFeature`, and `InvalidPlan` where no unit is known.
    """
    from thoughtscope.interventions import FeatureEdit

    places = {name: place_of(microscope, name) for name in multiples}
    units = {name: largest(microscope, *place) for name, place in places.items()}
    lacking = [places[name] for name, unit in units.items() if unit is None and multiples[name] != 0]
    here = largest_here(microscope, prompt, lacking) if lacking and prompt is not None else {}
    edits = []
    for name, (part, index) in places.items():
        unit = units[name] or here.get((part, index))
        if unit is None and multiples[name] != 0:
            raise InvalidPlan(
                f"Nothing is known of how strong feature {name} can be: it has no examples, and is silent here. "
                "Choose one that is active on the prompt, or collect examples of the dictionary's features."
            )
        value = 0.0 if unit is None else multiples[name] * unit.value
        edits.append(FeatureEdit(part=part, index=index, op="set", value=value))
    return tuple(edits)


def place_of(microscope: Microscope, name: str) -> tuple[str, int]:
    """Part and index of a feature by `PART/INDEX`. Raises `UnknownFeature`."""
    part, _, index = name.rpartition("/")
    if not part or not index.isdecimal() or len(index) > 9:
        raise UnknownFeature(f'"{name}" names no feature: write PART/INDEX, for example 3/1042.')
    microscope.dictionary.check_feature(part, int(index))
    return part, int(index)


def answered(microscope: Microscope, tokens: Tokens, new: Sequence[NewTokens]) -> Tokens:
    """The prompt with the answer that was drawn so far; of a conversation, with the assistant's turn."""
    import torch

    from thoughtscope.models.generation import end_tokens
    from thoughtscope.models.tokens import append

    if not new:
        return tokens
    ids = torch.stack([step.ids for step in new], dim=1)
    return append(tokens, microscope.model, ids, ends=end_tokens(microscope.model))
