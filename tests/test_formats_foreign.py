"""Dictionaries of other libraries: what they compute there they compute here, and saved again they are what they were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.foreign_files import Case
from tests.foreign_layers import CASES, rows_for
from thoughtscope.core.errors import DictionaryMismatch
from thoughtscope.core.site import Site
from thoughtscope.dictionaries import Dictionary, load_dictionary, save_dictionary
from thoughtscope.dictionaries.features import total_by_site
from thoughtscope.dictionaries.formats import FORMATS, detect
from thoughtscope.dictionaries.replacement import reconstruct

CLOSE = 1e-6
FEW = ["sae-lens topk, rescaled", "sparsify skip transcoder", "dictionary-learning GatedAutoEncoder", "openai TopK",
       "crosslayer-coding mean_std", "llama-scope", "sae-lens, several"]  # fmt: skip
CANNOT = {"sae-lens abstopk": set(), "clt-training, tied to the target": {"sparsify"}}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def written(tmp_path: Path, name: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Case:
    torch.manual_seed(seed)
    return CASES[name](tmp_path / "a", dtype)


def answers(dictionary: Dictionary, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    x = {Site.parse(site): value for site, value in rows.items()}
    found = total_by_site([reconstruct(part, x)[0] for part in dictionary.parts])
    return {str(site): value for site, value in found.items()}


def distance(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """The largest difference, in units of the largest number that is wanted."""
    assert found.keys() == wanted.keys()
    return max(float((found[site] - wanted[site]).abs().max() / wanted[site].abs().max()) for site in wanted)


def same_files(a: Path, b: Path) -> None:
    names = {path.relative_to(a) for path in a.rglob("*") if path.is_file()}
    assert names == {path.relative_to(b) for path in b.rglob("*") if path.is_file()}
    assert [name for name in names if (a / name).read_bytes() != (b / name).read_bytes()] == []


@pytest.mark.parametrize(("name", "dtype"), [(name, DTYPES[n % 3]) for n, name in enumerate(CASES)], ids=str)
def test_the_same_answers_and_the_same_files(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    """Loaded, and through the native layout; saved again in their own, files are the same to the byte."""
    case = written(tmp_path, name, dtype)
    assert detect(tmp_path / "a") == case.format
    dictionary = load_dictionary(tmp_path / "a")
    rows = rows_for(case)
    wanted = case.forward(rows)
    assert distance(answers(dictionary, rows), wanted) < CLOSE
    save_dictionary(dictionary, tmp_path / "b", format=case.format)
    same_files(tmp_path / "a", tmp_path / "b")
    save_dictionary(dictionary, tmp_path / "native")
    assert distance(answers(load_dictionary(tmp_path / "native"), rows), wanted) < CLOSE


def softened(dictionary: Dictionary) -> Dictionary:
    """The same with every encoder's bias a little smaller."""
    parts = tuple(replace(part, b_enc=part.b_enc - 0.25) for part in dictionary.parts)
    return replace(dictionary, parts=parts)


@pytest.mark.parametrize("name", FEW)
def test_what_was_changed_is_not_written_as_it_was(tmp_path: Path, name: str) -> None:
    """Neither a part that was replaced nor a tensor that was changed in place; nor another model's name."""
    case = written(tmp_path, name)
    rows = rows_for(case)
    for number, change in enumerate((softened, changed_in_place)):
        changed = change(load_dictionary(tmp_path / "a"))
        wanted = answers(changed, rows)
        assert distance(wanted, case.forward(rows)) > 1e-3
        save_dictionary(changed, tmp_path / str(number), format=case.format)
        assert distance(answers(load_dictionary(tmp_path / str(number)), rows), wanted) < CLOSE
    renamed = replace(load_dictionary(tmp_path / "a"), model_name="org/other")
    save_dictionary(renamed, tmp_path / "c", format=case.format)
    if case.format not in ("openai", "llama-scope"):  # which name no model
        assert load_dictionary(tmp_path / "c").model_name == "org/other"


def changed_in_place(dictionary: Dictionary) -> Dictionary:
    for part in dictionary.parts:
        part.b_enc.sub_(0.25)
    return dictionary


@pytest.mark.parametrize(
    "name", [*FEW, "sae-lens gated", "sae-lens abstopk", "clt-training, tied to the target"]
)
def test_another_layout_has_the_same_answers_or_says_why_not(tmp_path: Path, name: str) -> None:
    case = written(tmp_path, name)
    dictionary, rows = load_dictionary(tmp_path / "a"), rows_for(case)
    wanted, held = case.forward(rows), []
    for format in FORMATS:
        try:
            save_dictionary(dictionary, tmp_path / format, format=format)
        except DictionaryMismatch as error:
            assert len(str(error)) > 40
            continue
        held.append(format)
        found = answers(load_dictionary(tmp_path / format, format=format), rows)
        # A module's output stands for its contribution where a layout has but one of the two.
        renamed = {site: found.get(site, found.get(site.replace("_out", "_raw"))) for site in wanted}
        assert distance(renamed, wanted) < CLOSE, format
    assert {"native", case.format} - set(held) <= CANNOT.get(name, set()), held
