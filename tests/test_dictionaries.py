"""Dictionaries: what encode promises, what is refused, what is read from disk, and what the preflight catches."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.autograd_oracle import relayered, same_parts
from tests.tiny_models import tiny_model
from thoughtscope.core.errors import CorruptArtefact, DictionaryMismatch, ThoughtscopeError, UnknownFeature
from thoughtscope.core.site import Site
from thoughtscope.dictionaries import (
    Activation,
    Card,
    Dictionary,
    LayerWeights,
    check_fits,
    declare,
    encode,
    evaluate_dictionary,
    layer_weights,
    load_dictionary,
    parse_sites,
    preflight,
    resident,
    save_dictionary,
    transcoders,
)
from thoughtscope.models import Model, capture, tokenize
from thoughtscope.training import recipes, train_dictionary

F = 20


def random_dictionary(
    model: Model, *, cross=False, kind="relu", skip=False, read="mlp_in", write="mlp_out"
) -> Dictionary:
    n, d = model.n_layers, model.d_model
    layers = tuple(
        LayerWeights(
            W_enc=torch.randn(F, d),
            b_enc=torch.randn(F),
            decoder=torch.randn(F, n - layer if cross else 1, d),
            b_dec=torch.randn(d),
            threshold=torch.rand(F) if kind == "jumprelu" else None,
            W_skip=torch.randn(d, d) if skip else None,
        )
        for layer in range(n)
    )
    return transcoders(
        name="random", model_name=model.name, layers=layers, read=read, write=write,
        activation=Activation(kind=kind, k=4 if kind == "topk" else None),
    )  # fmt: skip


# --- encode -----------------------------------------------------------------------------------------------------------


def dense_features(dictionary: Dictionary, layer: int, x: torch.Tensor) -> torch.Tensor:
    """Written again from the definitions, feature by feature."""
    w = layer_weights(dictionary)[layer]
    activation = dictionary.parts[layer].activation
    out = torch.zeros(len(x), F)
    for p in range(1, len(x)):
        pre = [float(w.W_enc[f] @ x[p] + w.b_enc[f]) for f in range(F)]
        best = sorted(pre, reverse=True)[: activation.k] if activation.kind == "topk" else pre
        for f in range(F):
            floor = float(w.threshold[f]) if w.threshold is not None else 0.0
            out[p, f] = pre[f] if pre[f] > floor and pre[f] in best else 0.0
    return out


@pytest.mark.parametrize("kind", ["relu", "jumprelu", "topk"])
@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("skip", [False, True])
def test_encode_follows_the_definitions(kind, cross, skip):
    model = tiny_model("llama", layers=3)
    dictionary = random_dictionary(model, cross=cross, kind=kind, skip=skip)
    acts = capture(model, tokenize(model, "a small text"), dictionary.sites)
    features = encode(dictionary, acts)
    layers = layer_weights(dictionary)
    dense = [dense_features(dictionary, layer, acts[Site("mlp_in", layer)][0]) for layer in range(3)]
    for target in range(3):
        x = acts[Site("mlp_in", target)][0]
        y = layers[target].b_dec.expand(len(x), -1).clone()
        y += x @ layers[target].W_skip.T if skip else 0
        for source in range(target + 1) if cross else [target]:
            y += dense[source] @ layers[source].decoder[:, target - source]
        site = dictionary.writes[target]
        torch.testing.assert_close(features.reconstruction[site], y, atol=1e-4, rtol=1e-4)
        written = acts[Site("mlp_out", target)][0]
        torch.testing.assert_close(
            features.reconstruction[site] + features.error[site], written, atol=1e-5, rtol=1e-5
        )
        assert torch.equal(features.inputs[Site("mlp_in", target)], x)
    expected = torch.stack(dense).nonzero()
    assert torch.equal(torch.stack([features.part, features.position, features.index], dim=1), expected)
    torch.testing.assert_close(features.value, torch.stack(dense)[tuple(expected.T)], atol=1e-5, rtol=1e-5)
    assert len(features) == len(expected) > 0 and 0 not in features.position


def test_the_first_position_has_features_when_the_dictionary_says_so():
    model = tiny_model("llama")
    dictionary = replace(random_dictionary(model), skip_first=False)
    acts = capture(model, tokenize(model, "text"), dictionary.sites)
    assert 0 in encode(dictionary, acts).position


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "gemma2"])
def test_a_padded_row_encodes_as_it_would_alone(family):
    model = tiny_model(family)
    dictionary = random_dictionary(model, cross=True)
    both = capture(model, tokenize(model, ["short", "a much longer text than that"]), dictionary.sites)
    alone = capture(model, tokenize(model, "short"), dictionary.sites)
    padded, single = encode(dictionary, both, row=0), encode(dictionary, alone)
    assert padded.n_positions == single.n_positions
    assert torch.equal(padded.position, single.position) and torch.equal(padded.index, single.index)
    for site, error in single.error.items():
        torch.testing.assert_close(padded.error[site], error, atol=1e-4, rtol=1e-4)


def test_half_precision_weights_compute_in_float32():
    model = tiny_model("llama")
    full = random_dictionary(model, cross=True, kind="jumprelu")
    half = resident(full, dtype=torch.float16, decoders=True)
    widened = resident(half, decoders=True)
    acts = capture(model, tokenize(model, "some text"), full.sites)
    a, b = encode(half, acts), encode(widened, acts)
    assert half.parts[0].b_enc.dtype == torch.float16 and a.value.dtype == torch.float32
    assert all(torch.equal(a.error[site], b.error[site]) for site in full.writes)
    assert torch.equal(a.value, b.value)


def test_decoders_may_lie_elsewhere_than_encoders():
    """As on a GPU, where `resident` leaves the decoders on disk; "meta" stands for the other device."""
    dictionary = random_dictionary(tiny_model("llama", layers=2), cross=True)
    away = resident(dictionary, device="meta")
    index = torch.tensor([3, 1])
    (site,) = dictionary.parts[1].reads
    for written, rows in dictionary.parts[1].decoder_rows(index).items():
        assert torch.equal(away.parts[1].decoder_rows(index)[written], rows)
    assert away.parts[1].encoder_rows(index)[site].device.type == "meta"


def test_float64_stays_float64():
    model = tiny_model("llama")
    dictionary = random_dictionary(model)
    acts = {site: x.double() for site, x in capture(model, tokenize(model, "text"), dictionary.sites).items()}
    features = encode(dictionary, acts)
    assert {x.dtype for x in (*features.error.values(), features.value)} == {torch.float64}


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [-1, F, F + 100])
def test_unknown_features_are_refused(index):
    dictionary = random_dictionary(tiny_model("llama"))
    part = dictionary.part("1")
    for read in (part.decoder_rows, part.encoder_rows, part.encoder_bias):
        with pytest.raises(UnknownFeature, match=f"features 0 to {F - 1}; got feature {index}"):
            read(torch.tensor([3, index]))
    with pytest.raises(UnknownFeature, match=r'"2" is not a part.*Allowed: 0, 1'):
        dictionary.part("2")
    with pytest.raises(UnknownFeature, match=f"no feature {index} in part 1"):
        dictionary.check_feature("1", index)


def test_a_dictionary_of_another_model_is_refused():
    model = tiny_model("llama", layers=2)
    with pytest.raises(DictionaryMismatch, match=r"uses the site mlp_in\.2, which"):
        check_fits(random_dictionary(tiny_model("llama", layers=3)), model)
    wide = tiny_model("llama", layers=2, hidden_size=32)
    with pytest.raises(DictionaryMismatch, match="32 wide, but in"):
        check_fits(random_dictionary(wide), model)
    parallel = tiny_model("gpt_neox")
    with pytest.raises(DictionaryMismatch, match=r"resid_mid\.0, which"):
        check_fits(random_dictionary(parallel, read="resid_mid"), parallel)
    acts = capture(wide, tokenize(wide, "text"), random_dictionary(wide).sites)
    with pytest.raises(DictionaryMismatch, match="another model"):
        encode(random_dictionary(model), acts)
    with pytest.raises(DictionaryMismatch, match=r"lacks mlp_out\.0"):
        encode(random_dictionary(model), capture(model, tokenize(model, "text"), parse_sites("mlp_in", 2)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {
                "W_enc": {Site("mlp_in", 0): torch.zeros(F, 15)},
            },
            "takes mlp_in.0 to be 15 wide",
        ),
        ({"b_dec": {Site("mlp_out", 0): torch.zeros(16)}}, r"b_dec\[mlp_out.0\] in part 1"),
        ({"b_dec": {Site("mlp_out", 1): torch.zeros(15)}}, r"b_dec\[mlp_out.1\] in part 1 .* size 15"),
        ({"W_skip": torch.zeros(16, 15)}, r"W_skip \(in\)"),
        ({"threshold": torch.zeros(F)}, "has thresholds"),
        ({"name": "0"}, "different names"),
        ({"name": "a/b"}, "without a slash"),
        ({"W_dec": {}, "b_dec": {}}, "writes 0"),
    ],
)
def test_layers_that_do_not_fit_together_are_refused(change, words):
    dictionary = random_dictionary(tiny_model("llama"))
    with pytest.raises(DictionaryMismatch, match=words):
        replace(dictionary, parts=(dictionary.parts[0], replace(dictionary.parts[1], **change)))


def test_negative_thresholds_and_wrong_activations_are_refused():
    dictionary = random_dictionary(tiny_model("llama"), kind="jumprelu")
    bad = replace(dictionary.parts[0], threshold=torch.full((F,), -0.1))
    with pytest.raises(DictionaryMismatch, match="below 0"):
        replace(dictionary, parts=(bad, dictionary.parts[1]))
    with pytest.raises(DictionaryMismatch, match="k ≥ 1"):
        Activation(kind="topk")


# --- on disk ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_native_round_trip(tmp_path, dtype):
    model = tiny_model("llama")
    one = resident(
        random_dictionary(model, cross=True, kind="jumprelu", skip=True), dtype=dtype, decoders=True
    )
    one = replace(one, card=Card(declared={"fvu": 0.25}), skip_first=False)
    save_dictionary(one, tmp_path / "a")
    two = load_dictionary(tmp_path / "a")
    assert same_parts(one, two)
    assert all(getattr(one, key) == getattr(two, key) for key in ("name", "scan", "model_name", "skip_first"))
    assert two.card == replace(one.card, folder=tmp_path / "a")


def test_a_damaged_native_file_is_named(tmp_path):
    save_dictionary(random_dictionary(tiny_model("llama")), tmp_path / "a")
    shard = next((tmp_path / "a").glob("decoder_1-*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(CorruptArtefact, match=shard.name):
        load_dictionary(tmp_path / "a")
    shard.unlink()
    with pytest.raises(CorruptArtefact, match=shard.name):
        load_dictionary(tmp_path / "a")


def write_hollow(path: Path, shapes: dict[str, tuple[int, ...]]) -> int:
    """A safetensors file of zeros that takes no room on disk; returns its apparent size."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 4 * torch.Size(shape).numel()
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)
    return offset


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_only_the_rows_asked_for_are_read(tmp_path):
    """Weights of 10 GB: some rows come at once, and memory grows by what was asked for."""

    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    n_features, d, n = 250_000, 2048, 2
    for i in range(n):
        write_hollow(
            tmp_path / f"W_enc_{i}.safetensors",
            {f"W_enc_{i}": (n_features, d), f"b_enc_{i}": (n_features,), f"b_dec_{i}": (d,)},
        )
        size = write_hollow(tmp_path / f"W_dec_{i}.safetensors", {f"W_dec_{i}": (n_features, n - i, d)})
        assert size > 2e9
    (tmp_path / "config.yaml").write_text(
        "model_kind: cross_layer_transcoder\nfeature_input_hook: hook_resid_mid\nfeature_output_hook: hook_mlp_out\n"
    )
    before = resident_bytes()
    dictionary = load_dictionary(tmp_path)
    index = torch.arange(0, n_features, n_features // 50)
    rows = dictionary.parts[0].decoder_rows(index)
    assert [x.shape for x in rows.values()] == [(len(index), d)] * 2
    assert dictionary.parts[1].encoder_rows(index)[Site("resid_mid", 1)].shape == (len(index), d)
    assert resident_bytes() - before < 100e6


# --- scores -----------------------------------------------------------------------------------------------------------


def documents(model: Model, n: int = 40, length: int = 24, seed: int = 0) -> list[list[int]]:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(3, model.vocab_size, (n, length), generator=random).tolist()


def linear_gpt2() -> tuple[Model, Dictionary]:
    """A model whose MLPs are linear, and the dictionary that is exactly them: a skip connection and no feature."""
    model = tiny_model("gpt2", activation_function="linear")
    layers = []
    for block in model.family.blocks:
        fc, proj = block.mlp.c_fc, block.mlp.c_proj
        zero = torch.zeros(F, model.d_model)
        layers.append(
            LayerWeights(
                W_enc=zero,
                b_enc=zero[:, 0] - 1,
                decoder=zero[:, None],
                W_skip=(fc.weight @ proj.weight).T.detach(),
                b_dec=(fc.bias @ proj.weight + proj.bias).detach(),
            )
        )
    return model, relayered(random_dictionary(model), layers)


def test_a_perfect_dictionary_scores_perfectly():
    model, dictionary = linear_gpt2()
    scores = evaluate_dictionary(model, dictionary, documents(model))
    assert scores.n_tokens == 40 * 23 and scores.agreement == 1 and scores.l0 == 0 and scores.dead == 1
    assert (
        max(scores.fvu_by_site.values()) < 1e-10 and abs(scores.loss_change) < 1e-6 and abs(scores.kl) < 1e-6
    )


def test_a_dictionary_of_the_mean_explains_nothing():
    model, dictionary = linear_gpt2()
    acts = capture(model, padded(model, documents(model)), dictionary.writes)
    means = [acts[site][:, 1:].flatten(0, 1).double().mean(0).float() for site in dictionary.writes]
    layers = tuple(
        replace(w, b_dec=mean, W_skip=None) for w, mean in zip(layer_weights(dictionary), means, strict=True)
    )
    scores = evaluate_dictionary(model, relayered(dictionary, layers), documents(model))
    torch.testing.assert_close(torch.tensor([*scores.fvu_by_site.values()]), torch.ones(2), atol=1e-5, rtol=0)


def padded(model: Model, rows: list[list[int]]):
    from thoughtscope.models import tokens_from_ids

    return tokens_from_ids(model, rows)


def test_scores_equal_a_plain_computation():
    """Loss, agreement and L0 against the module itself, with its MLPs replaced by hand."""
    model = tiny_model("llama", layers=3)
    dictionary = random_dictionary(model, cross=True, kind="jumprelu", skip=True)
    rows = documents(model, n=6, length=12)
    scores = evaluate_dictionary(model, dictionary, rows)
    ids = torch.tensor(rows)
    clean = model.module(input_ids=ids).logits
    layers = layer_weights(dictionary)
    active: list[torch.Tensor] = []

    def replaced(layer: int):
        def forward(module, args, output):
            x = args[0]
            w = layers[layer]
            pre = x @ w.W_enc.T + w.b_enc
            a = pre * (pre > w.threshold)
            a[:, 0] = 0
            active.append(a)
            y = w.b_dec + x @ w.W_skip.T
            for source in range(layer + 1):
                y = y + active[source] @ layers[source].decoder[:, layer - source]
            return torch.cat([output[:, :1], y[:, 1:]], dim=1)

        return forward

    handles = [
        block.mlp.register_forward_hook(replaced(layer)) for layer, block in enumerate(model.family.blocks)
    ]
    with torch.no_grad():
        spliced = model.module(input_ids=ids).logits
    for handle in handles:
        handle.remove()

    def loss(logits):
        return float(cross_entropy(logits[:, 1:-1].flatten(0, 1), ids[:, 2:].flatten()))

    assert scores.loss == pytest.approx(loss(clean), abs=1e-5)
    assert scores.loss_spliced == pytest.approx(loss(spliced), abs=1e-5)
    agreement = (clean.argmax(-1) == spliced.argmax(-1))[:, 1:].float().mean()
    assert scores.agreement == pytest.approx(float(agreement))


def test_no_text_is_refused():
    model = tiny_model("llama")
    with pytest.raises(ThoughtscopeError, match="no text"):
        evaluate_dictionary(model, random_dictionary(model), [])


# --- preflight --------------------------------------------------------------------------------------------------------


@cache
def trained() -> tuple[Model, Dictionary]:
    """A small trained dictionary of a model whose norm weights are far from 1."""
    torch.manual_seed(0)
    model = tiny_model("llama", layers=3)
    for block in model.family.blocks:
        block.mlp_norm.module.weight.data.uniform_(0.3, 3.0)
    recipe = recipes.transcoder(
        3, n_features=96, k=12,
        **{"schedule.n_tokens": 60_000, "schedule.batch": 256, "schedule.learning_rate": 3e-3,
           "schedule.dead_after": 2000, "data.buffer_tokens": 8000, "data.passes": 3, "saved": "float16"},
    )  # fmt: skip
    return model, train_dictionary(model, documents(model, n=400, length=32), recipe)


CHANGES = {
    "the norm's input for its output": lambda d: relayered(d, layer_weights(d), read="mlp_norm"),
    "the residual stream": lambda d: relayered(d, layer_weights(d), read="resid_mid"),
    "attention's output": lambda d: relayered(d, layer_weights(d), write="attn_out"),
    "layers in another order": lambda d: relayered(d, [layer_weights(d)[n] for n in (1, 2, 0)]),
    "inputs scaled by 3": lambda d: relayered(d, [replace(w, W_enc=3 * w.W_enc) for w in layer_weights(d)]),
    "outputs scaled by 3": lambda d: relayered(
        d, [replace(w, decoder=3 * w.decoder, b_dec=3 * w.b_dec) for w in layer_weights(d)]
    ),
    "thresholds lost": lambda d: relayered(
        d, [replace(w, threshold=0 * w.threshold) for w in layer_weights(d)]
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_preflight_catches(change):
    model, dictionary = trained()
    assert preflight(model, dictionary).problems == ()
    with pytest.raises(DictionaryMismatch, match=r"wrong hook, model or scale\?.*FVU by site"):
        preflight(model, CHANGES[change](dictionary))


@pytest.mark.parametrize("change", ["the residual stream", "layers in another order", "outputs scaled by 3"])
def test_without_a_self_test_the_declared_figures_are_compared(change):
    model, dictionary = trained()
    rows = documents(model, n=60, seed=5)
    declared = declare(dictionary, evaluate_dictionary(model, dictionary, rows))
    declared = replace(declared, card=replace(declared.card, self_test=None))
    tokens = padded(model, rows)
    assert preflight(model, declared, tokens).fvu < 0.6
    with pytest.raises(DictionaryMismatch, match="declared"):
        preflight(model, CHANGES[change](declared), tokens)


def test_loading_checks_and_can_be_told_not_to(tmp_path):
    model, dictionary = trained()
    save_dictionary(dictionary, tmp_path / "right")
    save_dictionary(CHANGES["the residual stream"](dictionary), tmp_path / "wrong")
    assert load_dictionary(tmp_path / "right", model).card.self_test == dictionary.card.self_test
    with pytest.raises(DictionaryMismatch, match="wrong hook"):
        load_dictionary(tmp_path / "wrong", model)
    load_dictionary(tmp_path / "wrong", model, preflight=False)
    other = tiny_model("llama", layers=3, seed=7)
    with pytest.raises(DictionaryMismatch, match="wrong hook"):
        load_dictionary(tmp_path / "right", other)
