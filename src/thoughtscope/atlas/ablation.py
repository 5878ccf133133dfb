"""`loss_effects`: how much worse the tokens of an example are foreseen once its feature is taken out of the model.

For a feature and the context of one of its examples, what the feature writes is subtracted at every token at which it
is active, at every site that it writes; the rest of the model, what the dictionary misses included, stays. The effect
on a token is the loss that it then has, less the loss that it had: above 0 where the feature helped to foresee it.
A context is run once as it is, and once for each feature of which it is to show an example.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Float16, Int
from torch import Tensor

from thoughtscope.atlas.bank import FeatureBank, LayerRecords
from thoughtscope.atlas.picking import ragged, windows_of
from thoughtscope.core.errors import DictionaryMismatch, ThoughtscopeError
from thoughtscope.core.progress import Progress, silent
from thoughtscope.core.site import Site
from thoughtscope.dictionaries import Dictionary, Part, check_fits, resident
from thoughtscope.dictionaries.features import flat

if TYPE_CHECKING:
    from thoughtscope.models import Model, Tokens
    from thoughtscope.models.hooks import Step, Write

BATCH_TOKENS = 2048
"""Tokens that go through the model together: their logits are all in memory."""
_LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True, kw_only=True)
class Ablations:
    """What `loss_effects` is to run: `layer`, `feature` and `document` by run; and which examples a run shows."""

    layer: Int[np.ndarray, " run"]
    feature: Int[np.ndarray, " run"]
    document: Int[np.ndarray, " run"]
    length: Int[np.ndarray, " run"]
    "Tokens of the document up to the last one that is shown."
    example_layer: Int[np.ndarray, " example"]
    example: Int[np.ndarray, " example"]
    "Number of the example among those of its layer."
    run: Int[np.ndarray, " example"]

    @property
    def n_examples(self) -> int:
        return len(self.example)

    @property
    def n_tokens(self) -> int:
        """Tokens that pass through the whole model: of the runs, and once of every context as it is."""
        longest = np.zeros(int(self.document.max(initial=-1)) + 1, np.int64)
        np.maximum.at(longest, self.document, self.length)
        return int(self.length.sum() + longest.sum())


def ablations(bank: FeatureBank, *, n: int, features: Iterable[tuple[int, int]] | None = None) -> Ablations:
    """The runs for the first `n` examples (the strongest) of every feature, or of some, each (layer, index): what
    `loss_effects` costs, before it is paid. Raises `UnknownFeature`."""
    if n < 1:
        raise ThoughtscopeError(f"Loss effects need 1 example of a feature or more; got n={n}.")
    wanted = None if features is None else np.array([*features], np.int64).reshape(-1, 2)
    if wanted is not None:
        for layer, index in wanted.tolist():
            bank.density(layer, index)  # refuses a feature that is not there
    starts, found = bank.starts.numpy().astype(np.int64), []
    for number, records in enumerate(bank.layers):
        offsets = records.example_offsets.numpy().astype(np.int64)
        feature = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        example = np.arange(len(feature))
        kept = example - offsets[feature] < n
        if wanted is not None:
            kept &= np.isin(feature, wanted[wanted[:, 0] == number, 1])
        example = example[kept]
        peak = records.example_token.numpy().astype(np.int64)[example]
        document = np.searchsorted(starts, peak, side="right") - 1
        length = windows_of(starts, peak, bank.window)[1] - starts[document]
        found.append(np.stack([np.full(len(example), number), feature[example], document, length, example]))
    layer, feature, document, length, example = np.concatenate(found, axis=1)
    runs, run = np.unique(np.stack([layer, feature, document]), axis=1, return_inverse=True)
    longest = np.zeros(runs.shape[1], np.int64)
    np.maximum.at(longest, run.reshape(-1), length)
    return Ablations(
        layer=runs[0], feature=runs[1], document=runs[2], length=longest,
        example_layer=layer, example=example, run=run.reshape(-1),
    )  # fmt: skip


@torch.no_grad()
def loss_effects(
    model: Model,
    dictionary: Dictionary,
    bank: FeatureBank,
    *,
    n: int,
    features: Iterable[tuple[int, int]] | None = None,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress = silent,
) -> FeatureBank:
    """The bank, with the effect on the loss (nats) of each shown token, for the first `n` examples (the strongest) of
    every feature, or of some, each (layer, index). Effects that it had are replaced.

    Effects are 0 up to and at the first token at which the feature is active, and at a document's first token, which
    nothing foresees. In half precision, rounding adds noise of its own size to them: load the model in float32.
    `ablations` tells the price.
    Raises `DictionaryMismatch` for a bank of another dictionary, `UnknownFeature`.
    """
    check_fits(dictionary, model)
    if bank.scan != dictionary.scan or [len(records.count) for records in bank.layers] != [
        part.n_features for part in dictionary.parts
    ]:
        raise DictionaryMismatch(f"These are examples of {bank.dictionary_name}, not of {dictionary.name}.")
    todo = ablations(bank, n=n, features=features)
    shown, own = _Shown(bank, todo), resident(dictionary, device=model.device)
    done, total = 0, todo.n_tokens
    progress("loss effects", done, total)
    ids, starts = bank.ids.numpy(), bank.starts.numpy()
    documents, place = np.unique(todo.document, return_inverse=True)
    longest = np.zeros(len(documents), np.int64)
    np.maximum.at(longest, place, todo.length)
    for chosen in _batches(longest, batch_tokens):
        texts = [ids[starts[documents[at]] :][: longest[at]].tolist() for at in chosen]
        runs = np.flatnonzero(np.isin(place, chosen))
        row = np.argsort(chosen)[np.searchsorted(np.sort(chosen), place[runs])]
        clean = _Clean(model, own, texts, todo, runs, row)
        done += int(longest[chosen].sum())
        for some in _batches(todo.length[runs], batch_tokens):
            shown.keep(runs[some], *clean.without(some))
            done += int(todo.length[runs[some]].sum())
            progress("loss effects", done, total)
    return replace(bank, layers=shown.layers())


def _batches(length: Int[np.ndarray, " row"], tokens: int) -> Iterator[Int[np.ndarray, " chosen"]]:
    """Numbers of rows that fit into a batch together, from the shortest to the longest."""
    order = np.argsort(length, kind="stable")
    while len(order):
        fits = length[order] * np.arange(1, len(order) + 1) <= tokens
        size = max(1, int(fits.argmin()) if not fits.all() else len(order))
        yield order[:size]
        order = order[size:]


class _Clean:
    """Some contexts as the model sees them, and what it sees without a feature."""

    def __init__(
        self,
        model: Model,
        dictionary: Dictionary,
        texts: list[list[int]],
        todo: Ablations,
        runs: Int[np.ndarray, " run"],
        row: Int[np.ndarray, " run"],
    ) -> None:
        """`runs` are those of these contexts, `row` the context of each."""
        from thoughtscope.models.hooks import forward, reading
        from thoughtscope.models.tokens import pad_left

        self.model, self.dictionary = model, dictionary
        self.layer, self.feature, self.length = todo.layer[runs], todo.feature[runs], todo.length[runs]
        self.row = torch.from_numpy(row)
        self.tokens: Tokens = pad_left(texts)
        self.padding = self.tokens.mask.shape[1] - self.tokens.mask.sum(1)
        held: dict[Site, Tensor] = {}
        sites = {site for number in np.unique(self.layer) for site in dictionary.parts[number].reads}
        logits = forward(model, self.tokens, reads={site: reading(held, site) for site in sites})
        assert logits is not None
        self.loss = _losses(logits, self.tokens)
        self.inputs = {site: flat(x, 2) for site, x in held.items()}

    def without(self, some: Int[np.ndarray, " row"]) -> tuple[Float[Tensor, "row pos"], Int[Tensor, " row"]]:
        """The effects of some runs on all tokens, padded on the left, and how many of those are padding."""
        from thoughtscope.models.hooks import forward
        from thoughtscope.models.tokens import Tokens

        length, row = torch.from_numpy(self.length[some]), self.row[torch.from_numpy(some)]
        padding = length.max() - length
        mask = torch.arange(int(length.max())) >= padding[:, None]  # (row, pos)
        # Column of the context at each column of the batch: both are padded on the left, to other lengths.
        column = (torch.arange(mask.shape[1]) + (self.padding[row] - padding)[:, None]).clamp(min=0)
        at = (row[:, None], column)
        nothing = tuple(() for _ in some)
        tokens = Tokens(
            ids=self.tokens.ids[at].where(mask, 0), mask=mask, texts=("",) * len(some),
            pieces=nothing, offsets=nothing,
        )  # fmt: skip
        written, changed = self._written(some, at, mask)
        logits = forward(
            self.model, tokens, writes={site: _less(several) for site, several in written.items()}
        )
        assert logits is not None
        effect = _losses(logits, tokens) - self.loss[at[0].to(self.loss.device), at[1].to(self.loss.device)]
        # Nothing differs up to the first change, and the loss of a token hangs on what stands before it.
        after = torch.zeros_like(mask)
        after[:, 1:] = changed.cumsum(1)[:, :-1] > 0
        return effect.cpu().where(after & mask, 0), padding

    def _written(
        self, some: Int[np.ndarray, " row"], at: tuple[Tensor, Tensor], mask: Bool[Tensor, "row pos"]
    ) -> tuple[dict[Site, list[tuple[Tensor, Tensor, Tensor]]], Bool[Tensor, "row pos"]]:
        """By site, (row, column, what the row's feature writes there); and where that is anything at all."""
        written: dict[Site, list[tuple[Tensor, Tensor, Tensor]]] = {}
        changed = torch.zeros_like(mask)
        for number in np.unique(self.layer[some]):
            part, here = self.dictionary.parts[number], np.flatnonzero(self.layer[some] == number)
            rows, columns, index, value, x = self._active(part, some, here, at, mask)
            whole = part.write(torch.arange(len(rows), device=value.device), index, value, x)
            silent_part = part.write(*(column[:0] for column in (rows.to(value.device), index, value)), x)
            for site, total in whole.items():
                own = total - silent_part[site]
                written.setdefault(site, []).append((rows, columns, own))
                differs = (own != 0).any(-1).cpu()
                changed[rows[differs], columns[differs]] = True
        return written, changed

    def _active(
        self,
        part: Part,
        some: Int[np.ndarray, " row"],
        here: Int[np.ndarray, " own"],
        at: tuple[Tensor, Tensor],
        mask: Bool[Tensor, "row pos"],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[Site, Tensor]]:
        """Where the features of the rows `here`, all of one part, are active: row, column, feature, value, and what
        the part reads there."""
        own = torch.from_numpy(here)
        feature, of_row = np.unique(self.feature[some[here]], return_inverse=True)
        rows, columns = at[0][own], at[1][own]
        held = {site: self.inputs[site] for site in part.reads}
        used, of_context = rows[:, 0].unique(return_inverse=True)
        dense = part.activations_of(
            torch.from_numpy(feature), {site: x[used.to(x.device)] for site, x in held.items()}
        ).cpu()  # (context, pos, feature)
        value = dense[of_context[:, None], columns, torch.from_numpy(of_row)[:, None]] * mask[own]
        if self.dictionary.skip_first:
            value = value.where(mask[own].cumsum(1) > 1, 0)
        row, column = value.nonzero(as_tuple=True)
        x = {site: every[rows[row, 0], columns[row, column]] for site, every in held.items()}
        device = self.model.device
        index = torch.from_numpy(feature)[torch.from_numpy(of_row)[row]]
        return own[row], column, index.to(device), value[row, column].to(device), x


def _less(several: list[tuple[Tensor, Tensor, Tensor]]) -> Write:
    """A write that takes (row, column, vector) away from what a site holds."""

    def write(x: Tensor, step: Step) -> Tensor:
        wide = flat(x, 2).to(torch.promote_types(x.dtype, torch.float32), copy=True)
        for row, column, own in several:
            wide[row.to(wide.device), column.to(wide.device)] -= own.to(wide)
        return wide.view(x.shape).to(x.dtype)

    return write


def _losses(logits: Float[Tensor, "row pos vocab"], tokens: Tokens) -> Float[Tensor, "row pos"]:
    """−log p of each token, in nats; 0 for the first of a row and for padding."""
    ids, before = tokens.ids.to(logits.device), logits[:, :-1].float()
    said = before.gather(-1, ids[:, 1:, None])[..., 0]
    loss = torch.zeros(ids.shape, device=logits.device)
    loss[:, 1:] = before.logsumexp(-1) - said
    known = tokens.mask.cumsum(1) > 1
    return loss.where(known.to(loss.device), 0)


class _Shown:
    """The effects on the tokens that examples show, as they are found."""

    def __init__(self, bank: FeatureBank, todo: Ablations) -> None:
        self._bank, self._todo = bank, todo
        starts = bank.starts.numpy().astype(np.int64)
        peak = np.zeros(todo.n_examples, np.int64)
        for number, records in enumerate(bank.layers):
            here = todo.example_layer == number
            peak[here] = records.example_token.numpy()[todo.example[here]]
        first, end = windows_of(starts, peak, bank.window)
        self._first, self._length = first - starts[todo.document[todo.run]], end - first
        self._offset = np.cumsum(self._length) - self._length
        self._value: Float16[np.ndarray, " shown"] = np.zeros(int(self._length.sum()), np.float16)
        self._order = np.argsort(todo.run, kind="stable")
        self._of_run = np.searchsorted(todo.run[self._order], np.arange(len(todo.layer) + 1))

    def keep(
        self, runs: Int[np.ndarray, " row"], effect: Float[Tensor, "row pos"], padding: Int[Tensor, " row"]
    ) -> None:
        """Takes what the examples of some runs show of the effects, a row a run, padded on the left."""
        count = self._of_run[runs + 1] - self._of_run[runs]
        row, place = ragged(self._of_run[runs], count)
        example = self._order[place]
        owner, column = ragged(self._first[example] + padding.numpy()[row], self._length[example])
        _, to = ragged(self._offset[example], self._length[example])
        self._value[to] = effect.numpy()[row[owner], column].clip(-_LARGEST, _LARGEST)

    def layers(self) -> tuple[LayerRecords, ...]:
        """The bank's records with what was kept."""
        todo, found = self._todo, []
        for number, records in enumerate(self._bank.layers):
            here = np.flatnonzero(todo.example_layer == number)  # by rising example
            length = np.zeros(len(records.example_token), np.int64)
            length[todo.example[here]] = self._length[here]
            _, at = ragged(self._offset[here], self._length[here])
            offsets = np.concatenate([[0], np.cumsum(length)]).astype(np.int32)
            found.append(
                replace(
                    records,
                    effect_offsets=torch.from_numpy(offsets),
                    effect_value=torch.from_numpy(self._value[at]),
                )
            )
        return tuple(found)
