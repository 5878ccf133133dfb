"""`preflight`: a look at a few hundred tokens that catches a dictionary on the wrong hook, model or scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from thoughtscope.core.errors import DictionaryMismatch
from thoughtscope.dictionaries.card import SelfTest
from thoughtscope.dictionaries.dictionary import Dictionary, check_fits
from thoughtscope.dictionaries.documents import Document, counted, document_batches
from thoughtscope.dictionaries.doubts import reading_doubts
from thoughtscope.dictionaries.fit import Fit

if TYPE_CHECKING:
    from thoughtscope.models import Model, Tokens

CONTEXT = 96
HOPELESS = 0.9
"""An FVU at which a dictionary explains next to nothing; the mean output alone has 1."""
POOR = 0.5
"""An FVU at which it explains less than it leaves: not proof of a mistake, but reason to look."""

TEXTS = (
    "Once upon a time there was a little girl named Lily. She liked to play outside in the park with her red ball. "
    "One day the ball rolled under a big tree, and she could not reach it. A friendly dog saw her and came to help.",
    "The train left the station at noon and reached the coast before it was dark. My brother had packed some bread, "
    "two apples and a bottle of water, but he forgot the map at home, so we asked an old man for the way.",
    "The capital of France is Paris. The city lies on a river, and many people visit it every year.",
    "12 + 34 = 46. 50 + 27 = 77. The opposite of hot is cold, and the opposite of small is big.",
    "If you mix the flour with the eggs first, the dough gets smooth. Bake it for half an hour and let it cool down.",
)


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """What a dictionary did on a few hundred tokens, and the problems that this points to (none when it fits)."""

    n_tokens: int
    fvu_by_site: tuple[float, ...]
    l0_by_part: tuple[float, ...]
    declared: Mapping[str, float]
    problems: tuple[str, ...]
    doubts: tuple[str, ...] = ()
    """What is odd and may still be right; looked for where no self-test says what is right."""

    @property
    def fvu(self) -> float:
        """The write sites' mean share of variance that is not explained."""
        return sum(self.fvu_by_site) / len(self.fvu_by_site)

    @property
    def l0(self) -> float:
        """Active features per token, all parts together."""
        return sum(self.l0_by_part)


@torch.no_grad()
def preflight(model: Model, dictionary: Dictionary, tokens: Tokens | None = None) -> Preflight:
    """Encodes a few hundred tokens and compares FVU and L0 with what is recorded, declared or plausible.

    The text is `tokens`, or the documents of the dictionary's own self-test, or a few plain English texts.

    Raises `DictionaryMismatch`, with the figures, when the dictionary cannot have been made for what it reads here.
    What is odd but possible stands in `doubts`.
    """
    result = look(model, dictionary, tokens)
    if result.problems:
        by_site = ", ".join(f"{value:.2f}" for value in result.fvu_by_site)
        raise DictionaryMismatch(
            f"Dictionary {dictionary.name} does not explain {model.name}: wrong hook, model or scale? On "
            f"{result.n_tokens} tokens {'; '.join(result.problems)} (FVU by site: {by_site}; it reads "
            f"{dictionary.reads[0]}… and writes {dictionary.writes[0]}…). preflight=False loads it all the same."
        )
    return result


def look(model: Model, dictionary: Dictionary, tokens: Tokens | None = None) -> Preflight:
    """`preflight` without the refusal."""
    check_fits(dictionary, model)
    own = dictionary.card.self_test if tokens is None else None
    if own is not None:
        fit = _fit(model, dictionary, document_batches(model, own.documents, context=own.context))
        problems, doubts = _against_self_test(own, fit), []
    else:
        batches = (
            [tokens]
            if tokens is not None
            else list(document_batches(model, _texts(model), context=_context(model)))
        )
        fit = _fit(model, dictionary, batches)
        problems, doubts = _problems(dictionary, fit), _doubts(dictionary, fit)
        if not problems:
            doubts += reading_doubts(model, dictionary, batches[0])
    return Preflight(
        n_tokens=fit.n,
        fvu_by_site=tuple(fit.fvu()),
        l0_by_part=tuple(fit.l0()),
        declared=dictionary.card.declared,
        problems=tuple(problems),
        doubts=tuple(doubts),
    )


@torch.no_grad()
def with_self_test(model: Model, dictionary: Dictionary, documents: Sequence[Document]) -> Dictionary:
    """The same dictionary carrying `documents` and its figures on them, for every later load to be checked against."""
    context = _context(model)
    fit = _fit(model, dictionary, document_batches(model, documents, context=context))
    kept = tuple(text if isinstance(text, str) else tuple(text) for text in documents)
    own = SelfTest(documents=kept, context=context, fvu=tuple(fit.fvu()), l0=tuple(fit.l0()))  # type: ignore[arg-type]
    return replace(dictionary, card=replace(dictionary.card, self_test=own))


def _fit(model: Model, dictionary: Dictionary, batches: Iterable[Tokens]) -> Fit:
    from thoughtscope.models import capture

    fit = Fit.zeros(dictionary)
    for batch in batches:
        keep = counted(batch.mask, skip_first=dictionary.skip_first).to(model.device)
        fit.add(dictionary, capture(model, batch, dictionary.sites), keep)
    return fit


def _context(model: Model) -> int:
    return min(CONTEXT, model.max_positions)


def _against_self_test(own: SelfTest, fit: Fit) -> list[str]:
    """The same text, so nearly the same figures; the slack is for other number types and devices."""
    problems = []
    expected, found = sum(own.fvu) / len(own.fvu), sum(fit.fvu()) / len(own.fvu)
    if not found < 1.25 * expected + 0.03:
        problems.append(
            f"it leaves {found:.3f} of the variance of its own test text, where {expected:.3f} is recorded"
        )
    l0, recorded = sum(fit.l0()), sum(own.l0)
    if not 0.7 * recorded < l0 < 1.4 * recorded:
        problems.append(
            f"{l0:.1f} features are active per token of its own test text, where {recorded:.1f} are recorded"
        )
    return problems


def _problems(dictionary: Dictionary, fit: Fit) -> list[str]:
    declared, fvu, l0 = dictionary.card.declared, fit.fvu(), sum(fit.l0())
    problems = []
    # Each site counts at most 2: one may be hard on this text, but a wrong hook or scale spoils most of them.
    left = sum(min(value, 2.0) for value in fvu) / len(fvu)
    limit = HOPELESS if "fvu" not in declared else min(HOPELESS, 2 * declared["fvu"] + 0.3)
    if not left < limit:
        against = f" (declared {declared['fvu']:.2f})" if "fvu" in declared else ""
        problems.append(
            f"it leaves {left:.2f} of the variance{against}, where at most {limit:.2f} is plausible"
        )
    if "l0" in declared and not declared["l0"] / 4 < l0 < declared["l0"] * 4:
        problems.append(f"{l0:.1f} features are active per token, where {declared['l0']:.1f} are declared")
    elif l0 == 0:
        problems.append("no feature is ever active")
    elif l0 > dictionary.n_features / 2:
        problems.append(f"{l0:.0f} features are active per token, more than half of all")
    return problems


def _doubts(dictionary: Dictionary, fit: Fit) -> list[str]:
    """Less than `_problems`: figures that a right dictionary may have, though most do not."""
    declared, fvu, l0 = dictionary.card.declared, fit.fvu(), sum(fit.l0())
    left = sum(min(value, 2.0) for value in fvu) / len(fvu)
    limit = POOR if "fvu" not in declared else min(POOR, 2 * declared["fvu"] + 0.2)
    doubts = []
    if not left < limit:
        against = f", where {declared['fvu']:.2f} is declared" if "fvu" in declared else ""
        doubts.append(f"it leaves {left:.2f} of the variance{against}")
    if "l0" in declared and not declared["l0"] / 2 < l0 < declared["l0"] * 2:
        doubts.append(f"{l0:.1f} features are active per token, where {declared['l0']:.1f} are declared")
    silent = [part.name for part, count in zip(dictionary.parts, fit.l0(), strict=True) if not count]
    if silent:
        doubts.append(f"no feature of part {', '.join(silent[:8])} is ever active")
    return doubts


def _texts(model: Model) -> Sequence[Document]:
    """The built-in texts; without a tokenizer, ids drawn from the vocabulary."""
    if model.tokenizer is not None:
        return TEXTS
    random = torch.Generator().manual_seed(0)
    return [torch.randint(model.vocab_size, (48,), generator=random).tolist() for _ in range(6)]
