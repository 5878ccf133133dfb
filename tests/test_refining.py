"""A graph that is refined while somebody looks: what each picture is, and what its certificate promises."""

from __future__ import annotations

import numpy as np
import pytest

from tests.autograd_oracle import random_dictionary
from tests.test_attribute import IDS
from tests.tiny_models import tiny_model
from thoughtscope.graphs import Graph, attribute, begin_attribution
from thoughtscope.models import tokens_from_ids

LIMITS = [{}, {"max_nodes": 40}, {"influence_bound": 0.02}]


def prompt() -> tuple:
    model = tiny_model("llama", layers=4)
    return model, random_dictionary(model, cross_layer=True), tokens_from_ids(model, IDS)


def assert_equal(one: Graph, other: Graph) -> None:
    """Bit for bit."""
    assert one.node_ids() == other.node_ids() and one.certificate == other.certificate
    for name in ("value", "bias", "absent"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(one.edges, name), getattr(other.edges, name))


def test_a_snapshot_is_the_graph_of_as_many_nodes() -> None:
    """And looking changes nothing: the last one is the graph that is made without."""
    given, sizes = prompt(), []
    begun = begin_attribution(*given)
    for certificate in begun.expand():
        snapshot = begun.graph()
        assert snapshot.certificate == certificate
        sizes.append(certificate.expanded)
        if len(sizes) % 2:
            assert_equal(snapshot, attribute(*given, max_nodes=certificate.expanded))
    assert len(sizes) > 4 and sizes == sorted(set(sizes)) and sizes[0] < sizes[-1] / 3
    assert_equal(begun.graph(), attribute(*given))


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("floor", [0.0, 0.02])
def test_the_bound_only_falls_and_always_holds(limits: dict, floor: float) -> None:
    given = prompt()
    whole = attribute(*given)
    true = dict(zip(whole.node_ids(), (whole.influence / whole.weights.sum()).tolist(), strict=True))
    begun, bounds = begin_attribution(*given, edge_floor=floor), [1.0]
    for certificate in begun.expand(**limits):
        kept = set(begun.graph().node_ids())
        assert certificate.bound <= bounds[-1] + 1e-12
        assert (
            max((mass for node, mass in true.items() if node not in kept), default=0)
            <= certificate.bound + 1e-6
        )
        bounds.append(certificate.bound)
    assert len(bounds) > 1 and bounds[-1] < bounds[1] + (len(bounds) == 2)


def test_stopping_anywhere_keeps_a_graph_whose_books_are_in_order() -> None:
    """Also in the middle of a batch, where whoever is told of progress has had enough."""
    given = prompt()
    begun, told = begin_attribution(*given), []

    def enough(stage: str, done: int, total: int | None, **figures: float) -> None:
        told.append((done, figures))
        if done > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        for _ in begun.expand(progress=enough):
            pass
    graph, certificate = begun.graph(), begun.certificate
    assert certificate.expanded == len(graph.rows("feature")) < certificate.active
    missing = graph.influence.sum(dtype=np.float64) - attribute(*given).influence.sum(dtype=np.float64)
    assert missing < 0 < certificate.bound < 1
    assert all(figures["waiting"] == certificate.active - done for done, figures in told)


def test_going_on_after_a_stop_is_the_same_graph() -> None:
    given = prompt()
    begun = begin_attribution(*given)
    first = list(begun.expand(influence_bound=0.3))
    assert first and first[-1].frontier_mass <= 0.3
    for _ in begun.expand():
        pass
    assert_equal(begun.graph(), attribute(*given))
