"""`Tracer`: attribution in progress, from the targets to the features that are worth expanding.

A graph of everything that is active has a row of edges for each active feature, and computing rows is what costs. With
Â the absolute edges, each row divided by its sum, the influence of a node is what arrives from the targets over paths
of every length, `I = w + I Â`: a node matters as its targets do, times its share in them. So rows are computed from
the targets down, where influence waits, until all is done or what waits is too little to matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thoughtscope.core.memory import in_halves
from thoughtscope.dictionaries.features import Features
from thoughtscope.dictionaries.transcoders import MlpReplacement
from thoughtscope.graphs.graph import Certificate
from thoughtscope.graphs.linear import Linearised
from thoughtscope.graphs.sweep import (
    Effects,
    Injections,
    Sources,
    chunks,
    gather_sources,
    inject_features,
    inject_reads,
    sweep,
)
from thoughtscope.graphs.targets import ReadTarget

_TINY = 1e-10
BATCH, GROWTH = 16, 3
"""Features that are expanded before the best-first order is renewed: so many, later this part of what is known."""


@dataclass(frozen=True, kw_only=True)
class EdgeRows:
    """Rows of edges into targets of one layer: active features by number, or reads of the model by number."""

    features: bool
    target: Int[np.ndarray, " target"]
    edges: sp.csr_array
    """(target, column)"""
    incoming: Float[np.ndarray, " target"]
    """Absolute input, also what fell under the floor."""
    absent: Float[np.ndarray, " target"]
    """Absolute input that fell under the floor."""
    bias: Float[np.ndarray, " target"]


Filed = tuple[int, EdgeRows]
"""Rows, and the layer of their targets, under which they are kept."""
Used = TypeVar("Used")


@dataclass(kw_only=True)
class Tracer:
    """The frozen model, the sources, and the rows of edges found so far.

    Columns are the final node table's for all active features: features, errors, tokens. Rows are kept by layer of
    the target, because influence flows from one layer to those below it and so needs one pass.
    """

    frozen: Linearised
    replacement: MlpReplacement
    features: Features
    errors: Sequence[Float[Tensor, "pos d_out"]]
    """What the dictionary misses at each block's MLP."""
    edge_floor: float = 0.0
    rows: dict[int, list[EdgeRows]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.layer = np.array(self.replacement.layer_of)[self.features.part.cpu().numpy()]
        self.position = self.features.position.cpu().numpy()
        self.expanded: Bool[np.ndarray, " active"] = np.zeros(len(self.features), dtype=bool)
        self.reachable: Bool[np.ndarray, " active"] = np.zeros(len(self.features), dtype=bool)
        self.start: Float[np.ndarray, " column"] = np.zeros(self.n_columns)
        """The influence that starts at each column: 1 at a feature that is a target."""
        self.read_start: Float[np.ndarray, " read"] = np.zeros(0)
        self._arrived: Float[np.ndarray, " column"] | None = None

    @cached_property
    def sources(self) -> Sources:
        """Gathered when the first edges are asked for: until then somebody may find the trace too large."""
        return gather_sources(self.frozen, self.replacement, self.features, self.errors)

    @property
    def n_columns(self) -> int:
        return len(self.features) + (len(self.frozen.blocks) + 1) * self.frozen.length

    @property
    def total(self) -> float:
        """All influence that starts at targets."""
        return float(self.start.sum() + self.read_start.sum())

    def expand_targets(self, reads: Sequence[ReadTarget], rows: Sequence[int]) -> None:
        """Computes the edges into the targets, and lets influence start there: reads of the model, and the active
        features that stand in `rows`."""
        self.read_start = np.array([target.weight for target in reads])
        if reads:
            self._run_reads(reads)
        if len(rows):
            which = np.array(rows)
            self.start[which] = 1.0
            self._mark_reachable(
                inject_features(self.frozen, self.replacement, self.features, torch.tensor(rows))
            )
            self.reachable[which] = True
            self.expand(which)

    def _mark_reachable(self, targets: Injections) -> None:
        """Features that can have an effect on a target: those below it at its position, and at earlier positions those
        with an attention layer between. A feature of block λ writes after that block's attention."""
        for layer, after, position in zip(
            targets.layer.tolist(), targets.after_attention.tolist(), targets.position.tolist(), strict=True
        ):
            self.reachable |= (self.position == position) & (self.layer < layer)
            self.reachable |= (self.position <= position) & (self.layer < layer - (not after))

    def expand(self, which: Int[np.ndarray, " target"], done: Callable[[int], None] | None = None) -> None:
        """Computes the edges into some active features. `done(n)` is called when n of them are."""
        if len(which):
            targets = inject_features(self.frozen, self.replacement, self.features, torch.from_numpy(which))
            self._run(targets, which, done)

    def influence(self) -> Float[np.ndarray, " column"]:
        """Influence on the targets so far, of every column: `I = w + I Â` over the rows that are known.

        Edges only lead down, so one pass from the top layer is enough: when a layer's turn comes, all that its rows
        will ever get has arrived.
        """
        if self._arrived is None:
            self._arrived = self._spread()
        return self._arrived

    def waiting(self) -> Float[np.ndarray, " active"]:
        """The influence that has arrived at each feature without a row, and goes no further: the frontier."""
        return self.influence()[: len(self.features)] * ~self.expanded

    def _spread(self) -> Float[np.ndarray, " column"]:
        arrived = np.zeros(self.n_columns)
        for layer in sorted(self.rows, reverse=True):
            for block in self.rows[layer]:
                # I_t / Σ_s |A_ts| is what a unit of edge into t carries; times |A_ts| it arrives at s.
                per_unit = self.reached(block, arrived) / np.maximum(block.incoming, _TINY)
                arrived += abs(block.edges).T @ per_unit  # (column,)
        return arrived

    def reached(self, block: EdgeRows, arrived: Float[np.ndarray, " column"]) -> Float[np.ndarray, " target"]:
        """The influence at a block's targets: what starts there and what has arrived."""
        if block.features:
            return self.start[block.target] + arrived[block.target]
        return self.read_start[block.target]

    def certificate(self) -> Certificate:
        """What is left out. See `Certificate`; the argument for the bound is at `best_first`."""
        arrived, frontier = self.influence(), float(self.waiting().sum()) / self.total
        # What a row lost under the floor took its share of the row's influence with it.
        dropped = 0.0
        for block in (block for blocks in self.rows.values() for block in blocks):
            share = block.absent / np.maximum(block.incoming, _TINY)
            dropped += float((self.reached(block, arrived) * share).sum()) / self.total
        nothing_left = self.expanded[self.reachable].all()
        return Certificate(
            expanded=int(self.expanded.sum()),
            active=int(self.reachable.sum()),
            frontier_mass=frontier,
            bound=0.0 if nothing_left else min(frontier + dropped, 1.0),
            dropped_mass=dropped,
        )

    def _run(
        self, targets: Injections, number: Int[np.ndarray, " target"], done: Callable[[int], None] | None
    ) -> None:
        """Sweeps for active features as targets, chunk by chunk, and files their rows."""
        count = 0

        def rows_of(chosen: Int[Tensor, " target"], effects: Effects, layer: np.ndarray) -> list[Filed]:
            dense = self._to_columns(effects)
            return self._rows(dense, effects.bias, number[chosen.numpy()], layer, features=True)

        for chosen, rows in self._sweeps(targets, rows_of):
            self._file(rows)
            self.expanded[number[chosen.numpy()]] = True
            count += len(chosen)
            if done is not None:
                done(count)

    def _run_reads(self, reads: Sequence[ReadTarget]) -> None:
        """Sweeps for reads of the model. A target that reads several sites gets the sum of the rows of each."""
        injections, owner = inject_reads(self.frozen, reads)
        self._mark_reachable(injections)
        dense = torch.zeros(len(reads), self.n_columns, device=self.frozen.embed.device)
        bias = torch.zeros(len(reads), device=dense.device)
        layer = np.zeros(len(reads), dtype=np.int64)

        def columns_of(_: Int[Tensor, " target"], effects: Effects, layer: np.ndarray) -> tuple[Any, ...]:
            return self._to_columns(effects), effects.bias, layer

        for chosen, (columns, constant, layers) in self._sweeps(injections, columns_of):
            of = owner[chosen].to(dense.device)
            dense.index_add_(0, of, columns)
            bias.index_add_(0, of, constant)
            np.maximum.at(layer, owner[chosen].numpy(), layers)
        order = np.argsort(-layer, kind="stable")  # `_rows` takes those of one layer together
        self._file(self._rows(dense[order], bias[order], order, layer[order], features=False))

    def _sweeps(
        self, targets: Injections, use: Callable[[Int[Tensor, " target"], Effects, np.ndarray], Used]
    ) -> Iterator[tuple[Int[Tensor, " target"], Used]]:
        """Chunks of targets that fit the byte budget, smaller where memory does not suffice: which ones, and what `use`
        makes of them, of the effects on them, and of their layers."""
        output = self.frozen.blocks[0].output  # (head, d_head, d_model)
        # Floats for each target and position: the gradient, its double behind attention, and both ends of the heads.
        width = 3 * output.shape[2] + 2 * output.shape[0] * output.shape[1]

        def swept(chosen: Int[Tensor, " target"]) -> tuple[Int[Tensor, " target"], Used]:
            chunk = targets[chosen.to(targets.layer.device)]
            effects = sweep(self.frozen, self.replacement, self.sources, chunk)
            return chosen, use(chosen, effects, chunk.layer.cpu().numpy())

        for chosen in chunks(targets, width=width, columns=2 * self.n_columns):
            yield from in_halves(chosen, swept)

    def _file(self, rows: list[Filed]) -> None:
        self._arrived = None
        for layer, block in rows:
            self.rows.setdefault(layer, []).append(block)

    def _rows(
        self,
        dense: Float[Tensor, "target column"],
        bias: Float[Tensor, " target"],
        number: Int[np.ndarray, " target"],
        layer: Int[np.ndarray, " target"],
        *,
        features: bool,
    ) -> list[Filed]:
        """Rows as sparse blocks, one per layer, with what fell under the floor in the books.

        The rows come sorted by layer, as `chunks` gives them.
        """
        total = dense.abs().sum(1, dtype=torch.float64)  # Σ_s |A_ts|, (target,)
        left = total
        if self.edge_floor:
            dense = dense.where(dense.abs() >= self.edge_floor * total[:, None].float(), 0)
            left = dense.abs().sum(1, dtype=torch.float64)
        # From a dense chunk to compressed rows: where each row starts, and the columns and values of what is not 0.
        mask = dense != 0
        pointer = np.concatenate([[0], mask.sum(1).cumsum(0).cpu().numpy()])
        column, data = mask.nonzero()[:, 1].int().cpu().numpy(), dense[mask].cpu().numpy()
        incoming, constant = total.cpu().numpy(), bias.cpu().numpy()
        absent = np.maximum(incoming - left.cpu().numpy(), 0)
        found = []
        for a, b in pairwise([0, *(np.flatnonzero(np.diff(layer)) + 1).tolist(), len(layer)]):
            span, rows = slice(pointer[a], pointer[b]), slice(a, b)
            table = data[span], column[span], pointer[a : b + 1] - pointer[a]
            block = EdgeRows(
                features=features,
                target=number[rows],
                edges=sp.csr_array(table, shape=(b - a, self.n_columns)),
                incoming=incoming[rows],
                absent=absent[rows],
                bias=constant[rows],
            )
            found.append((int(layer[a]), block))
        return found

    def _to_columns(self, effects: Effects) -> Float[Tensor, "target column"]:
        """The effects in the order of the node table: features by part, errors by layer and position, tokens.

        A sweep has features by position instead (its sources are slices then), and only positions up to its last.
        """
        n_targets, length = effects.tokens.shape
        n_active, n_layers, n_pos = len(self.features), len(self.frozen.blocks), self.frozen.length
        dense = effects.features.new_zeros(n_targets, self.n_columns)
        seen = (self.sources.column_of < effects.features.shape[1]).nonzero()[:, 0]
        dense[:, seen] = effects.features[:, self.sources.column_of[seen]]
        errors = dense[:, n_active : n_active + n_layers * n_pos].view(n_targets, n_layers, n_pos)
        errors[:, :, :length] = effects.errors
        dense[:, n_active + n_layers * n_pos :][:, :length] = effects.tokens
        return dense


def best_first(
    tracer: Tracer,
    *,
    max_nodes: int | None,
    influence_bound: float | None,
    done: Callable[[int], None] | None = None,
) -> Iterator[None]:
    """Expands features best first by influence, until a limit holds or none is left that can reach a target.

    Stops after each batch for whoever wants to look. What is expanded when depends on nothing but the graph: who stops
    at N features has what `max_nodes=N` gives. `done(n)` is called within a batch when n of it are computed.

    Why that can stop with a proof: the graph has no cycles and the rows of shares add up to at most one, so influence
    that waits at unexpanded features, F in all, can bring at most F to any node, however it is continued. With I_S the
    influence over the rows known so far, `I_S(v) <= I(v) <= I_S(v) + F` for every node v. What waits at v itself only
    leads away from it, so a feature that waits has `I(v) <= I_S(v) + (F - I_S(v)) = F`. And F never rises: a row hands
    on at most what it got.
    """
    everything = int(tracer.reachable.sum())
    most = everything if max_nodes is None else min(max_nodes, everything)
    least = (influence_bound or 0.0) * tracer.total
    while (known := int(tracer.expanded.sum())) < most and (waiting := tracer.waiting()).sum() > least:
        # The order is renewed after each batch: what the new rows send down may wait at features not seen before.
        best = np.argsort(-waiting, kind="stable")[: min(max(BATCH, known // GROWTH), most - known)]
        tracer.expand(best[waiting[best] > 0], done)
        yield
    if influence_bound is None and most == everything:
        # Nothing arrives at what is left, for want of a single edge that is not zero; it is part of a whole graph.
        tracer.expand(np.flatnonzero(tracer.reachable & ~tracer.expanded), done)
