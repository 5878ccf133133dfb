"""`Patch`: plans as reads and writes on a running model, one row of a batch each.

What an edit wants of a feature is written as a change of its activation times its decoder rows, at every site that the
feature writes to. The model itself stays: what the dictionary does not explain keeps flowing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtscope.core.site import Site
from thoughtscope.dictionaries.dictionary import Dictionary
from thoughtscope.interventions.clean import CleanRun
from thoughtscope.interventions.edits import FeatureEdit, fold
from thoughtscope.interventions.plans import Plan
from thoughtscope.models.edits import writes_of
from thoughtscope.models.hooks import Read, Step, Write, hold_pattern
from thoughtscope.models.model import Model


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerEdits:
    """What the plans want of one layer's features: `a -> factor * a + offset`, by row and column of the batch."""

    layer: int
    index: Int[Tensor, " active"]
    factor: Float[Tensor, "batch pos active"]
    offset: Float[Tensor, "batch pos active"]
    decoder: Float[Tensor, "active target d_out"]


class Patch:
    """Plans that share `attention` and `constrained`, ready for `hooked`: `reads`, `writes` and `norm_scales`.

    In each forward pass, an edited feature's activation `a` is what the dictionary reads in that very pass; in
    constrained layers it is the unedited run's, as the MLP's output there is. The edit ends at
    `factor * reference + offset`, where the reference is the unedited run's activation when attention is frozen or the
    layer is constrained, and `a` itself when attention is free or the token was generated. A feature that is only added
    to (factor 1) keeps its own course.
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
        self.constrained = [layer for layer in range(dictionary.n_layers) if plans[0].constrains(layer)]
        self.edits = {each.layer: each for each in tabulate(dictionary, clean, plans, columns=columns)}
        self.inputs: dict[int, Tensor] = {}
        """What the encoders of each layer read in the latest pass."""
        self.deltas: dict[int, Tensor] = {}
        self.edited = any(plan.edits for plan in plans)
        self.watched = range(dictionary.n_layers) if watch else self._needed()

    def _needed(self) -> list[int]:
        skipped = self.constrained if self.dictionary.has_skip and self.edited else []
        return sorted({*self.edits, *skipped})

    @property
    def reads(self) -> dict[Site, Read]:
        return {self.dictionary.reads[layer]: partial(self._read, layer) for layer in self.watched}

    @property
    def writes(self) -> dict[Site, Write]:
        """The patterns, then features, then directions. None at all for plans without edits."""
        if not self.edited:
            return {}
        patterns = self.clean.patterns if self.frozen else {}
        writes = {site: hold_pattern(pattern) for site, pattern in patterns.items()}
        changed = {target for layer in self.edits for target in self.dictionary.targets(layer)}
        for layer in sorted(changed.union(self.constrained)):
            writes[self.dictionary.writes[layer]] = partial(self._write, layer)
        for site, later in direction_writes(self.model, self.plans).items():
            writes[site] = partial(_then, writes[site], later) if site in writes else later
        return writes

    @property
    def norm_scales(self) -> dict[Site, Tensor]:
        everywhere = len(self.constrained) == self.dictionary.n_layers
        return dict(self.clean.norm_scales) if everywhere and self.edited else {}

    def _read(self, layer: int, x: Float[Tensor, "batch pos d_in"], step: Step) -> None:
        """Notes what the encoder of `layer` reads in this pass, and what the edits there want of it."""
        self.inputs[layer] = x
        if layer in self.edits:
            self.deltas[layer] = self._delta(self.edits[layer], x, step)

    def _delta(
        self, edits: LayerEdits, x: Float[Tensor, "batch pos d_in"], step: Step
    ) -> Float[Tensor, "batch pos active"]:
        """How much each edited feature's activation is to change."""
        layer, end = edits.layer, step.start + x.shape[1]
        live = activations_of(self.dictionary, layer, edits.index, x, step)
        held = self.clean.inputs[layer][:, step.start : end]
        before = Step(positions=step.positions[:1, : held.shape[1]], start=step.start)
        clean = activations_of(self.dictionary, layer, edits.index, held, before).to(live)
        clean = torch.cat([clean.expand(len(live), -1, -1), live[:, held.shape[1] :]], dim=1)
        current = clean if layer in self.constrained else live
        reference = clean if self.frozen or layer in self.constrained else live
        factor, offset = (table[:, step.start : end].to(live) for table in (edits.factor, edits.offset))
        return torch.where(factor == 1, offset, factor * reference + offset - current)

    def _write(
        self, target: int, x: Float[Tensor, "batch pos d_out"], step: Step
    ) -> Float[Tensor, "batch pos d_out"]:
        """What the write site of layer `target` holds once the features of this and lower layers are edited."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if target in self.constrained:
            wide = self._held(target, wide, step)
        for layer, edits in self.edits.items():
            if target in self.dictionary.targets(layer):
                wide = wide + self.deltas[layer].to(wide) @ edits.decoder[:, target - layer].to(wide)
        return wide.to(x.dtype)

    def _held(
        self, layer: int, x: Float[Tensor, "batch pos d_out"], step: Step
    ) -> Float[Tensor, "batch pos d_out"]:
        """The MLP's output of the unedited run on the prompt. A skip connection is linear, so it stays in play."""
        held = self.clean.written[layer][:, step.start : step.start + x.shape[1]].to(x)
        covered = held.shape[1]
        held = held.expand(len(x), -1, -1)
        if self.dictionary.layers[layer].W_skip is not None and covered:
            now = self.inputs[layer][:, :covered]
            moved = now - self.clean.inputs[layer][:, step.start : step.start + covered].to(now)
            skipped = self.dictionary.skip(layer, moved)
            assert skipped is not None
            held = held + skipped.to(held)
        return torch.cat([held, x[:, covered:]], dim=1)


def activations_of(
    dictionary: Dictionary,
    layer: int,
    index: Int[Tensor, " active"],
    x: Float[Tensor, "batch pos d_in"],
    step: Step,
) -> Float[Tensor, "batch pos active"]:
    """The activations of a few features of a layer; only their encoder rows are read, unless they compete (TopK)."""
    if dictionary.activation.kind == "topk":
        values = dictionary.activations(layer, x)[..., index.to(x.device)]
    else:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        rows, bias = (
            get(layer, index).to(wide) for get in (dictionary.encoder_rows, dictionary.encoder_bias)
        )
        threshold = dictionary.layers[layer].threshold
        values = dictionary.activation.apply(
            torch.nn.functional.linear(wide, rows, bias),
            None if threshold is None else threshold[index.to(threshold.device)].to(wide),
        )
    if dictionary.skip_first:
        values = values.masked_fill((step.positions == 0).to(values.device)[..., None], 0)
    return values


def tabulate(
    dictionary: Dictionary, clean: CleanRun, plans: Sequence[Plan], *, columns: int
) -> Iterable[LayerEdits]:
    """The plans' feature edits by layer, as tables over rows and columns. Columns on the left may be padding."""
    padding = clean.padding
    layers = sorted({edit.layer for plan in plans for edit in plan.feature_edits})
    for layer in layers:
        index = sorted({edit.index for plan in plans for edit in plan.feature_edits if edit.layer == layer})
        shape = (len(plans), columns, len(index))
        factor, offset = torch.ones(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
        for row, plan in enumerate(plans):
            for feature, several in _by_feature(plan.feature_edits, layer).items():
                place = index.index(feature)
                for position in _positions(several, columns - padding):
                    pair = fold(edit for edit in several if edit.covers(position))
                    factor[row, padding + position, place], offset[row, padding + position, place] = pair
        chosen = torch.tensor(index)
        yield LayerEdits(
            layer=layer,
            index=chosen,
            factor=factor.to(clean.logits.device),
            offset=offset.to(clean.logits.device),
            decoder=dictionary.decoder_rows(layer, chosen).to(clean.logits.device),
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


def _by_feature(edits: Iterable[FeatureEdit], layer: int) -> dict[int, list[FeatureEdit]]:
    found: dict[int, list[FeatureEdit]] = {}
    for edit in edits:
        if edit.layer == layer:
            found.setdefault(edit.index, []).append(edit)
    return found


def _positions(edits: Sequence[FeatureEdit], length: int) -> Iterable[int]:
    """Where at least one of the edits acts; few for edits that name their positions."""
    if all(edit.positions is not None for edit in edits):
        return sorted({position for edit in edits for position in edit.positions or ()})
    return range(length)


def _then(earlier: Write, later: Write, x: Tensor, step: Step) -> Tensor:
    return later(earlier(x, step), step)
