"""`effects`: the features that an answer rests on, by attribution, and what the answer loses without each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thoughtscope.microscope.features import Known, known
from thoughtscope.microscope.opening import Microscope
from thoughtscope.microscope.reading import Active, active_on
from thoughtscope.microscope.tracing import Prompt, tokens_of

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from thoughtscope.core.site import Site
    from thoughtscope.models import Tokens

ABLATED = 20
"""Features that are ablated, one after the other, unless asked for more."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What a feature does to the answer's logit, less the vocabulary's mean."""

    feature: Known
    position: int
    """The token at which it gives most."""
    attribution: float
    """Activation times decoder times the gradient of the answer's logit, over all tokens: what it gives, to first
    order.

    Templeton et al. 2024, "Scaling Monosemanticity": attributions, which agree with ablations far better than
    activations do."""
    ablation: float | None
    """The change of the logit when the feature is switched off at every token; None where that was not tried."""

    def to_json(self) -> dict[str, Any]:
        return {
            **self.feature.to_json(),
            "attribution": self.attribution,
            "ablation": self.ablation,
            "token": self.position,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Effects:
    """The features of a prompt by what they do to the model's first choice, the strongest attribution first."""

    tokens: Tokens
    answer: str
    found: tuple[Effect, ...]


def effects(
    microscope: Microscope, prompt: Prompt | Tokens, *, n: int = 40, ablated: int = ABLATED
) -> Effects:
    """The `n` features with the strongest attribution to the model's first choice; the first `ablated` are ablated too.

    One pass with a gradient, through the model as it is with its attention, and one for each ablation. Features of a
    part that writes a constant beside its activation are not ablated. Raises what `tokens_of` raises.
    """
    import torch

    from thoughtscope.models import Tokens
    from thoughtscope.models.tokens import describe

    tokens = prompt if isinstance(prompt, Tokens) else tokens_of(microscope, prompt)
    active = active_on(microscope, tokens)
    gradient, answer = _gradients(microscope, tokens)
    given = _given(microscope, active, gradient)
    widest = max(part.n_features for part in microscope.dictionary.parts)
    names, feature = (active.part * widest + active.index).unique(return_inverse=True)
    total = torch.zeros(len(names)).index_add_(0, feature, given)
    order = total.abs().argsort(descending=True, stable=True)[:n].tolist()
    places = [divmod(int(names[each]), widest) for each in order]
    changes = _ablations(microscope, tokens, answer, places[:ablated])
    labels = microscope.labels.of(microscope.dictionary.name)
    found = []
    for number, (each, (part, index)) in enumerate(zip(order, places, strict=True)):
        here = (feature == each).nonzero().squeeze(-1)
        strongest = here[given[here].abs().argmax()]
        found.append(
            Effect(
                feature=known(microscope, microscope.dictionary.parts[part].name, index, labels=labels,
                              here=float(active.value[here].abs().max())),
                position=int(active.position[strongest]),
                attribution=float(total[each]),
                ablation=changes[number] if number < len(changes) else None,
            )
        )  # fmt: skip
    return Effects(tokens=tokens, answer=describe(microscope.model, [answer])[1][0], found=tuple(found))


def _gradients(microscope: Microscope, tokens: Tokens) -> tuple[dict[Site, Float[Tensor, "pos _"]], int]:
    """Of the answer's centred logit at the last token, by the sites that the dictionary writes; and the answer's id."""
    import torch

    from thoughtscope.dictionaries.features import flat
    from thoughtscope.interventions.measuring import centred
    from thoughtscope.models.hooks import Step, forward

    added: dict[Site, Tensor] = {}

    def open_at(site: Site) -> Any:
        def write(x: Tensor, step: Step) -> Tensor:
            added[site] = torch.zeros_like(x, requires_grad=True)
            return x + added[site]

        return write

    with torch.enable_grad():
        logits = forward(
            microscope.model, tokens, writes={site: open_at(site) for site in microscope.dictionary.writes}
        )
        assert logits is not None
        answer = int(logits[0, -1].argmax())
        wanted = centred(microscope.model, logits[0, -1].float())[answer]
        sites = list(added)
        found = torch.autograd.grad(wanted, [added[site] for site in sites], allow_unused=True)
    kept = tokens.mask[0]
    return {
        site: flat(torch.zeros_like(added[site]) if each is None else each, 2)[0].cpu()[kept].float()
        for site, each in zip(sites, found, strict=True)
    }, answer


def _given(
    microscope: Microscope, active: Active, gradient: dict[Site, Float[Tensor, "pos _"]]
) -> Float[Tensor, " active"]:
    """What each active feature gives to the answer where it is active: value times decoder times gradient."""
    import torch

    given = torch.zeros(len(active.value))
    for number in active.part.unique().tolist():
        part, here = microscope.dictionary.parts[number], (active.part == number).nonzero().squeeze(-1)
        for rows in here.split(4096):
            decoder = part.decoder_rows(active.index[rows].long())
            for site, row in decoder.items():
                along = (row.cpu().float().flatten(1) * gradient[site][active.position[rows].long()]).sum(-1)
                given[rows] += along * active.value[rows]
    return given


def _ablations(
    microscope: Microscope, tokens: Tokens, answer: int, places: list[tuple[int, int]]
) -> list[float | None]:
    """The change of the answer's centred logit when each of some features is switched off; None where it cannot be."""
    from thoughtscope.interventions import FeatureEdit, Plan
    from thoughtscope.interventions.running import intervene_many

    parts = microscope.dictionary.parts
    may = [place for place in places if not parts[place[0]].offset]
    plans = [
        Plan(edits=(FeatureEdit(part=parts[part].name, index=index, op="ablate"),), attention="free")
        for part, index in may
    ]
    if not plans:
        return [None] * len(places)
    done = intervene_many(
        microscope.model, microscope.dictionary, tokens, plans, answer=answer, changes=0, top=1
    )
    change = {place: outcome.logit_change for place, outcome in zip(may, done, strict=True)}
    return [change.get(place) for place in places]
