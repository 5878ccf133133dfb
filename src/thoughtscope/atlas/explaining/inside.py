"""Scorers that ask nobody: what a model in this process makes of a label and a text.

embedding_scores   is the label's vector nearer to those of active contexts? (Paulo et al. 2024, with an encoder)
surprisal_scores   does the label make active contexts likelier than silent ones? (Paulo et al. 2024)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from thoughtscope.atlas.explaining.scores import Case, Score, auroc
from thoughtscope.core.progress import Progress, silent

if TYPE_CHECKING:
    from thoughtscope.core.site import Site
    from thoughtscope.models import Model, Tokens

NEUTRAL = "texts of all kinds"
"""The label that says nothing."""
BATCH_TOKENS = 2048


def embedding_scores(
    model: Model, cases: Sequence[Case], *, site: Site | str | None = None, progress: Progress = silent
) -> list[Score]:
    """For each case the AUROC of the cosine between its label and its contexts.

    A text's vector is the mean of what `site` (default: the residual stream at half of the depth) holds at its tokens
    but the first, less the mean of all labels for a label and of all contexts for a context.
    Raises `UnknownSite`.
    """
    where = model.site(f"resid_post.{(model.n_layers - 1) // 2}" if site is None else site)
    labels = _centred(_embedded(model, [case.label for case in cases], where, silent))
    texts = list(dict.fromkeys(context.text for case in cases for context in case.contexts))
    vectors = dict(zip(texts, _centred(_embedded(model, texts, where, progress)), strict=True))
    found = []
    for case, label in zip(cases, labels, strict=True):
        nearness = [float(vectors[context.text] @ label) for context in case.contexts]
        found.append(_score("embedding", case, nearness))
    return found


def surprisal_scores(
    model: Model, cases: Sequence[Case], *, neutral: str = NEUTRAL, progress: Progress = silent
) -> list[Score]:
    """For each case the AUROC of how much less surprising a context is after its label than after a neutral one.

    In nats a token. Every pass reads label and text from the start: no cache is carried from one to the next.
    """
    pairs = list(
        dict.fromkeys(
            (label, context.text)
            for case in cases
            for context in case.contexts
            for label in (case.label, neutral)
        )
    )
    nats = dict(zip(pairs, _surprisals(model, pairs, progress), strict=True))
    return [
        _score(
            "surprisal",
            case,
            [nats[neutral, context.text] - nats[case.label, context.text] for context in case.contexts],
        )
        for case in cases
    ]


def _score(name: str, case: Case, values: Sequence[float]) -> Score:
    truth = np.array([context.is_active for context in case.contexts], dtype=bool)
    area = auroc(np.array(values, float), truth) if len(values) else None
    return Score(scorer=name, asked=len(values), n=len(values), auroc=area)


@torch.no_grad()
def _embedded(
    model: Model, texts: Sequence[str], site: Site, progress: Progress
) -> Float[Tensor, "text d_model"]:
    from thoughtscope.models import capture

    rows = [_ids(model, text) for text in texts]
    found = torch.zeros(len(rows), model.width(site))
    done = 0
    for numbers, tokens in _batches(model, rows):
        held = capture(model, tokens, [site])[site].flatten(2).float().cpu()
        # A first token holds a constant as large as all the others together; a text of one token has nothing else.
        counts = tokens.positions > (tokens.mask.sum(-1, keepdim=True) > 1).long() - 1
        weight = counts.float().cpu()
        found[numbers] = (held * weight[..., None]).sum(1) / weight.sum(1, keepdim=True)
        done += len(numbers)
        progress("embed", done, len(rows))
    return found


def _centred(vectors: Float[Tensor, "text d_model"]) -> Float[Tensor, "text d_model"]:
    """Unit vectors, the mean of all taken away; of a single one only the length."""
    centred = vectors - vectors.mean(0) if len(vectors) > 1 else vectors
    return centred / centred.norm(dim=1, keepdim=True).clamp(min=1e-12)


@torch.no_grad()
def _surprisals(model: Model, pairs: Sequence[tuple[str, str]], progress: Progress) -> list[float]:
    """The mean surprisal of each text's tokens after its label, in nats."""
    from thoughtscope.models import forward

    heads = {label: _ids(model, _head(label)) for label in dict.fromkeys(label for label, _ in pairs)}
    texts = {
        text: _ids(model, text, special_tokens=False) for text in dict.fromkeys(text for _, text in pairs)
    }
    rows = [[*heads[label], *texts[text]] for label, text in pairs]
    found = [0.0] * len(rows)
    done = 0
    for numbers, tokens in _batches(model, rows):
        logits = forward(model, tokens)
        assert logits is not None
        for row, number in enumerate(numbers):
            n = len(texts[pairs[number][1]])
            logprobs = logits[row, -n - 1 : -1].float().log_softmax(-1)
            said = tokens.ids[row, -n:].to(logprobs.device)
            found[number] = -float(logprobs.gather(-1, said[:, None]).mean())
        done += len(numbers)
        progress("surprisal", done, len(rows))
    return found


def _ids(model: Model, text: str, *, special_tokens: bool = True) -> list[int]:
    """A text's tokens as the tokenizer itself begins them; nobody needs to be told how."""
    from thoughtscope.models.tokens import heard, tokenize

    with heard():
        return tokenize(model, text, special_tokens=special_tokens).ids[0].tolist()


def _head(label: str) -> str:
    return f"Excerpts with {label}:\n\n"


def _batches(model: Model, rows: Sequence[list[int]]) -> Iterator[tuple[list[int], Tokens]]:
    """Rows of about one length together, with their numbers."""
    from thoughtscope.models import tokens_from_ids

    order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and (end + 1 - start) * len(rows[order[end]]) <= BATCH_TOKENS:
            end += 1
        yield order[start:end], tokens_from_ids(model, [rows[number] for number in order[start:end]])
        start = end
