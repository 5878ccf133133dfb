"""The commands that train: what they write, how they stop and go on, and what they say of mistakes."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.autograd_oracle import same_parts
from tests.test_cli import Ran
from tests.tiny_models import tiny_model
from thoughtscope.cli import app as command_line
from thoughtscope.cli.console import figures_told
from thoughtscope.cli.sweep import run_name
from thoughtscope.cli.training import command
from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.dictionaries import load_dictionary
from thoughtscope.training import Recipe, recipes, run
from thoughtscope.training.naming import changes_of, described, grid_of, recipe_named, spread

SMALL = [
    f"--set={each}"
    for each in ("n_features=32", "k=4", "schedule.n_tokens=2000", "schedule.batch=100", "data.buffer_tokens=600",
                 "schedule.learning_rate=1e-2")
]  # fmt: skip


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with texts; every model is the tiny one."""
    model = tiny_model("llama")
    monkeypatch.setattr("thoughtscope.models.load_model", lambda *_, **__: model)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    for number in range(16):
        words = " ".join(f"word{(number * 7 + n * n) % 41}" for n in range(120))
        (tmp_path / "texts" / f"{number}.txt").write_text(words)
    return tmp_path


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def ran(*arguments: str | Path) -> Ran:
        monkeypatch.setattr(sys, "argv", ["thoughtscope", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            command_line.run()
        out, err = capsys.readouterr()
        return Ran(int(end.value.code or 0), out, err)

    return ran


TRAIN = ("train", "sae", "--model", "tiny", "--data", "text:texts", "--sites", "resid_post.1", *SMALL)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- recipes by name -----------------------------------------------------------------------------------------------


def test_a_recipe_is_found_by_name(place: Path) -> None:
    asked: dict[str, Any] = {"k": 3, "schedule.batch": 64, "seed": 7}
    direct = recipes.sae(["resid_post.0", "z.1"], k=3, **{"schedule.batch": 64, "seed": 7})
    assert recipe_named("sae", sites=["resid_post.0", "z.1"], changes=asked) == direct
    assert recipe_named("clt", n_layers=3, changes={"read": "resid_mid"}) == recipes.clt(3, read="resid_mid")
    (place / "mine.py").write_text(
        "from thoughtscope.training import recipes\n"
        "def mine(n_layers, width=16):\n    return recipes.clt(n_layers, n_features=width, k=2)\n"
        "def wrong():\n    return 5\n"
    )
    made = recipe_named("mine.py:mine", n_layers=2, changes={"width": 24, "schedule.batch": 64})
    assert made == recipes.clt(2, n_features=24, k=2, **{"schedule.batch": 64})
    assert recipe_named("thoughtscope.training.recipes:sae", sites=["z.0"]) == recipes.sae("z.0")
    (place / "kept.json").write_text(json.dumps(made.model_dump(mode="json")))
    assert recipe_named("kept.json") == made
    assert recipe_named("kept.json", changes={"seed": 4}).seed == 4
    assert set(described()) >= {"sae", "clt", "transcoder", "crosscoder"} and all(described().values())


@pytest.mark.parametrize(("name", "asked", "said"), [
    ("sea", {"sites": ["z.0"]}, "recipe.*sae"), ("sae", {}, r"needs sites, for example resid_post\.3"),
    ("clt", {"n_layers": 2, "sites": ["z.0"]}, "takes no sites.*read and write"), ("clt", {}, "layers of a model"),
    ("mine.py:nothing", {}, "names no recipe"), ("mine.py:wrong", {}, "gives int, not a Recipe"),
    ("nowhere.py:mine", {}, "names no recipe"), ("os:sep", {}, "no function"), ("nothing.json", {}, "There is no recipe"),
    ("sae", {"sites": ["z.0"], "changes": {"colour": 1}}, 'no "colour"'), ("sae", {"sites": ["nowhere.1"]}, "nowhere"),
    ("sae", {"sites": ["z.0"], "changes": {"k": "many"}}, r"k.*many"), ("sae", {"sites": ["z.0"], "changes": {"k": -1}}, "k"),
])  # fmt: skip
def test_what_is_no_recipe(place: Path, name: str, asked: dict, said: str) -> None:
    (place / "mine.py").write_text("def wrong():\n    return 5\n")
    with pytest.raises(ThoughtscopeError, match=said):
        recipe_named(name, **asked)


def test_values_and_grids() -> None:
    assert changes_of(["k=3", "a.b=1e-3", "saved=float16", "skip=true"]) == {
        "k": 3, "a.b": 1e-3, "saved": "float16", "skip": True,
    }  # fmt: skip
    assert grid_of(["k=1,2", "prefixes=[0.5,1],[1]"]) == [
        {"k": k, "prefixes": prefixes} for k in (1, 2) for prefixes in ([0.5, 1], [1])
    ]
    assert run_name({"k": 4, "schedule.learning_rate": 1e-3}) == "k=4,schedule.learning_rate=0.001"
    assert "/" not in run_name({"a": "../x"})
    assert spread(["z.0,resid_post", "z.0"], 2) == ("z.0", "resid_post.0", "resid_post.1")
    for wrong in ("k", "=3", "k="):
        with pytest.raises(ThoughtscopeError, match="NAME=VALUE"):
            changes_of([wrong])
    with pytest.raises(ThoughtscopeError, match="value that is empty"):
        grid_of(["k=1,,2"])
    with pytest.raises(ThoughtscopeError, match="needs the model"):
        spread(["z"], None)


def test_figures_and_commands_in_words() -> None:
    told = figures_told(
        {"gigabytes": 1.234, "fvu": 0.25, "tokens_per_second": 12345.6, "other": 2.0, "dead": 0.125}
    )
    assert told == "FVU 0.2500  dead 12.5%  tokens/s 12,346  GB 1.23  other 2"
    line = command(
        "train", "sae", data="text:a b", sites=["z.0", "z.1"], out=Path("x"), live=False, name=None, json=True
    )
    assert line == "thoughtscope train sae --data 'text:a b' --sites z.0 --sites z.1 --out x --json"


# --- one training --------------------------------------------------------------------------------------------------


def test_a_training_is_written_evaluated_and_read_again(
    ran: Any, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ran(*TRAIN, "--out", "sae", "--name", "tiny/own")
    assert first.code == 0 and "FVU" in first.out and "Written: sae/dictionary" in first.out
    assert {path.name for path in Path("sae").iterdir()} == {
        "recipe.json",
        "run.json",
        "metrics.jsonl",
        "state",
        "dictionary",
    }
    kept = Recipe.of(**json.loads(Path("sae/recipe.json").read_text()))
    assert (kept.n_features, kept.schedule.batch, kept.parts[0].reads) == (32, 100, ("resid_post.1",))
    assert load_dictionary("sae/dictionary").name == "tiny/own"
    following = shlex.split(first.out.split("Next:\n")[1])[1:]
    assert following[:2] == ["evaluate", "sae/dictionary"]
    scored = ran(*following, "--max-tokens", "200", "--json", "--out", "scores.json").json
    assert (
        scored["scores"]["fvu"] < 1
        and json.loads(Path("scores.json").read_text())["scores"] == scored["scores"]
    )
    assert "unexplained variance (FVU)" in ran(*following, "--max-tokens", "200").out

    def never(*_: Any) -> None:
        raise AssertionError("a finished training is only read")

    before = contents(Path("sae"))
    monkeypatch.setattr(run, "train_step", never)
    again = ran(*TRAIN, "--out", "sae", "--name", "tiny/own", "--json").json
    assert (
        again["dictionary"] == "sae/dictionary"
        and again["figures"]["step"] == 20
        and contents(Path("sae")) == before
    )
    (place / "texts" / "more.txt").write_text("some more")
    other = ran(*TRAIN[:4], "--data", "text:texts/more.txt", *TRAIN[6:], "--out", "sae")
    assert other.code == 2 and "holds a training of" in other.err


def test_ctrl_c_saves_and_says_how_to_go_on(ran: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ran(*TRAIN, "--out", "whole").code == 0
    step = run.train_step

    def interrupted(state: Any, batch: Any) -> Any:
        if state.step == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return step(state, batch)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(run, "train_step", interrupted)
    stopped = ran(*TRAIN, "--out", "sae")
    monkeypatch.setattr(run, "train_step", step)
    assert (
        stopped.code == 130
        and "after step 7 of 20" in stopped.out
        and "stopping after this step" in stopped.err
    )
    assert signal.getsignal(signal.SIGINT) is before and not Path("sae/dictionary").exists()
    again = shlex.split(stopped.out.split("Go on with:\n")[1])[1:]
    assert ran(*again).code == 0
    assert same_parts(load_dictionary("whole/dictionary"), load_dictionary("sae/dictionary"))
    assert [json.loads(line)["step"] for line in Path("sae/metrics.jsonl").read_text().splitlines()] == list(
        range(1, 21)
    )


def test_a_training_that_diverges_is_told_and_leaves_its_checkpoint(ran: Any) -> None:
    broken = ran(
        *TRAIN, "--set", "schedule.learning_rate=1e38", "--set", "schedule.warm_up=0", "--out", "sae"
    )
    assert broken.code == 2 and "diverged" in broken.err and not Path("sae/dictionary").exists()


# --- stores and sweeps ---------------------------------------------------------------------------------------------


def test_a_store_is_harvested_once_and_trained_on(ran: Any) -> None:
    harvest = (
        "harvest",
        "tiny",
        "--data",
        "text:texts",
        "--sites",
        "resid_post",
        "--n-tokens",
        "900",
        "--out",
        "store",
    )
    made = ran(*harvest)
    assert made.code == 0 and "900 rows at resid_post.0, resid_post.1" in made.out and not made.err
    before = contents(Path("store"))
    assert ran(*harvest, "--json").json["rows"] == 900 and contents(Path("store")) == before
    assert shlex.split(made.out.split("Next:\n")[1])[1:5] == ["train", "sae", "--store", "store"]
    trained = ran("train", "sae", "--store", "store", "--sites", "resid_post.1", *SMALL, "--out", "sae")
    assert trained.code == 0 and re.search(
        r"evaluate sae/dictionary --model \S+ --data text:texts", trained.out
    )
    dictionary = load_dictionary("sae/dictionary", tiny_model("llama"), preflight=False)
    assert [str(site) for site in dictionary.reads] == ["resid_post.1"]


def test_a_sweep_trains_what_is_not_finished_and_goes_on_past_what_fails(
    ran: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("sweep", *TRAIN[1:], "--grid", "k=2,4", "--grid", "schedule.learning_rate=1e-2,1e38",
                 "--set", "schedule.warm_up=0", "--max-tokens", "200", "--out", "sweep")  # fmt: skip
    first = ran(*arguments)
    assert first.code == 0 and first.err.count("diverged") == 2 and first.out.count("failed") == 3
    record = json.loads(Path("sweep/sweep.json").read_text())
    sound = [row for row in record["runs"] if "scores" in row]
    assert [row["values"] for row in sound] == [{"k": k, "schedule.learning_rate": 0.01} for k in (2, 4)]
    assert sound[0]["scores"]["l0"] < sound[1]["scores"]["l0"]
    shown = json.loads(Path("sweep/sweep.data.json").read_text())["points"]
    assert [point["name"] for point in shown] == [row["name"] for row in sound]
    assert Path("sweep/sweep.html").is_file() and "sweep.html" in first.out
    for row in sound:
        recipe = Recipe.of(**json.loads((Path("sweep") / row["folder"] / "recipe.json").read_text()))
        assert recipe.activation.k == row["values"]["k"]  # type: ignore[union-attr]
    step, steps = run.train_step, []
    monkeypatch.setattr(
        run, "train_step", lambda state, batch: steps.append(state.step) or step(state, batch)
    )
    again = ran(*arguments, "--json").json
    assert [row.get("scores") for row in again["runs"]] == [row.get("scores") for row in record["runs"]]
    assert steps and max(steps) < 19  # the two that diverge, and nothing of those that were finished


def test_the_list_of_recipes(ran: Any) -> None:
    assert "sae " in ran("train", "--list").out and ran("train", "--list", "--json").json["recipes"]["clt"]


@pytest.mark.parametrize(("arguments", "said"), [
    (("train",), "Name a recipe"), (("train", "sae", "--out", "x"), "--model with --data"),
    (("train", "sae", "--store", "nowhere", "--out", "x"), "nowhere"), ((*TRAIN, "--store", "s", "--out", "x"), "one of the two"),
    ((*TRAIN[:6], "--out", "x"), "needs sites"), ((*TRAIN, "--set", "colour=1", "--out", "x"), 'no "colour"'),
    ((*TRAIN, "--set", "colour", "--out", "x"), "NAME=VALUE"), ((*TRAIN, "--track", "paper", "--out", "x"), "tracker"),
    (("train", "sae", "--model", "m", "--data", "nothing", "--sites", "z.0", *SMALL, "--out", "x"), "names no source"),
    (("train", "sae", "--model", "m", "--data", "text:texts", "--sites", "z.9", *SMALL, "--out", "x"), r"z\.9"),
    (("sweep", *TRAIN[1:], "--grid", "k", "--out", "x"), "NAME=VALUE"), (("evaluate", "nowhere", "--data", "text:texts"), "nowhere"),
    (("harvest", "m", "--data", "text:texts", "--sites", "z.0", "--rows", "int8", "--out", "x"), "--rows"),
    (("curves", "nowhere"), "no folder"), (("curves", ".", "--out", "x.pdf"), "HTML"),
])  # fmt: skip
def test_mistakes_are_one_line(ran: Any, arguments: tuple[str, ...], said: str) -> None:
    found = ran(*arguments)
    assert found.code == 2 and re.search(said, found.err) and found.err.count("\n") == 1, found.err
    assert not Path("x/state").exists()
