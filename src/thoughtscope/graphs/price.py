"""`Price`: what a trace takes, known before it is made.

Once a prompt has been encoded, the graph's size follows from causality: a target is fed by what writes before it reads,
at its own position and, where attention stands between, at earlier ones. So nodes are exact, and edges an upper bound
that is met but for effects of exactly zero. Memory, file and seconds follow from those, by figures measured on several
models and lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import exp
from typing import Any

import numpy as np
from jaxtyping import Float

from thoughtscope.core.errors import LimitExceeded
from thoughtscope.core.memory import free_memory
from thoughtscope.dictionaries.dictionary import Dictionary
from thoughtscope.dictionaries.features import Features
from thoughtscope.dictionaries.transcoders import MlpReplacement
from thoughtscope.graphs.graph import Graph
from thoughtscope.graphs.json_read import MAX_BYTES, MAX_LINKS, MAX_NODES
from thoughtscope.graphs.names import file_ids
from thoughtscope.graphs.sweep import CHUNK_BYTES, SMALL_CHUNK
from thoughtscope.graphs.tracer import BATCH, GROWTH
from thoughtscope.models.model import Model

LARGE_MEMORY = 2 * 2**30
LARGE_FILE = 32 * 2**20
LARGE_SECONDS = 30.0
"""What is over one of these is said, and asked for, before it is made."""

_ROW_BYTES = 24  # of an edge while the rows of a graph become one table: twice, and half again
_PRUNE_BYTES = (
    60  # of an edge while a graph is pruned: normalised edges, their influence, the graph that is left
)
_LINK_BYTES = 470  # of an edge of the kept graph while its file is written: objects, and the text twice
_NODE_BYTES = 8_000
_FILING_BYTES = 21  # of a place in a sweep's rows while those that hold something are told from the others
_FILE_NODE = 330  # of a node in the file, beside its name
_NAME = 11  # of a node's name: layer, index and position
_FILE_LINK = 49  # of a link in the file, beside the two names
_WORK = 30e9  # multiplications a second
_EDGE_SECONDS, _LINK_SECONDS = 2.5e-7, 2e-6
_UNSURE = 4  # how far an estimate may be off before a run is refused for it


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a trace takes: at most, as far as nodes and edges go, and within a factor of two in memory."""

    n_nodes: int
    """Of the whole graph: features that can reach a target, errors, tokens, targets."""
    n_edges: int
    kept_nodes: int
    """Of the graph that pruning leaves."""
    kept_edges: int
    memory: int
    """Bytes beside the open model, at the worst moment."""
    device_memory: int
    """Bytes on the model's accelerator, likewise; 0 where the model runs on the CPU."""
    forward_memory: int
    """Of both, what the forward pass and the encoding have taken by the time that the price is known."""
    file: int
    """Bytes of the kept graph's file."""
    seconds: float
    """Roughly, on one core."""

    @property
    def is_large(self) -> bool:
        """Whether somebody should be told before it is made."""
        return self.memory > LARGE_MEMORY or self.file > LARGE_FILE or self.seconds > LARGE_SECONDS

    def share_of_free(self, device: str = "cpu") -> float | None:
        """How much of the memory that is free it takes, where less is free; None where nothing tells."""
        wanted = [(self.memory, "cpu"), *([(self.device_memory, device)] if self.device_memory else [])]
        shares = [needed / free for needed, where in wanted if (free := free_memory(where))]
        return max(shares, default=None)

    def within(self, seconds: float, memory: int) -> int:
        """How many features can be expanded in so many seconds and bytes: rows cost alike, so both grow with them."""
        fraction = min(1.0, seconds / max(self.seconds, 1e-9), memory / max(self.memory, 1))
        return max(int(self.n_nodes * fraction) // 100 * 100, 100)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"seconds": round(self.seconds, 1)}

    def pruned(self, node_mass: float, edge_mass: float, max_edges: int | None = None) -> Price:
        """The price with the graph that pruning leaves, its file, and the memory and time to make them.

        The share that is left is a rule of thumb, except for masses of 1, which leave everything.
        """
        nodes = round(self.n_nodes * _share_left(node_mass))
        edges = round(self.n_edges * _share_left(node_mass) ** 2 * _share_left(edge_mass))
        edges = edges if max_edges is None else min(edges, max_edges)
        return replace(
            self,
            kept_nodes=nodes,
            kept_edges=edges,
            memory=max(self.memory, edges * (_LINK_BYTES + 8) + nodes * _NODE_BYTES + self.n_edges * 8),
            file=_file_bytes(nodes, edges, 2 * _NAME * (nodes + edges)),
            seconds=self.seconds + edges * _LINK_SECONDS,
        )

    def __str__(self) -> str:
        file = f", a file of about {_size(self.file)}" if self.file else ""
        return (
            f"{self.n_nodes:,} nodes, up to {self.n_edges:,} edges, about {_size(self.memory)} of memory and "
            f"{max(round(self.seconds), 1):,} s{file}"
        )


def price(
    model: Model,
    replacement: MlpReplacement,
    active: Float[np.ndarray, "layer pos"],
    *,
    n_targets: int = 10,
    position: int = -1,
    max_nodes: int | None = None,
) -> Price:
    """The price of a whole graph, before pruning, from the number of features active at each layer and position.

    `n_targets` at most, up to `position`. Exact for outputs at that position; an upper bound for other targets. See
    `count_active` for the counts after encoding, `expect_active` for those that a dictionary's card leads to expect.
    """
    n_layers, length = active.shape
    last = position % length
    after = _after_attention(model, replacement)
    rows, others = _row_lengths(active, after)
    reachable = active[:, : last + 1].copy()
    reachable[n_layers - 1 :, :last] = (
        0  # what the last block writes reaches outputs at its own position alone
    )
    expanded, edges = _expanded(reachable, rows[:-1, : last + 1], others[:-1, : last + 1], max_nodes)
    targets = n_targets * min(rows[-1, last], expanded.sum() + others[-1, last])
    n_edges = int(edges + targets)
    # Best first takes features from everywhere, so what is computed for them costs as the mean does.
    typical = reachable * (expanded.sum() / max(reachable.sum(), 1))
    computed = int((typical * rows[:-1, : last + 1]).sum() + n_targets * rows[-1, last])
    work = (typical * _work(model, replacement, active)[:, : last + 1]).sum()
    frozen = forward_memory(model, replacement.dictionary, length)
    sources = 2 * 4 * model.d_model * _writers(replacement, active)
    at_once = min(expanded.sum(), max(expanded.sum() / (GROWTH + 1), BATCH))
    at_once = min(at_once + n_targets, SMALL_CHUNK + expanded.sum(0).max())
    sweep = frozen + sources + _chunk_memory(model, active, float(at_once))
    rest = max(_ROW_BYTES * computed, _PRUNE_BYTES * n_edges)
    on_device = model.device.type not in ("cpu", "mps")
    return Price(
        n_nodes=int(expanded.sum()) + (n_layers + 1) * length + n_targets,
        n_edges=n_edges,
        kept_nodes=0,
        kept_edges=0,
        memory=int(rest if on_device else max(sweep + _ROW_BYTES * computed, rest)),
        device_memory=int(sweep) if on_device else 0,
        forward_memory=frozen,
        file=0,
        seconds=float(work) / _WORK + computed * _EDGE_SECONDS,
    )


def count_active(replacement: MlpReplacement, features: Features) -> Float[np.ndarray, "layer pos"]:
    """How many features are active in each block at each position."""
    layer = np.array(replacement.layer_of)[features.part.cpu().numpy()]
    counts = np.zeros((replacement.n_layers, features.n_positions))
    np.add.at(counts, (layer, features.position.cpu().numpy()), 1)
    return counts


def expect_active(replacement: MlpReplacement, length: int) -> Float[np.ndarray, "layer pos"]:
    """What `count_active` will come to, by the active features a token that the dictionary's card tells.

    Zeros where the card tells none.
    """
    dictionary, parts = replacement.dictionary, replacement.layer_of
    own = dictionary.card.self_test
    if own is not None and len(own.l0) == len(parts):
        by_part: Sequence[float] = own.l0
    else:
        by_part = [dictionary.card.declared.get("l0", 0.0) / max(len(parts), 1)] * len(parts)
    counts = np.zeros((replacement.n_layers, length))
    for layer, l0 in zip(parts, by_part, strict=True):
        counts[layer] = max(float(l0), 0.0)
    if dictionary.skip_first:
        counts[:, 0] = 0
    return counts


def forward_memory(model: Model, dictionary: Dictionary, length: int) -> int:
    """Bytes of a frozen forward pass and its encoding: patterns twice, logits, sites, weights bound to norms."""
    head = model.n_heads * model.d_head
    widest = max((part.n_features for part in dictionary.parts), default=0)
    floats = (
        2 * model.n_layers * model.n_heads * length**2
        + 3 * length * model.vocab_size
        + length * model.d_model * (2 * len(dictionary.sites) + 8 * model.n_layers)
        + 2 * model.n_layers * model.d_model * head
        + 3 * length * widest
    )
    return 4 * floats


def require_affordable(price: Price, device: str, *, begun: bool = True, margin: float = 1.0) -> None:
    """Raises `LimitExceeded`, which says the price and what would lower it, for more memory than is free.

    `begun`: whether the forward pass holds its share by now. `margin`: how far the price may be off.
    """
    on_device, held = price.device_memory > 0, price.forward_memory if begun else 0
    wanted = [("cpu", price.memory - (0 if on_device else held))]
    wanted += [(device, price.device_memory - held)] if on_device else []
    for where, needed in wanted:
        free = free_memory(where)
        if free is not None and needed > free * margin:
            raise LimitExceeded(
                f"This trace would have {price}; {_size(free)} are free. Use a shorter prompt, or fewer nodes "
                "(--max-nodes, max_nodes=…)."
            )


def require_keepable(price: Price, *, sure: bool) -> None:
    """Raises `LimitExceeded` for a graph that would be too large to be read again once it is kept.

    Where pruning decides how much is left it is only an estimate (not `sure`), and has to be far over a limit.
    """
    _require_sizes(
        price.kept_nodes, price.kept_edges, price.file, f"would be {price}", margin=1 if sure else _UNSURE
    )


def require_readable(graph: Graph) -> None:
    """Raises `LimitExceeded` for a graph whose file would be over what `read_json` takes."""
    ids, links = file_ids(graph), np.diff(graph.edges.indptr)
    length = np.array([len(name.encode()) for name in ids], dtype=np.int64)
    names = 2 * int(length.sum()) + int((length * links).sum() + length[graph.edges.indices].sum())
    size = _file_bytes(len(graph), graph.edges.nnz, names)
    _require_sizes(len(graph), graph.edges.nnz, size, f"is a file of about {_size(size)}")


def _require_sizes(nodes: int, edges: int, size: int, told: str, margin: int = 1) -> None:
    if nodes > MAX_NODES * margin or edges > MAX_LINKS * margin or size > MAX_BYTES * margin:
        raise LimitExceeded(
            f"The graph {told}; a graph that is kept may have {MAX_NODES:,} nodes, {MAX_LINKS:,} edges and "
            f"{_size(MAX_BYTES)}. Keep less of it (--node-mass, --edge-mass), or use a shorter prompt or --max-nodes."
        )


def _file_bytes(nodes: int, edges: int, names: int) -> int:
    return nodes * _FILE_NODE + edges * _FILE_LINK + names + 10_000


def _share_left(mass: float) -> float:
    """The share of nodes, or of edges between kept nodes, that holds `mass` of the influence.

    Fitted to graphs of the specimen; influence has heavy tails everywhere.
    """
    return exp(-5 * max(1 - mass, 0) ** 0.45)


def _after_attention(model: Model, replacement: MlpReplacement) -> list[bool]:
    """By block: whether its part reads what attention of the same block has written; False for what is read last."""
    blocks, result = model.family.blocks, []
    for layer in range(replacement.n_layers):
        site = replacement.read(layer)
        kinds = ("resid_mid", "mlp_norm", "mlp_in")
        result.append(site is not None and site.kind in kinds and not blocks[layer].parallel)
    return [*result, False]


def _row_lengths(
    active: Float[np.ndarray, "layer pos"], after: Sequence[bool]
) -> tuple[Float[np.ndarray, "target pos"], Float[np.ndarray, "target pos"]]:
    """How many sources feed a target that reads in each block, and after the last one, at each position; and how many
    of those are errors and tokens."""
    n_layers, length = active.shape

    def sources(each: np.ndarray) -> np.ndarray:
        below = np.concatenate([np.zeros((1, length)), each.cumsum(0)])  # [l]: all blocks under l
        earlier = np.concatenate([np.zeros((n_layers + 1, 1)), below.cumsum(1)[:, :-1]], axis=1)
        through = np.maximum(
            np.arange(n_layers + 1) - (~np.array(after)), 0
        )  # blocks that attention lies above
        return below + earlier[through]

    tokens = np.tile(np.arange(1.0, length + 1), (n_layers + 1, 1))
    if not after[0]:
        tokens[0] = 1
    others = sources(np.ones_like(active)) + tokens
    return sources(active) + others, others


def _expanded(
    reachable: np.ndarray, rows: np.ndarray, others: np.ndarray, max_nodes: int | None
) -> tuple[np.ndarray, float]:
    """Of the features that can reach a target those that get a row, the longest rows first; and the edges between
    what is then in the graph."""
    if max_nodes is None or reachable.sum() <= max_nodes:
        return reachable, float((reachable * rows).sum())
    order = np.argsort(-rows, axis=None, kind="stable")
    before = np.concatenate([[0], reachable.ravel()[order].cumsum()[:-1]])
    taken = np.zeros_like(reachable)
    taken.flat[order] = np.clip(max_nodes - before, 0, reachable.ravel()[order])
    # Of the features in a row only expanded ones stay.
    return taken, float((taken * np.minimum(rows, max_nodes + others)).sum())


def _work(
    model: Model, replacement: MlpReplacement, active: Float[np.ndarray, "layer pos"]
) -> Float[np.ndarray, "layer pos"]:
    """Multiplications to find the edges into one feature, by its layer and position."""
    n_layers, length = active.shape
    position = np.arange(1, length + 1)
    head = model.n_heads * model.d_head
    attention = position * (
        2 * model.d_model * head + head * position
    )  # (pos,): one block, up to each position
    written = np.zeros_like(active)
    for part, layer in zip(replacement.dictionary.parts, replacement.layer_of, strict=True):
        for site in part.writes:
            written[site.layer or 0] += active[layer]
    below = np.concatenate([np.zeros((1, length)), written.cumsum(0).cumsum(1)])[:n_layers]
    return below * model.d_model + np.arange(n_layers)[:, None] * attention


def _writers(replacement: MlpReplacement, active: Float[np.ndarray, "layer pos"]) -> float:
    """Rows of all blocks' sources: a feature for each block that it writes to."""
    parts = zip(replacement.dictionary.parts, replacement.layer_of, strict=True)
    return float(sum(len(part.writes) * active[layer].sum() for part, layer in parts))


def _chunk_memory(model: Model, active: Float[np.ndarray, "layer pos"], at_once: float) -> int:
    """Bytes of one sweep and of its rows as they are filed; see `sweep.chunks`."""
    n_layers, length = active.shape
    columns = active.sum() + (n_layers + 1) * length
    per_target = 4 * ((3 * model.d_model + 2 * model.n_heads * model.d_head) * length + 2 * columns)
    return int(min(at_once, max(CHUNK_BYTES / per_target, 1)) * (0.75 * per_target + _FILING_BYTES * columns))


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{max(n_bytes / 1e6, 1):.0f} MB"
