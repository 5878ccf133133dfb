"""A made-up graph of about a hundred nodes, from a seed, in the published file layout; its links are consistent."""

from __future__ import annotations

import random
from typing import Any

TOKENS = ["Fact", ":", " the", " capital", " of", " the", " state", " containing", " Dallas", " is"]
OUTPUTS = [
    (" Austin", 0.62),
    (" Texas", 0.09),
    (" Dallas", 0.05),
    (" Houston", 0.04),
    (" the", 0.03),
    (" 北京", 0.01),
]
LAYERS = 8
THEMES = [  # label, position, layers, how strongly it feeds what lies above
    ("capital", 3, (0, 1, 2), 1.0),
    ("state", 6, (0, 1, 2), 0.5),
    ("Dallas", 8, (0, 1), 1.2),
    ("Texas", 8, (2, 3, 4), 1.5),
    ("Texas", 9, (4, 5), 1.4),
    ("say a capital", 9, (4, 5, 6), 1.2),
    ("say Austin", 9, (6, 7), 1.6),
    ("cities in general", 9, (5, 6, 7), -0.7),
]


def make_graph(
    seed: int = 0,
    *,
    slug: str = "capital-of-dallas",
    dictionary: str | None = "stand-in",
    layers: int = LAYERS,
    features: int = 4096,
) -> dict[str, Any]:
    """`layers` below 8 squeezes the same picture; without `dictionary` the file looks like another tool's."""
    rng = random.Random(seed)
    nodes = [_token(position) for position in range(len(TOKENS))]
    places = [
        (layer * layers // LAYERS, position, label)
        for label, position, levels, _ in THEMES
        for layer in levels
    ]
    places += [
        (layer * layers // LAYERS, rng.choice((3, 6, 7, 8, 8, 9, 9, 9)), "")
        for layer in range(LAYERS)
        for _ in range(8)
    ]
    taken: set[tuple[int, int, int]] = set()
    for layer, position, label in places:
        index = next(
            i for i in iter(lambda: rng.randrange(features), None) if (layer, i, position) not in taken
        )
        taken.add((layer, index, position))
        nodes.append(_feature(layer, index, position, label, rng))
    nodes += [_error(layer, position) for layer in range(layers) for position in (3, 6, 8, 9)]
    nodes += [
        _logit(layers, vocab, text, probability, vocab == 0)
        for vocab, (text, probability) in enumerate(OUTPUTS)
    ]
    links = _links(nodes, layers, rng)
    _rank(nodes, links, layers)
    metadata: dict[str, Any] = {
        "slug": slug, "scan": "stand-in", "prompt": "".join(TOKENS), "prompt_tokens": list(TOKENS), "schema_version": 1, "node_threshold": 0.8,
    }  # fmt: skip
    if dictionary:
        metadata["thoughtscope"] = {
            "version": 1,
            "n_layers": layers,
            "model": "stand-in-model",
            "dictionary": dictionary,
            "scan": "stand-in",
            "token_ids": list(range(len(TOKENS))),
            "scores": {"replacement": 0.61, "completeness": 0.8, "mean_path_length": 2.4},
            "certificate": {
                "expanded": 412,
                "active": 530,
                "frontier_mass": 0.012,
                "bound": 0.012,
                "dropped_mass": 0.001,
            },
        }
    return {
        "metadata": metadata,
        "qParams": {"pinnedIds": [], "supernodes": []},
        "nodes": nodes,
        "links": links,
    }


def _node(
    node_id: str, layer: str | int, position: int, kind: str, clerp: str, **more: Any
) -> dict[str, Any]:
    base = {
        "node_id": node_id,
        "feature": None,
        "layer": str(layer),
        "ctx_idx": position,
        "feature_type": kind,
        "jsNodeId": node_id,
        "clerp": clerp,
    }
    return {
        **base,
        "influence": None,
        "activation": None,
        "token_prob": 0.0,
        "is_target_logit": False,
        **more,
    }


def _token(position: int) -> dict[str, Any]:
    return _node(
        f"E_{100 + position}_{position}",
        "E",
        position,
        "embedding",
        f'Emb: "{TOKENS[position]}"',
        feature=position,
    )


def _feature(layer: int, index: int, position: int, label: str, rng: random.Random) -> dict[str, Any]:
    pair = (layer + index) * (layer + index + 1) // 2 + index
    activation = round(rng.uniform(0.5, 12), 3)
    return _node(
        f"{layer}_{index}_{position}",
        layer,
        position,
        "cross layer transcoder",
        label,
        feature=pair,
        activation=activation,
    )


def _error(layer: int, position: int) -> dict[str, Any]:
    return _node(f"{layer}_-1_{position}", layer, position, "mlp reconstruction error", "Err: mlp")


def _logit(layers: int, vocab: int, text: str, probability: float, target: bool) -> dict[str, Any]:
    clerp = f'Output "{text}" (p={probability:.3f})'
    name = f"{layers + 1}_{vocab}_{len(TOKENS) - 1}"
    return _node(
        name,
        layers + 1,
        len(TOKENS) - 1,
        "logit",
        clerp,
        feature=vocab,
        token_prob=probability,
        is_target_logit=target,
    )


def _row(node: dict[str, Any], layers: int) -> int:
    ends = {"embedding": -1, "logit": layers}
    return ends[node["feature_type"]] if node["feature_type"] in ends else int(node["layer"])


def _links(nodes: list[dict[str, Any]], layers: int, rng: random.Random) -> list[dict[str, Any]]:
    strength = {label: weight for label, _, _, weight in THEMES}
    links = []
    for target in nodes:
        if target["feature_type"] in ("embedding", "mlp reconstruction error"):
            continue
        for source in nodes:
            below = (
                _row(source, layers) < _row(target, layers)
                and source["ctx_idx"] <= target["ctx_idx"]
                and source["feature_type"] != "logit"
            )
            if not below or rng.random() > 0.35:
                continue
            named = strength.get(source["clerp"], 0.25) * (1.6 if target["clerp"] in strength else 1)
            near = 1.0 if source["ctx_idx"] == target["ctx_idx"] else 0.45
            weight = named * near * rng.lognormvariate(-0.6, 0.8) * (-1 if rng.random() < 0.22 else 1)
            links.append(
                {"source": source["node_id"], "target": target["node_id"], "weight": round(weight, 5)}
            )
    return links


def _rank(nodes: list[dict[str, Any]], links: list[dict[str, Any]], layers: int) -> None:
    """Fills `influence`: each node's place in the running total, strongest first, as graph files carry it."""
    totals: dict[str, float] = {}
    for link in links:
        totals[link["target"]] = totals.get(link["target"], 0.0) + abs(link["weight"])
    influence = {node["node_id"]: node["token_prob"] for node in nodes}
    into: dict[str, list[dict[str, Any]]] = {}
    for link in links:
        into.setdefault(link["target"], []).append(link)
    for node in sorted(nodes, key=lambda node: _row(node, layers), reverse=True):
        for link in into.get(node["node_id"], []):
            influence[link["source"]] += (
                influence[node["node_id"]] * abs(link["weight"]) / totals[node["node_id"]]
            )
    inner = [
        node
        for node in nodes
        if node["feature_type"] in ("cross layer transcoder", "mlp reconstruction error")
    ]
    whole = sum(influence[node["node_id"]] for node in inner)
    running = 0.0
    for node in sorted(inner, key=lambda node: -influence[node["node_id"]]):
        running += influence[node["node_id"]] / whole
        node["influence"] = round(running, 6)


def add_influence(graph: dict[str, Any]) -> None:
    """Adds `edge_influence`, what each link carries, and `influence_share`, what each node's links carry together."""
    nodes = {node["node_id"]: node for node in graph["nodes"]}
    into: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    onto: dict[str, set[str]] = {}
    carried = [0.0] * len(graph["links"])
    for number, link in enumerate(graph["links"]):
        if link["source"] in nodes and link["target"] in nodes:
            into.setdefault(link["target"], []).append((number, link))
            onto.setdefault(link["source"], set()).add(link["target"])
    mass = {name: node.get("token_prob") or 0.0 for name, node in nodes.items()}
    whole = sum(mass.values()) or 1.0
    for name in _downwards(nodes, onto):
        links = into.get(name, [])
        total = sum(abs(link["weight"]) for _, link in links) + (nodes[name].get("absent") or 0.0)
        for number, link in links:
            share = mass[name] * abs(link["weight"]) / (total or 1.0)
            carried[number] = share / whole
            mass[link["source"]] += share
    graph["edge_influence"] = carried
    sent = dict.fromkeys(nodes, 0.0)
    for link, share in zip(graph["links"], carried, strict=True):
        if link["source"] in sent:
            sent[link["source"]] += share
    everything = sum(sent.values()) or 1.0
    graph["influence_share"] = [
        None if node["feature_type"] == "logit" else sent[node["node_id"]] / everything
        for node in graph["nodes"]
    ]


def _downwards(nodes: dict[str, Any], onto: dict[str, set[str]]) -> list[str]:
    """The nodes, each after everything that it feeds."""
    order: list[str] = []
    left = {name: len(onto.get(name, ())) for name in nodes}
    feeders: dict[str, list[str]] = {}
    for source, targets in onto.items():
        for target in targets:
            feeders.setdefault(target, []).append(source)
    ready = [name for name, number in left.items() if number == 0]
    while ready:
        name = ready.pop()
        order.append(name)
        for source in feeders.get(name, ()):
            left[source] -= 1
            if left[source] == 0:
                ready.append(source)
    return order


def add_curve(graph: dict[str, Any]) -> None:
    """Made-up scores for every stop of the slider, those of the file at the end; a reason where it states none."""
    stated = graph["metadata"].get("thoughtscope", {}).get("scores")
    stops = [stop / 100 for stop in range(20, 101)]
    graph["score_curve"] = {
        "stops": stops,
        "replacement": [stated["replacement"] * stop for stop in stops] if stated else None,
        "completeness": [stated["completeness"] * (0.5 + stop / 2) for stop in stops] if stated else None,
        "mean_path_length": [2.4 for _ in stops] if stated else None,
        "influence_held": 1.0 if stated else None,
        "why_unscored": None if stated else "The file does not say what its maker left out.",
    }


LARGE_TOKENS = 40
LARGE_LAYERS = 26


def make_large_graph(
    size: int, seed: int = 0, *, links: int = 40_000, tokens: int = LARGE_TOKENS
) -> dict[str, Any]:
    """A graph of `size` nodes as larger models give: many features of layer 0 at one token, ten outputs."""
    rng = random.Random(seed)
    words = [
        " ".join(["", rng.choice(("the", "of", "capital", "a", "continent", "Dallas", ","))])
        for _ in range(tokens)
    ]
    nodes = [
        _node(f"E_{i}_{i}", "E", i, "embedding", f'Emb: "{word}"', feature=i) for i, word in enumerate(words)
    ][: max(2, size // 4)]
    tokens = len(nodes)
    words = words[:tokens]
    nodes += [_logit_at(LARGE_LAYERS, k, f" answer{k}", 0.5 / 2**k, k == 0, tokens - 1) for k in range(10)]
    inner = size - len(nodes)
    for k in range(inner):
        crowded = k % 3 == 0
        layer = 0 if crowded else rng.randrange(LARGE_LAYERS)
        position = (
            tokens // 2
            if crowded
            else rng.choice((tokens - 1, tokens - 1, tokens // 2, rng.randrange(tokens)))
        )
        if k % 10 == 9:
            name = f"{layer}_error{k}_{position}"
            nodes.append(_node(name, layer, position, "mlp reconstruction error", "Err: mlp"))
        else:
            nodes.append(_feature(layer, k, position, rng.choice(("", "", "places", "say a name")), rng))
    rows = {node["node_id"]: _row(node, LARGE_LAYERS) for node in nodes}
    made = _random_links(nodes, rows, links, rng)
    _rank(nodes, made, LARGE_LAYERS)
    prompt = "".join(words)
    metadata = {
        "slug": f"large-{size}", "scan": "another-model", "prompt": prompt, "prompt_tokens": words,
        "schema_version": 1, "node_threshold": 0.8,
    }  # fmt: skip
    return {"metadata": metadata, "qParams": {}, "nodes": nodes, "links": made}


def _logit_at(
    layers: int, vocab: int, text: str, probability: float, target: bool, position: int
) -> dict[str, Any]:
    clerp = f'Output "{text}" (p={probability:.3f})'
    name = f"{layers + 1}_{vocab}_{position}"
    more = {"feature": vocab, "token_prob": probability, "is_target_logit": target}
    return _node(name, layers + 1, position, "logit", clerp, **more)


def _random_links(
    nodes: list[dict[str, Any]], rows: dict[str, int], most: int, rng: random.Random
) -> list[dict[str, Any]]:
    """Up to `most` links upwards and to the right, and at least one into every feature and output."""
    targets = [
        node for node in nodes if node["feature_type"] not in ("embedding", "mlp reconstruction error")
    ]
    sources = [node for node in nodes if node["feature_type"] != "logit"]
    made: dict[tuple[str, str], float] = {}
    for target in targets:
        below = [
            s
            for s in sources
            if rows[s["node_id"]] < rows[target["node_id"]] and s["ctx_idx"] <= target["ctx_idx"]
        ]
        for source in rng.sample(below, min(len(below), max(1, most // len(targets)))):
            weight = rng.lognormvariate(-1, 1) * (-1 if rng.random() < 0.25 else 1)
            made[source["node_id"], target["node_id"]] = round(weight, 5)
    return [{"source": s, "target": t, "weight": w} for (s, t), w in list(made.items())[:most]]


def make_feature(layer: int, index: int) -> dict[str, Any]:
    """What the server says of a feature: a few texts with activations, a histogram, outputs."""
    rng = random.Random(layer * 10007 + index)
    words = " the train left Houston at noon and everyone in Texas knew that the governor of the state would speak in Austin\n first".split(
        " "
    )
    examples = []
    for _ in range(5):
        tokens = [" " + rng.choice(words) for _ in range(36)]
        peak = rng.randrange(10, 30)
        acts = [0.0] * 36
        for offset in range(-2, 3):
            acts[peak + offset] = round(rng.uniform(0.2, 6) if offset else rng.uniform(8, 12), 2)
        examples.append({"tokens": tokens, "tokens_acts_list": acts, "train_token_ind": peak})
    return {
        "layer": layer, "index": index, "label": "", "auto_label": "Texas places",
        "top_logits": [" Austin", " Texas", " Houston", " 奥斯汀", "\n", " Lone"], "bottom_logits": [" Ohio", " Albany", " the", "s"],
        "examples_quantiles": [{"quantile_name": "Top activations", "examples": examples[:3]}, {"quantile_name": "Middle", "examples": examples[3:]}],
        "histogram": [int(4000 * 0.72**i) for i in range(30)], "quantile_values": [0, 3, 6, 9, 12], "act_max": 12.0, "activation_frequency": 0.0042,
    }  # fmt: skip
