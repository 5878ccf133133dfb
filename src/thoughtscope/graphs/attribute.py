"""`attribute`: the attribution graph of a prompt, exact on the local replacement model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from thoughtscope.core.errors import ThoughtscopeError, UnknownFeature
from thoughtscope.core.ids import NodeId
from thoughtscope.core.memory import memory_told
from thoughtscope.core.progress import Progress, silent
from thoughtscope.core.provenance import provenance
from thoughtscope.dictionaries.dictionary import Dictionary, check_fits
from thoughtscope.dictionaries.features import Features, encode
from thoughtscope.dictionaries.transcoders import MlpReplacement, replace_mlps
from thoughtscope.graphs.graph import ERROR, FEATURE, LOGIT, TOKEN, Certificate, Graph, Target
from thoughtscope.graphs.linear import linearise
from thoughtscope.graphs.price import (
    Price,
    count_active,
    expect_active,
    price,
    require_affordable,
)
from thoughtscope.graphs.targets import FeatureTarget, ReadTarget, TargetLike, resolve_targets
from thoughtscope.graphs.tracer import Tracer, best_first
from thoughtscope.models.model import Model
from thoughtscope.models.tokens import Tokens

FIX = "Use a shorter prompt, or fewer nodes (--max-nodes, max_nodes=…)."


@torch.no_grad()
def attribute(
    model: Model,
    dictionary: Dictionary,
    tokens: Tokens,
    *,
    targets: Sequence[TargetLike] | None = None,
    position: int = -1,
    max_targets: int = 10,
    target_mass: float = 0.95,
    max_nodes: int | None = None,
    influence_bound: float | None = None,
    edge_floor: float = 0.0,
    approve: Callable[[Price], None] | None = None,
    progress: Progress = silent,
) -> Graph:
    """Traces which features, errors and tokens drive the targets, through which others.

    Edges are direct effects on the model with attention patterns, norm scales and MLP errors held at the prompt's
    values (Ameisen et al. 2025, "Circuit Tracing"): `edges[t, s]` is what source `s` contributes to the pre-activation
    of feature `t`, or to a logit less the vocabulary's mean, and with `bias[t]` they add up to it. Computed by linear
    algebra in float32 from one forward pass.

    Features that cannot reach a target are no nodes. What a dictionary misses is an error node at every position; at
    the first, where `encode` drops all features, it carries everything beyond the decoder's bias. Token nodes carry
    the whole residual stream that enters the first block, positional embedding included.

    - `targets`: None for the likeliest next tokens at `position` (`target_mass` of the probability, at most
      `max_targets`); or tokens, vocabulary ids, `LogitDifference`s, `NodeId`s of
      features at any position, and `FeatureTarget`s of other dictionaries (an autoencoder on the residual stream, …).
    - `max_nodes`, `influence_bound`: expand features best first by influence, at most so many, or until the influence
      that waits at unexpanded ones is at most that share. `graph.certificate` says what was left out at most.
    - `edge_floor`: leave out edges below that share of their target's absolute input.
    - `approve(price)` is called once the prompt is encoded and the graph's size known, before any edge is computed;
      what it raises ends the run.
    - `progress(stage, done, total)` is called as work gets done; see `Attribution.expand` for the figures beside it.

    Raises `DictionaryMismatch` for a dictionary that does not fit, `UnknownFeature` for a target feature that is not
    active, `LimitExceeded` for a graph whose price is over the free memory, `OutOfMemory` where memory runs out all the
    same, `ThoughtscopeError` for targets or bounds out of range.
    """
    check_limits(max_nodes, influence_bound)
    begun = begin_attribution(
        model,
        dictionary,
        tokens,
        targets=targets,
        position=position,
        max_targets=max_targets,
        target_mass=target_mass,
        max_nodes=max_nodes,
        edge_floor=edge_floor,
        progress=progress,
    )
    known = begun.price(max_nodes)
    require_affordable(known, str(model.device))
    if approve is not None:
        approve(known)
    for _ in begun.expand(max_nodes=max_nodes, influence_bound=influence_bound, progress=progress):
        pass
    progress("graph", 0, 1)
    graph = begun.graph()
    progress("graph", 1, 1)
    return graph


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """Attribution in progress: a prompt whose price is known, and the graph of what has been expanded so far.

    `expand` is a generator; whenever it stops, `certificate` says what is left out at most, and `graph` gives a whole
    graph, the one that `attribute` makes with as many nodes.
    """

    model: Model
    tokens: Tokens
    reads: Sequence[ReadTarget]
    rows: Sequence[int]
    """The active features that are targets."""
    tracer: Tracer

    @property
    def certificate(self) -> Certificate:
        """What a graph made now would leave out."""
        return self.tracer.certificate()

    def price(self, max_nodes: int | None = None) -> Price:
        """What the graph will take, now that its features are counted and its targets known."""
        positions = [read.position for read in self.reads] + self.tracer.position[list(self.rows)].tolist()
        return price(
            self.model,
            self.tracer.replacement,
            count_active(self.tracer.replacement, self.tracer.features),
            n_targets=len(self.reads) + len(self.rows),
            position=max(positions),
            max_nodes=max_nodes,
        )

    def expand(
        self,
        *,
        max_nodes: int | None = None,
        influence_bound: float | None = None,
        progress: Progress = silent,
    ) -> Iterator[Certificate]:
        """Finds the edges into the targets, then into features, best first by influence, until a limit holds.

        Gives the certificate after each batch; its bound only falls. `progress("attribute", …)` comes several times a
        batch, with the figures `bound` and `waiting`, the features that can reach a target and have no row yet. Limits
        as in `attribute`.
        """
        check_limits(max_nodes, influence_bound)
        tracer = self.tracer
        if not tracer.rows:
            with torch.no_grad(), memory_told("This trace", FIX):
                tracer.expand_targets(self.reads, self.rows)
        known = self.certificate
        total = known.active if max_nodes is None else max(min(max_nodes, known.active), known.expanded)

        def said(done: int = 0) -> None:
            expanded = known.expanded + done
            waiting = float(known.active - expanded)
            progress("attribute", expanded, total, bound=known.bound, waiting=waiting)

        said()
        steps = best_first(tracer, max_nodes=max_nodes, influence_bound=influence_bound, done=said)
        while True:
            with torch.no_grad(), memory_told("This trace", FIX):
                try:
                    next(steps)
                except StopIteration:
                    return
            known = self.certificate
            said()
            yield known

    @torch.no_grad()
    def graph(self) -> Graph:
        """The graph of what has been expanded; edges from other features are `absent` in it."""
        with memory_told("This trace", FIX):
            return assemble(self.tracer, self.model, self.tokens, self.reads, self.rows)


@torch.no_grad()
def begin_attribution(
    model: Model,
    dictionary: Dictionary,
    tokens: Tokens,
    *,
    targets: Sequence[TargetLike] | None = None,
    position: int = -1,
    max_targets: int = 10,
    target_mass: float = 0.95,
    max_nodes: int | None = None,
    edge_floor: float = 0.0,
    progress: Progress = silent,
) -> Attribution:
    """Runs the model, encodes the prompt and resolves the targets; no edge is computed yet.

    Options as in `attribute`; `max_nodes` is the most that anybody will ask to be expanded. Raises what it raises.
    """
    check_limits(max_nodes, None, edge_floor)
    check_fits(dictionary, model)
    replacement = replace_mlps(dictionary, model)
    foreign = [item for item in targets or () if isinstance(item, FeatureTarget)]
    for item in foreign:
        check_fits(item.dictionary, model)
    length, device = tokens.ids.shape[1], str(model.device)
    last = _absolute(position, length)
    # A card's number of features is a hint, so only a price far over what is free ends it here.
    guess = price(model, replacement, expect_active(replacement, length), position=last, max_nodes=max_nodes)
    require_affordable(guess, device, begun=False, margin=2.0)
    with memory_told("This trace", FIX):
        progress("forward", 0, 1)
        sites = dict.fromkeys((*replacement.sites, *(site for item in foreign for site in item.reads)))
        frozen, activations = linearise(model, tokens, tuple(sites))
        features = encode(dictionary, activations)
        progress("forward", 1, 1)
        reads, nodes = resolve_targets(
            model,
            frozen,
            activations,
            targets,
            position=last,
            max_targets=max_targets,
            target_mass=target_mass,
        )
        rows = [_active_row(features, replacement, node) for node in nodes]
        errors = replacement.errors(features, activations)
        tracer = Tracer(
            frozen=frozen, replacement=replacement, features=features, errors=errors, edge_floor=edge_floor
        )
    return Attribution(model=model, tokens=tokens, reads=reads, rows=rows, tracer=tracer)


def _warned(dictionary: Dictionary) -> dict[str, Any]:
    """What speaks against the dictionary, for every graph that is traced with it."""
    return {"warnings": list(dictionary.card.warnings)} if dictionary.card.warnings else {}


def assemble(
    tracer: Tracer,
    model: Model,
    tokens: Tokens,
    reads: Sequence[ReadTarget],
    rows: Sequence[int],
) -> Graph:
    """The graph of what was expanded; edges from other features go to `absent`."""
    dictionary = tracer.replacement.dictionary
    features, n_layers, length = tracer.features, len(tracer.frozen.blocks), tracer.frozen.length
    kept = np.concatenate([tracer.expanded, np.ones(tracer.n_columns - len(features), dtype=bool)])
    size, n_features = int(kept.sum()) + len(reads), int(tracer.expanded.sum())
    number = np.cumsum(tracer.expanded) - 1
    edges, bias, absent = _edge_table(tracer, kept, number, size)
    active = torch.from_numpy(tracer.expanded)
    layers, positions = np.divmod(np.arange(n_layers * length), length)
    token_ids = tokens.ids[0].cpu().numpy()
    counts = [n_features, n_layers * length, length, len(reads)]
    return Graph(
        prompt=tokens.texts[0],
        tokens=tuple(tokens.pieces[0]),
        token_ids=tuple(token_ids.tolist()),
        turns=tokens.turns[0] if tokens.turns else (),
        model_name=model.name,
        dictionary_name=dictionary.name,
        scan=dictionary.scan,
        n_layers=n_layers,
        kind=np.repeat(np.array([FEATURE, ERROR, TOKEN, LOGIT], dtype=np.uint8), counts),
        layer=_join(np.int32, tracer.layer[tracer.expanded], layers, [-1] * length, [n_layers] * len(reads)),
        position=_join(
            np.int32, features.position.cpu()[active], positions, range(length), [t.position for t in reads]
        ),
        index=_join(
            np.int32, features.index.cpu()[active], [-1] * len(layers), token_ids, [t.index for t in reads]
        ),
        value=_join(
            np.float32,
            features.value.cpu()[active],
            np.concatenate([error.float().norm(dim=-1).cpu() for error in tracer.errors]),
            tracer.frozen.embed.norm(dim=-1).cpu(),
            [t.value for t in reads],
        ),
        edges=edges,
        bias=bias,
        absent=absent,
        targets=(
            *(
                Target(
                    text=t.text, vocab_id=t.vocab_id, probability=t.probability, weight=t.weight, node=node
                )
                for node, t in enumerate(reads, start=size - len(reads))
            ),
            *(_feature_target(tracer, row, int(number[row])) for row in rows),
        ),
        certificate=tracer.certificate(),
        provenance=provenance() | _warned(dictionary),
    )


def _edge_table(
    tracer: Tracer, kept: np.ndarray, number: np.ndarray, size: int
) -> tuple[sp.csr_array, np.ndarray, np.ndarray]:
    """Edges, biases and absent weight of the final nodes."""
    first_read = size - len(tracer.read_start)
    bias, absent = np.zeros(size, dtype=np.float32), np.zeros(size, dtype=np.float32)
    blocks = [block for layer in sorted(tracer.rows) for block in tracer.rows[layer]]
    row_of = [number[block.target] if block.features else first_read + block.target for block in blocks]
    row, everything_kept = np.concatenate(row_of), bool(kept.all())
    bias[row] = np.concatenate([block.bias for block in blocks])
    parts = []
    for block, target in zip(blocks, row_of, strict=True):
        edges = block.edges if everything_kept else block.edges[:, kept]
        lost = (
            0 if everything_kept else block.incoming - block.absent - abs(edges).sum(axis=1, dtype=np.float64)
        )
        absent[target] = np.where(block.absent + lost > 1e-6 * block.incoming, block.absent + lost, 0)
        parts.append(edges)
    stacked = sp.vstack(parts, format="csr")
    # Rows come block by block; taking them by number puts them in the order of the nodes, the others empty.
    where = np.full(size, -1)
    where[row] = np.arange(len(row))
    filled = np.flatnonzero(where >= 0)
    ordered = stacked[where[filled]]
    pointer = np.zeros(size + 1, dtype=np.int64)
    pointer[filled + 1] = np.diff(ordered.indptr)
    return sp.csr_array((ordered.data, ordered.indices, np.cumsum(pointer)), shape=(size, size)), bias, absent


def _join(dtype: type, *parts) -> np.ndarray:
    return np.concatenate([np.asarray(part, dtype=dtype) for part in parts])


def _feature_target(tracer: Tracer, row: int, node: int) -> Target:
    text = f"feature {int(tracer.features.index[row])} of layer {int(tracer.layer[row])}"
    return Target(text=text, vocab_id=None, probability=1.0, weight=1.0, node=node)


def _active_row(features: Features, replacement: MlpReplacement, node: NodeId) -> int:
    """Where an active feature stands. Raises `UnknownFeature` with those that are active beside it."""
    assert node.layer is not None
    number = replacement.part_of[node.layer] if node.layer < replacement.n_layers else None
    here = (features.part == (-1 if number is None else number)) & (features.position == node.position)
    row = (here & (features.index == node.index)).nonzero()[:, 0]
    if not len(row):
        active = features.index[here].tolist()
        raise UnknownFeature(
            f"Feature {node.index} of layer {node.layer} in {replacement.dictionary.name} is not active at position "
            f"{node.position}; active there: {', '.join(map(str, active[:12])) or 'none'}"
            f"{', …' if len(active) > 12 else ''}."
        )
    return int(row[0])


def _absolute(position: int, length: int) -> int:
    if not -length <= position < length:
        raise ThoughtscopeError(
            f"position {position} is outside the prompt, which has positions 0 to {length - 1}."
        )
    return position % length


def check_limits(max_nodes: int | None, influence_bound: float | None, edge_floor: float = 0.0) -> None:
    """Raises `ThoughtscopeError` for a limit out of range."""
    if max_nodes is not None and max_nodes < 1:
        raise ThoughtscopeError(f"max_nodes must be 1 or more, or None for all; got {max_nodes}.")
    if influence_bound is not None and not 0 <= influence_bound < 1:
        raise ThoughtscopeError(f"influence_bound is a share, from 0 to less than 1; got {influence_bound}.")
    if not 0 <= edge_floor < 1:
        raise ThoughtscopeError(
            f"edge_floor is a share of a target's input, from 0 to less than 1; got {edge_floor}."
        )
