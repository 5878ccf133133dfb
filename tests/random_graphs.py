"""Random attribution graphs: layered, signed, without a model behind them."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from thoughtscope.graphs.graph import ERROR, FEATURE, LOGIT, TOKEN, Certificate, Graph, Target


def random_graph(
    *,
    n_layers: int = 3,
    length: int = 4,
    per_place: int = 3,
    logits: int = 2,
    density: float = 0.7,
    seed: int = 0,
) -> Graph:
    """Every feature and logit gets edges from a random part of what lies below it."""
    draw = np.random.default_rng(seed)
    table = [
        (FEATURE, layer, position, index)
        for layer in range(n_layers)
        for position in range(length)
        for index in sorted(draw.choice(50, size=per_place, replace=False).tolist())
    ]
    table += [(ERROR, layer, position, -1) for layer in range(n_layers) for position in range(length)]
    table += [(TOKEN, -1, position, 7 + position) for position in range(length)]
    table += [(LOGIT, n_layers, length - 1, 20 + number) for number in range(logits)]
    kind, layer, position, index = (np.array(column, dtype=np.int32) for column in zip(*table, strict=True))
    size = len(table)
    edges = np.zeros((size, size), dtype=np.float32)
    for target in np.flatnonzero((kind == FEATURE) | (kind == LOGIT)):
        below = (layer < layer[target]) & (position <= position[target]) & (kind != LOGIT)
        below &= draw.random(size) < density
        below[kind == TOKEN] |= position[kind == TOKEN] == 0  # every target has some input
        edges[target, below] = draw.normal(size=int(below.sum()))
    probability = np.sort(draw.dirichlet(np.ones(logits + 1))[:logits])[::-1]
    targets = tuple(
        Target(
            text=f" tok{n}", vocab_id=20 + n, probability=float(p), weight=float(p), node=size - logits + n
        )
        for n, p in enumerate(probability)
    )
    bias = np.where((kind == FEATURE) | (kind == LOGIT), draw.normal(size=size), 0).astype(np.float32)
    return Graph(
        prompt="Some words here now",
        tokens=tuple(["<bos>", " words", " here", " now", " and", " then"][:length]),
        token_ids=tuple(7 + position for position in range(length)),
        model_name="a/model",
        dictionary_name="a/dictionary",
        scan="a/dictionary",
        n_layers=n_layers,
        kind=kind.astype(np.uint8),
        layer=layer,
        position=position,
        index=index,
        value=np.abs(draw.normal(size=size)).astype(np.float32),
        edges=sp.csr_array(edges),
        bias=bias,
        absent=np.zeros(size, dtype=np.float32),
        targets=targets,
        certificate=Certificate(
            expanded=n_layers * length * per_place,
            active=n_layers * length * per_place,
            frontier_mass=0.0,
            bound=0.0,
            dropped_mass=0.0,
        ),
    )
