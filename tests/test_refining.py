"""A graph that is refined while somebody looks: what each picture is, and what its certificate promises."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.autograd_oracle import random_dictionary
from tests.clients import client_of, events
from tests.test_attribute import IDS
from tests.tiny_microscope import tiny_microscope
from tests.tiny_models import tiny_model
from thoughtscope import microscope
from thoughtscope.graphs import Attribution, Certificate, Graph, attribute, begin_attribution, price
from thoughtscope.microscope import WorkFolder, tracing
from thoughtscope.models import tokens_from_ids
from thoughtscope.server.session import Session

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
    assert len(sizes) > 2 and sizes == sorted(set(sizes)) and sizes[0] < sizes[-1] / 2
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


# --- what is watched --------------------------------------------------------------------------------------------------


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture after every batch."""
    monkeypatch.setattr(tracing.Pace, "is_due", lambda self: True)


def test_a_trace_shows_pictures_on_the_way_and_ends_in_the_same_graph(eager: None) -> None:
    opened, pictures, told = tiny_microscope(), [], []
    graph = microscope.trace(
        opened,
        "watched",
        on_snapshot=pictures.append,
        progress=lambda *one, **figures: told.append((one, figures)),
    )
    assert_equal(graph, microscope.trace(opened, "watched"))
    sizes = [picture.certificate.expanded for picture in pictures if picture.certificate]
    assert sizes == sorted(sizes) and len(sizes) > 3 and "limits" not in graph.provenance
    first = microscope.trace(opened, "watched", max_nodes=sizes[0])
    assert_equal(pictures[0], first)
    assert first.provenance["limits"] == {"max_nodes": sizes[0], "influence_bound": None}
    figures = [more for (stage, *_), more in told if stage == "attribute"]
    assert all({"bound", "waiting", "memory", "seconds"} <= set(more) for more in figures)
    assert [more["bound"] for more in figures] == sorted((more["bound"] for more in figures), reverse=True)


def test_pictures_come_at_growing_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(tracing.time, "monotonic", lambda: clock[0])
    pace = tracing.Pace()
    assert not pace.is_due()
    clock[0] += tracing.FIRST_PICTURE
    assert pace.is_due()
    with pace.looking():
        clock[0] += 2.0
    clock[0] += 17.9
    assert not pace.is_due()
    clock[0] += 0.2
    assert pace.is_due(), "two seconds of a picture in twenty"


def test_a_large_graph_is_traced_in_part_unless_somebody_asks_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened, prices = tiny_microscope(), []
    whole = microscope.trace(opened, "a long prompt", approve=prices.append)
    monkeypatch.setattr(price, "LARGE_SECONDS", 0.0)
    monkeypatch.setattr(tracing, "WORTH_SECONDS", prices[0].seconds)
    part = microscope.trace(opened, "a long prompt", approve=prices.append)
    assert part.provenance["limits"]["influence_bound"] == tracing.INFLUENCE_BOUND
    assert part.certificate and whole.certificate and whole.certificate.bound == 0
    assert 0 < part.certificate.frontier_mass <= tracing.INFLUENCE_BOUND
    assert part.certificate.expanded < part.certificate.active == whole.certificate.expanded
    asked = microscope.trace(opened, "a long prompt", influence_bound=0.0)
    assert asked.certificate and asked.certificate.frontier_mass == 0


def test_the_limits_of_a_large_graph_follow_from_its_price() -> None:
    opened, prices = tiny_microscope(), []
    microscope.trace(opened, "a long prompt", approve=prices.append)
    small = prices[0]
    large = replace(small, seconds=100.0, n_nodes=20_000, memory=10**9)
    assert tracing.limits_of(small, None, None) == {"max_nodes": None, "influence_bound": None}
    assert tracing.limits_of(large, None, None) == {"max_nodes": 5_000, "influence_bound": 0.02}
    assert tracing.limits_of(large, 7, None) == {"max_nodes": 7, "influence_bound": None}
    assert tracing.limits_of(large, None, 0.0) == {"max_nodes": None, "influence_bound": 0.0}
    crowded = replace(large, memory=8 * tracing.WORTH_MEMORY, seconds=26.0)
    assert crowded.within(25.0, tracing.WORTH_MEMORY) == 2_500


def test_the_stream_brings_pictures_to_who_asks_for_them(eager: None, tmp_path: Path) -> None:
    session = Session(tiny_microscope, folder=WorkFolder(tmp_path))
    client = client_of(session)
    plain, watched = (
        events(client.post("/api/trace", json={"prompt": "streamed", **more}).text)
        for more in ({}, {"snapshots": True})
    )
    session.close()
    assert {kind for kind, _ in plain} == {"progress", "graph"}
    kinds = [kind for kind, _ in watched]
    assert kinds[0] == "progress" and kinds[-1] == "graph" and kinds.count("graph") == 1
    assert kinds.count("snapshot") > 3 and "progress" in kinds[kinds.index("snapshot") :]
    pictures = [data for kind, data in watched if kind == "snapshot"]
    final = client.get(f"/api/graphs/{watched[-1][1]['slug']}").json()
    assert set(pictures[0]) == set(final) and pictures[0]["outcomes"] == []
    bounds = [picture["metadata"]["thoughtscope"]["certificate"]["bound"] for picture in pictures]
    assert bounds == sorted(bounds, reverse=True) and bounds[0] > 0.02
    same = ("nodes", "links", "score_curve", "edge_influence")
    assert [pictures[-1][name] for name in same] == [final[name] for name in same]


def test_a_client_that_leaves_after_a_picture_can_have_it_kept(eager: None, tmp_path: Path) -> None:
    folder = WorkFolder(tmp_path)
    session = Session(tiny_microscope, folder=folder)
    client = client_of(session)
    sent = events(client.post("/api/trace", json={"prompt": "stopped", "snapshots": True}).text)
    picture = next(data for kind, data in sent if kind == "snapshot")
    slug = client.post("/api/graphs", json=picture).json()["slug"]
    kept = client.get(f"/api/graphs/{slug}").json()
    session.close()
    assert slug != sent[-1][1]["slug"]
    assert kept["nodes"] == picture["nodes"] and kept["score_curve"] == picture["score_curve"]
    assert kept["metadata"]["thoughtscope"]["certificate"]["expanded"] == 16


def test_an_interrupt_at_the_terminal_can_keep_the_last_picture(
    eager: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from thoughtscope.cli.tracing import traced

    expand = Attribution.expand

    def interrupted(self: Attribution, **limits: Any) -> Iterator[Certificate]:
        for number, certificate in enumerate(expand(self, **limits)):
            if number == 2:
                raise KeyboardInterrupt
            yield certificate

    monkeypatch.setattr(Attribution, "expand", interrupted)
    opened = tiny_microscope()
    done = traced(opened, "interrupted", bos=None, as_json=True, keep_partial=True)
    assert done.graph.certificate and done.graph.certificate.expanded == 32 < done.graph.certificate.active
    with pytest.raises(KeyboardInterrupt):
        traced(opened, "interrupted", bos=None, as_json=True)
