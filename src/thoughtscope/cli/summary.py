"""An attribution graph in words: what the model answers, what led there, and what the graph leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from thoughtscope.cli.console import printable, quoted
from thoughtscope.core.ids import NodeKind
from thoughtscope.graphs.influence import influence_share, why_unscored

if TYPE_CHECKING:
    from thoughtscope.graphs import Graph

CHAIN_LENGTH = 12


def summary_data(graph: Graph, *, features: int = 12) -> dict[str, Any]:
    """The summary as plain data, for `--json`."""
    return {
        "prompt": graph.prompt,
        **spoken(graph),
        "model": graph.model_name,
        "dictionary": graph.dictionary_name,
        "targets": [
            {"text": target.text, "probability": round(float(target.probability), 6)}
            for target in graph.targets
        ],
        "scores": {name: round(float(value), 6) for name, value in vars(graph.scores).items()}
        if why_unscored(graph) is None
        else None,
        "why_unscored": why_unscored(graph),
        "certificate": None if graph.certificate is None else dict(vars(graph.certificate)),
        "nodes": counts(graph),
        "edges": int(graph.edges.nnz),
        "dictionary_warnings": list(graph.provenance.get("warnings", ())),
        "features": [node_data(graph, node) for node in strongest_features(graph, features)],
        "chain": [node_data(graph, node) for node in strongest_chain(graph)],
        "groups": [
            {"label": each.label, "nodes": [str(node) for node in each.members]} for each in graph.supernodes
        ],
        "path": path_data(graph),
    }


def spoken(graph: Graph) -> dict[str, Any]:
    """Of a conversation, its turns, for `--json`; nothing for a plain text."""
    return {"turns": [turn.to_json() for turn in graph.turns]} if graph.turns else {}


def summary_text(graph: Graph, *, seconds: float | None = None, features: int = 8) -> str:
    """The summary for a person: at most one screen."""
    sections = [
        _head(graph, seconds),
        _warnings(graph),
        _answers(graph),
        _path(graph) or _chain(graph),
        _scores(graph),
    ]
    sections += [_left_out(graph), _features(graph, features)]
    return "\n\n".join(section for section in sections if section)


def _warnings(graph: Graph) -> str:
    """What spoke against the dictionary when it was loaded; the graph is no better than that."""
    return "\n".join(f"Warning: {printable(text)}" for text in graph.provenance.get("warnings", ()))


def counts(graph: Graph) -> dict[str, int]:
    """Nodes by kind."""
    return {str(kind): len(graph.rows(kind)) for kind in NodeKind}


def strongest_features(graph: Graph, limit: int) -> list[int]:
    """Rows of the features with the most influence on the answer, strongest first."""
    rows = graph.rows("feature")
    order = rows[np.argsort(-graph.influence[rows], kind="stable")]
    return [int(row) for row in order if graph.influence[row] > 0][:limit]


def strongest_chain(graph: Graph) -> list[int]:
    """From a token to the likeliest answer: at each step back, the source with the largest effect that is no error."""
    if not graph.targets:
        return []
    node = max(graph.targets, key=lambda target: target.probability).node
    chain = [node]
    while len(chain) < CHAIN_LENGTH and graph.node_id(node).kind != NodeKind.TOKEN:
        start, end = graph.edges.indptr[node : node + 2]
        sources, weights = graph.edges.indices[start:end], np.abs(graph.edges.data[start:end])
        usable = [
            (weight, int(source))
            for source, weight in zip(sources, weights, strict=True)
            if graph.node_id(int(source)).kind != NodeKind.ERROR and weight > 0
        ]
        if not usable:
            break
        node = max(usable)[1]
        chain.append(node)
    return chain[::-1]


def path_data(graph: Graph) -> dict[str, Any] | None:
    """The strongest path through the graph's supernodes, as plain data; see `graphs.group_chain`."""
    from thoughtscope.graphs import group_chain

    chain = group_chain(graph)
    if chain is None:
        return None
    return {"names": list(chain.names), "shares": [round(share, 6) for share in chain.shares]}


def node_data(graph: Graph, node: int) -> dict[str, Any]:
    """One node as plain data."""
    name = graph.node_id(node)
    return {
        "node": str(name),
        "kind": str(name.kind),
        "layer": name.layer,
        "position": name.position,
        "token": graph.tokens[name.position] if name.position < len(graph.tokens) else None,
        "index": name.index,
        "label": graph.label(node),
        "activation": float(graph.value[node]),
        "influence": float(influence_share(graph)[node]),
    }


def describe_node(graph: Graph, node: int) -> str:
    """A node in a few characters: `“ Dallas”`, `“ is” L2 · Texas`, `“ Austin” (answer)`."""
    name = graph.node_id(node)
    if name.kind == NodeKind.LOGIT:
        text = next((target.text for target in graph.targets if target.node == node), f"output {name.index}")
        return f"{quoted(text)} (answer)"
    if name.kind == NodeKind.TOKEN:
        return quoted(graph.tokens[name.position])
    label = graph.label(node)
    place = f"{quoted(graph.tokens[name.position])} L{name.layer}"
    return f"{place} · {printable(label)}" if label else f"{place} #{name.index}"


def _head(graph: Graph, seconds: float | None) -> str:
    took = "" if seconds is None else f" · {seconds:.1f} s"
    return f"{printable(graph.heading)}\n{printable(graph.model_name)} · {printable(graph.dictionary_name)}{took}"


def _answers(graph: Graph) -> str:
    ranked = sorted(graph.targets, key=lambda target: -target.probability)[:5]
    width = max((len(quoted(target.text)) for target in ranked), default=0)
    lines = [f"  {quoted(target.text):<{width}}  {target.probability:6.1%}" for target in ranked]
    return "Next token\n" + "\n".join(lines)


def _scores(graph: Graph) -> str:
    scores, reason = graph.scores, why_unscored(graph)
    if reason is not None:
        return f"Scores\n  none: {reason}"
    return (
        "Scores\n"
        f"  replacement   {scores.replacement:.2f}  of the influence on the answer runs through features, not errors\n"
        f"  completeness  {scores.completeness:.2f}  of what feeds each node is explained\n"
        f"  path length   {scores.mean_path_length:.1f}   steps from a token to the answer, on average"
    )


def _left_out(graph: Graph) -> str:
    certificate, nodes, pruned = graph.certificate, counts(graph), int(np.sum(graph.absent > 0))
    active = "" if certificate is None else f" of {certificate.active:,} active"
    lines = [
        f"  shown: {nodes['feature']:,}{active} features, {graph.edges.nnz:,} edges, {nodes['error']:,} error nodes"
    ]
    if certificate is None:
        lines.append("  the file does not say what was left out before it was written")
    elif certificate.expanded >= certificate.active:
        lines.append("  traced: every active feature; nothing was cut before pruning")
    else:
        lines.append(f"  traced: {certificate.expanded:,} of {certificate.active:,} active features")
        rest, most = f"{certificate.frontier_mass:.1%}", f"{certificate.bound:.1%}"
        lines.append(
            f"  the rest holds about {rest} of the influence; no feature of it can hold more than {most}"
        )
    if pruned:
        lines.append(f"  what {pruned:,} nodes lost in pruning counts as error in the scores{_before(graph)}")
    return "Left out\n" + "\n".join(lines)


def _before(graph: Graph) -> str:
    whole = graph.provenance.get("scores_before_pruning")
    if not isinstance(whole, Mapping):
        return ""
    return f" (before: {float(whole['replacement']):.2f} and {float(whole['completeness']):.2f})"


def _chain(graph: Graph) -> str:
    chain = strongest_chain(graph)
    if len(chain) < 2:
        return ""
    return "Strongest chain\n  " + "\n    → ".join(describe_node(graph, node) for node in chain)


def _path(graph: Graph) -> str:
    """The path through the groups, and how sure the names of those are that a rule has named."""
    from thoughtscope.graphs import group_chain
    from thoughtscope.reports.payload import named_by_rule

    chain = group_chain(graph)
    if chain is None:
        return ""
    sizes = {each.label: len(each.members) for each in graph.supernodes}
    names = [
        f"{printable(name)} ({sizes[name]} features)"
        if name in sizes
        else describe_node(graph, graph.find(name))
        for name in chain.names
    ]
    steps = [f"\n    → {name}  {share:.0%}" for name, share in zip(names[1:], chain.shares, strict=True)]
    head = "Strongest path through the groups, each step with its share of what enters the next\n  "
    notes = [
        f"\n  {printable(each['label'])}: named by rule at {quoted(each['token'])}, log odds {each['log_odds']:.0f}, "
        f"{each['margin']:.0f} ahead of the next; held out, it reads {each['right']:.1%} right, {each['mistaken']:.1%} "
        "where there is nothing to read"
        for each in named_by_rule(graph)
    ]
    return head + names[0] + "".join(steps) + "".join(notes)


def _features(graph: Graph, limit: int) -> str:
    rows = strongest_features(graph, limit)
    if not rows:
        return "No feature carries influence in this graph."
    lines, share = [], influence_share(graph)
    for row in rows:
        numbers = f"{share[row]:9.1%}  {graph.value[row]:10.2f}"
        lines.append(f"  {numbers}  {graph.node_id(row)!s:<22} {describe_node(graph, row)}")
    head = (
        "Features by influence, each its share of all influence on the answer\n"
        "  influence  activation  node                   token, layer · what it responds to\n"
    )
    return head + "\n".join(lines)
