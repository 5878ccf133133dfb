"""Installed packages add to the registries: docs/extending.md, carried out."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.random_graphs import random_graph
from thoughtscope.core.errors import BrokenPlugin, ThoughtscopeError
from thoughtscope.core.registry import Registry
from thoughtscope.graphs import convert_graph, write_json
from thoughtscope.graphs.formats import GRAPH_FORMATS

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
GROUP = "thoughtscope.test_group"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path, where packages can be put; what it has loaded is forgotten again."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delenv("THOUGHTSCOPE_NO_PLUGINS", raising=False)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if name in ("edge_table", "good", "bad"):
            del sys.modules[name]


def install(folder: Path, name: str, module: str, points: str) -> None:
    """What pip leaves of a package: its module, and its metadata with the entry points."""
    (folder / f"{name.replace('-', '_')}.py").write_text(module)
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)


def test_the_example_of_the_page_works(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PAGE.read_text(encoding="utf-8")
    module = re.search(r"```python\n(.*?)```", text, flags=re.DOTALL)[1]
    points = re.search(r'entry-points\."(.*?)"\]\n(.*?) = "(.*?)"', text)
    install(site, "edge-table", module, f"[{points[1]}]\n{points[2]} = {points[3]}\n")
    monkeypatch.setattr(GRAPH_FORMATS, "_found", None)
    monkeypatch.setattr(GRAPH_FORMATS, "_entries", dict(GRAPH_FORMATS._entries))
    assert "edges-csv" in GRAPH_FORMATS and list(GRAPH_FORMATS)[:2] == ["thoughtscope", "circuit-tracer"]
    graph = random_graph()
    source = write_json(graph, tmp_path / "graph.json")
    lines = convert_graph(source, tmp_path / "edges.csv", format="edges-csv").read_text().splitlines()
    assert lines[0] == "source,target,weight" and len(lines) == 1 + graph.edges.nnz
    monkeypatch.setattr(GRAPH_FORMATS, "_found", None)


def test_installed_names_come_after_ours_and_only_when_asked_for(site: Path) -> None:
    install(site, "good", "value = 'theirs'\n", f"[{GROUP}]\nours = good:value\nnew = good:value\n")
    registry = Registry[str]("kind", group=GROUP)
    registry.register("ours")("ours")
    assert registry["ours"] == "ours" and "good" not in sys.modules
    assert list(registry) == ["ours", "new"] and len(registry) == 2 and "good" not in sys.modules
    assert registry["new"] == "theirs" and "good" in sys.modules
    with pytest.raises(
        ThoughtscopeError, match=r'"newe" is not a kind\. Allowed: ours, new\. Did you mean "new"'
    ):
        registry["newe"]
    assert Registry[str]("kind")._installed() == {}


def test_one_that_is_broken_is_named_and_hides_no_other(site: Path) -> None:
    install(site, "good", "value = 'theirs'\n", f"[{GROUP}]\nfine = good:value\n")
    install(site, "bad", "raise RuntimeError('half installed')\n", f"[{GROUP}]\nbroken = bad:value\n")
    registry = Registry[str]("kind", group=GROUP)
    with pytest.raises(
        BrokenPlugin, match=r'"broken" of bad \(bad:value\) cannot be loaded: RuntimeError: half installed'
    ):
        registry["broken"]
    assert dict(registry.working()) == {"fine": "theirs"}
    (sentence,) = registry.broken()
    assert "Repair or remove bad" in sentence and sorted(registry.installed()) == ["broken", "fine"]


def test_the_door_can_be_closed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "good", "value = 'theirs'\n", f"[{GROUP}]\nfine = good:value\n")
    registry = Registry[str]("kind", group=GROUP)
    monkeypatch.setenv("THOUGHTSCOPE_NO_PLUGINS", "1")
    assert list(registry) == [] and "fine" not in registry


def test_a_folder_that_several_formats_claim_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever was registered first: the order of imports decides nothing."""
    from thoughtscope.core.errors import DictionaryMismatch
    from thoughtscope.dictionaries.formats import FORMATS, Format, base, detect

    def claims(folder: Path) -> Format:
        return Format(matches=lambda one: one == folder, load=lambda _: None, save=lambda *_: None)  # type: ignore

    for order in (("a", "b"), ("b", "a")):
        registry = Registry[Format]("dictionary format", DictionaryMismatch)
        for name in order:
            registry.register(name)(claims(tmp_path))
        monkeypatch.setattr(base, "FORMATS", registry)
        with pytest.raises(DictionaryMismatch, match="as a and as b"):
            detect(tmp_path)
    assert len(FORMATS) >= 4
