"""Other libraries' files, damaged or made to harm: refused with the file's name, before they cost anything."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.foreign_layers import CASES
from thoughtscope.core.errors import CorruptArtefact, DictionaryMismatch, LimitExceeded, ThoughtscopeError
from thoughtscope.dictionaries import load_dictionary
from thoughtscope.dictionaries.formats.torch_files import read_torch, write_torch

ONE_EACH = ["sae-lens jumprelu", "sparsify topk", "dictionary-learning GatedAutoEncoder", "openai TopK",
            "crosslayer-coding jumprelu", "llama-scope"]  # fmt: skip


def written(folder: Path, name: str) -> Path:
    torch.manual_seed(0)
    CASES[name](folder, torch.float32)
    return folder


def weights(folder: Path) -> Path:
    return next(path for path in sorted(folder.rglob("*")) if path.suffix in (".safetensors", ".pt"))


@pytest.mark.parametrize("name", ONE_EACH)
def test_damaged_weights_are_named(tmp_path: Path, name: str) -> None:
    """Cut short, not a number, missing a tensor, with one too many."""
    path = weights(written(tmp_path / "a", name))
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(CorruptArtefact, match=path.name):
        load_dictionary(tmp_path / "a")
    path.write_bytes(whole)
    tensors = read_torch(path) if path.suffix == ".pt" else load_file(path)
    tensors = {
        key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in tensors.items()
    }
    key = next(key for key, value in tensors.items() if isinstance(value, torch.Tensor) and value.ndim == 2)
    changes: list[Callable[[dict[str, Any]], Any]] = [
        lambda t: t[key].fill_(float("nan")),
        lambda t: t.pop(key),
        lambda t: t.update(surprise=torch.zeros(2)),
        lambda t: t.update({key: torch.zeros(3, 3, 3)}),
    ]
    for change in changes:
        damaged = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in tensors.items()}
        change(damaged)
        path.unlink()
        write_torch(path, damaged) if path.suffix == ".pt" else save_file(damaged, path)
        with pytest.raises((CorruptArtefact, DictionaryMismatch)):
            load_dictionary(tmp_path / "a")


@pytest.mark.parametrize(
    ("name", "change", "word"),
    [
        ("sae-lens jumprelu", {"architecture": "temporal"}, "attends to earlier positions"),
        ("sae-lens jumprelu", {"architecture": "matching_pursuit"}, "step by step"),
        ("sae-lens jumprelu", {"normalize_activations": "covariance_whitening"}, "save_inference_model"),
        ("sae-lens jumprelu", {"normalize_activations": "expected_average_only_in"}, "scaling_factor"),
        ("sae-lens jumprelu", {"metadata": {"hook_name": "blocks.0.hook_elsewhere"}}, "hook_elsewhere"),
        ("sae-lens jumprelu", {"metadata": {"hook_name": "blocks.0.attn.hook_q", "hook_head_index": 3}}, "one head"),
        ("sae-lens jumprelu", {"metadata": {}}, "names no hook"),
        ("sae-lens topk", {"k": 0}, "k is a whole number"),
        ("sae-lens topk", {"apply_b_dec_to_input": "yes"}, "true or false"),
        ("sae-lens before 6", {"activation_fn_str": "tanh-relu"}, "tanh-relu"),
        ("sparsify topk", {"activation": "batchtopk"}, "batch"),
        ("sparsify transcoder", {"n_targets": 10**9}, "n_targets"),
        ("sparsify topk", {"k": -1}, "k is a whole number"),
        ("clt-training, tied to the target", {"topk_coalesced": True}, "compete"),
        ("clt-training, tied to the target", {"secondary_target_tied": True}, "second time"),
        ("dictionary-learning AutoEncoder", {"trainer": {"dict_class": "IdentityDict"}}, "submodule_name"),
        ("dictionary-learning AutoEncoder",
         {"trainer": {"dict_class": "IdentityDict", "submodule_name": "resid_post_layer_3"}}, "dict_class"),
        ("dictionary-learning AutoEncoder",
         {"trainer": {"dict_class": "AutoEncoder", "submodule_name": "resid_post_layer_3", "layer": 4}}, "no one layer"),
        ("crosslayer-coding jumprelu", {"activation_fn": "batchtopk"}, "convert_batchtopk_to_jumprelu"),
        ("crosslayer-coding jumprelu", {"normalization_method": "mean_std"}, "norm_stats.json"),
        ("crosslayer-coding jumprelu", {"num_layers": 10**9}, "num_layers"),
        ("crosslayer-coding jumprelu", {"mlp_input_template": "model.{}.{}"}, "template"),
        ("crosslayer-coding jumprelu", {"mlp_input_template": None}, "mlp_input_template"),
        ("llama-scope", {"use_glu_encoder": True}, "use_glu_encoder"),
        ("llama-scope", {"norm_activation": "batch-wise"}, "batch"),
        ("llama-scope", {"dataset_average_activation_norm": {"in": 0}}, "over 0"),
        ("llama-scope later", {"sae_type": "lorsa"}, "lorsa"),
        ("llama-scope later", {"act_fn": "batchtopk"}, "batchtopk"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_why(tmp_path: Path, name: str, change: dict[str, Any], word: str) -> None:
    folder = written(tmp_path / "a", name)
    names = ("cfg.json", "hyperparams.json", "config.json")
    paths = [path for each in names for path in sorted(folder.rglob(each))]
    paths[0].write_text(json.dumps(json.loads(paths[0].read_text()) | change))
    with pytest.raises(CorruptArtefact, match=word):
        load_dictionary(folder)


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": 1, "a": 2}', "[]", "{", b"\xff\xfe{"])
def test_configurations_are_strict(tmp_path: Path, text: str | bytes) -> None:
    folder = written(tmp_path / "a", "sae-lens jumprelu")
    data = text if isinstance(text, bytes) else text.encode()
    (folder / "cfg.json").write_bytes(data)
    with pytest.raises(CorruptArtefact, match=r"cfg\.json"):
        load_dictionary(folder)
    (folder / "cfg.json").write_bytes(b" " * 2**17)
    with pytest.raises(LimitExceeded, match=r"cfg\.json"):
        load_dictionary(folder)


# --- files that torch.save wrote -------------------------------------------------------------------------------------


def archive(path: Path, program: bytes, *, members: dict[str, bytes] | None = None, **zipped: Any) -> Path:
    with zipfile.ZipFile(path, "w", **zipped) as file:
        for name, data in {"data.pkl": program, "data/0": bytes(64), **(members or {})}.items():
            file.writestr(f"archive/{name}", data)
    return path


def tensor_program(shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    """`{"x": tensor}` over storage 0 with 16 numbers, as torch.save says it."""
    text = lambda value: b"X" + struct.pack("<I", len(value)) + value.encode()
    number = lambda value: b"J" + struct.pack("<i", value)
    sizes = lambda values: b"(" + b"".join(map(number, values)) + b"t"
    storage = (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(16) + b"tQ"
    )
    arguments = storage + number(offset) + sizes(shape) + sizes(stride) + b"\x89ccollections\nOrderedDict\n)R"
    return b"\x80\x02}" + text("x") + b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tRs."


def test_a_program_of_tensors_is_followed(tmp_path: Path) -> None:
    found = read_torch(archive(tmp_path / "a.pt", tensor_program((2, 3), (1, 4), 2)))
    assert found["x"].shape == (2, 3) and found["x"].stride() == (1, 4) and found["x"].storage_offset() == 2


PROGRAMS = {
    "a function": b"\x80\x02}X\x01\x00\x00\x00xcos\nsystem\n(X\x04\x00\x00\x00truetRs.",
    "a storage as a function": b"\x80\x02}X\x01\x00\x00\x00xctorch\nFloatStorage\nJ\x00\x00\x00\x40\x85Rs.",
    "bytes made on the spot": b"\x80\x02}X\x01\x00\x00\x00xcbuiltins\nbytearray\nJ\x00\x00\x00\x40\x85Rs.",
    "an object": b"\x80\x02}X\x01\x00\x00\x00xctorch\nFloatStorage\n)\x81s.",
    "a tensor larger than its numbers": tensor_program((17,), (1,)),
    "a tensor of one number a million times": tensor_program((1_000_000,), (0,)),
    "a tensor beyond its numbers": tensor_program((2,), (15,), 1),
    "no end": tensor_program((2, 3), (3, 1))[:-1],
    "an empty stack": b"\x80\x02s.",
    "a list": b"\x80\x02].",
    "a name as a value": b"\x80\x02}X\x01\x00\x00\x00xctorch\nFloatStorage\ns.",
    "attributes": b"\x80\x02ccollections\nOrderedDict\n)R}X\x01\x00\x00\x00xK\x01sb.",
    "lists in lists in keys": b"\x80\x02}" + b"(" * 40 + b"K\x01" + b"t" * 40 + b"K\x01s.",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_any_other_program_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CorruptArtefact, match=r"a\.pt"):
        read_torch(archive(tmp_path / "a.pt", PROGRAMS[name]))


def test_archives_that_claim_too_much_are_refused(tmp_path: Path) -> None:
    good = tensor_program((2, 3), (3, 1))
    packed = archive(tmp_path / "a.pt", good, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CorruptArtefact, match="compressed"):
        read_torch(packed)
    with pytest.raises(CorruptArtefact, match="small data"):
        read_torch(archive(tmp_path / "b.pt", good + b" " * 2**20))
    with pytest.raises(CorruptArtefact, match="high byte"):
        read_torch(archive(tmp_path / "c.pt", good, members={"byteorder": b"big"}))
    data = bytearray(archive(tmp_path / "d.pt", good).read_bytes())
    at = data.rindex(b"PK\x01\x02")  # the table's entry of the last member: its size follows 20 bytes on
    data[at + 20 : at + 28] = struct.pack("<II", 2**30, 2**30)
    (tmp_path / "d.pt").write_bytes(data)
    with pytest.raises(LimitExceeded, match=r"d\.pt"):
        read_torch(tmp_path / "d.pt")
    (tmp_path / "e.pt").write_bytes(
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
    )  # the layout before zip archives
    with pytest.raises(CorruptArtefact, match=r"1\.6"):
        read_torch(tmp_path / "e.pt")
    with pytest.raises(CorruptArtefact, match="missing"):
        read_torch(tmp_path / "f.pt")


def test_shared_numbers_stay_shared(tmp_path: Path) -> None:
    base = torch.randn(6, 4)
    torch.save(
        {"a": base, "b": base.T[1:], "c": {"k": 3, "name": "x", "f": 0.5, "n": None, "t": True}},
        tmp_path / "a.pt",
    )
    found = read_torch(tmp_path / "a.pt")
    assert torch.equal(found["b"], base.T[1:]) and found["c"] == {
        "k": 3,
        "name": "x",
        "f": 0.5,
        "n": None,
        "t": True,
    }
    assert found["a"].untyped_storage().data_ptr() == found["b"].untyped_storage().data_ptr()
    (tmp_path / "b").mkdir()
    write_torch(tmp_path / "b" / "a.pt", found)
    assert (tmp_path / "b" / "a.pt").read_bytes() == (tmp_path / "a.pt").read_bytes()


def test_every_damage_is_a_mistake_of_the_file(tmp_path: Path) -> None:
    """Bytes changed at random places: refused or read, never an error of another kind."""
    folder = written(tmp_path / "a", "openai TopK")
    path = weights(folder)
    whole = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(3):
            data[int(torch.randint(len(data), (1,), generator=generator))] = int(
                torch.randint(256, (1,), generator=generator)
            )
        path.write_bytes(data)
        try:
            load_dictionary(folder)
        except ThoughtscopeError as error:
            assert "a" in str(error)
