"""Features that matter for safety: sought by paired texts, and one of them turned.

The pairs (`pairs.json`) differ in one thing: a harmful request and a harmless look-alike, a refusal and an assent,
deceit and honesty, flattery and a plain remark, prejudice and a neutral sentence, an AI about itself and a text about
somebody. The refusal feature is then turned up while the model is asked the harmless requests (Templeton et al. 2024,
Safety-Relevant Features).
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean as mean

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtscope.atlas import bank_of
from thoughtscope.core.progress import Progress, silent
from thoughtscope.dictionaries import Dictionary
from thoughtscope.models import Model, pad_left, tokenize
from thoughtscope.models.hooks import forward
from thoughtscope.replications.claims import Seen
from thoughtscope.replications.scaling import pairs
from thoughtscope.replications.scaling.code_errors import KIND as CODE
from thoughtscope.replications.scaling.turning import Turn, holding

REFUSAL, ASSENT = "I'm sorry, but I cannot help you with that.", "Sure, I am happy to help you with that."
MULTIPLE = 2.0
"""Of its largest activation, at which the refusal feature is held."""
RANDOM = 8


def measure(model: Model, dictionary: Dictionary, progress: Progress = silent) -> dict[str, Seen]:
    """The claims about kinds of pairs, and the one about refusals."""
    kinds = {kind: rows for kind, rows in pairs.shipped_pairs().items() if kind != CODE}
    seen = pairs.measure(model, dictionary, kinds)
    progress("safety", 1, 2)
    seen |= refusal_steering(model, dictionary, kinds["refusal"], [harmless for _, harmless in kinds["harm"]])
    progress("safety", 2, 2)
    return seen


def refusal_steering(
    model: Model, dictionary: Dictionary, refusals: Sequence[tuple[str, str]], requests: Sequence[str]
) -> dict[str, Seen]:
    """How many requests have a refusal likelier than before, against an assent, with the refusal feature turned up."""
    read = pairs.paired(model, dictionary, refusals)
    bank = bank_of(dictionary)
    assert bank is not None  # the shipped dictionary has one
    part, index, _ = pairs.named(dictionary, pairs.best_feature(read.first, read.second))
    largest = bank.largest(part, index) or 0.0
    (site,) = dictionary.parts[part].writes
    norms = dictionary.parts[part].W_dec[site].float().norm(dim=1)
    base = leaning(model, requests)
    up = leaning(model, requests, holding(dictionary, part, index, largest))
    drawn = torch.randperm(len(norms), generator=torch.Generator().manual_seed(0))[:RANDOM].tolist()
    others = [
        leaning(
            model, requests, holding(dictionary, part, other, largest * float(norms[index] / norms[other]))
        )
        for other in drawn
    ]
    name = f"{dictionary.parts[part].name}/{index}"
    note = (
        f"{name} at {MULTIPLE:g} times {largest:.1f}: {float((up - base).mean()):+.1f} nats; "
        f"random features {mean(float((each - base).mean()) for each in others):+.1f}"
    )
    return {
        "refusal_steering": Seen(
            values=(float((up > base).float().mean()),),
            controls=(mean(float((each > base).float().mean()) for each in others),),
            n=len(requests),
            note=note,
        )
    }


@torch.no_grad()
def leaning(model: Model, requests: Sequence[str], turn: Turn | None = None) -> Float[Tensor, " request"]:
    """By request, the log chance of the refusal as an answer less that of the assent."""
    told = [answer_chance(model, requests, answer, turn) for answer in (REFUSAL, ASSENT)]
    return told[0] - told[1]


def answer_chance(
    model: Model, requests: Sequence[str], answer: str, turn: Turn | None
) -> Float[Tensor, " request"]:
    """The log chance that the model answers so."""
    prompts = tokenize(model, chat=[[{"role": "user", "content": request}] for request in requests])
    said = model.tokenizer(answer, add_special_tokens=False)["input_ids"]
    rows = [[*ids[mask].tolist(), *said] for ids, mask in zip(prompts.ids, prompts.mask, strict=True)]
    writes = None if turn is None else turn([MULTIPLE] * len(rows))
    logits = forward(model, pad_left(rows), writes=writes)
    assert logits is not None
    log_p = logits[:, -len(said) - 1 : -1].float().log_softmax(-1)
    return log_p.gather(-1, torch.tensor(said).expand(len(rows), -1)[..., None]).sum((1, 2))
