"""`answer`: what the model says to a prompt, with or without changes to its features, a token at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from thoughtscope.microscope.intervening import Attention
from thoughtscope.microscope.opening import Microscope
from thoughtscope.microscope.tracing import Prompt, tokens_of

if TYPE_CHECKING:
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


def answered(microscope: Microscope, tokens: Tokens, new: Sequence[NewTokens]) -> Tokens:
    """The prompt with the answer that was drawn so far; of a conversation, with the assistant's turn."""
    import torch

    from thoughtscope.models.generation import end_tokens
    from thoughtscope.models.tokens import append

    if not new:
        return tokens
    ids = torch.stack([step.ids for step in new], dim=1)
    return append(tokens, microscope.model, ids, ends=end_tokens(microscope.model))
