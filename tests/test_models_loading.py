"""`load_model`: local first, at once without network, whole or refused with the file named."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import time
from pathlib import Path

import pytest
import torch
import transformers

from tests.tiny_models import FAMILIES, tiny_model
from thoughtscope.core.errors import CorruptArtefact, ThoughtscopeError, UnknownModel, UnsupportedModel
from thoughtscope.models import checkpoints, forward, load_model, model_from, tokenize, tokens_from_ids


def save(folder: Path, family: str = "llama", **options) -> Path:
    model = tiny_model(family)
    model.module.save_pretrained(folder, **options)
    model.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save(tmp_path / "model")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_of_every_family_comes_back_with_its_logits(family: str, tmp_path: Path) -> None:
    model = load_model(str(save(tmp_path, family)))
    original = tiny_model(family)
    tokens = tokenize(model, "héllo 北京")
    assert model.family.name == family and model.revision.startswith("local-")
    assert torch.equal(forward(model, tokens), forward(original, tokenize(original, "héllo 北京")))
    assert not model.module.training


def test_dtype_device_and_revision_are_as_asked(saved: Path) -> None:
    model = load_model(str(saved), dtype="bfloat16", device="cpu")
    assert model.dtype == torch.bfloat16 and model.device.type == "cpu"
    assert load_model(str(saved)).dtype == torch.float32
    assert load_model(str(saved), dtype=torch.float64).dtype == torch.float64
    with pytest.raises(ThoughtscopeError, match=r'"float8" is not a dtype. Allowed: float32'):
        load_model(str(saved), dtype="float8")
    for device in ("cuda:99", "toaster"):
        with pytest.raises(ThoughtscopeError, match=r"is not a device on this machine. Allowed: cpu"):
            load_model(str(saved), device=device)


def test_the_fingerprint_changes_with_the_weights(saved: Path) -> None:
    before = checkpoints.fingerprint(saved)
    assert before == checkpoints.fingerprint(saved)
    path = saved / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    assert checkpoints.fingerprint(saved) != before


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path, max_shard_size="8KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert load_model(str(folder)).n_layers == 2
    shards[1].unlink()
    with pytest.raises(CorruptArtefact, match=rf"{shards[1].name} is missing"):
        load_model(str(folder))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _pad(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0" * 8)


def _scramble_header(path: Path) -> None:
    path.write_bytes(b"\xff" * 16 + path.read_bytes()[16:])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_truncate, _pad, _scramble_header, _empty])
def test_a_damaged_weight_file_is_named(saved: Path, damage) -> None:
    damage(saved / "model.safetensors")
    with pytest.raises(CorruptArtefact, match=r"model\.safetensors"):
        load_model(str(saved))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_damaged_json_file_is_named(saved: Path, name: str) -> None:
    path = saved / name
    path.write_text(path.read_text()[:-40])
    with pytest.raises(CorruptArtefact, match=r"config.json|tokenizer"):
        load_model(str(saved))


def test_an_index_that_points_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", max_shard_size="8KB")
    index = folder / "model.safetensors.index.json"
    shutil.copy(next(folder.glob("model-*.safetensors")), tmp_path / "outside.safetensors")
    changed = json.loads(index.read_text())
    changed["weight_map"] = {name: "../outside.safetensors" for name in changed["weight_map"]}
    index.write_text(json.dumps(changed))
    with pytest.raises(CorruptArtefact, match=r"outside"):
        load_model(str(folder))
    index.write_text("{}")
    with pytest.raises(CorruptArtefact, match=r"weight_map"):
        load_model(str(folder))


def test_a_flipped_byte_is_found_where_the_checkpoint_carries_sums(saved: Path) -> None:
    path = saved / "model.safetensors"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (saved / "SHA256SUMS").write_text(f"{digest}  model.safetensors\n")
    load_model(str(saved))
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptArtefact, match=r"model.safetensors was altered"):
        load_model(str(saved))


def test_a_tensor_that_is_not_in_the_file_is_never_left_random(saved: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = saved / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CorruptArtefact, match=r"lacks 1 of the model's tensors.*layers\.1\.mlp\.up_proj"):
        load_model(str(saved))


def _with_config(folder: Path, **fields) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("field", "named"), [("attention_bias", "self_attn.k_proj.bias"), ("mlp_bias", "mlp.down_proj.bias")]
)
def test_tensors_that_the_configuration_does_not_use_are_named(
    tmp_path: Path, field: str, named: str
) -> None:
    """Dropped without a word, they would leave a model with other logits."""
    model = tiny_model("llama", **{field: True})
    model.module.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    load_model(str(tmp_path))
    _with_config(tmp_path, **{field: False})
    with pytest.raises(UnsupportedModel, match=rf'holds \d tensors.*{named}.*Set "{field}": true'):
        load_model(str(tmp_path))


def test_a_layer_too_many_is_named_and_buffers_of_old_checkpoints_are_not(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save(tmp_path, "gpt2")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    before = forward(load_model(str(folder)), tokens_from_ids(tiny_model("gpt2"), [1, 2]))
    masks = {
        f"transformer.h.{n}.attn.{name}": torch.ones(1, 1, 4, 4)
        for n in (0, 1)
        for name in ("bias", "masked_bias")
    }
    save_file({**tensors, **masks}, path, metadata={"format": "pt"})
    after = forward(load_model(str(folder)), tokens_from_ids(tiny_model("gpt2"), [1, 2]))
    assert torch.equal(before, after)
    _with_config(folder, n_layer=1)
    with pytest.raises(UnsupportedModel, match=r"transformer\.h\.1\..*config.json that belongs to it"):
        load_model(str(folder))


def test_modules_whose_weights_cannot_be_read_are_refused_with_the_way_out(saved: Path) -> None:
    module = tiny_model("llama").module
    with pytest.raises(
        UnsupportedModel, match=r"DataParallel wraps a LlamaForCausalLM.*model_from\(module\.module"
    ):
        model_from(torch.nn.DataParallel(module), name="parallel")
    with pytest.raises(UnsupportedModel, match=r"wraps a LlamaForCausalLM.*module\._orig_mod"):
        model_from(torch.compile(module, backend="eager"), name="compiled")
    with pytest.raises(UnsupportedModel, match=r'model\.embed_tokens\.weight is on the "meta" device'):
        model_from(tiny_model("llama").module.to("meta"), name="empty")
    with pytest.raises(UnsupportedModel, match=r'"meta" device holds shapes.*Allowed: cpu'):
        load_model(str(saved), device="meta")
    changed = tiny_model("llama").module
    changed.model.layers[1].self_attn.q_proj = torch.nn.Identity()
    with pytest.raises(UnsupportedModel, match=r"not built as its class builds it.*no attribute .weight"):
        model_from(changed, name="changed")
    packed = tiny_model("llama").module
    weight = packed.model.layers[0].mlp.up_proj.weight
    packed.model.layers[0].mlp.up_proj.weight = torch.nn.Parameter(weight.to(torch.int8), requires_grad=False)
    with pytest.raises(UnsupportedModel, match=r"mlp\.up_proj\.weight is stored as int8"):
        model_from(packed, name="packed")
    with pytest.raises(UnsupportedModel, match=r"A Linear has no configuration"):
        model_from(torch.nn.Linear(2, 2), name="linear")


@pytest.mark.filterwarnings("ignore")  # the library's own, about its future
def test_a_dynamically_quantised_module_is_refused() -> None:
    quantised = torch.ao.quantization.quantize_dynamic(tiny_model("llama").module, {torch.nn.Linear})
    with pytest.raises(UnsupportedModel, match=r"q_proj is a quantised Linear.*before quantisation"):
        model_from(quantised, name="quantised")


def test_without_a_device_it_is_a_gpu_or_the_cpu(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from thoughtscope.models import loading

    assert loading.device_named(None).type == ("cuda" if torch.cuda.is_available() else "cpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ThoughtscopeError, match=r'"mps" is not a device on this machine. Allowed: cpu'):
        load_model(str(saved), device="mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert loading.device_named("mps") == torch.device("mps")
    assert loading.device_named(None).type != "mps"


def test_a_pickle_only_checkpoint_is_refused_and_never_opened(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    (saved / "pytorch_model.bin").write_bytes(b"not even a pickle")
    with pytest.raises(UnsupportedModel, match=r"only as pickle.*pytorch_model.bin"):
        load_model(str(saved))


def test_another_architecture_is_refused_by_its_declared_name(saved: Path) -> None:
    path = saved / "config.json"
    config = json.loads(path.read_text())
    for architectures in (["OPTForCausalLM"], []):
        path.write_text(json.dumps({**config, "architectures": architectures}))
        with pytest.raises(UnsupportedModel, match=r"not a supported architecture.*LlamaForCausalLM"):
            load_model(str(saved))
    path.write_text(json.dumps({**config, "model_type": "something-new"}))
    with pytest.raises(UnsupportedModel, match=r"configuration"):
        load_model(str(saved))


def test_remote_code_is_off_at_every_call_of_the_library(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, object, object]] = []
    for name in ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"):
        original = getattr(transformers, name).from_pretrained

        def spy(*args, _name=name, _original=original, **kwargs):
            seen.append((_name, kwargs.get("trust_remote_code"), kwargs.get("local_files_only")))
            return _original(*args, **kwargs)

        monkeypatch.setattr(getattr(transformers, name), "from_pretrained", spy)
    load_model(str(saved))
    assert {name for name, _, _ in seen} == {"AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"}
    assert all(trusted is False and local is True for _, trusted, local in seen)


@pytest.mark.parametrize(
    "revision", [None, "main", "v1", "a" * 39, "A" * 40, "a" * 64, "refs/pr/1", "a" * 40 + "\n"]
)
def test_remote_code_needs_a_commit(revision: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thoughtscope.models.loading.locate", lambda *_, **__: pytest.fail("went on"))
    with pytest.raises(UnsupportedModel, match="full commit hash"):
        load_model("org/with-code", trust_remote_code=True, revision=revision)


def test_remote_code_of_a_folder_or_of_another_repository_is_refused(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef" * 2 + "01234567"
    for name in (str(saved), "specimen"):
        with pytest.raises(UnsupportedModel, match="no repository of the hub"):
            load_model(name, trust_remote_code=True, revision=commit)
    asked: list[object] = []
    monkeypatch.setattr(
        "thoughtscope.models.loading.locate",
        lambda name, revision: asked.append(revision) or (saved, revision),
    )
    assert load_model("org/with-code", trust_remote_code=True, revision=commit).revision == commit
    assert asked == [commit]
    for file in ("config.json", "tokenizer_config.json"):
        path = saved / file
        before = path.read_text()
        path.write_text(
            json.dumps({**json.loads(before), "auto_map": {"AutoConfig": "org/other--conf.Config"}})
        )
        with pytest.raises(UnsupportedModel, match=f"{file} takes code from another repository"):
            load_model("org/with-code", trust_remote_code=True, revision=commit)
        path.write_text(before)


@pytest.mark.parametrize(
    "name", ["no-such/model", "gpt-no-such", "./nowhere", "/nowhere/at/all", "a b", "http://x.y/z"]
)
def test_an_unknown_name_says_so_at_once(name: str) -> None:
    start = time.perf_counter()
    with pytest.raises(UnknownModel) as caught:
        load_model(name)
    assert time.perf_counter() - start < 3
    message = str(caught.value)
    assert f'"{name}"' in message and "Allowed:" in message and "specimen" in message


def test_a_folder_or_file_that_is_no_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match=r"no config\.json"):
        load_model(str(tmp_path))
    (tmp_path / "weights.bin").write_bytes(b"x")
    with pytest.raises(UnknownModel, match=r"is a file"):
        load_model(str(tmp_path / "weights.bin"))


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub is not declared offline, and its cache is empty."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_a_network_that_swallows_everything_costs_under_three_seconds(
    online: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(*args, **kwargs):
        time.sleep(10)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", hang)
    start = time.perf_counter()
    with pytest.raises(UnknownModel, match=r"did not answer within 1\.5 s"):
        load_model("no-such/model")
    assert time.perf_counter() - start < 3


def test_a_refused_connection_is_the_reason_given(online: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args, **kwargs):
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(UnknownModel, match=r"Connection refused.*Fix: connect once"):
        load_model("no-such/model")


def test_a_cached_snapshot_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    cache = tmp_path / "cache"
    commit = "0123456789abcdef0123456789abcdef01234567"
    home = cache / "models--org--small"
    save(home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    original = huggingface_hub.snapshot_download
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda *args, **kwargs: original(*args, cache_dir=cache, **kwargs),
    )
    model = load_model("org/small")
    assert model.revision == commit and model.name == "org/small"
    assert forward(model, tokens_from_ids(model, [1, 2])).shape == (1, 2, 260)
    (home / "snapshots" / commit / "model.safetensors").unlink()
    with pytest.raises(UnknownModel, match=r"not on this machine"):
        load_model("org/small")
