"""Capture: bit-identical logits, true tensors, writes that mean what they say, and no trace left behind."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest
import torch

from tests.tiny_models import VARIANTS, tiny_model, tiny_variant
from thoughtscope.core.errors import ThoughtscopeError, UnknownSite, UnsupportedModel
from thoughtscope.core.site import GLOBAL_KINDS, LAYER_KINDS, Site
from thoughtscope.models import Model, capture, forward, hold, hold_pattern, hooked, tokens_from_ids

IDS = [[3, 1, 4, 1, 5, 9, 2, 6, 5, 35], [8, 9, 7, 9, 3, 2, 3]]
KINDS = ["default", "eager"]


def every_site(model: Model) -> list[Site]:
    has = lambda kind: kind not in model.family.missing
    return [Site(kind, layer) for layer in range(model.n_layers) for kind in LAYER_KINDS if has(kind)] + [
        Site(kind) for kind in GLOBAL_KINDS if has(kind)
    ]


def build(label: str, attention: str = "default", **options) -> Model:
    return tiny_variant(label, layers=3, attention=None if attention == "default" else attention, **options)


def plain(model: Model, tokens) -> torch.Tensor:
    """The module called as its owner calls it."""
    with torch.no_grad():
        return model.module(
            input_ids=tokens.ids, attention_mask=tokens.mask, position_ids=tokens.positions.clamp(min=0)
        ).logits


def run_with(
    model: Model, tokens, values: dict[Site, torch.Tensor], read: list[Site]
) -> dict[Site, torch.Tensor]:
    """What the sites in `read` hold when the sites in `values` are overwritten."""
    found: dict[Site, torch.Tensor] = {}
    writes = {site: lambda x, step, value=value: value for site, value in values.items()}
    reads = {site: lambda x, step, site=site: found.update({site: x}) for site in read}
    with torch.no_grad():
        forward(model, tokens, writes=writes, reads=reads)
    return found


def rotated_scores(model: Model, layer: int, q, k, positions) -> torch.Tensor:
    """Scores before the mask by the library's own attention modules and rotation, not by our facts."""
    block = model.family.blocks[layer]
    attn = block.attn
    library = sys.modules[type(attn).__module__]
    for name, x in (("q_norm", q), ("k_norm", k)):
        norm = getattr(attn, name, None)
        if norm is None:
            continue
        per_head = norm.weight.shape[0] == x.shape[-1]
        new = norm(x) if per_head else norm(x.flatten(-2)).view(x.shape)
        q, k = (new, k) if name == "q_norm" else (q, new)
    q, k = q.transpose(1, 2), k.transpose(1, 2)  # (batch, head, pos, d_head), as the library has them
    body = getattr(model.module, "model", None) or getattr(model.module, "gpt_neox", None)
    if body is not None:
        kind = (attn.layer_type,) if model.family.name == "gemma3" else ()
        q, k = library.apply_rotary_pos_emb(q, k, *body.rotary_emb(q, positions, *kind))
    scores = q @ k.repeat_interleave(q.shape[1] // k.shape[1], dim=1).transpose(2, 3) * attn.scaling
    if model.family.name == "gemma2":
        cap = model.family.config.attn_logit_softcapping
        scores = cap * torch.tanh(scores / cap)
    return scores


def hooks_left(model: Model) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
        for module in model.module.modules()
    )


@pytest.mark.parametrize("attention", KINDS)
@pytest.mark.parametrize("label", VARIANTS)
def test_capture_of_every_site_changes_no_bit_of_the_logits(label: str, attention: str) -> None:
    model = build(label, attention)
    implementation = model.family.config._attn_implementation
    for ids in (IDS, IDS[:1]):
        tokens = tokens_from_ids(model, ids)
        before = plain(model, tokens)
        assert torch.equal(before, forward(model, tokens))
        found = capture(model, tokens, every_site(model))
        assert torch.equal(before, found["logits"])
        assert torch.equal(before, plain(model, tokens))
    assert model.family.config._attn_implementation == implementation
    # a single prompt without padding: the same bits as the shortest call there is
    assert torch.equal(model.module(tokens.ids).logits, forward(model, tokens))


@pytest.mark.parametrize("attention", KINDS)
@pytest.mark.parametrize("label", VARIANTS)
def test_writing_back_what_was_there_changes_no_bit(label: str, attention: str) -> None:
    model = build(label, attention)
    tokens = tokens_from_ids(model, IDS)
    before = plain(model, tokens)
    writes = {site: lambda x, step: x.clone() for site in every_site(model)}
    with torch.no_grad():
        assert torch.equal(before, forward(model, tokens, writes=writes))
        changed = forward(model, tokens, writes={Site("resid_post", 1): lambda x, step: x * 1.001})
    assert not torch.equal(before, changed)


@pytest.mark.parametrize("label", VARIANTS)
def test_a_padded_row_equals_the_row_alone(label: str) -> None:
    model = build(label)
    together = capture(model, tokens_from_ids(model, IDS), every_site(model))
    alone = capture(model, tokens_from_ids(model, IDS[1:]), every_site(model))
    width = len(IDS[1])
    for site in every_site(model):
        row = together[site][1:]
        row = row[..., -width:, -width:] if site.kind in ("scores", "pattern") else row[:, -width:]
        if site.kind == "scores":
            row, want = row.clamp(min=-1e4), alone[site].clamp(min=-1e4)
        else:
            want = alone[site]
        assert torch.allclose(row, want, atol=1e-5), site


@pytest.mark.parametrize("label", VARIANTS)
def test_shapes_and_relations_of_the_captured_tensors(label: str) -> None:
    model = build(label)
    tokens = tokens_from_ids(model, IDS)
    found = capture(model, tokens, every_site(model))
    batch, pos = tokens.ids.shape
    heads, kv_heads, d_head = model.n_heads, model.n_kv_heads, model.d_head
    assert found["z.1"].shape == (batch, pos, heads, d_head)
    assert found["q.1"].shape == (batch, pos, heads, d_head)
    assert found["v.1"].shape == found["k.1"].shape == (batch, pos, kv_heads, d_head)
    assert found["mlp_act.1"].shape == (batch, pos, 32)
    for site in every_site(model):
        if site.row.is_vector:
            assert found[site].shape == (batch, pos, *model.shape(site))
            assert found[site][0, 0].numel() == model.width(site)
        else:
            with pytest.raises(UnknownSite, match=r"no vector a position"):
                model.width(site)
    assert found["pattern.1"].shape == found["scores.1"].shape == (batch, heads, pos, pos)
    assert found["logits"].shape == (batch, pos, model.vocab_size)
    real = tokens.mask
    pattern = found["pattern.1"].transpose(1, 2)[real]  # real queries only
    assert torch.allclose(pattern.sum(-1), torch.ones(()), atol=1e-6)
    assert (
        pattern.masked_select(~real[:, None, None, :].expand(batch, pos, heads, pos)[real]).abs().max() == 0
    )
    assert torch.equal(found["embed"], found["resid_pre.0"])
    for layer in range(model.n_layers):
        total = found[f"resid_pre.{layer}"] + found[f"attn_out.{layer}"] + found[f"mlp_out.{layer}"]
        assert torch.allclose(total, found[f"resid_post.{layer}"], atol=1e-5)


@pytest.mark.parametrize("label", VARIANTS)
def test_a_written_value_is_what_flows_on(label: str) -> None:
    """At every site: a read sees the written value, and everything after follows from it."""
    model = build(label, dtype=torch.float64)
    tokens = tokens_from_ids(model, IDS[:1])
    clean = capture(model, tokens, every_site(model))
    for site in every_site(model):
        if site.layer in (0, 2):
            continue  # layer 1 stands for all
        new = clean[site] + 0.3 * torch.randn_like(clean[site])
        new = new.abs() if site.kind == "pattern" else new
        found = run_with(model, tokens, {site: new}, [site, Site("logits")])
        assert torch.allclose(found[site], new, atol=1e-9), site
        assert not torch.allclose(found[Site("logits")], clean["logits"], atol=1e-6), site


@pytest.mark.parametrize("label", VARIANTS)
def test_writes_to_norm_and_head_sites_agree_with_the_algebra(label: str) -> None:
    model = build(label, dtype=torch.float64)
    block = model.family.blocks[1]
    tokens, other = tokens_from_ids(model, IDS[:1]), tokens_from_ids(model, [IDS[0][::-1]])
    kinds = "attn_norm attn_in q k v z pattern scores attn_raw mlp_act mlp_raw resid_post".split()
    sites = [f"{kind}.1" for kind in kinds if kind not in model.family.missing]
    clean, donor = capture(model, tokens, sites), capture(model, other, sites)

    def after(site: str, value: torch.Tensor, read: str) -> torch.Tensor:
        return run_with(model, tokens, {Site.parse(site): value}, [Site.parse(read)])[Site.parse(read)]

    def mixed(pattern: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bhqk,bkhd->bqhd", pattern, v.repeat_interleave(block.group, dim=2))

    close = lambda a, b: torch.allclose(a, b, atol=1e-9)
    if block.attn_norm is not None:
        assert close(after("attn_norm.1", donor["attn_norm.1"], "attn_in.1"), donor["attn_in.1"])
    assert close(after("attn_in.1", donor["attn_in.1"], "attn_raw.1"), donor["attn_raw.1"])
    assert close(after("pattern.1", donor["pattern.1"], "z.1"), mixed(donor["pattern.1"], clean["v.1"]))
    assert close(after("v.1", donor["v.1"], "z.1"), mixed(clean["pattern.1"], donor["v.1"]))
    assert close(after("scores.1", donor["scores.1"], "pattern.1"), donor["pattern.1"])
    assert close(after("z.1", donor["z.1"], "attn_raw.1"), donor["attn_raw.1"])
    assert close(after("mlp_act.1", donor["mlp_act.1"], "mlp_raw.1"), donor["mlp_raw.1"])
    # looser: rotary angles are float32 whatever the model's precision
    visible = block.sees(tokens.ids.shape[1])
    for name, q, k in (("q", donor["q.1"], clean["k.1"]), ("k", clean["q.1"], donor["k.1"])):
        written = after(f"{name}.1", donor[f"{name}.1"], "scores.1")
        want = rotated_scores(model, 1, q, k, tokens.positions)
        assert torch.allclose(written[:, :, visible], want[:, :, visible], atol=1e-5), name
        assert not torch.allclose(written[:, :, visible], clean["scores.1"][:, :, visible], atol=1e-3), name
    if not block.parallel:
        mid = capture(model, other, ["resid_mid.1"])["resid_mid.1"]
        assert close(after("resid_mid.1", mid, "resid_post.1"), donor["resid_post.1"])


@pytest.mark.parametrize("label", VARIANTS)
def test_with_patterns_and_scales_frozen_attention_is_affine(label: str) -> None:
    """Frozen patterns and norm scales make each attention block affine in the residual: what attribution rests on."""
    model = build(label, dtype=torch.float64)
    tokens = tokens_from_ids(model, IDS[:1])
    block = model.family.blocks[1]
    clean = capture(model, tokens, ["resid_pre.1", "pattern.1", "attn_raw.1"])
    scales = {}
    if block.attn_norm is not None:
        scales[Site("attn_norm", 1)] = block.attn_norm.scale(clean["resid_pre.1"])
    if block.attn_post_norm is not None:
        scales[Site("attn_out", 1)] = block.attn_post_norm.scale(clean["attn_raw.1"])

    def contribution(entering: torch.Tensor, frozen: bool = True) -> torch.Tensor:
        writes = {Site("resid_pre", 1): lambda x, step: entering}
        if frozen:
            writes[Site("pattern", 1)] = hold_pattern(clean["pattern.1"])
        found: list[torch.Tensor] = []
        with torch.no_grad():
            reads = {Site("attn_out", 1): lambda x, step: found.append(x)}
            forward(model, tokens, writes=writes, reads=reads, norm_scales=scales if frozen else {})
        return found[0]

    x, (y, z) = clean["resid_pre.1"], torch.randn(2, *clean["resid_pre.1"].shape, dtype=torch.float64)
    base = contribution(x)
    both = contribution(x + y + z) - base
    assert torch.allclose(both, (contribution(x + y) - base) + (contribution(x + z) - base), atol=1e-10)
    # looser: the modules' own norms and softmax run in float32 whatever the model's precision
    assert torch.allclose(base, contribution(x, frozen=False), atol=1e-5)
    assert not torch.allclose(contribution(x + y), contribution(x + y, frozen=False), atol=1e-3)


def test_frozen_final_norm_and_refused_scales() -> None:
    model = build("gemma2", dtype=torch.float64)
    tokens = tokens_from_ids(model, IDS[:1])
    clean = capture(model, tokens, ["resid_post.2", "final_norm"])
    norm = model.family.final_norm
    double = {Site("resid_post", 2): lambda x, step: 2 * x}
    read: list[torch.Tensor] = []
    with torch.no_grad():
        forward(
            model,
            tokens,
            writes=double,
            norm_scales={Site("final_norm"): norm.scale(clean["resid_post.2"])},
            reads={Site("final_norm"): lambda x, step: read.append(x)},
        )
    assert torch.allclose(read[0], 2 * clean["final_norm"], atol=1e-10)
    with pytest.raises(
        UnknownSite, match=r"mlp_in\.0.*Allowed: attn_norm, attn_out, final_norm, mlp_norm, mlp_out"
    ):
        forward(model, tokens, norm_scales={Site("mlp_in", 0): torch.ones(1)})
    with pytest.raises(UnknownSite, match=r"attn_out"):
        forward(build("llama"), tokens, norm_scales={Site("attn_out", 0): torch.ones(1)})


def test_capture_stops_after_the_last_wanted_layer() -> None:
    model = build("llama")
    tokens = tokens_from_ids(model, IDS)
    ran: list[int] = []
    handles = [
        block.module.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
        for layer, block in enumerate(model.family.blocks)
    ]
    stopped = capture(model, tokens, ["mlp_in.1", "pattern.0"])
    assert ran == [0, 1]
    full = capture(model, tokens, ["mlp_in.1", "pattern.0"], stop=False)
    assert ran == [0, 1, 0, 1, 2]
    capture(model, tokens, ["mlp_in.1", "final_norm"])
    assert ran[5:] == [0, 1, 2]
    for handle in handles:
        handle.remove()
    assert all(torch.equal(stopped[site], full[site]) for site in stopped)
    assert forward(model, tokens, last_layer=0) is None


def test_a_capture_of_few_sites_attaches_no_hooks_for_others() -> None:
    model = build("llama")
    counts = {}
    for site in ("resid_post.1", "mlp_act.1", "q.2"):
        with hooked(model, reads={Site.parse(site): lambda x, step: None}):
            counts[site] = hooks_left(model)
    assert counts == dict.fromkeys(counts, 2)  # one for the positions of the pass, one for the site


def test_what_is_written_into_the_mlps_input_is_not_the_residual_stream() -> None:
    """Without a norm between them (OLMo 2) the two are the same tensor: contexts that nest must keep them apart."""
    model = build("olmo2")
    tokens = tokens_from_ids(model, IDS)
    clean = capture(model, tokens, ["resid_mid.1"])["resid_mid.1"]
    with hooked(model, writes={Site("mlp_in", 1): lambda x, step: 0 * x}):
        assert torch.equal(capture(model, tokens, ["resid_mid.1"])["resid_mid.1"], clean)
        assert capture(model, tokens, ["mlp_in.1"])["mlp_in.1"].abs().max() == 0


def test_activations_are_a_mapping_that_takes_text() -> None:
    model = build("gpt2")
    tokens = tokens_from_ids(model, IDS)
    found = capture(model, tokens, ["blocks.1.hook_resid_pre", Site("mlp_out", 0), "mlp_out.0"])
    assert list(found) == [Site("resid_pre", 1), Site("mlp_out", 0)] and len(found) == 2
    assert "resid_pre.1" in found and Site("resid_pre", 0) not in found
    assert found["blocks.1.hook_resid_pre"] is found[Site("resid_pre", 1)]
    assert found.tokens is tokens
    with pytest.raises(UnknownSite, match=r'"resid_pre.0" is not a captured site'):
        found["resid_pre.0"]


def test_sites_that_do_not_exist_are_refused_with_the_reason() -> None:
    model = build("gpt_neox")
    tokens = tokens_from_ids(model, IDS)
    with pytest.raises(UnknownSite, match=r"parallel residual"):
        capture(model, tokens, ["resid_mid.0"])
    capture(build("gpt_neox_sequential"), tokens, ["resid_mid.0"])
    with pytest.raises(UnknownSite, match=r"3 layers, so layers 0 to 2"):
        capture(model, tokens, ["resid_post.3"])
    with pytest.raises(UnknownSite, match=r"site kind"):
        capture(model, tokens, ["residual.0"])


class _Fails(Exception):
    pass


def _ways_to_fail() -> Iterator[type[BaseException]]:
    yield from (_Fails, KeyboardInterrupt, MemoryError, SystemExit)


@pytest.mark.parametrize(
    "kind",
    [
        "embed",
        "resid_pre",
        "attn_in",
        "q",
        "k",
        "v",
        "mlp_act",
        "scores",
        "pattern",
        "z",
        "mlp_out",
        "logits",
    ],
)
def test_an_exception_anywhere_leaves_no_hook_and_the_attention_as_it_was(kind: str) -> None:
    model = build("qwen3")
    tokens = tokens_from_ids(model, IDS)
    before = plain(model, tokens)
    site = Site(kind) if kind in GLOBAL_KINDS else Site(kind, 1)
    implementation = model.family.config._attn_implementation
    for failure in _ways_to_fail():

        def explode(x: torch.Tensor, step: object, failure: type[BaseException] = failure) -> torch.Tensor:
            raise failure

        everything = {each: lambda x, step: None for each in every_site(model)}
        with pytest.raises(failure):
            forward(model, tokens, reads=everything, writes={site: explode})
        assert hooks_left(model) == 0
        assert model.family.config._attn_implementation == implementation
        assert torch.equal(before, plain(model, tokens))
        assert model.lock.acquire(blocking=False)
        model.lock.release()


def test_a_refused_site_leaves_no_hook() -> None:
    model = build("gpt_neox")
    with pytest.raises(UnknownSite), hooked(model, reads={Site("embed"): print, Site("resid_mid", 0): print}):
        pass
    assert hooks_left(model) == 0


def test_contexts_nest_and_writes_compose_in_order() -> None:
    model = build("llama", "eager")
    tokens = tokens_from_ids(model, IDS[:1])
    before = plain(model, tokens)
    site, pattern = Site("resid_pre", 1), Site("pattern", 1)
    clean = capture(model, tokens, [site, pattern])
    outer, inner, seen = [], [], []
    with (
        torch.no_grad(),
        hooked(model, writes={site: lambda x, step: x + 1}, reads={site: lambda x, _: outer.append(x)}),
    ):
        with hooked(
            model,
            writes={site: lambda x, step: x * 2, pattern: lambda x, step: x.flip(1)},
            reads={site: lambda x, _: inner.append(x), pattern: lambda x, _: seen.append(x)},
        ):
            forward(model, tokens)
        assert torch.equal(outer[0], clean[site] + 1)
        assert torch.equal(inner[0], (clean[site] + 1) * 2)
        with hooked(model, reads={pattern: lambda x, _: seen.append(x)}):
            forward(model, tokens)
        assert torch.equal(outer[1], clean[site] + 1)
    assert seen[0].shape == seen[1].shape
    assert hooks_left(model) == 0
    assert torch.equal(before, plain(model, tokens))


def test_reads_inside_the_modules_own_generate_see_absolute_positions() -> None:
    model = build("gemma3")
    tokens = tokens_from_ids(model, IDS)
    steps: list[tuple[int, list[list[int]]]] = []
    with hooked(
        model,
        reads={Site("resid_pre", 0): lambda x, step: steps.append((step.start, step.positions.tolist()))},
    ):
        model.module.generate(
            tokens.ids, attention_mask=tokens.mask, max_new_tokens=3, do_sample=False, pad_token_id=0
        )
    assert steps[0] == (0, tokens.positions.tolist())
    assert steps[1:] == [(10, [[10], [7]]), (11, [[11], [8]])]


def test_threads_never_see_each_others_edits() -> None:
    model = build("gpt2")
    tokens = tokens_from_ids(model, IDS)
    clean = forward(model, tokens)
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(40):
            with torch.no_grad():
                edited = {Site("resid_post", 1): lambda x, step: x * number} if number else {}
                if not torch.equal(forward(model, tokens, writes=edited), expected[number]):
                    wrong.append(number)

    with torch.no_grad():
        expected = [clean] + [
            forward(model, tokens, writes={Site("resid_post", 1): lambda x, step, n=n: x * n})
            for n in (1, 2, 3)
        ]
    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert hooks_left(model) == 0


def test_gradients_flow_when_asked_and_a_held_value_cuts_them() -> None:
    model = build("llama")
    model.module.requires_grad_(True)
    tokens = tokens_from_ids(model, IDS[:1])
    clean = capture(model, tokens, ["pattern.1", "resid_pre.1"])
    assert not any(x.requires_grad for x in clean.values())
    entering = clean["resid_pre.1"].clone().requires_grad_(True)

    def gradient(writes: dict) -> torch.Tensor:
        logits = forward(model, tokens, writes={Site("resid_pre", 1): lambda x, step: entering, **writes})
        (grad,) = torch.autograd.grad(logits[0, -1, 0], entering)
        return grad

    free = gradient({})
    held = gradient({Site("pattern", 1): hold_pattern(clean["pattern.1"])})
    assert not torch.allclose(free, held)
    # without attention nothing at earlier positions can reach the last one, in the last two blocks
    cut = gradient({Site("attn_out", layer): hold(torch.zeros(1, 10, 16)) for layer in (1, 2)})
    assert cut[0, :-1].abs().max() == 0 and cut[0, -1].abs().max() > 0


def test_gpt2_with_reordered_and_upcast_attention_keeps_its_bits() -> None:
    model = tiny_model(
        "gpt2", attention="eager", reorder_and_upcast_attn=True, scale_attn_by_inverse_layer_idx=True
    )
    tokens = tokens_from_ids(model, IDS)
    assert torch.equal(plain(model, tokens), capture(model, tokens, every_site(model))["logits"])


def test_an_unreadable_attention_implementation_is_refused_for_patterns_only() -> None:
    model = build("llama")
    tokens = tokens_from_ids(model, IDS)
    model.family.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UnsupportedModel, match=r'"flash_attention_2" is not a.*eager, sdpa'):
        capture(model, tokens, ["pattern.0"])
    assert hooks_left(model) == 0
    assert model.family.config._attn_implementation == "flash_attention_2"


def test_padding_in_float64_under_eager_is_refused_instead_of_nan() -> None:
    model = build("gemma2", dtype=torch.float64)
    with pytest.raises(ThoughtscopeError, match=r"float64 under eager"):
        forward(model, tokens_from_ids(model, IDS))
    assert forward(model, tokens_from_ids(model, IDS[:1])).isfinite().all()


def test_a_write_of_the_wrong_shape_is_refused() -> None:
    model = build("llama")
    with pytest.raises(UnknownSite, match=r"shape \(1, 16\), not \(2, 10, 16\)"):
        forward(model, tokens_from_ids(model, IDS), writes={Site("resid_pre", 1): lambda x, step: x[0, :1]})
