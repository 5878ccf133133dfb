"""Nouns as the JSON that the page, the report and `--json` share; the one place that knows both shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from thoughtscope.core.errors import ThoughtscopeError, UnknownFeature
from thoughtscope.core.ids import NodeId, NodeKind
from thoughtscope.core.turns import Turn, heading
from thoughtscope.graphs.names import feature_file_id, feature_key

if TYPE_CHECKING:
    from thoughtscope.atlas import FeatureBank, MadeLabel
    from thoughtscope.core.labels import Label, LabelStore
    from thoughtscope.dictionaries import Dictionary
    from thoughtscope.graphs import Graph
    from thoughtscope.interventions import Outcome
    from thoughtscope.models import Model

# --- graphs ----------------------------------------------------------------------------------------------------------


def source_of(file: Mapping[str, Any]) -> tuple[str, str]:
    """The dictionary whose features a graph file shows, and its scan: what people's labels are kept under."""
    metadata = file.get("metadata", {})
    about = metadata.get("thoughtscope")
    own = about if isinstance(about, Mapping) else {}
    scan = str(own.get("scan") or metadata.get("scan") or "")
    return str(own.get("dictionary") or scan), scan


def heading_of(metadata: Mapping[str, Any]) -> str:
    """What a person reads as a graph file's prompt: of a conversation, who says what, without the template."""
    about = metadata.get("thoughtscope")
    stated = about.get("turns") if isinstance(about, Mapping) else None
    try:
        told = heading([Turn.from_json(turn) for turn in stated or ()])
    except (ThoughtscopeError, TypeError):
        told = ""  # of another tool, or damaged: reading the graph says so
    return told or str(metadata.get("prompt", ""))


def relabelled(file: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    """The file with people's labels (by `layer/index`) in place of its own."""
    if not labels:
        return dict(file)
    nodes = []
    for node in file["nodes"]:
        key = feature_key(node)
        nodes.append({**node, "clerp": labels[key]} if key is not None and key in labels else node)
    return {**file, "nodes": nodes}


def labelled(graph: Graph, *, bank: FeatureBank | None, labels: LabelStore | None) -> Graph:
    """The graph with people's labels in place of its own, and with the bank's where nothing has a name."""
    given = {} if labels is None else labels.all()
    found: dict[str, str] = {}
    renamed = set()
    for row in range(len(graph)):
        feature = graph.feature_id(row)
        if feature is None:
            continue
        if str(feature) in given:
            found[str(feature)] = given[str(feature)]
            renamed.add(str(graph.node_id(row)))
        elif bank is not None and graph.label(row) is None:
            guess = bank.auto_label(int(graph.layer[row]), int(graph.index[row]))
            if guess:
                found[str(feature)] = guess
    kept = {name: text for name, text in graph.labels.items() if name not in renamed}
    return replace(graph, labels={**kept, **found})


def graph_file(graph: Graph, slug: str | None = None) -> dict[str, Any]:
    """The graph as a file whose circuit can be read at once: where it has supernodes, the chain's token is pinned."""
    from thoughtscope.graphs import file_ids, graph_to_json, group_chain

    file, chain = graph_to_json(graph, slug=slug), group_chain(graph)
    if chain is not None:
        query = file["qParams"]
        start = file_ids(graph)[graph.find(chain.names[0])]
        file["qParams"] = {**query, "pinnedIds": [start, *query["pinnedIds"]]}
    return file


PAGE_ONLY = ("score_curve", "edge_influence", "influence_share", "named_by_rule", "suggested", "outcomes")
"""What stands in the page's graph beside a graph file's own content."""


def for_page(file: Mapping[str, Any], known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A graph file as the page gets it: every node with an id of its own, and what only the page needs.

    - `score_curve`: scores and sizes at each stop of the influence slider; see `graphs.score_curve`.
    - `edge_influence`: by link, how much influence it carries to the targets, in the order of `links`.
    - `influence_share`: by node, its share of all influence on the targets; null for outputs and biases.
    - `named_by_rule`: the supernodes that a rule has named, with their members, and how sure the names are.
    - `suggested`: features to change first, and the token where they stand; null where there are none.

    `known` is `page_facts` of the same file, if somebody has kept them. Raises `InvalidGraph`.
    """
    whole = distinct_content(file)
    facts = dict(page_facts(file) if known is None else known)
    influence = facts.pop("influence", None)
    if influence is not None:
        rows = zip(whole["nodes"], influence, strict=True)
        whole = {**whole, "nodes": [{**node, "influence": value} for node, value in rows]}
    return {**whole, **facts}


def page_facts(file: Mapping[str, Any]) -> dict[str, Any]:
    """What `for_page` adds, which follows from the nodes and links of a file alone.

    `influence` is among it where the file states none: the running total by node, by which the slider works.
    """
    from thoughtscope.graphs import score_curve
    from thoughtscope.graphs.influence import cumulative_influence, influence_share
    from thoughtscope.graphs.json_read import graph_and_rows

    graph, row_of = graph_and_rows(dict(file))
    whole = distinct_content(file)
    total = np.full(len(graph), np.nan)
    for node in whole["nodes"]:
        if node.get("influence") is not None and node["node_id"] in row_of:
            total[row_of[node["node_id"]]] = node["influence"]
    facts: dict[str, Any] = {}
    if np.isnan(total).all():
        total = cumulative_influence(graph)
        total[graph.mask("logit")] = np.nan
        numbers = [None if np.isnan(value) else round(float(value), 6) for value in total]
        rows = [row_of.get(node["node_id"]) for node in whole["nodes"]]
        facts["influence"] = [None if row is None else numbers[row] for row in rows]
    facts["score_curve"] = score_curve(graph, total).to_json()
    facts["edge_influence"] = _influence_of_links(graph, row_of, whole["links"])
    share = np.where(graph.mask("logit"), np.nan, influence_share(graph))
    shares = [float(f"{value:.4g}") if value == value else None for value in share.tolist()]
    rows = [row_of.get(node["node_id"]) for node in whole["nodes"]]
    facts["influence_share"] = [None if row is None else shares[row] for row in rows]
    facts["named_by_rule"] = named_by_rule(graph)
    facts["suggested"] = _suggested(graph, {row: name for name, row in row_of.items()})
    return facts


def named_by_rule(graph: Graph) -> list[dict[str, Any]]:
    """The supernodes that a rule named when the graph was made, with the ids of their members in its file.

    Raises nothing: what another tool wrote under that name is passed over.
    """
    records = graph.provenance.get("named_by_rule")
    found = []
    for record in records if isinstance(records, Sequence) else ():
        try:
            members = [feature_file_id(NodeId.parse(name)) for name in record["members"]]
            figures = {key: float(record[key]) for key in ("log_odds", "margin", "right", "mistaken")}
            why = {"token": graph.tokens[record["position"]], "why": _why_named(graph, record)}
            found.append({"label": str(record["label"]), "members": members, **why, **figures})
        except (KeyError, TypeError, ValueError, IndexError, UnknownFeature):
            continue
    return found


def _why_named(graph: Graph, record: Mapping[str, Any]) -> str:
    """One record of `microscope.naming` in words."""
    return (
        f"Named by rule, from the features that are active at “{graph.tokens[record['position']].strip()}”: "
        f"log odds {record['log_odds']:.0f} for {record['value']} against no {record['concept']}, "
        f"{record['margin']:.0f} ahead of the next {record['concept']} (naive Bayes: too sure). On tokens that did not "
        f"teach it, the rule reads the right {record['concept']} in {100 * record['right']:.1f}\u00a0%, and one where "
        f"there is none in {100 * record['mistaken']:.1f}\u00a0%."
    )


def _suggested(graph: Graph, name_of: Mapping[int, str]) -> dict[str, Any] | None:
    """The features at the token where features hold most of the influence, the strongest first.

    The last token only if there are no others: changed there, the answer follows without saying anything about the way
    to it.
    """
    features = graph.rows("feature")
    if not len(features):
        return None
    held = np.bincount(graph.position[features], weights=graph.influence[features])
    held[held == 0] = -1
    if (held[: len(graph.tokens) - 1] > 0).any():
        held[len(graph.tokens) - 1 :] = -1
    position = int(held.argmax())
    here = features[graph.position[features] == position]
    ordered = here[np.argsort(-graph.influence[here], kind="stable")]
    return {"position": position, "nodes": [name_of[row] for row in ordered.tolist()]}


def circuit_scores(file: Mapping[str, Any], nodes: Sequence[str]) -> dict[str, Any]:
    """Replacement and completeness of a part of a file's graph: these nodes, all tokens and all outputs.

    Both are null, and `why_unscored` says why, where a score would say nothing. Raises `UnknownFeature` for a node that
    the file lacks; see `graphs.score`.
    """
    from thoughtscope.graphs import score
    from thoughtscope.graphs.influence import why_unscored
    from thoughtscope.graphs.json_read import graph_and_rows

    graph, row_of = graph_and_rows(dict(file))
    for name in nodes:
        if name not in row_of:
            raise UnknownFeature(f'The graph has no node "{name}".')
    reason = why_unscored(graph)
    if reason is not None:
        return {"replacement": None, "completeness": None, "why_unscored": reason}
    found = score(graph, [graph.node_id(row_of[name]) for name in nodes])
    return {"replacement": found.replacement, "completeness": found.completeness, "why_unscored": None}


def distinct_content(file: Mapping[str, Any]) -> dict[str, Any]:
    """The file's content with an id of its own for every node."""
    from thoughtscope.graphs.clashes import distinct
    from thoughtscope.graphs.json_read import checked

    return distinct(checked(dict(file)))


def _influence_of_links(
    graph: Graph, row_of: Mapping[str, int], links: Sequence[Mapping[str, Any]]
) -> list[float]:
    """As `graphs.edge_influence`, by link of the file: what comes from a bias carries none."""
    incoming = np.maximum(abs(graph.edges).sum(axis=1, dtype=np.float64) + graph.absent, 1e-10)
    per_weight = (graph.influence + graph.weights) / incoming
    carried = [
        abs(link["weight"]) * per_weight[row_of[link["target"]]] if link["source"] in row_of else 0.0
        for link in links
    ]
    return [float(f"{value:.4g}") for value in carried]


def with_names(file: Mapping[str, Any], model: Model | None, dictionary: Dictionary | None) -> dict[str, Any]:
    """The file with the model's and the dictionary's names where the page's head looks for them."""
    about = dict(file["metadata"].get("thoughtscope") or {})
    if model is not None:
        about.setdefault("model", model.name)
    if dictionary is not None:
        about.setdefault("dictionary", dictionary.name)
    return {**file, "metadata": {**file["metadata"], "thoughtscope": about}} if about else dict(file)


# --- features --------------------------------------------------------------------------------------------------------


def feature_json(
    bank: FeatureBank | None, layer: int, index: int, *, given: Sequence[Label] = ()
) -> dict[str, Any]:
    """What the page shows of a feature; without a bank, its place and what people call it.

    `given`: people's labels, the newest last.
    """
    detail: dict[str, Any] = {
        "layer": layer,
        "index": index,
        "examples_quantiles": [],
        "top_logits": [],
        "bottom_logits": [],
    }
    auto = made = None
    if bank is not None:
        detail.update(bank.detail(layer, index))
        auto, made = bank.auto_label(layer, index), bank.made_label(layer, index)
    return {
        **detail,
        "layer": layer,
        "index": index,
        "label": given[-1].text if given else "",
        "given": [asdict(label) for label in given],
        "auto_label": auto or "",
        "auto": None if made is None else made_json(made),
    }


def made_json(made: MadeLabel) -> dict[str, Any]:
    """Who made a label, all that it says, and its figures."""
    return {"author": made.author, "side": made.side, "text": made.whole or made.text, **made.figures}


def features_of(
    file: Mapping[str, Any], bank: FeatureBank | None, labels: Mapping[str, Sequence[Label]]
) -> dict[str, Any]:
    """Every feature of a graph file that the bank knows, by `layer/index`, as are people's `labels`."""
    if bank is None:
        return {}
    keys = dict.fromkeys(key for key in map(feature_key, file["nodes"]) if key is not None)
    found = {}
    for key in keys:
        layer, index = map(int, key.split("/"))
        try:
            found[key] = feature_json(bank, layer, index, given=labels.get(key, ()))
        except UnknownFeature:
            continue  # a graph of another dictionary: its features are not in this bank
    return found


# --- outcomes --------------------------------------------------------------------------------------------------------


def outcome_json(
    outcome: Outcome,
    graph: Graph | None = None,
    *,
    bank: FeatureBank | None = None,
    labels: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What an intervention did, as the page shows it.

    `graph` says which features are nodes that the page can point at; `labels` are people's, by `layer/index`.
    """
    from thoughtscope.interventions import VERDICTS

    present = set() if graph is None else {node for node in graph.node_ids() if node.kind == NodeKind.FEATURE}

    def change(row: Any) -> dict[str, Any]:
        # A part that is not named by its layer, an autoencoder's, is no node of any graph.
        layer = int(row.part) if row.part.isdecimal() and len(row.part) < 6 else None
        node = None if layer is None else NodeId(NodeKind.FEATURE, row.position, layer, row.index)
        label = (labels or {}).get(f"{row.part}/{row.index}")
        if label is None and graph is not None and node is not None and node in present:
            label = graph.label(graph.find(node))
        if label is None and bank is not None and layer is not None:
            label = bank.auto_label(layer, row.index)
        return {
            "node_id": feature_file_id(node) if node is not None and node in present else None,
            "layer": layer,
            "index": row.index,
            "position": row.position,
            "before": row.before,
            "after": row.after,
            "label": label,
        }

    return {
        "before": {"top": _top(outcome.before)},
        "after": {"top": _top(outcome.after)},
        "kl": outcome.kl,
        "answer": outcome.answer,
        "rank_before": outcome.rank_before,
        "rank_after": outcome.rank_after,
        "prediction": _prediction(outcome),
        "control": _control(outcome),
        "verdict": {"name": outcome.verdict, "text": VERDICTS[outcome.verdict]},
        "rival": {
            "text": outcome.rival,
            "difference_before": outcome.difference_before,
            "difference_after": outcome.difference_after,
        },
        "feature_changes": [change(row) for row in outcome.feature_changes],
        "generation_before": outcome.generation_before,
        "generation_after": outcome.generation_after,
        "label": outcome.plan.label,
        "attention": outcome.plan.attention,
    }


def _top(distribution: Any) -> list[dict[str, Any]]:
    pairs = zip(distribution.tokens, distribution.probabilities, strict=True)
    return [{"text": text, "probability": probability} for text, probability in pairs]


def _prediction(outcome: Outcome) -> dict[str, Any] | None:
    """Which way the graph says that the answer's logit goes, how far it went, and whether that says anything.

    None when the graph says nothing. `confirmed` is null where that was not tested, or compared with nothing.
    """
    prediction = outcome.plan.prediction
    change = None if prediction is None else prediction.of(outcome.answer_id)
    if change is None or change == 0:
        return None
    confirmed = None if outcome.verdict in ("untested", "not_compared") else outcome.verdict == "confirmed"
    return {
        "direction": "up" if change > 0 else "down",
        "confirmed": confirmed,
        "change": change,
        "measured": outcome.logit_change,
        "threshold": outcome.threshold,
    }


def _control(outcome: Outcome) -> dict[str, Any] | None:
    """What random features of equal number and strength did to the answer's logit; None where nobody asked."""
    control = outcome.control
    if control is None:
        return None
    changes = list(control.changes)
    return {"changes": changes, "largest": control.largest, "n": len(changes), "reason": control.reason}
