"""From one layout and number type to another, and what that costs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tests.foreign_layers import CASES
from tests.tiny_microscope import random_dictionary, shared_model
from thoughtscope.cli.app import app
from thoughtscope.core.errors import DictionaryMismatch
from thoughtscope.dictionaries import Dictionary, compare, load_dictionary, save_dictionary
from thoughtscope.dictionaries.formats.rows import from_rows, to_rows


def foreign(folder: Path, name: str) -> Dictionary:
    torch.manual_seed(0)
    CASES[name](folder, torch.float32)
    return load_dictionary(folder)


def test_eight_bits_are_half_a_step_away_and_stay_there() -> None:
    torch.manual_seed(0)
    weight = torch.randn(40, 7) * torch.logspace(-6, 6, 40)[:, None]
    weight[3] = 0
    numbers, scale = to_rows(weight)
    again = from_rows(numbers, scale)
    assert numbers.dtype == torch.int8 and int(numbers.abs().max()) == 127
    assert bool(((again - weight).abs() <= 0.5001 * scale[:, None]).all()) and not again[3].any()
    assert bool((scale[weight.any(1)] <= weight[weight.any(1)].abs().amax(1) / 127 * 1.01).all())
    twice, same = to_rows(again)
    assert torch.equal(twice, numbers) and torch.equal(from_rows(twice, same), again)
    assert torch.equal(to_rows(weight.bfloat16())[0], to_rows(weight.bfloat16().float())[0])


@pytest.mark.parametrize(
    ("store", "most"), [("float32", 0), ("bfloat16", 1e-4), ("float16", 1e-6), ("int8", 1e-3)]
)
def test_number_types_cost_what_they_say(tmp_path: Path, store: str, most: float) -> None:
    before = foreign(tmp_path / "a", "sae-lens jumprelu_skip_transcoder")
    save_dictionary(before, tmp_path / "b", store=store)
    after = load_dictionary(tmp_path / "b")
    lost = compare(before, after).difference
    assert lost <= most and (lost > most / 1e4 or store == "float32")
    (part,) = after.parts
    wanted = torch.float32 if store == "int8" else getattr(torch, store)
    assert next(iter(part.W_dec.values())).dtype == wanted and part.b_enc.dtype == torch.float32
    save_dictionary(after, tmp_path / "c", store=store)
    assert compare(after, load_dictionary(tmp_path / "c")).difference == 0


def test_smaller_types_in_published_layouts(tmp_path: Path) -> None:
    """The files are no longer the ones that were read."""
    before = foreign(tmp_path / "a", "sae-lens standard, not centred")
    save_dictionary(before, tmp_path / "b", format="sae-lens", store="bfloat16")
    (part,) = load_dictionary(tmp_path / "b").parts
    assert next(iter(part.W_enc.values())).dtype == torch.bfloat16
    assert (
        json.loads((tmp_path / "b" / "cfg.json").read_text())["dtype"] == "float32"
    )  # which biases still are
    for store, format, word in (("int8", "sae-lens", "eight-bit"), ("int4", "native", "int4")):
        with pytest.raises(DictionaryMismatch, match=word):
            save_dictionary(before, tmp_path / "c", format=format, store=store)
    large = replace(
        before.parts[0], W_skip=None, W_dec={site: W * 1e6 for site, W in before.parts[0].W_dec.items()}
    )
    with pytest.raises(DictionaryMismatch, match="too large for float16"):
        save_dictionary(replace(before, parts=(large,)), tmp_path / "c", store="float16")


def test_what_differs_is_seen(tmp_path: Path) -> None:
    """A mistake of one in a hundred, and dictionaries of other sites."""
    before = foreign(tmp_path / "a", "sparsify topk")
    (part,) = before.parts
    longer = replace(part, W_dec={site: W * 1.01 for site, W in part.W_dec.items()})
    lost = compare(before, replace(before, parts=(longer,))).difference
    assert 5e-5 < lost < 5e-4
    assert compare(before, before).difference == 0
    with pytest.raises(DictionaryMismatch, match="same sites"):
        compare(before, foreign(tmp_path / "b", "openai TopK"))


def test_the_command_prints_the_error_before_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = CliRunner().invoke
    source = tmp_path / "a"
    save_dictionary(random_dictionary(shared_model()), source)
    done = run(app, ["convert", str(source), str(tmp_path / "b"), "--format", "native", "--store", "int8"])
    assert done.exit_code == 0 and "differ by" in done.output and "--model" in done.output
    monkeypatch.setattr("thoughtscope.models.load_model", lambda name: shared_model())
    command = [
        "convert",
        str(source),
        str(tmp_path / "c"),
        "--format",
        "native",
        "--store",
        "bfloat16",
        "--model",
        "x",
    ]
    found = json.loads(run(app, [*command, "--json"]).output)
    assert found["format"] == "native" and found["n_tokens"] > 50 and 0 < found["difference"] < 1e-3
    assert found["fvu_before"] > 0 and found["fvu_after"] == pytest.approx(found["fvu_before"], rel=0.05)
    assert found["fvu_after"] != found["fvu_before"]
    graph = run(
        app, ["convert", "some.json", str(tmp_path / "d"), "--format", "neuronpedia", "--store", "int8"]
    )
    assert graph.exit_code != 0
