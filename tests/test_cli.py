"""The command line: what it prints, what it writes, and that it answers at once."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.autograd_oracle import same_parts
from tests.tiny_microscope import tiny_microscope
from thoughtscope.cli import app as command_line
from thoughtscope.cli import console, doctor
from thoughtscope.cli.intervene import changes_of
from thoughtscope.core.errors import InvalidPlan, ThoughtscopeError

SOURCE = Path(__file__).resolve().parents[1] / "src"
COMMANDS = ("trace", "serve", "demo", "intervene", "report", "convert", "doctor")
PROMPT = "Hello there"


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every command works on the tiny model; which one a user names is the loaders' matter."""
    monkeypatch.setattr("thoughtscope.microscope.open_microscope", lambda *_, **__: tiny_microscope())
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.getbasetemp() / "no-labels"))


class Ran:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> dict[str, Any]:
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def ran(*arguments: str | Path) -> Ran:
        monkeypatch.setattr(sys, "argv", ["thoughtscope", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            command_line.run()
        out, err = capsys.readouterr()
        return Ran(int(end.value.code or 0), out, err)

    return ran


def subprocess_of(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=True
    )


# --- help ------------------------------------------------------------------------------------------------------------


def test_help_comes_within_its_time_and_loads_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "numpy", "scipy", "fastapi", "pydantic", "uvicorn", "rich")
    program = (
        "import sys; sys.argv = ['thoughtscope', '--help']\n"
        "from thoughtscope.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        f"print('LOADED', [name for name in {heavy!r} if name in sys.modules])"
    )
    assert "LOADED []" in subprocess_of("-c", program).stdout
    walls, works = [], []
    for _ in range(5):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess_of("-m", "thoughtscope", "--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        walls.append(time.perf_counter() - start)
        works.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(works) < 0.6, works
    # The wall clock says nothing of us where more processes run than there are cores.
    assert min(walls) < 0.6 or os.getloadavg()[0] > (os.cpu_count() or 1), walls


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_examples_and_json(run, command: str) -> None:
    ran = run(command, "--help")
    assert ran.code == 0 and "--json" in ran.out
    assert f"  thoughtscope {command}" in ran.out.split("Examples:")[1]
    assert command in run("--help").out


def test_no_arguments_means_help_and_version_is_the_packages(run) -> None:
    assert run().out == run("--help").out
    from thoughtscope import __version__

    assert run("--version").out == f"thoughtscope {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["trac"],
        ["trace"],
        ["trace", PROMPT, "--nod-mass", "1"],
        ["trace", PROMPT, "--node-mass", "7"],
        ["report", "x"],
    ],
)
def test_a_slip_of_the_keyboard_is_one_line_or_one_object(run, arguments: list[str]) -> None:
    ran = run(*arguments)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert ran.err.startswith("thoughtscope: ") and "--help" in ran.err
    ran = run(*arguments, "--json")
    assert ran.code == 2 and ran.json["error"]["code"] == "usage" and ran.err == ""


# --- trace -----------------------------------------------------------------------------------------------------------


def test_trace_says_in_words_what_the_graph_shows(run) -> None:
    ran = run("trace", PROMPT)
    assert ran.code == 0 and ran.err == ""
    for heading in ("Next token", "Scores", "Left out", "Strongest chain", "Features by influence", "Next:"):
        assert heading in ran.out
    assert "every active feature" in ran.out
    commands = [line.strip() for line in ran.out.split("Next:")[1].strip().splitlines()]
    assert commands[0] == f"thoughtscope trace '{PROMPT}' --open"
    assert commands[1].startswith(f"thoughtscope intervene '{PROMPT}' --node feature:")


def test_trace_writes_a_graph_that_reads_back(run, tmp_path: Path) -> None:
    from thoughtscope.graphs import read_json

    out = tmp_path / "deep" / "graph.json"
    ran = run("trace", PROMPT, "--out", out, "--max-nodes", "40", "--json")
    data = ran.json
    assert data["out"] == str(out) and data["certificate"]["expanded"] == 40
    graph = read_json(out)
    assert graph.prompt == PROMPT == data["prompt"]
    assert data["scores"]["replacement"] == pytest.approx(graph.scores.replacement, abs=1e-4)
    assert data["nodes"]["feature"] == int((graph.kind == 0).sum())
    influence = [row["influence"] for row in data["features"]]
    assert influence == sorted(influence, reverse=True)
    assert data["chain"][-1]["kind"] == "logit"


def test_a_folder_that_had_to_be_made_is_told(run, tmp_path: Path) -> None:
    new, old = tmp_path / "new" / "graph.json", tmp_path / "graph.json"
    assert run("trace", PROMPT, "--out", new, "--json").json["made_folder"] == str(new.parent)
    assert run("trace", PROMPT, "--out", old, "--json").json["made_folder"] is None
    assert (
        f"(made the folder {tmp_path / 'newer'})"
        in run("report", old, "--out", tmp_path / "newer" / "a.html").out
    )
    (tmp_path / "file").write_text("")
    ran = run("trace", PROMPT, "--out", tmp_path / "file" / "graph.json")
    assert ran.code == 2 and ran.err.count("\n") == 1 and ran.out == ""


def test_influence_is_the_share_that_graph_files_carry(run, tmp_path: Path) -> None:
    """The page shows the steps of a file's running total; the command line shows the same numbers."""
    out = tmp_path / "graph.json"
    told = {
        row["node"]: row["influence"] for row in run("trace", PROMPT, "--out", out, "--json").json["features"]
    }
    file = json.loads(out.read_text(encoding="utf-8"))
    ranked = sorted(
        (node for node in file["nodes"] if node["influence"] is not None), key=lambda n: n["influence"]
    )
    before, steps = 0.0, {}
    for node in ranked:
        steps[node["node_id"]], before = node["influence"] - before, node["influence"]
    for name, share in told.items():
        _, layer, position, index = name.split(":")
        assert steps[f"{layer}_{index}_{position}"] == pytest.approx(share, abs=1e-5)


def test_a_persons_label_shows_in_every_command(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from thoughtscope.microscope import user_labels

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(
        "thoughtscope.microscope.open_microscope",
        lambda *_, **__: replace(tiny_microscope(), labels=user_labels()),
    )
    out, page = tmp_path / "graph.json", tmp_path / "page.html"
    run("trace", PROMPT, "--out", out)  # before it has a name
    row = run("trace", PROMPT, "--json").json["features"][0]
    user_labels().set(f"tiny/clt/{row['layer']}/{row['index']}", "my own name")
    assert run("trace", PROMPT, "--json").json["features"][0]["label"] == "my own name"
    assert "my own name" in run("trace", PROMPT).out
    run("report", out, "--out", page)
    assert "my own name" in page.read_text(encoding="utf-8")
    other = next(name["node"] for name in run("trace", PROMPT, "--json").json["features"][1:])
    changed = run("intervene", "--graph", out, "--node", other, "--scale", "-5", "--json").json[
        "feature_changes"
    ]
    labels = {(change["layer"], change["index"]): change["label"] for change in changed}
    assert labels.get((row["layer"], row["index"]), "my own name") == "my own name"
    run("trace", PROMPT, "--out", out)
    assert "my own name" in [node["clerp"] for node in json.loads(out.read_text(encoding="utf-8"))["nodes"]]


def test_a_wrong_node_is_answered_with_its_neighbours(run) -> None:
    node = strongest(run)
    _, layer, position, _ = node.split(":")
    message = run("intervene", PROMPT, "--node", f"feature:{layer}:{position}:99", "--json").json["error"][
        "message"
    ]
    nearest = message.split("Nearest: ")[1].split(", ")[0]
    assert nearest.startswith(f"feature:{layer}:{position}:")


def test_hints_end_like_sentences(run) -> None:
    assert "?. See" not in run("trac").err and "? See: thoughtscope" in run("trac").err


def test_serve_opens_a_file(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: dict[str, Any] = {}
    monkeypatch.setattr(
        "thoughtscope.server.launch.serve_session",
        lambda session, access, **options: served.update(options, session=session),
    )
    out = tmp_path / "my-graph.json"
    run("trace", PROMPT, "--out", out)
    assert run("serve", out, "--folder", tmp_path / "work", "--no-model", "--no-browser").code == 0
    assert served["slug"] == "my-graph" == served["session"].folder.slugs()[0]
    assert run("serve", out, "--trace", "a", "--folder", tmp_path / "work").code == 2
    assert run("serve", tmp_path / "missing.json", "--folder", tmp_path / "work").code == 2


def test_the_commands_that_trace_names_work(run, tmp_path: Path) -> None:
    import shlex

    out = tmp_path / "graph.json"
    commands = run("trace", PROMPT, "--out", out, "--json").json["next"]
    intervene, report = shlex.split(commands[1])[1:], shlex.split(commands[2])[1:]
    assert run(*intervene, "--json").json["kl"] > 0
    report[report.index("report.html")] = str(tmp_path / "report.html")
    assert Path(run(*report, "--json").json["report"]).exists()


def test_text_from_the_prompt_cannot_command_the_terminal(run) -> None:
    ran = run("trace", "red \x1b[31m \u202etxt\n")
    assert "\x1b" not in ran.out and "\u202e" not in ran.out
    command = ran.out.split("Next:")[1].splitlines()[1]
    shown = subprocess.run(
        ["bash", "-c", f"printf %s {command.split('trace ')[1].split(' --open')[0]}"],
        capture_output=True,
        check=True,
    )
    assert shown.stdout.decode() == "red \x1b[31m \u202etxt\n"
    assert "<U+001B>" in ran.out and "<U+202E>" in ran.out and "⏎" in ran.out


# --- intervene -------------------------------------------------------------------------------------------------------


def strongest(run) -> str:
    return run("trace", PROMPT, "--json").json["features"][0]["node"]


def test_intervene_on_a_prompt_and_on_a_graph_file_agree(run, tmp_path: Path) -> None:
    out, node = tmp_path / "graph.json", strongest(run)
    run("trace", PROMPT, "--out", out)
    direct = run("intervene", PROMPT, "--node", node, "--scale", "-2", "--json").json
    from_file = run("intervene", "--graph", out, "--node", node, "--scale", "-2", "--json").json
    assert direct["after"] == from_file["after"] and direct["kl"] > 0
    text = run("intervene", PROMPT, "--node", node, "--scale", "-2", "--max-new-tokens", "2").out
    for word in ("Before", "After", "KL divergence", "rank", "Continues after"):
        assert word in text


def test_a_supernode_of_a_file_can_be_named(run, tmp_path: Path) -> None:
    from thoughtscope.graphs import group, read_json, write_json

    out, node = tmp_path / "graph.json", strongest(run)
    run("trace", PROMPT, "--out", out)
    write_json(group(read_json(out), {"mine": [node]}), out)
    grouped = run("intervene", "--graph", out, "--supernode", "mine", "--ablate", "--json").json
    assert grouped["after"] == run("intervene", PROMPT, "--node", node, "--ablate", "--json").json["after"]
    wrong = run("intervene", "--graph", out, "--supernode", "yours", "--ablate")
    assert wrong.code == 2 and "mine" in wrong.err


def test_one_value_goes_to_all_and_several_go_in_order() -> None:
    names = [("node", "feature:0:1:2"), ("at", "Dallas"), ("supernode", "Texas")]
    nothing: dict[str, Any] = {"scale": (), "set_value": (), "add": (), "ablate": False}

    def made(**given: Any) -> list[tuple[str, float | None]]:
        changes = changes_of(names, **nothing | given)
        assert [(c.nodes, c.at, c.supernode) for c in changes] == [
            (("feature:0:1:2",), None, None), ((), "Dallas", None), ((), None, "Texas"),
        ]  # fmt: skip
        return [(change.op, change.value) for change in changes]

    assert made() == [("ablate", None)] * 3
    assert made(scale=[-1.0]) == [("scale", -1.0)] * 3
    assert made(set_value=[1.0, 2.0, 3.0]) == [("set", 1.0), ("set", 2.0), ("set", 3.0)]
    for wrong in ({"scale": [1.0], "add": [1.0]}, {"scale": [1.0], "ablate": True}, {"scale": [1.0, 2.0]}):
        with pytest.raises(InvalidPlan):
            changes_of(names, **nothing | wrong)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--node", "feature:0:1:1"], "invalid_plan"),
        ([PROMPT], "invalid_plan"),
        ([PROMPT, "--supernode", "a"], "unknown_feature"),
        ([PROMPT, "--node", "feature:0:1:1", "--attention", "melted"], "invalid_plan"),
        ([PROMPT, "--node", "feature:0:1:9999", "--ablate"], "unknown_feature"),
        ([PROMPT, "--node", "nonsense", "--ablate"], "unknown_feature"),
        ([PROMPT, "--node", "token:1", "--ablate"], "invalid_plan"),
    ],
)
def test_what_cannot_be_changed_is_refused(run, arguments: list[str], code: str) -> None:
    assert run("intervene", *arguments, "--json").json["error"]["code"] == code


def test_every_feature_at_a_token(run, tmp_path: Path) -> None:
    from thoughtscope.graphs import read_json

    out = tmp_path / "graph.json"
    run("trace", PROMPT, "--out", out)
    graph = read_json(out)
    features = [node for node in graph.node_ids() if node.kind == "feature"]
    token = graph.tokens[features[0].position]
    there = [str(node) for node in features if graph.tokens[node.position] == token]
    named = run(
        "intervene", "--graph", out, *(w for n in there for w in ("--node", n)), "--scale", "-1", "--json"
    )
    at = run("intervene", "--graph", out, "--at", token, "--scale", "-1", "--json")
    assert at.json["kl"] == pytest.approx(named.json["kl"]) and at.json["kl"] > 0
    assert at.json["after"] == named.json["after"]
    refused = run("intervene", PROMPT, "--at", "no such token", "--json").json["error"]
    assert refused["code"] == "unknown_feature" and "token of the prompt" in refused["message"]


def test_the_verdict_is_said_with_what_it_rests_on(run) -> None:
    node = run("trace", PROMPT, "--json").json["features"][0]["node"]
    arguments = ["intervene", PROMPT, "--node", node, "--scale", "-3"]
    data, told = run(*arguments, "--json").json, run(*arguments).out
    assert data["control"]["n"] == len(data["control"]["changes"]) == 4 and data["warnings"] == []
    prediction = data["prediction"]
    assert prediction["threshold"] == max(1e-3, *map(abs, data["control"]["changes"]))
    assert f"Verdict: {data['verdict']['text']}." in told
    for number in (prediction["change"], prediction["measured"], *data["control"]["changes"]):
        assert f"{number:+.3f}" in told
    assert f"{data['rival']['difference_before']:+.2f} → {data['rival']['difference_after']:+.2f}" in told


def test_a_missing_beginning_is_one_line_or_in_the_object(run, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.test_server_circuit import bare_microscope

    monkeypatch.setattr("thoughtscope.microscope.open_microscope", lambda *_, **__: bare_microscope())
    ran = run("trace", "ab")
    assert (
        ran.code == 0 and ran.err.count("\n") == 1 and "warning" in ran.err and "beginning-of-text" in ran.err
    )
    (said,) = run("trace", "ab", "--json").json["warnings"]
    assert "beginning-of-text" in said
    for choice in ("--bos", "--no-bos"):
        ran = run("trace", "ab", choice, "--json")
        assert ran.err == "" and ran.json["warnings"] == []
    assert run("intervene", "ab", "--at", "b", "--json").json["warnings"] == [said]


# --- report and convert ----------------------------------------------------------------------------------------------


def test_report_from_a_prompt_and_from_a_file(run, tmp_path: Path) -> None:
    from thoughtscope.graphs import read_json

    graph, page = tmp_path / "graph.json", tmp_path / "page.html"
    run("trace", PROMPT, "--out", graph)
    for source in (PROMPT, graph):
        ran = run("report", source, "--out", page, "--title", "<Mine>", "--json")
        assert ran.json == {
            "report": str(page),
            "data": str(page.with_suffix(".data.json")),
            "bytes": page.stat().st_size,
            "warnings": [],
        }
        assert "&lt;Mine&gt;" in page.read_text(encoding="utf-8")
        assert (
            json.loads(page.with_suffix(".data.json").read_text(encoding="utf-8"))["graph"]["metadata"][
                "prompt"
            ]
            == PROMPT
        )
    assert run("report", PROMPT, "--out", tmp_path / "page.pdf").code == 2
    assert read_json(graph).prompt == PROMPT  # a report beside its graph leaves that file alone
    run("report", graph, "--out", graph.with_suffix(".html"))
    assert read_json(graph).prompt == PROMPT


def test_convert_a_dictionary_there_and_back(run, tmp_path: Path) -> None:

    from thoughtscope.dictionaries import load_dictionary, save_dictionary

    save_dictionary(tiny_microscope().dictionary, tmp_path / "a")
    assert (
        run("convert", tmp_path / "a", tmp_path / "b", "--format", "circuit-tracer", "--json").json["kind"]
        == "dictionary"
    )
    assert run("convert", tmp_path / "b", tmp_path / "c", "--format", "native").code == 0
    first, last = load_dictionary(tmp_path / "a"), load_dictionary(tmp_path / "c")
    assert same_parts(first, last)
    again = run("convert", tmp_path / "a", tmp_path / "b", "--format", "native")
    assert again.code == 2 and "empty" in again.err
    unknown = run("convert", tmp_path / "a", tmp_path / "d", "--format", "zip")
    assert unknown.code == 2 and "native" in unknown.err and not (tmp_path / "d").exists()


# --- doctor and console ----------------------------------------------------------------------------------------------


def test_doctor_lists_every_check_and_fails_when_one_does(run, monkeypatch: pytest.MonkeyPatch) -> None:
    fine = lambda: doctor.Check(name="specimen", verdict="ok", text="fine")
    monkeypatch.setattr(doctor, "specimen_check", fine)
    data = run("doctor", "--json").json
    assert data["healthy"] and [check["name"] for check in data["checks"]] == [
        "python",
        "packages",
        "device",
        "memory",
        "plugins",
        "specimen",
    ]
    assert "GiB" in data["checks"][3]["text"]

    def broken() -> doctor.Check:
        raise RuntimeError("no weights")

    monkeypatch.setattr(doctor, "specimen_check", broken)
    ran = run("doctor")
    assert ran.code == 1 and "FAIL" in ran.out and "no weights" in ran.out


def test_doctor_says_whether_a_dictionary_fits(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor, "specimen_check", lambda: doctor.Check(name="specimen", verdict="ok", text="fine")
    )
    data = run("doctor", "--dictionary", "tiny", "--json").json
    assert data["checks"][-1]["name"] == "dictionary" and "FVU" in data["checks"][-1]["text"]

    def refused(*_: Any) -> None:
        raise ThoughtscopeError("It leaves 0.99 of the variance.")

    monkeypatch.setattr("thoughtscope.microscope.open_microscope", refused)
    ran = run("doctor", "--dictionary", "tiny")
    assert ran.code == 1 and "FAIL  dictionary It leaves 0.99" in ran.out


def test_known_troubles_are_told_by_version() -> None:
    assert doctor.caveats({"torch": "2.13.0+cpu", "transformers": "5.23.0"}) == []
    assert "CVE" in doctor.caveats({"torch": "2.9.1", "transformers": "5.4"})[0]
    assert len(doctor.caveats({"torch": "2.10", "transformers": "4.57.3"})) == 1
    assert doctor.version_tuple("5.4.0.dev0") == (5, 4, 0, 0) and doctor.version_tuple("2.13.0+cpu") == (
        2,
        13,
        0,
    )


def test_what_fits_grows_with_memory_and_shrinks_with_precision() -> None:
    assert doctor.fits(0.5e9, 4) == []
    assert doctor.fits(2e9, 4) == ["GPT-2 small"]
    assert set(doctor.fits(16e9, 4)) < set(doctor.fits(16e9, 2))


def test_only_what_could_deceive_is_escaped() -> None:
    assert (
        console.printable("é 北京 👩\u200d🔬 a\nb\t\x1b\x9b\u2028\u202e")
        == "é 北京 👩\u200d🔬 a⏎b⇥<U+001B><U+009B><U+2028><U+202E>"
    )


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ThoughtscopeError("bad\nthing"), "invalid"),
        (FileNotFoundError(2, "No such file", "x"), "file"),
        (MemoryError(), "out_of_memory"),
    ],
)
def test_every_mistake_has_one_shape(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: str
) -> None:
    for as_json in (False, True):
        with pytest.raises(SystemExit) as end, console.reporting(as_json):
            raise error
        out, err = capsys.readouterr()
        assert end.value.code == 2
        if as_json:
            assert json.loads(out)["error"]["code"] == code and err == ""
        else:
            assert err.count("\n") == 1 and out == ""


def test_convert_a_graph_for_other_viewers(run, tmp_path: Path) -> None:
    from thoughtscope.graphs import read_json, validate_json

    graph, out = tmp_path / "graph.json", tmp_path / "theirs.json"
    run("trace", PROMPT, "--out", graph)
    assert (
        run(
            "convert",
            graph,
            out,
            "--format",
            "neuronpedia",
            "--scan",
            "gemma-2-2b",
            "--slug",
            "mine",
            "--json",
        ).json["kind"]
        == "graph"
    )
    theirs = json.loads(out.read_text(encoding="utf-8"))
    validate_json(theirs)
    assert (theirs["metadata"]["scan"], theirs["metadata"]["slug"]) == ("gemma-2-2b", "mine")
    assert "thoughtscope" not in theirs["metadata"] and "bias" not in theirs["nodes"][0]
    assert (read_json(out).edges != read_json(graph).edges).nnz == 0
    wrong = run("convert", graph, out, "--format", "zip")
    assert wrong.code == 2 and "neuronpedia" in wrong.err
