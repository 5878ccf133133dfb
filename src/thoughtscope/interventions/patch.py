"""`Patch`: plans as reads and writes on a running model, one row of a batch each.

What an edit wants of a feature is written as a change of its activation times its decoder rows, at every site that the
feature writes to: `x += Δa_f W_dec[f]`. The model itself stays: what the dictionary does not explain keeps flowing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtscope.core.errors import InvalidPlan
from thoughtscope.core.site import Site
from thoughtscope.dictionaries.dictionary import Dictionary, Part
from thoughtscope.dictionaries.features import flat
from thoughtscope.interventions.clean import CleanRun, mlp_site
from thoughtscope.interventions.edits import FeatureEdit, fold
from thoughtscope.interventions.plans import Plan
from thoughtscope.models.edits import writes_of
from thoughtscope.models.hooks import Read, Step, Write, hold_pattern, in_turn
from thoughtscope.models.model import Model


@dataclass(frozen=True, kw_only=True, eq=False)
class PartEdits:
    """What the plans want of one part's features: `a -> factor * a + offset`, by row and column of the batch."""

    part: Part
    index: Int[Tensor, " active"]
    factor: Float[Tensor, "batch pos active"]
    offset: Float[Tensor, "batch pos active"]
    decoder: Mapping[Site, Float[Tensor, "active _"]]


class Patch:
    """Plans that share `attention` and `constrained`, ready for `hooked`: `reads`, `writes` and `norm_scales`.

    In each forward pass, an edited feature's activation `a` is what the dictionary reads in that very pass; in
    constrained blocks, and for features that read later than they write (a crosscoder's), it is the unedited run's.
    The edit ends at `factor * reference + offset`, where the reference is the unedited run's activation when attention
    is frozen or the block is constrained, and `a` itself when attention is free or the token was generated. A feature
    that is only added to (factor 1) keeps its own course.
    """

    def __init__(
        self,
        model: Model,
        dictionary: Dictionary,
        clean: CleanRun,
        plans: Sequence[Plan],
        *,
        columns: int,
        watch: bool,
    ) -> None:
        self.model, self.dictionary, self.clean, self.plans = model, dictionary, clean, plans
        self.frozen = plans[0].attention == "frozen"
        self.constrained = [layer for layer in range(model.n_layers) if plans[0].constrains(layer)]
        self.edits = {each.part.name: each for each in tabulate(dictionary, clean, plans, columns=columns)}
        self.edited = any(plan.edits for plan in plans)
        self.held = {mlp_site(dictionary, layer): layer for layer in self.constrained} if self.edited else {}
        self.inputs: dict[Site, Tensor] = {}
        """What each site that is read held in the latest pass, as it flowed on: (batch, pos, width)."""
        self.deltas: dict[str, Float[Tensor, "batch pos active"]] = {}
        """By part, the change of activation that each edited feature needs in the latest pass."""
        self.watched = dictionary.parts if watch else self._needed()

    def _needed(self) -> tuple[Part, ...]:
        """Parts whose inputs the edits depend on: the edited ones, and those whose skip path a held MLP keeps."""
        return tuple(
            part
            for part in self.dictionary.parts
            if part.name in self.edits or (part.W_skip is not None and part.writes[0] in self.held)
        )

    @property
    def reads(self) -> dict[Site, Read]:
        return {site: partial(self._read, site) for part in self.watched for site in part.reads}

    @property
    def writes(self) -> dict[Site, Write]:
        """The patterns, then features, then directions. None at all for plans without edits."""
        if not self.edited:
            return {}
        patterns = self.clean.patterns if self.frozen else {}
        writes = {site: hold_pattern(pattern) for site, pattern in patterns.items()}
        for site in dict.fromkeys(
            [*self.held, *(site for each in self.edits.values() for site in each.decoder)]
        ):
            writes[site] = partial(self._write, site)
        for site, later in direction_writes(self.model, self.plans).items():
            writes[site] = in_turn(writes[site], later) if site in writes else later
        return writes

    @property
    def norm_scales(self) -> dict[Site, Tensor]:
        everywhere = len(self.constrained) == self.model.n_layers
        return dict(self.clean.norm_scales) if everywhere and self.edited else {}

    def _read(self, site: Site, x: Tensor, step: Step) -> None:
        """Notes what a site holds in this pass; behind the last site that a part reads, what its edits want."""
        self.inputs[site] = flat(x, 2)
        for edits in self.edits.values():
            # A site that is also written was read by the write, before its change.
            if edits.part.last_read == site and site not in edits.decoder:
                self.deltas[edits.part.name] = self._delta(edits, self.inputs, step)

    def _delta(
        self, edits: PartEdits, x: Mapping[Site, Float[Tensor, "batch pos _"]], step: Step
    ) -> Float[Tensor, "batch pos active"]:
        """How much each edited feature's activation is to change: Δa = factor * reference + offset − current."""
        part = edits.part
        end = step.start + step.positions.shape[1]
        held = {site: flat(self.clean.inputs[site], 2)[:, step.start : end] for site in part.reads}
        covered = held[part.reads[0]].shape[1]
        before = Step(positions=step.positions[:1, :covered], start=step.start)
        clean = self._activations(part, edits.index, held, before)  # (1, covered, active)
        factor, offset = (table[:, step.start : end].to(clean) for table in (edits.factor, edits.offset))
        # On generated tokens there is no unedited run, and a part that looks ahead has no activation yet: taken as 0.
        live = clean.new_zeros(len(factor), end - step.start, clean.shape[2])
        live[:, :covered] = clean
        reference = current = live
        if not part.looks_ahead:
            unedited = live
            live = self._activations(part, edits.index, {site: x[site] for site in part.reads}, step)
            kept = torch.cat([unedited[:, :covered], live[:, covered:]], dim=1)
            constrained = part.layer in self.constrained
            current = kept if constrained else live
            reference = kept if self.frozen or constrained else live
        return torch.where(factor == 1, offset, factor * reference + offset - current)

    def _activations(
        self,
        part: Part,
        index: Int[Tensor, " active"],
        x: Mapping[Site, Float[Tensor, "batch pos _"]],
        step: Step,
    ) -> Float[Tensor, "batch pos active"]:
        values = part.activations_of(index, x)
        if self.dictionary.skip_first:
            values = values.masked_fill((step.positions == 0).to(values.device)[..., None], 0)
        return values

    def _write(self, site: Site, x: Tensor, step: Step) -> Tensor:
        """What a site holds once the features that write there are edited."""
        wide = flat(x, 2).to(torch.promote_types(x.dtype, torch.float32))  # (batch, pos, width)
        if site in self.held:
            wide = self._held(site, wide, step)
        for edits in self.edits.values():
            if site in edits.decoder:
                if site in edits.part.reads:
                    self.deltas[edits.part.name] = self._delta(edits, self.inputs | {site: wide}, step)
                change = self.deltas[edits.part.name].to(wide) @ edits.decoder[site].to(wide)
                seen = edits.part.seen(site, {site: wide})
                wide = wide + (change if seen is None else change * seen.scale)
        return wide.view(x.shape).to(x.dtype)

    def _held(
        self, site: Site, x: Float[Tensor, "batch pos d_out"], step: Step
    ) -> Float[Tensor, "batch pos d_out"]:
        """The MLP's output of the unedited run on the prompt. A skip connection is linear, so it stays in play."""
        held = self.clean.written[site][:, step.start : step.start + x.shape[1]].to(x)
        covered = held.shape[1]
        held = held.expand(len(x), -1, -1)
        for part in self.dictionary.parts:
            if part.W_skip is not None and part.writes[0] == site and covered:
                (read,) = part.reads
                now = self.inputs[read][:, :covered]
                before = flat(self.clean.inputs[read], 2)[:, step.start : step.start + covered]
                skipped = part.skip({read: now - before.to(now)})
                assert skipped is not None
                held = held + skipped.to(held)
        return torch.cat([held, x[:, covered:]], dim=1)


def tabulate(
    dictionary: Dictionary, clean: CleanRun, plans: Sequence[Plan], *, columns: int
) -> Iterable[PartEdits]:
    """The plans' feature edits by part, as tables over rows and columns. Columns on the left may be padding."""
    padding, device = clean.padding, clean.logits.device
    named = {edit.part for plan in plans for edit in plan.feature_edits}
    for part in (part for part in dictionary.parts if part.name in named):
        if part.offset:
            raise InvalidPlan(
                f"Features of part {part.name} write a constant beside their activation, so an edit of the activation "
                "does not say what they write. Only dictionaries without such offsets are edited."
            )
        index = sorted(
            {edit.index for plan in plans for edit in plan.feature_edits if edit.part == part.name}
        )
        shape = (len(plans), columns, len(index))
        factor, offset = torch.ones(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
        for row, plan in enumerate(plans):
            for feature, several in _by_feature(plan.feature_edits, part.name).items():
                place = index.index(feature)
                for position in _positions(several, columns - padding):
                    pair = fold(edit for edit in several if edit.covers(position))
                    factor[row, padding + position, place], offset[row, padding + position, place] = pair
        chosen = torch.tensor(index)
        yield PartEdits(
            part=part,
            index=chosen,
            factor=factor.to(device),
            offset=offset.to(device),
            decoder={site: rows.to(device) for site, rows in part.decoder_rows(chosen).items()},
        )


def direction_writes(model: Model, plans: Sequence[Plan]) -> dict[Site, Write]:
    """The plans' direction edits as writes; each acts on its own row of the batch."""
    rows = [writes_of(model, plan.direction_edits) for plan in plans]
    return {
        site: partial(_by_row, rows, site)
        for site in dict.fromkeys(site for writes in rows for site in writes)
    }


def _by_row(rows: Sequence[Mapping[Site, Write]], site: Site, x: Tensor, step: Step) -> Tensor:
    parts = list(x.split(1))
    for row, writes in enumerate(rows):
        if site in writes:
            own = Step(positions=step.positions[row : row + 1], start=step.start)
            parts[row] = writes[site](parts[row], own)
    return torch.cat(parts)


def _by_feature(edits: Iterable[FeatureEdit], part: str) -> dict[int, list[FeatureEdit]]:
    found: dict[int, list[FeatureEdit]] = {}
    for edit in edits:
        if edit.part == part:
            found.setdefault(edit.index, []).append(edit)
    return found


def _positions(edits: Sequence[FeatureEdit], length: int) -> Iterable[int]:
    """Where at least one of the edits acts; few for edits that name their positions."""
    if all(edit.positions is not None for edit in edits):
        return sorted({position for edit in edits for position in edit.positions or ()})
    return range(length)
