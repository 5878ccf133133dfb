"""The price of a trace, told before it is made; and what happens when memory runs out all the same."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.autograd_oracle import random_dictionary
from tests.test_attribute import IDS, KINDS
from tests.tiny_microscope import tiny_microscope
from tests.tiny_models import tiny_variant
from thoughtscope import microscope
from thoughtscope.core import memory
from thoughtscope.core.errors import LimitExceeded, OutOfMemory
from thoughtscope.core.ids import NodeId
from thoughtscope.dictionaries import encode
from thoughtscope.graphs import Price, attribute, graph_to_json, price, tracer
from thoughtscope.graphs.graph import Graph
from thoughtscope.models import capture, tokens_from_ids

EVIDENCE = Path(__file__).resolve().parents[1] / "evidence"
FAILURES = [
    MemoryError(),
    np._core._exceptions._ArrayMemoryError((2**40,), np.dtype("f4")),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 4398046511104 bytes. Error code 12 (Cannot allocate memory)"
    ),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4398046511104 bytes."),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB, other allocations: 1.00 GB)."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]
OTHERS = [
    ValueError("out of memory"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    OSError(28, "full"),
]


def told(*arguments: Any, **options: Any) -> tuple[Graph, Price]:
    prices: list[Price] = []
    graph = attribute(*arguments, **options, approve=prices.append)
    assert len(prices) == 1
    return graph, prices[0]


# --- the price -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["llama", "gpt_neox", "gemma2"])
@pytest.mark.parametrize("kind", KINDS)
def test_nodes_are_exact_and_edges_a_tight_bound(label: str, kind: str) -> None:
    model = tiny_variant(label, layers=3)
    dictionary = random_dictionary(model, **KINDS[kind])
    graph, known = told(model, dictionary, tokens_from_ids(model, IDS), max_targets=3)
    assert known.n_nodes == len(graph)
    # Effects of exactly zero are no edges: a feature may write nothing where nothing is between.
    assert graph.edges.nnz <= known.n_edges <= graph.edges.nnz * 1.05 + 10


@pytest.mark.parametrize("max_nodes", [1, 5, 20, 10_000])
def test_a_node_budget_lowers_the_price(max_nodes: int) -> None:
    opened = tiny_microscope()
    tokens = microscope.tokens_of(opened, "Hello there")
    graph, known = told(opened.model, opened.dictionary, tokens, max_nodes=max_nodes)
    assert known.n_nodes >= len(graph) and known.n_edges >= graph.edges.nnz
    whole, everything = told(opened.model, opened.dictionary, tokens)
    assert known.n_edges <= everything.n_edges and known.memory <= everything.memory
    assert len(whole) == everything.n_nodes


def test_targets_at_other_positions_and_features_are_within_the_bound() -> None:
    opened = tiny_microscope()
    tokens = microscope.tokens_of(opened, "Hello there")
    features = encode(opened.dictionary, capture(opened.model, tokens, opened.dictionary.sites))
    row = int((features.position == 3).nonzero()[0])
    node = NodeId.parse(f"feature:{int(features.part[row])}:3:{int(features.index[row])}")
    for options in ({"position": 4}, {"targets": [node]}, {"position": 2, "targets": [node, 7]}):
        graph, known = told(opened.model, opened.dictionary, tokens, **options)
        assert known.n_nodes >= len(graph) and known.n_edges >= graph.edges.nnz


def test_partial_dictionaries_are_priced() -> None:
    """A block without a part is error, and costs as such."""
    from dataclasses import replace

    opened = tiny_microscope()
    dictionary = replace(opened.dictionary, parts=opened.dictionary.parts[1:])
    tokens = microscope.tokens_of(opened, "Hello there")
    graph, known = told(opened.model, dictionary, tokens)
    assert known.n_nodes == len(graph) and graph.edges.nnz <= known.n_edges <= graph.edges.nnz * 1.05 + 10


def test_the_files_size_is_known_before_it_is_written() -> None:
    opened = tiny_microscope()
    small = microscope.trace(opened, "Hello there, who are you?", node_mass=1.0, edge_mass=1.0)
    size = len(json.dumps(graph_to_json(small), separators=(",", ":")))
    prices: list[Price] = []
    microscope.trace(opened, "Hello there, who are you?", node_mass=1.0, edge_mass=1.0, approve=prices.append)
    assert prices[0].file == pytest.approx(size, rel=0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(price, "MAX_BYTES", int(size * 0.9))
        with pytest.raises(LimitExceeded):
            price.require_readable(small)
        patch.setattr(price, "MAX_BYTES", int(size * 1.1))
        price.require_readable(small)


def test_a_price_reads_as_a_sentence() -> None:
    known = Price(n_nodes=12_345, n_edges=6_789_012, kept_nodes=10, kept_edges=100, memory=3_210_000_000,
                  device_memory=0, forward_memory=0, file=45_000_000, seconds=61.2)  # fmt: skip
    assert str(known) == (
        "12,345 nodes, up to 6,789,012 edges, about 3.2 GB of memory and 61 s, a file of about 45 MB"
    )
    assert known.is_large and known.to_json()["n_edges"] == 6_789_012


# --- refusals --------------------------------------------------------------------------------------------------------


def no_sweep(*_: Any) -> None:
    raise AssertionError("an edge was computed")


def test_more_than_is_free_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracer, "sweep", no_sweep)
    monkeypatch.setattr(price, "free_memory", lambda _: 1000)
    opened = tiny_microscope()
    with pytest.raises(LimitExceeded, match=r"nodes, up to .* edges, about .* of memory .*--max-nodes"):
        microscope.trace(opened, "Hello there")


@pytest.mark.parametrize(("name", "limit"), [("MAX_NODES", 50), ("MAX_LINKS", 500), ("MAX_BYTES", 20_000)])
def test_a_graph_that_could_not_be_read_again_is_refused_before_it_is_made(
    monkeypatch: pytest.MonkeyPatch, name: str, limit: int
) -> None:
    monkeypatch.setattr(tracer, "sweep", no_sweep)
    monkeypatch.setattr(price, name, limit)
    with pytest.raises(LimitExceeded, match="--node-mass"):
        microscope.trace(tiny_microscope(), "Hello there", node_mass=1.0, edge_mass=1.0)


def test_what_pruning_leaves_is_held_to_the_same_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """An estimate of what it leaves may be off; the graph itself is counted before anything is written."""
    monkeypatch.setattr(price, "require_keepable", lambda *_, **__: None)
    monkeypatch.setattr("thoughtscope.graphs.require_keepable", lambda *_, **__: None)
    monkeypatch.setattr(price, "MAX_LINKS", 20)
    with pytest.raises(LimitExceeded, match="20 edges"):
        microscope.trace(tiny_microscope(), "Hello there", node_mass=0.99, edge_mass=0.999)


def test_an_estimate_alone_refuses_only_what_is_far_over() -> None:
    known = Price(n_nodes=10, n_edges=10, kept_nodes=10, kept_edges=price.MAX_LINKS * 2, memory=1,
                  device_memory=0, forward_memory=0, file=1, seconds=1.0)  # fmt: skip
    price.require_keepable(known, sure=False)
    with pytest.raises(LimitExceeded):
        price.require_keepable(known, sure=True)


def test_who_is_asked_can_say_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracer, "sweep", no_sweep)

    def no(_: Price) -> None:
        raise LimitExceeded("no")

    with pytest.raises(LimitExceeded, match=r"^no$"):
        microscope.trace(tiny_microscope(), "Hello there", approve=no)


# --- memory ----------------------------------------------------------------------------------------------------------


def test_an_allocators_failure_is_known_by_its_words() -> None:
    assert [error for error in FAILURES if not memory.is_allocation_failure(error)] == []
    assert [error for error in OTHERS if memory.is_allocation_failure(error)] == []


def failing_over(limit: int, error: Exception, plain: Callable[..., Any], size: Callable[..., int]) -> Any:
    """`plain`, which fails like an allocator for more than `limit` at once; counts its calls by outcome."""

    def work(*arguments: Any, **options: Any) -> Any:
        if size(*arguments) > limit:
            work.failed += 1  # type: ignore[attr-defined]
            raise error
        return plain(*arguments, **options)

    work.failed = 0  # type: ignore[attr-defined]
    return work


@pytest.mark.parametrize("error", FAILURES[:4], ids=["python", "numpy", "cuda", "cpu"])
@pytest.mark.parametrize("limit", [1, 7])
def test_smaller_sweeps_after_a_failure_give_the_same_graph(
    monkeypatch: pytest.MonkeyPatch, error: Exception, limit: int
) -> None:
    opened = tiny_microscope()
    tokens = microscope.tokens_of(opened, "Hello")
    before = attribute(opened.model, opened.dictionary, tokens, max_targets=5)
    failing = failing_over(limit, error, tracer.sweep, lambda *given: len(given[3]))
    monkeypatch.setattr(tracer, "sweep", failing)
    done: list[int] = []
    after = attribute(
        opened.model, opened.dictionary, tokens, max_targets=5,
        progress=lambda stage, n, total, **_: done.append(n) if stage == "attribute" else None,
    )  # fmt: skip
    assert failing.failed > 0
    assert (
        before.node_ids() == after.node_ids()
        and done == sorted(done)
        and done[-1] == int(after.mask("feature").sum())
    )
    for name in ("value", "bias", "absent"):
        np.testing.assert_allclose(getattr(before, name), getattr(after, name), atol=1e-6, rtol=1e-6)
    difference = abs(before.edges - after.edges)
    assert difference.max() <= 1e-6 and abs(before.edges.nnz - after.edges.nnz) <= 2


def test_a_failure_while_rows_are_filed_files_none_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = tiny_microscope()
    tokens = microscope.tokens_of(opened, "Hello")
    before = attribute(opened.model, opened.dictionary, tokens)
    plain = tracer.Tracer._rows
    failing = failing_over(12, MemoryError(), plain, lambda _, dense, *__: len(dense))
    monkeypatch.setattr(
        tracer.Tracer, "_rows", lambda self, *given, **options: failing(self, *given, **options)
    )
    after = attribute(opened.model, opened.dictionary, tokens)
    assert failing.failed > 0 and abs(before.edges - after.edges).max() <= 1e-6


def test_a_stretch_of_positions_is_encoded_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    from thoughtscope.dictionaries import Part

    opened = tiny_microscope()
    acts = capture(opened.model, microscope.tokens_of(opened, "Hello there"), opened.dictionary.sites)
    before = encode(opened.dictionary, acts)
    plain = Part.activations
    failing = failing_over(3, FAILURES[3], plain, lambda _, x: len(next(iter(x.values()))))
    monkeypatch.setattr(Part, "activations", lambda self, x: failing(self, x))
    after = encode(opened.dictionary, acts)
    assert failing.failed > 0
    for name in ("part", "position", "index"):
        assert torch.equal(getattr(before, name), getattr(after, name))
    torch.testing.assert_close(before.value, after.value, atol=1e-6, rtol=1e-6)


def test_at_the_end_of_that_road_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = tiny_microscope()
    monkeypatch.setattr(
        tracer, "sweep", failing_over(0, FAILURES[3], tracer.sweep, lambda *given: len(given[3]))
    )
    with pytest.raises(OutOfMemory, match=r"more memory than there is.*--max-nodes") as refused:
        microscope.trace(opened, "Hello")
    assert refused.value.code == "out_of_memory"


def test_what_is_no_allocators_failure_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = failing_over(0, RuntimeError("shapes"), tracer.sweep, lambda *given: len(given[3]))
    monkeypatch.setattr(tracer, "sweep", failing)
    with pytest.raises(RuntimeError, match="shapes"):
        microscope.trace(tiny_microscope(), "Hello")
    assert failing.failed == 1


def test_halves_come_in_order_and_lose_nothing() -> None:
    for limit in (1, 2, 3, 5, 100):

        def work(part: range, limit: int = limit) -> range:
            if len(part) > limit:
                raise MemoryError
            return part

        parts = list(memory.in_halves(range(13), work))
        assert [number for part in parts for number in part] == list(range(13))
        assert max(map(len, parts)) <= limit


def test_free_memory_is_the_least_of_all_limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, found in (("_system", 500), ("_process_limit", None)):
        monkeypatch.setattr(memory, name, lambda found=found: found)
    monkeypatch.setattr(memory, "_control_groups", lambda: iter([700, 300]))
    assert memory.free_memory() == 300
    monkeypatch.setattr(memory, "_control_groups", lambda: iter([-5]))
    assert memory.free_memory() == 0
    monkeypatch.setattr(memory, "_control_groups", lambda: iter([]))
    monkeypatch.setattr(memory, "_system", lambda: None)
    assert memory.free_memory() is None


def test_this_machine_tells_what_is_free() -> None:
    free = memory.free_memory()
    assert free is None or 2**20 < free < 2**50


@pytest.mark.slow
def test_the_memory_is_within_a_factor_of_two() -> None:
    """As evidence/trace_price.py measures it on more and larger cases: in a process of its own, by its peak."""
    sys.path.insert(0, str(EVIDENCE))
    from trace_price import in_its_own_process

    found = in_its_own_process({"width": 64, "tokens": 110, "l0": 4, "mass": 0.99, "seed": 0})
    assert found["memory"] > 5e7, "too small to say anything"
    assert 0.5 < found["price"]["memory"] / found["memory"] < 2
    assert found["edges"] <= found["price"]["n_edges"] <= found["edges"] * 1.02


# --- where it is said ------------------------------------------------------------------------------------------------


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(price, "LARGE_MEMORY", 1000)


def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *given: str
) -> tuple[Any, str, str]:
    from thoughtscope.cli import app

    monkeypatch.setattr("thoughtscope.microscope.open_microscope", lambda *_, **__: tiny_microscope())
    monkeypatch.setattr(sys, "argv", ["thoughtscope", *given])
    with pytest.raises(SystemExit) as end:
        app.run()
    return end.value.code, *capsys.readouterr()


@pytest.mark.usefixtures("everything_is_large")
def test_the_command_line_says_it_and_asks_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = command(capsys, monkeypatch, "trace", "Hello")
    assert (code, err.count("\n")) == (0, 1) and "Next token" in out
    assert err.startswith("thoughtscope: a large trace: ") and "edges" in err and "of memory" in err
    code, out, err = command(capsys, monkeypatch, "trace", "Hello", "--json")
    assert (code, err) == (0, "") and json.loads(out)["price"]["n_nodes"] > 0


def test_no_memory_is_the_users_error_on_the_command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        tracer, "sweep", failing_over(0, FAILURES[3], tracer.sweep, lambda *given: len(given[3]))
    )
    code, out, err = command(capsys, monkeypatch, "trace", "Hello", "--out", str(tmp_path / "graph.json"))
    assert (code, out, err.count("\n")) == (2, "", 1) and "more memory than there is" in err
    code, out, _ = command(capsys, monkeypatch, "trace", "Hello", "--json")
    assert (
        code == 2 and json.loads(out)["error"]["code"] == "out_of_memory" and list(tmp_path.iterdir()) == []
    )
    monkeypatch.setattr(price, "free_memory", lambda _: 1000)
    code, out, _ = command(capsys, monkeypatch, "trace", "Hello", "--json")
    assert code == 2 and json.loads(out)["error"]["code"] == "limit_exceeded"


def asked(tmp_path: Path, **fields: Any) -> tuple[str, dict[str, Any]]:
    """The last event of a trace over HTTP."""
    from tests.clients import client_of, events
    from thoughtscope.server import Session

    session = Session(tiny_microscope, folder=microscope.WorkFolder(tmp_path))
    client = client_of(session)
    told = events(client.post("/api/trace", json={"prompt": "Hello", **fields}).text)
    session.close()
    return told[-1]


@pytest.mark.usefixtures("everything_is_large")
def test_over_http_a_large_trace_wants_a_yes(tmp_path: Path) -> None:
    kind, data = asked(tmp_path)
    assert (kind, data["error"]["code"]) == ("error", "costly") and '"costly": true' in data["error"][
        "message"
    ]
    assert {"n_nodes", "n_edges", "memory", "device_memory", "file", "seconds"} <= data["error"][
        "price"
    ].keys()
    assert list(tmp_path.rglob("*.json")) == []
    assert asked(tmp_path, costly=True)[0] == "graph"


def test_over_http_what_does_not_fit_is_refused_also_with_a_yes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(price, "free_memory", lambda _: 1000)
    assert asked(tmp_path, costly=True)[1]["error"]["code"] == "limit_exceeded"


def test_no_memory_is_507_over_http() -> None:
    from thoughtscope.server.errors import error_of

    for error in (*FAILURES, OutOfMemory("none")):
        assert error_of(error)[:2] == (507, "out_of_memory")
