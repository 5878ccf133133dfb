"""A user's mistake on the command line: one line that names it, exit code 2, and nothing half-written."""

from __future__ import annotations

import errno
import io
import json
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.test_cli import PROMPT, SOURCE, Ran
from tests.tiny_microscope import tiny_microscope
from thoughtscope.cli import app, console
from thoughtscope.core.errors import ThoughtscopeError

HALF = "a\ud800b"


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every command works on the tiny model."""
    monkeypatch.setattr("thoughtscope.microscope.open_microscope", lambda *_, **__: tiny_microscope())
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.getbasetemp() / "no-labels"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """A command in this process."""

    def ran(*arguments: str | Path) -> Ran:
        monkeypatch.setattr(sys, "argv", ["thoughtscope", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            app.run()
        out, err = capsys.readouterr()
        return Ran(int(end.value.code or 0), out, err)

    return ran


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    """What can stand where a file is wanted."""
    made = {
        name: tmp_path / name
        for name in ("folder", "file", "pipe.json", "loop.json", "link.json", "broken.json")
    }
    made["folder"].mkdir()
    made["file"].write_text("x")
    os.mkfifo(made["pipe.json"])
    made["loop.json"].symlink_to(made["loop.json"])
    made["link.json"].symlink_to(
        "/dev/full"
    )  # a link to a device; the name of the device itself is never tried here
    made["broken.json"].symlink_to(tmp_path / "nowhere")
    return made


def kinds(folder: Path) -> dict[str, int]:
    """What lies in a folder, and of which kind."""
    return {str(path.relative_to(folder)): stat.S_IFMT(path.lstat().st_mode) for path in folder.rglob("*")}


def refused(ran: Ran) -> str:
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1), (ran.code, ran.out[:200], ran.err[:500])
    assert ran.err.startswith("thoughtscope: ") and "Traceback" not in ran.err
    return ran.err


# --- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("folder", "is a folder"),
        ("pipe.json", "is a pipe"),
        ("link.json", "is a device"),
        ("broken.json", "is a link to nothing"),
        ("loop.json", "Too many levels"),
        ("file/x.json", "Not a directory"),
        (f"{'n' * 300}.json", "name too long"),
    ],
)
@pytest.mark.parametrize("command", ["trace", "convert"])
def test_out_takes_regular_files_only(
    run: Any, tmp_path: Path, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch, command: str, name: str, said: str
) -> None:  # fmt: skip
    """Said before any work is done, and what stands there stays."""

    def no_work(*_: Any, **__: Any) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr("thoughtscope.microscope.open_microscope", no_work)
    monkeypatch.setattr("thoughtscope.graphs.convert_graph", no_work)
    before = kinds(tmp_path)
    target = str(tmp_path / name)
    given = (
        ["trace", PROMPT, "--out", target] if command == "trace" else ["convert", "a.json", target, "-f", "x"]
    )
    assert said.lower() in refused(run(*given)).lower()
    assert kinds(tmp_path) == before


def test_a_report_and_its_data_are_regular_files(run: Any, tmp_path: Path) -> None:
    (tmp_path / "a.html").mkdir()
    assert "is a folder" in refused(run("report", PROMPT, "--out", tmp_path / "a.html"))
    (tmp_path / "b.data.json").mkdir()
    assert "is a folder" in refused(run("report", PROMPT, "--out", tmp_path / "b.html"))
    assert not (tmp_path / "b.html").exists()


def test_a_link_to_a_file_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("{}")
    (tmp_path / "name.json").symlink_to(tmp_path / "real.json")
    console.check_out(tmp_path / "name.json")
    console.check_out(tmp_path / "new" / "deep.json")
    for device in ("/dev/null", "/dev/full"):
        with pytest.raises(ThoughtscopeError, match="is a device"):
            console.check_out(Path(device))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_fails_is_one_line(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fails(path: Path, data: bytes) -> None:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr("thoughtscope.graphs.json_write.atomic_write_bytes", fails)
    said = refused(run("trace", PROMPT, "--out", tmp_path / "graph.json"))
    assert os.strerror(code) in said and "graph.json" in said
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_work_is_looked_at_before_the_work(run: Any, places: dict[str, Path]) -> None:
    refused(run("trace", PROMPT, "--open", "--folder", places["file"]))


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no device that is always full")
def test_output_that_cannot_be_written_is_told() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "thoughtscope", "--help"], stdout=full, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(SOURCE)}, timeout=60,
        )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "No space left" in done.stderr


# --- what is read ----------------------------------------------------------------------------------------------------

FILES = {
    "empty.json": b"",
    "open.json": b"{",
    "deep.json": b"[" * 100_000,
    "bytes.json": b"\xff\xfe\x00",
    "number.json": b'{"metadata": 1e999, "qParams": {}, "nodes": [], "links": []}',
    "list.json": b"[]",
    "half.json": b'{"metadata": {"slug": "a", "scan": "a", "prompt": "\\ud800", "prompt_tokens": []}, '
    b'"qParams": {"supernodes": 7}, "nodes": [{}], "links": []}',
}


@pytest.mark.parametrize("name", [*FILES, "folder.json", "missing.json"])
def test_files_that_are_no_graphs(run: Any, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name in FILES:
        path.write_bytes(FILES[name])
    elif name == "folder.json":
        path.mkdir()
    before = kinds(tmp_path)
    refused(run("report", path, "--out", tmp_path / "out.html"))
    refused(run("intervene", "--graph", path, "--at", "a"))
    refused(run("convert", path, tmp_path / "out.json", "--format", "neuronpedia"))
    refused(run("serve", path, "--folder", tmp_path / "work", "--no-model", "--no-browser"))
    assert {name: kind for name, kind in kinds(tmp_path).items() if not name.startswith("work")} == before


# --- what is typed ---------------------------------------------------------------------------------------------------

ODD = [
    ["trace", HALF],
    ["trace", ""],
    ["trace", PROMPT, "--node-mass", "nan"],
    ["trace", PROMPT, "--node-mass", "0"],
    ["trace", PROMPT, "--edge-mass", "1e999"],
    ["trace", PROMPT, "--edge-mass", "-1"],
    ["trace", PROMPT, "--max-nodes", "0"],
    ["trace", PROMPT, "--max-nodes", "1.5"],
    ["trace", PROMPT, "--out", ""],
    ["trace", PROMPT, "--port", "70000"],
    ["trace", PROMPT, "--bos", "--no-bos", "--nothing"],
    ["trace", "x" * 100_000],
    ["intervene", PROMPT],
    ["intervene", PROMPT, "--graph", "a.json", "--at", "e"],
    ["intervene", PROMPT, "--at", HALF],
    ["intervene", PROMPT, "--at", "e", "--scale", "nan"],
    ["intervene", PROMPT, "--at", "e", "--scale", "inf"],
    ["intervene", PROMPT, "--at", "e", "--set", "1e999"],
    ["intervene", PROMPT, "--at", "e", "--scale", "x"],
    ["intervene", PROMPT, "--at", "e", "--max-new-tokens", "-1"],
    ["intervene", PROMPT, "--at", "e", "--max-new-tokens", "1000"],
    ["intervene", PROMPT, "--node", "::::"],
    ["intervene", PROMPT, "--node", "feature:-1:-1:-1"],
    ["intervene", PROMPT, "--node", "feature:99999999999999999999:1:1"],
    ["intervene", PROMPT, "--node", "9999999999999999999_1_1"],
    ["intervene", PROMPT, "--node", HALF],
    ["intervene", PROMPT, "--supernode", HALF],
    ["report", PROMPT, "--out", "page.pdf"],
    ["report", PROMPT, "--out", ""],
    ["report", PROMPT, "--out", "page.html", "--title", HALF],
    ["convert", HALF, "out", "--format", "native"],
    ["convert", "", "out", "--format", "native"],
    ["convert", "specimen/clt", "out", "--format", ""],
    ["convert", "specimen/clt", "out", "--format", HALF],
    ["convert", "specimen/clt", "out", "--format", "native", "--slug", "a"],
    ["study", "no such study"],
    ["study", HALF],
    ["replicate", "no such paper"],
    ["replicate", HALF],
    ["serve", "--port", "-1"],
    ["serve", "--no-model", "--token-file", "missing"],
    ["serve", "--no-model", "--token", "a-secret-of-some-length"],
    ["doctor", "--no-such-option"],
]


@pytest.mark.parametrize("arguments", ODD, ids=lambda given: ascii(" ".join(given))[:60])
def test_odd_values(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    refused(run(*arguments))
    assert list(tmp_path.iterdir()) == []
    ran = run(*arguments, "--json")
    assert ran.code == 2 and ran.err == "" and set(ran.json["error"]) == {"code", "message"}
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def real_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loaders themselves, in place of the tiny model."""
    from thoughtscope.microscope import opening

    monkeypatch.setattr("thoughtscope.microscope.open_microscope", opening.open_microscope)


@pytest.mark.usefixtures("real_loading")
@pytest.mark.parametrize("device", ["meta", "mps", "cuda:99", "cuda:-1", "xyz", "", HALF])
def test_devices_that_are_not_there(run: Any, device: str) -> None:
    refused(run("trace", PROMPT, "--device", device))


@pytest.mark.usefixtures("real_loading")
@pytest.mark.parametrize("dtype", ["int8", "float8", "", "float32 ", HALF])
def test_types_that_no_model_has(run: Any, dtype: str) -> None:
    refused(run("trace", PROMPT, "--dtype", dtype))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model as a checkpoint on disk, and a dictionary in circuit-tracer's layout."""
    from thoughtscope.dictionaries import save_dictionary

    folder, opened = tmp_path_factory.mktemp("saved"), tiny_microscope()
    opened.model.module.save_pretrained(folder / "model")
    opened.model.tokenizer.save_pretrained(folder / "model")
    save_dictionary(opened.dictionary, folder / "dictionary", format="circuit-tracer")
    return folder


def copied(source: Path, target: Path) -> Path:
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).symlink_to(path)
    return target


CONFIG = [
    ("hidden_size", "abc"), ("hidden_size", -5), ("hidden_size", 17), ("hidden_size", None), ("hidden_size", 10**12),
    ("num_hidden_layers", 1.5), ("num_hidden_layers", 10**9), ("num_hidden_layers", -1), ("num_hidden_layers", True),
    ("num_attention_heads", 0), ("num_attention_heads", [4]), ("num_key_value_heads", 3), ("head_dim", {}),
    ("vocab_size", 2**70), ("rope_theta", "x"), ("rope_parameters", []), ("rope_parameters", {"rope_type": "warp"}),
    ("hidden_act", "nothing"), ("hidden_act", 5), ("architectures", 5), ("architectures", [5]), ("architectures", []),
    ("model_type", 5), ("model_type", None), ("dtype", "float99"), ("rms_norm_eps", "tiny"), ("pad_token_id", 10**12),
    ("max_position_embeddings", "many"), ("auto_map", 7), ("quantization_config", "yes"),
]  # fmt: skip


@pytest.mark.usefixtures("real_loading")
@pytest.mark.parametrize(("field", "value"), CONFIG, ids=lambda given: repr(given)[:20])
def test_fields_of_a_models_configuration(
    run: Any, tmp_path: Path, saved: Path, field: str, value: Any
) -> None:
    model = copied(saved / "model", tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").unlink()
    (model / "config.json").write_text(json.dumps(config | {field: value}))
    ran = run("trace", PROMPT, "--model", model, "--dictionary", saved / "dictionary", "--json")
    assert ran.code in (0, 2)  # some values mean nothing to this model
    assert "Traceback" not in ran.err and (ran.code == 0 or ran.json["error"]["code"] != "internal")


YAML = [
    "", "- 1", "a: [", "!!python/object/apply:os.getcwd []", "model_name: {model_name: 1}", "model_kind: 5",
    "model_kind: [transcoder_set]", "feature_input_hook: 2020-01-01", "feature_input_hook: {a: b}",
    "feature_output_hook: .inf", "feature_output_hook: ~", "scan: [1, 2]", "scan: .nan", "transcoders: 7",
    "transcoders: [1, 2, 3]", "transcoders: {0: 1}", "transcoders: ['\\0', a, b]", "skip_first: maybe",
]  # fmt: skip


@pytest.mark.usefixtures("real_loading")
@pytest.mark.parametrize("text", YAML)
def test_values_of_a_dictionarys_yaml(run: Any, tmp_path: Path, saved: Path, text: str) -> None:
    dictionary = copied(saved / "dictionary", tmp_path / "dictionary")
    config = dictionary / "config.yaml"
    written = config.read_text()
    config.unlink()
    field = text.split(":")[0]
    kept = "" if field not in written else "".join(
        line for line in written.splitlines(keepends=True) if not line.startswith((field, "- ") if field == "transcoders" else field)
    )  # fmt: skip
    config.write_text(kept + text + "\n")
    ran = run("convert", dictionary, tmp_path / "out", "--format", "native")
    assert ran.code in (0, 2) and "Traceback" not in ran.err
    assert ran.code == 0 or not (tmp_path / "out").exists()


# --- terminals -------------------------------------------------------------------------------------------------------


def test_json_shows_nothing_disguised(run: Any) -> None:
    ran = run("trace", "red \x1b[31m \u202etxt\u2066 \U000e0041", "--json")
    assert ran.json["prompt"] == "red \x1b[31m \u202etxt\u2066 \U000e0041"
    assert console.printable(ran.out.rstrip("\n")) == ran.out.rstrip("\n")
    assert "\\u202e" in ran.out and "\\udb40\\udc41" in ran.out
    assert "é 北京" in run("trace", "é 北京", "--json").out


@pytest.mark.parametrize("as_json", [False, True])
def test_a_terminal_without_unicode(run: Any, monkeypatch: pytest.MonkeyPatch, as_json: bool) -> None:
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding="ascii") for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    monkeypatch.setattr(sys, "argv", ["thoughtscope", "trace", "é 北京", *(["--json"] if as_json else [])])
    with pytest.raises(SystemExit) as end:
        app.run()
    streams["stdout"].flush()
    said = streams["stdout"].buffer.getvalue().decode("ascii")
    assert end.value.code == 0
    if as_json:
        assert json.loads(said)["prompt"] == "é 北京"
    else:
        assert said.startswith("? ??\n")


# --- the hub ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def silent_hub() -> Iterator[str]:
    """Takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def take() -> None:
            try:
                while True:
                    held.append(server.accept()[0])
            except OSError:
                pass

        threading.Thread(target=take, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.close()
        for each in held:
            each.close()


@pytest.mark.usefixtures("real_loading")
def test_a_hub_that_says_nothing_is_left_after_a_moment(
    run: Any, monkeypatch: pytest.MonkeyPatch, silent_hub: str
) -> None:
    from huggingface_hub import constants

    from thoughtscope.models import checkpoints

    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(constants, "ENDPOINT", silent_hub)
    monkeypatch.setattr(checkpoints, "ANSWER_SECONDS", 0.3)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for given in (
        ["--model", "nobody/nothing", "--dictionary", "x"],
        ["--dictionary", "hf://nobody/nothing"],
    ):
        assert "says nothing" in refused(run("trace", PROMPT, *given))


def test_a_slow_hub_is_not_a_silent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    from thoughtscope.models import checkpoints

    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr("huggingface_hub.utils.get_session", lambda: None)  # fails at once: that is an answer
    assert checkpoints.silent() is None
