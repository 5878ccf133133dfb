"""The work folder: names are claimed once, changes leave each other alone, one bad file spoils itself alone."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from tests.clients import client_of
from tests.random_graphs import random_graph
from tests.tiny_microscope import tiny_microscope
from thoughtscope import microscope
from thoughtscope.core import files
from thoughtscope.core.errors import (
    CorruptArtefact,
    FolderInUse,
    LimitExceeded,
    NotWritten,
    ThoughtscopeError,
    UnknownFeature,
    UnknownGraph,
)
from thoughtscope.core.files import exclusive
from thoughtscope.microscope import WorkFolder
from thoughtscope.microscope import folder as module
from thoughtscope.reports.payload import graph_file
from thoughtscope.server import Session


@pytest.fixture
def work(tmp_path: Path) -> WorkFolder:
    return WorkFolder(tmp_path / "work")


@pytest.fixture(scope="module")
def file() -> dict[str, Any]:
    return graph_file(random_graph(n_layers=2, length=2), "wanted")


def features(file: dict[str, Any]) -> list[str]:
    return [node["node_id"] for node in file["nodes"] if node["feature_type"] == "cross layer transcoder"]


def together(works: list[Callable[[], Any]]) -> list[Any]:
    """Runs them in threads that start at once; what each returned or raised."""
    start, results = threading.Barrier(len(works)), [None] * len(works)

    def one(number: int) -> None:
        start.wait()
        try:
            results[number] = works[number]()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=one, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


# --- names and changes -----------------------------------------------------------------------------------------------


def test_uploads_that_want_one_name_get_one_each(work, file):
    content = json.dumps(file).encode()
    slugs = together([lambda: microscope.keep_file(WorkFolder(work.root), content) for _ in range(12)])
    assert sorted(slugs) == sorted(["wanted", *(f"wanted-{n}" for n in range(2, 13))])
    assert {work.read_graph(slug)["metadata"]["slug"] for slug in slugs} == set(slugs)


def test_a_name_with_a_broken_file_or_old_outcomes_is_taken(work, file):
    (work.root / "graphs" / "wanted.json").symlink_to("wanted.json")
    (work.root / "outcomes" / "wanted-2").mkdir(parents=True)
    assert microscope.keep_file(work, file) == "wanted-3"


def test_two_traces_of_one_prompt_in_one_moment_are_two_graphs(work, monkeypatch):
    monkeypatch.setattr(module.time, "time_ns", lambda: 10**18)
    graph = random_graph(n_layers=2, length=2)
    assert len({microscope.keep(work, graph) for _ in range(3)}) == 3 and len(work.slugs()) == 3


def test_the_limit_of_graphs_holds_among_threads(work, file, monkeypatch):
    monkeypatch.setattr(module, "MAX_GRAPHS", 5)
    results = together([lambda: microscope.keep_file(WorkFolder(work.root), file) for _ in range(9)])
    assert sum(isinstance(result, LimitExceeded) for result in results) == 4 and len(work.slugs()) == 5
    work.write_graph("wanted", file)  # in place of itself


def test_changes_of_one_graph_leave_each_other_alone(work, file):
    slug, nodes = microscope.keep_file(work, file), features(file)
    verbs = [
        lambda: microscope.pin(WorkFolder(work.root), slug, nodes[:2]),
        lambda: microscope.arrange(WorkFolder(work.root), slug, [["a group", nodes[0]]]),
        lambda: microscope.lay_out(WorkFolder(work.root), slug, {nodes[0]: [3.0, 4.0]}),
        lambda: WorkFolder(work.root).rename(slug, "a title"),
    ]
    for _ in range(5):
        work.write_graph(slug, file)
        assert together(verbs) == [None] * 4
        graph = work.read_graph(slug)
        query = graph["qParams"]
        assert query["pinnedIds"] == nodes[:2] and query["supernodes"] == [["a group", nodes[0]]]
        assert query["layout"] == {nodes[0]: [3.0, 4.0]} and graph["metadata"]["title"] == "a title"


def test_what_another_viewer_sends_is_kept_whole_or_not_at_all(work, file):
    slug, nodes = microscope.keep_file(work, file), features(file)
    microscope.pin(work, slug, nodes[:1])
    before = work.graph_path(slug).read_bytes()
    sent = {"qParams": {"supernodes": [["a group", nodes[0]]], "pinnedIds": [nodes[0], "nowhere"]}}
    with pytest.raises(UnknownFeature, match="nowhere"):
        microscope.keep_query(work, slug, json.dumps(sent).encode())
    assert work.graph_path(slug).read_bytes() == before
    sent["qParams"]["pinnedIds"] = nodes[1:3]
    microscope.keep_query(work, slug, json.dumps(sent).encode())
    query = work.read_graph(slug)["qParams"]
    assert query["pinnedIds"] == nodes[1:3] and query["supernodes"] == [["a group", nodes[0]]]


def test_outcomes_of_many_threads_get_a_number_each(work, file):
    slug = microscope.keep_file(work, file)
    numbers = together([lambda n=n: WorkFolder(work.root).keep_outcome(slug, {"n": n}) for n in range(12)])
    assert sorted(numbers) == list(range(1, 13))
    assert {number: record["n"] for number, record in work.outcomes(slug)} == {
        number: n for n, number in enumerate(numbers)
    }


def test_a_graph_that_is_removed_while_it_is_changed_is_gone_or_whole(work, file):
    for _ in range(5):
        work.write_graph("one", file)
        removed, pinned = together(
            [
                lambda: WorkFolder(work.root).remove("one"),
                lambda: microscope.pin(WorkFolder(work.root), "one", []),
            ]
        )
        assert removed is None and (pinned is None or isinstance(pinned, UnknownGraph))
        assert work.slugs() == []
        work.restore("one")
        assert work.read_graph("one")["nodes"] == file["nodes"]


def test_whoever_is_killed_while_removing_leaves_what_restore_mends(work, file, monkeypatch):
    slug = microscope.keep_file(work, file)
    work.keep_outcome(slug, {"n": 1})
    replace = os.replace

    def killed(source, target):
        if Path(target).name == "outcomes":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        work.remove(slug)
    monkeypatch.undo()
    assert work.slugs() == [] and microscope.keep_file(work, file) != slug  # its outcomes are no one else's
    work.restore(slug)
    assert work.outcomes(slug) == [(1, {"n": 1})]


def test_a_remembered_fact_is_never_older_than_its_file(work, file):
    slug, nodes = microscope.keep_file(work, file), features(file)
    state = work.graph_path(slug).stat()
    for n in range(3):
        microscope.pin(work, slug, [nodes[n]])
        os.utime(work.graph_path(slug), ns=(state.st_atime_ns, state.st_mtime_ns))  # as a coarse clock would
        assert work.remembered(slug, lambda graph: dict(graph["qParams"]))["pinnedIds"] == [nodes[n]]
        work.rename(slug, str(n))
        assert work.summaries()[0]["title"] == str(n)


def test_a_version_is_remembered_once_its_clock_has_moved_on(work, file):
    slug, made = microscope.keep_file(work, file), []
    time.sleep(0.1)
    for _ in range(3):
        work.remembered(slug, lambda graph: made.append(1) or {"n": len(made)})
    assert made == [1]


# --- bad files -------------------------------------------------------------------------------------------------------


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def outside(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def unreadable(path: Path) -> None:
    path.write_text("{}")
    path.chmod(0)


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a loop of links": (loop, "symbolic links"),
    "a link to nowhere": (dangling, "no file|not a graph"),
    "a link to the outside": (outside, "outside the work folder"),
    "a named pipe": (lambda path: os.mkfifo(path), "named pipe"),
    "a folder": (lambda path: path.mkdir(), "a folder"),
    "nothing": (lambda path: path.write_bytes(b""), "not valid JSON"),
    "half a file": (lambda path: path.write_bytes(b'{"metadata": {"prompt": "a'), "not valid JSON"),
    "no text": (lambda path: path.write_bytes(b"\xff\xfe\x00"), "not valid JSON"),
    "a list": (lambda path: path.write_bytes(b"[]"), "no JSON object"),
    "a lone surrogate": (
        lambda path: path.write_text('{"metadata": {"prompt": "\\ud800"}}'),
        "metadata|surrogate",
    ),
    "deep metadata": (
        lambda path: path.write_text('{"metadata": {"x": ' + "[" * 990 + "]" * 990 + "}}"),
        "nested|deep|recursion",
    ),
    "metadata of another kind": (lambda path: path.write_text('{"metadata": 3}'), "metadata"),
    "an unreadable file": (unreadable, "Permission denied"),
}


@pytest.mark.parametrize("name", BAD)
def test_one_bad_file_spoils_itself_alone(work, file, name):
    """Within the time of an ordinary answer: nothing waits for a pipe."""
    make, why = BAD[name]
    good = microscope.keep_file(work, file)
    make(work.root / "graphs" / "bad.json")
    if name == "an unreadable file" and os.geteuid() == 0:
        (work.root / "graphs" / "bad.json").unlink()  # root reads everything
        work.root.joinpath("graphs", "bad.json").write_text("{}]")
        why = "not valid JSON"
    with client_of(Session(None, folder=work)) as client:
        about = client.get("/api/session").json()
        assert [row["slug"] for row in about["graphs"]] == [good]
        (problem,) = about["problems"]
        assert problem["file"] == "graphs/bad.json"
        assert re.search(why, problem["why"]) and "Mend the file, or move it" in problem["why"]
        assert [row["slug"] for row in client.get("/data/graph-metadata.json").json()["graphs"]] == [good]
        assert client.get(f"/api/graphs/{good}").status_code == 200
        assert client.get("/api/graphs/nothing").status_code == 404
        (work.root / "graphs" / "bad.json").rename(work.root / "aside")
        assert client.get("/api/session").json()["problems"] == []


def test_a_bad_outcome_hides_no_other_and_is_said(work, file):
    slug = microscope.keep_file(work, file)
    for n in range(3):
        work.keep_outcome(slug, {"n": n})
    path = work.root / "outcomes" / slug / "2.json"
    path.unlink()
    os.mkfifo(path)
    assert [number for number, _ in work.outcomes(slug)] == [1, 3]
    assert [problem.file for problem in work.problems()] == [f"outcomes/{slug}/2.json"]
    assert work.keep_outcome(slug, {"n": 3}) == 4
    work.drop_outcome(slug, 2)
    assert work.problems() == [] and not path.exists()


def test_a_damaged_label_file_is_gone_without_and_not_written_over(work, file):
    microscope.keep_file(work, file)
    (work.root / "labels.json").write_text('{"tiny/clt/0/1": "a"')
    opened = tiny_microscope()
    with client_of(Session(lambda: opened, folder=WorkFolder(work.root))) as client:
        (problem,) = client.get("/api/session").json()["problems"]
        assert problem["file"].endswith("labels.json") and "Mend the file" in problem["why"]
        assert client.get("/api/graphs/wanted").status_code == 200
        assert client.get("/api/features/0/1").status_code == 200
        assert client.get("/api/reports/wanted").status_code == 200
        answer = client.put("/api/labels/0/1", json={"label": "b"})
        assert answer.json()["error"]["code"] == "corrupt_artefact" and "not written over" in answer.text
    assert (work.root / "labels.json").read_text() == '{"tiny/clt/0/1": "a"'


def test_a_microscope_is_opened_without_what_is_damaged(tmp_path, monkeypatch):
    """One flipped bit in a manifest: neither none, silently, nor an end of everything."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    shipped = resources.files("thoughtscope") / "assets" / "specimen" / "clt"
    shutil.copytree(str(shipped), tmp_path / "clt")
    for name in ("features", "concepts"):
        manifest = tmp_path / "clt" / name / "manifest.json"
        content = manifest.read_bytes()
        manifest.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    module.user_labels().set("d/0/1", "a")
    (tmp_path / "thoughtscope" / "labels.json").write_text("[]")
    with pytest.warns(microscope.UnusedFile) as said:
        opened = microscope.open_microscope("specimen", str(tmp_path / "clt"))
    ends = ["clt/features", "clt/concepts", "thoughtscope/labels.json"]
    assert [
        end for end, problem in zip(ends, opened.problems, strict=True) if problem.file.endswith(end)
    ] == ends
    assert all(re.search(r"sound copy|Mend", problem.why) for problem in opened.problems) and len(said) == 3
    assert opened.bank is None and opened.concepts == () and opened.labels.all() == {}
    graph = microscope.trace(opened, "calc: 36+59=", max_nodes=5)
    assert microscope.feature(opened, "0", 1)["label"] == "" and len(graph) > 0
    with client_of(
        Session(lambda: opened, folder=WorkFolder(tmp_path / "work"))
    ) as client:  # which has labels of its own
        problems = client.get("/api/session").json()["problems"]
        assert [Path(problem["file"]).name for problem in problems] == ["features", "concepts"]


def test_damaged_labels_of_older_versions_wait_for_the_day(work):
    old = work._old_labels("a-scan")
    old.parent.mkdir()
    old.write_text('{"0/1": ')
    assert work.labels_of("d", "a-scan") == {}
    assert [problem.file for problem in work.problems()] == [f"labels/{old.name}"] and old.exists()
    old.write_text('{"0/1": "a"}')
    assert work.labels_of("d", "a-scan") == {"0/1": "a"} and not old.exists() and work.problems() == []


# --- disks and locks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_full_or_read_only_disk_is_said_and_keeps_what_was_there(work, file, monkeypatch, number):
    slug, nodes = microscope.keep_file(work, file), features(file)
    work.labels.set("d/0/1", "a")
    before = work.graph_path(slug).read_bytes()

    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files, "write_new", refuse)
    verbs: list[Callable[[], Any]] = [
        lambda: microscope.pin(work, slug, nodes),
        lambda: microscope.keep_file(work, file),
        lambda: work.keep_outcome(slug, {}),
        lambda: work.labels.set("d/0/1", "b"),
    ]
    for verb in verbs:
        with pytest.raises(NotWritten, match=f"{os.strerror(number)}.*Make room"):
            verb()
    with client_of(Session(None, folder=work)) as client:
        answer = client.put(f"/api/graphs/{slug}/pins", json={"pins": nodes})
        assert answer.status_code == 507 and answer.json()["error"]["code"] == "not_written"
    assert work.graph_path(slug).read_bytes() == before and work.labels.get("d/0/1") == "a"
    assert work.slugs() == [slug] and work.outcomes(slug) == []


def test_what_killed_writers_left_is_swept_and_the_living_are_left_alone(work, file):
    slug = microscope.keep_file(work, file)
    work.keep_outcome(slug, {})
    folders = [work.root, work.root / "graphs", work.root / "outcomes" / slug]
    dead = [folder / f".one.json.{2**30}.5.tmp" for folder in folders]
    mine = work.root / "graphs" / f".one.json.{os.getpid()}.5.tmp"
    for path in (*dead, mine):
        path.write_bytes(b"half")
    again = WorkFolder(work.root)
    assert [path for path in dead if path.exists()] == [] and mine.exists()
    assert again.slugs() == [slug] and again.problems() == []


def test_a_lock_is_for_one_thread_and_may_be_taken_again(tmp_path):
    inside, most = [], []

    def hold() -> None:
        for _ in range(20):
            with exclusive(tmp_path), exclusive(tmp_path):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    together([hold] * 4)
    assert len(most) == 80 and set(most) == {1}


HOLD = """
import sys
from thoughtscope.core.files import exclusive
with exclusive(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_held_elsewhere_is_waited_for_and_then_said(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": "src"},
    )  # fmt: skip
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(FolderInUse, match=r"Another process is writing"), exclusive(tmp_path, patience=0.05):
        pass
    holder.kill()
    holder.communicate()
    with exclusive(tmp_path, patience=1.0):  # a killed holder holds nothing
        pass


def test_a_folder_that_was_exchanged_while_one_waited_is_locked_anew(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    held, done = threading.Event(), []

    def wait() -> None:
        held.set()
        with exclusive(tmp_path / "a"):
            done.append(os.stat(tmp_path / "a").st_ino)
            with pytest.raises(FolderInUse), exclusive_elsewhere(tmp_path / "a"):
                pass

    with exclusive(tmp_path / "a"):
        thread = threading.Thread(target=wait)
        thread.start()
        held.wait()
        (tmp_path / "a").rename(tmp_path / "c")
        (tmp_path / "b").rename(tmp_path / "a")
    thread.join()
    assert done == [os.stat(tmp_path / "a").st_ino]


def exclusive_elsewhere(folder: Path) -> Any:
    """The lock as another thread would ask for it."""
    results = together([lambda: exclusive(folder, patience=0.0).__enter__()])
    if isinstance(results[0], Exception):
        raise results[0]
    return exclusive(folder)


def test_errors_of_the_folder_are_mistakes_with_a_fix(work):
    with pytest.raises(ThoughtscopeError, match="is a folder"):
        files.atomic_write_text(work.root / "graphs", "x")
    with pytest.raises(CorruptArtefact, match="is a folder"):
        files.read_file(work.root / "graphs")
