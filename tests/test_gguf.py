"""GGUF files: the logits of the model that was written, a kept copy that is its file's, and refusals that cost nothing."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

from tests.gguf_files import FAMILIES, KINDS, tiny, write_gguf
from thoughtscope import load_model, tokenize
from thoughtscope.core import files
from thoughtscope.core.errors import (
    CorruptArtefact,
    MissingExtra,
    NotWritten,
    ThoughtscopeError,
    UnknownModel,
    UnsupportedModel,
)
from thoughtscope.models.gguf import NotKept, conversion, is_gguf, kept, read_header

IDS = torch.arange(40)[None] * 7 % 256


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "thoughtscope"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tiny("llama"), tmp_path_factory.mktemp("gguf") / "tiny.gguf", "Q8_0")


@pytest.fixture
def file(written: Path, tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return Path(shutil.copy(written, tmp_path / "models" / "tiny.gguf"))


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.module(IDS).logits


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def no_conversion(*_, **__):
    raise AssertionError("de-quantised again")


# --- what comes out ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_has_the_logits_of_the_model_that_was_written(family: str, tmp_path: Path) -> None:
    """Heads, norms and axes go through the format's own conventions and back, to the bit."""
    model = tiny(family)
    found = load_model(str(write_gguf(model, tmp_path / "m.gguf")))
    assert type(found.module) is type(model.module) and found.family.name == family
    assert torch.equal(logits(found), logits(model))


@pytest.mark.parametrize("kind", KINDS)
def test_a_kept_copy_has_the_logits_of_transformers_own_reading(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = write_gguf(tiny("llama"), tmp_path / "m.gguf", kind)
    first, second = load_model(str(file)), load_model(str(file))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32)
    with torch.no_grad():
        wanted = theirs(IDS).logits
    assert torch.equal(logits(first), wanted) and torch.equal(logits(second), wanted)
    assert first.revision == second.revision == f"sha256-{files.file_sha256(file)[:16]}"
    assert second.dtype == torch.float32 and second.name == str(file)
    words = AutoTokenizer.from_pretrained(tmp_path, gguf_file=file.name)
    text = "hi, 12  hi\n"
    assert second.tokenizer(text) == words(text) and second.tokenizer.chat_template == words.chat_template
    assert tokenize(second, text).ids[0, 0] == 256


def test_digits_stand_alone_where_the_file_says_so(tmp_path: Path) -> None:
    """GPT-2's own way takes the last of several spaces to the number; SmolLM's takes none."""
    plain = load_model(str(write_gguf(tiny("llama"), tmp_path / "a.gguf")))
    alone = load_model(
        str(write_gguf(tiny("llama"), tmp_path / "b.gguf", **{"tokenizer.ggml.pre": "smollm"}))
    )
    split = [
        [piece for piece, _ in model.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  12")]
        for model in (plain, alone)
    ]
    assert split == [["a", "Ġ", "Ġ12"], ["a", "ĠĠ", "1", "2"]]


def test_another_number_type_is_the_float32_copy_rounded(file: Path) -> None:
    wanted = load_model(str(file)).module.to(torch.bfloat16).state_dict()
    found = load_model(str(file), dtype="bfloat16")
    assert found.dtype == torch.bfloat16
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.module.state_dict().items())


def test_the_copy_is_an_ordinary_folder(file: Path) -> None:
    model = load_model(str(file))
    folder = file.with_name("tiny.float32")
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and "quantization_config" not in config
    assert torch.equal(logits(load_model(str(folder))), logits(model))
    manifest = json.loads((folder / kept.MANIFEST).read_text())
    assert manifest["source"]["sha256"] == files.file_sha256(file)
    assert manifest["source"]["size"] == file.stat().st_size
    assert manifest["versions"]["transformers"] and set(manifest["files"]) | {kept.MANIFEST} == set(
        names(folder)
    )


# --- the kept copy -------------------------------------------------------------------------------------------------


def test_the_second_start_reads_the_copy_alone(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = logits(load_model(str(file)))
    monkeypatch.setattr("thoughtscope.models.gguf.dequantise", no_conversion)
    monkeypatch.setattr(kept, "file_sha256", no_conversion)
    assert torch.equal(logits(load_model(str(file))), wanted)


def test_a_moved_copy_is_known_by_its_hashes(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_model(str(file))
    shutil.copytree(file.parent, tmp_path / "elsewhere")
    moved = tmp_path / "elsewhere" / file.name
    monkeypatch.setattr("thoughtscope.models.gguf.dequantise", no_conversion)
    load_model(str(moved))
    monkeypatch.setattr(kept, "file_sha256", no_conversion)  # from now on by its new stamps
    load_model(str(moved))


def test_another_file_of_the_same_name_and_size_has_its_own_copy(file: Path) -> None:
    before = logits(load_model(str(file)))
    write_gguf(tiny("llama", seed=1), file, "Q8_0")
    after = logits(load_model(str(file)))
    assert not torch.equal(after, before)
    assert torch.equal(after, logits(load_model(str(file.with_name("tiny.float32")))))


@pytest.mark.parametrize("damage", ["cut", "changed", "removed", "no manifest", "altered manifest"])
def test_a_copy_that_is_not_whole_is_made_anew(file: Path, damage: str) -> None:
    wanted = logits(load_model(str(file)))
    folder = file.with_name("tiny.float32")
    weights, manifest = folder / "model.safetensors", folder / kept.MANIFEST
    content = bytearray(weights.read_bytes())
    if damage == "cut":
        weights.write_bytes(content[:-100])
    elif damage == "changed":
        content[-2] ^= 0x40
        weights.write_bytes(content)
    elif damage == "removed":
        (folder / "tokenizer.json").unlink()
    elif damage == "no manifest":
        manifest.unlink()
        shutil.rmtree(folder)
    else:
        manifest.write_text(manifest.read_text().replace('"float32"', '"float16"'))
    assert torch.equal(logits(load_model(str(file))), wanted)
    assert kept.find_copy(file) is not None


def test_what_somebody_else_has_under_the_name_stays(file: Path, home: Path) -> None:
    own = file.with_name("tiny.float32")
    own.mkdir()
    (own / "thesis.txt").write_text("mine")
    load_model(str(file))
    assert names(own) == ["thesis.txt"]
    assert [path.suffix for path in (home / "models").iterdir()] == [".float32"]


def test_without_a_place_to_keep_it_the_model_loads_with_a_warning(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = logits(load_model(str(file)))
    shutil.rmtree(file.with_name("tiny.float32"))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept, "write_new", full)
    with pytest.warns(NotKept, match="No space left"):
        model = load_model(str(file))
    assert torch.equal(logits(model), wanted) and names(file.parent) == ["tiny.gguf"]
    with pytest.raises(NotWritten):
        made = conversion.dequantise(read_header(file))
        kept.keep(made, file, kept.described(file))


KILLED = """
import os, sys
from pathlib import Path
from thoughtscope import load_model
from thoughtscope.models.gguf import kept
write = kept.write_new
def killed(path, chunks):
    def some():
        for number, chunk in enumerate(chunks):
            yield chunk
            if number == 3:
                os._exit(9)
    write(path, some())
kept.write_new = killed
load_model(sys.argv[1])
"""


@pytest.mark.slow
def test_a_killed_first_start_leaves_nothing_that_counts(file: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", KILLED, str(file)], env=environment, timeout=280)
    assert done.returncode == 9
    left = [name for name in names(file.parent) if name != "tiny.gguf"]
    assert len(left) == 1 and left[0].endswith(".tmp") and kept.find_copy(file) is None
    load_model(str(file))
    assert names(file.parent) == ["tiny.float32", "tiny.gguf"]


@pytest.mark.slow
def test_two_processes_at_once_do_not_disturb_each_other(file: Path) -> None:
    code = "import sys; from thoughtscope import load_model; load_model(sys.argv[1])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    both = [subprocess.Popen([sys.executable, "-c", code, str(file)], env=environment) for _ in range(2)]
    try:
        assert [each.wait(280) for each in both] == [0, 0]
    finally:
        for each in both:
            each.kill()
            each.wait()
    assert names(file.parent) == ["tiny.float32", "tiny.gguf"] and kept.find_copy(file) is not None


# --- what is refused -----------------------------------------------------------------------------------------------


def test_another_architecture_is_named_with_those_that_can_be_read(tmp_path: Path) -> None:
    file = write_gguf(tiny("llama"), tmp_path / "m.gguf", **{"general.architecture": None})
    changed = file.read_bytes().replace(b"llama", b"mamba")
    file.write_bytes(changed)
    with pytest.raises(
        UnsupportedModel, match=r'"mamba" is not a supported architecture.*llama, qwen2, qwen3'
    ):
        load_model(str(file))
    assert names(tmp_path) == ["m.gguf"]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}, "rotary positions are scaled"),
        ({"attention.head_count": 4}, "cannot be read|would be used"),
        ({"embedding_length": 96}, "cannot be read|would be used"),
        ({"block_count": 1}, "weights where the model has"),
    ],
)
def test_a_file_whose_logits_would_be_others_is_refused(tmp_path: Path, facts: dict, reason: str) -> None:
    file = write_gguf(tiny("llama"), tmp_path / "m.gguf", **facts)
    with pytest.raises(ThoughtscopeError, match=reason):
        load_model(str(file))
    assert names(tmp_path) == ["m.gguf"]


def test_weights_that_the_reader_would_drop_are_noticed(tmp_path: Path) -> None:
    file = write_gguf(tiny("qwen2"), tmp_path / "m.gguf")
    file.write_bytes(file.read_bytes().replace(b"attn_k.bias", b"attn_x.bias"))
    with pytest.raises(CorruptArtefact, match=r"lacks 2 of the model's tensors.*k_proj\.bias"):
        load_model(str(file))


def test_soft_caps_that_the_reader_would_take_from_its_defaults(tmp_path: Path) -> None:
    file = write_gguf(tiny("gemma2"), tmp_path / "m.gguf", final_logit_softcapping=20.0)
    with pytest.raises(UnsupportedModel, match="final_logit_softcapping"):
        load_model(str(file))


def test_weights_that_are_no_numbers(file: Path) -> None:
    """A block's scale of infinity, as a damaged file has it: refused before anything of it is kept."""
    content = bytearray(file.read_bytes())
    start = next(tensor.start for tensor in read_header(file).tensors if tensor.kind == "Q8_0")
    content[start : start + 2] = b"\x00\x7c"
    file.write_bytes(content)
    with pytest.raises(CorruptArtefact, match="NaN or infinity"):
        load_model(str(file))
    assert names(file.parent) == ["tiny.gguf"]


def test_a_file_without_a_tokenizer(tmp_path: Path) -> None:
    file = write_gguf(tiny("llama"), tmp_path / "m.gguf", tokenizer=False)
    with pytest.raises(UnsupportedModel, match="holds no tokenizer"):
        load_model(str(file))


def test_a_part_of_a_split_file(file: Path) -> None:
    part = file.rename(file.with_name("big-00001-of-00003.gguf"))
    with pytest.raises(UnsupportedModel, match=r"part 1 of a file in 3 parts.*llama-gguf-split --merge"):
        load_model(str(part))


def test_a_missing_extra_is_named_and_a_kept_copy_needs_none(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'thoughtscope\[gguf\]'"):
        load_model(str(file))
    monkeypatch.undo()
    load_model(str(file))
    monkeypatch.setattr(conversion, "find_spec", lambda name: None)
    load_model(str(file))


def test_a_name_that_leads_nowhere(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="There is no folder or file"):
        load_model(str(tmp_path / "none.gguf"))
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(UnknownModel, match="not a GGUF one"):
        load_model(str(tmp_path / "a.txt"))
    (tmp_path / "folder.gguf").mkdir()
    assert not is_gguf(tmp_path / "folder.gguf") and is_gguf(tmp_path / "a.txt") is False


def test_too_little_memory_is_said_before_any_is_taken(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "free_memory", lambda: 1000)
    with pytest.raises(ThoughtscopeError, match="needs more memory than there is"):
        load_model(str(file))


# --- hostile headers -----------------------------------------------------------------------------------------------


def text(words: bytes) -> bytes:
    return struct.pack("<Q", len(words)) + words


def fact(key: bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


ARCHITECTURE = fact(b"general.architecture", 8, text(b"llama"))
LAYERS = fact(b"llama.block_count", 4, struct.pack("<I", 1))


def tensor(name: bytes = b"a", axes=(32,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(axes)}QIQ", len(axes), *axes, kind, offset)


ONE = (tensor(),)


def gguf(*facts: bytes, tensors=ONE, version=3, n_tensors=None, n_facts=None, data=4096) -> bytes:
    facts = (ARCHITECTURE, LAYERS, *facts)
    counts = (len(tensors) if n_tensors is None else n_tensors, len(facts) if n_facts is None else n_facts)
    return b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join((*facts, *tensors)) + bytes(data)


HUGE = 2**63
HOSTILE = {
    "empty": (b"", "too few"),
    "magic alone": (b"GGUF", "too few"),
    "another kind": (b"PK\3\4" + bytes(100), "does not begin"),
    "version 1": (gguf(version=1), "version 1"),
    "version 9": (gguf(version=9), "version 9"),
    "big-endian": (gguf(version=3 << 24), "big-endian"),
    "many tensors": (gguf(n_tensors=HUGE), "tensors and"),
    "more tensors than there are": (gguf(n_tensors=90_000, data=0), "ends within"),
    "no tensors": (gguf(tensors=()), "tensors and"),
    "many keys": (gguf(n_facts=HUGE), "values"),
    "long key": (b"GGUF" + struct.pack("<IQQQ", 3, 1, 1, HUGE) + bytes(99), "a length of"),
    "long text": (gguf(text(b"k") + struct.pack("<IQ", 8, HUGE)), "a length of"),
    "text past the end": (gguf(text(b"k") + struct.pack("<IQ", 8, 9_000)), "ends within"),
    "long array": (gguf(text(b"k") + struct.pack("<IIQ", 9, 0, HUGE)), "elements"),
    "array past the end": (gguf(text(b"k") + struct.pack("<IIQ", 9, 10, 3_000)), "ends within"),
    "texts past the end": (gguf(text(b"k") + struct.pack("<IIQQ", 9, 8, 3, HUGE)), "ends within"),
    "array of arrays": (gguf(text(b"k") + struct.pack("<IIQ", 9, 9, 1) * 50), "array of type 9"),
    "unknown type": (gguf(text(b"k") + struct.pack("<I", 77)), "type 77"),
    "a key twice": (gguf(LAYERS), "twice"),
    "no text": (gguf(fact(b"k", 8, text(b"\xff\xfe"))), "is no text"),
    "alignment 0": (gguf(fact(b"general.alignment", 4, struct.pack("<I", 0))), "alignment"),
    "alignment 3": (gguf(fact(b"general.alignment", 4, struct.pack("<I", 3))), "alignment"),
    "alignment 2^31": (gguf(fact(b"general.alignment", 4, struct.pack("<I", 2**31))), "alignment"),
    "not a number": (gguf(fact(b"llama.rope.freq_base", 6, struct.pack("<f", float("nan")))), "nan"),
    "a negative size": (gguf(fact(b"llama.context_length", 5, struct.pack("<i", -1))), "-1"),
    "an absurd size": (gguf(fact(b"llama.context_length", 10, struct.pack("<Q", HUGE))), "context_length"),
    "no axes": (gguf(tensors=(tensor(axes=()),)), "0 axes"),
    "many axes": (gguf(tensors=(text(b"a") + struct.pack("<I", 2**31),)), "axes"),
    "an axis of 0": (gguf(tensors=(tensor(axes=(0, 4)),)), "axes"),
    "absurd axes": (gguf(tensors=(tensor(axes=(2**30, 2**30)),)), "would lie"),
    "an axis past all bounds": (gguf(tensors=(tensor(axes=(2**63, 2)),)), "axes"),
    "half a block": (gguf(tensors=(tensor(axes=(33,), kind=8),)), "axes"),
    "an unknown kind": (gguf(tensors=(tensor(kind=99),)), "type 99"),
    "past the end": (gguf(tensors=(tensor(offset=4096),)), "would lie"),
    "far past the end": (gguf(tensors=(tensor(offset=2**63),)), "would lie"),
    "not aligned": (gguf(tensors=(tensor(offset=7),)), "would lie"),
    "one over another": (gguf(tensors=(tensor(), tensor(b"b", offset=96))), 'lies over "a"'),
    "the same twice": (gguf(tensors=(tensor(), tensor(offset=128))), "same name"),
    "no layers": (gguf().replace(b"llama.block_count", b"llama.block_kount"), "block_count is None"),
    "many layers": (gguf().replace(LAYERS, LAYERS[:-4] + struct.pack("<I", 900)), "block_count is 900"),
    "no architecture": (gguf().replace(b"general.arch", b"general.Arch"), "which architecture"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_refused_at_once(name: str, tmp_path: Path) -> None:
    content, reason = HOSTILE[name]
    file = tmp_path / "m.gguf"
    file.write_bytes(content)
    start = time.perf_counter()
    with pytest.raises((CorruptArtefact, UnsupportedModel), match=reason) as caught:
        load_model(str(file))
    assert time.perf_counter() - start < 1 and "m.gguf" in str(caught.value)
    assert names(tmp_path) == ["m.gguf"]


def test_a_sound_header_of_the_same_make_is_read(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(gguf(tensors=(tensor(), tensor(b"b", (32, 2), 8, 128))))
    header = read_header(tmp_path / "m.gguf")
    found = [(each.name, each.shape, each.kind, each.size) for each in header.tensors]
    assert found == [("a", (32,), "F32", 128), ("b", (2, 32), "Q8_0", 68)]
    assert header.tensors[1].start - header.tensors[0].start == 128 and header.elements == 96


def test_a_file_cut_off_anywhere_is_refused(written: Path, tmp_path: Path) -> None:
    content = written.read_bytes()
    file = tmp_path / "m.gguf"
    for share in (0.0005, 0.01, 0.02, 0.05, 0.2, 0.5, 0.9, 0.999):
        file.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(CorruptArtefact, match=r"m\.gguf"):
            load_model(str(file))
    assert names(tmp_path) == ["m.gguf"]


def test_flipped_bytes_of_a_header_never_do_worse_than_a_refusal(written: Path, tmp_path: Path) -> None:
    """Whatever is read after damage has finite logits; nothing but a user's error is raised."""
    content, file = written.read_bytes(), tmp_path / "m.gguf"
    header = read_header(written).tensors[0].start
    random = torch.Generator().manual_seed(0)
    for _ in range(25):
        damaged = bytearray(content)
        at = int(torch.randint(24, header, (1,), generator=random))
        damaged[at] = int(torch.randint(256, (1,), generator=random))
        file.write_bytes(damaged)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = load_model(str(file))
        except ThoughtscopeError:
            continue
        assert torch.isfinite(logits(model)).all()
