"""Models at their boundaries: positions, lengths and widths that are just allowed, hooks by plain tensors, and hubs."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny_models import FAMILIES, VARIANTS, tiny_model, tiny_variant
from thoughtscope.core.errors import (
    CorruptArtefact,
    InvalidPlan,
    LimitExceeded,
    ThoughtscopeError,
    UnknownModel,
    UnknownSite,
    UnsupportedModel,
)
from thoughtscope.core.site import GLOBAL_KINDS, LAYER_KINDS, SITE_KINDS, Site
from thoughtscope.models import (
    Edit,
    Model,
    Step,
    attention,
    capture,
    checkpoints,
    forward,
    generate,
    hold,
    hold_pattern,
    hooked,
    hooks,
    loading,
    pad_left,
    pieces,
    token_text,
    tokenize,
    tokens_from_ids,
    wants_bos,
)
from thoughtscope.models import tokens as tokens_module
from thoughtscope.models.edits import writes_of
from thoughtscope.models.encoding import Row, byte_offsets
from thoughtscope.models.generation import end_tokens
from thoughtscope.models.proofs import prove
from thoughtscope.models.tokens import append, describe, positions_of

IDS = [[3, 1, 4, 1, 5, 9], [2, 7, 1]]


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model("llama", layers=2)


# --- edits ---------------------------------------------------------------------------------------------------------


def change(**fields: Any) -> Edit:
    return Edit(**{"site": Site("resid_pre", 1), "op": "scale", "value": 2.0, **fields})


@pytest.mark.parametrize(("fields", "words"), [
    ({"value": None}, "needs a value"), ({"op": "ablate"}, "takes no value"), ({"op": "add"}, "needs a vector"),
    ({"op": "set", "vector": torch.ones(2)}, "takes no value"), ({"vector": torch.ones(2)}, "takes no vector"),
    ({"op": "ablate", "value": None, "vector": torch.ones(2)}, "takes no vector"),
    ({"op": "set", "value": None}, "needs a vector"), ({"positions": (0,), "start": 0}, "not both"),
    ({"positions": (0, -1)}, r"got \(0, -1\)"), ({"start": -1}, "got -1"), ({"site": Site("logits")}, "logits"),
    ({"site": Site("pattern", 0)}, "pattern"),
])  # fmt: skip
def test_an_edit_of_a_site_that_means_nothing(fields: dict, words: str) -> None:
    with pytest.raises(InvalidPlan, match=words):
        change(**fields)


def test_columns_that_an_edit_covers() -> None:
    step = Step(positions=torch.tensor([[-1, -1, 0, 1, 2], [0, 1, 2, 3, 4]]))
    shown = lambda **where: [row.nonzero()[:, 0].tolist() for row in change(**where).covers(step)]
    assert shown() == [[2, 3, 4], [0, 1, 2, 3, 4]] and shown(start=0) == shown()
    assert shown(start=2) == [[4], [2, 3, 4]] and shown(positions=(0, 4)) == [[2], [0, 4]]


def test_edits_where_heads_lie_side_by_side_and_of_other_widths(model: Model) -> None:
    x = torch.randn(2, 5, 4, 4)
    step = Step(positions=torch.tensor([[-1, 0, 1, 2, 3], [0, 1, 2, 3, 4]]))
    flat = torch.arange(16.0)
    made = change(site=Site("z", 0), op="add", vector=flat, value=None, positions=(1,)).apply(x, step)
    assert torch.equal(made[0, 2], x[0, 2] + flat.view(4, 4)) and torch.equal(
        made[1, 1], x[1, 1] + flat.view(4, 4)
    )
    made[0, 2], made[1, 1] = x[0, 2], x[1, 1]
    assert torch.equal(made, x)
    with pytest.raises(InvalidPlan, match="has 15 numbers, the site 16"):
        change(op="set", value=None, vector=torch.ones(15)).apply(x, step)
    with pytest.raises(InvalidPlan, match=r"shape \(15,\), but there .* is 16 wide"):
        writes_of(model, [change(op="set", value=None, vector=torch.ones(15))])
    with pytest.raises(UnknownSite, match="layers 0 to 1"):
        writes_of(model, [change(site=Site("resid_pre", 2))])
    two = writes_of(model, [change(op="set", value=None, vector=torch.ones(16)), change()])[
        Site("resid_pre", 1)
    ]
    assert torch.equal(
        two(torch.zeros(1, 2, 16), Step(positions=torch.tensor([[0, 1]]))), torch.full((1, 2, 16), 2.0)
    )


# --- what is held --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "width", "covered"), [(0, 3, 3), (0, 6, 4), (2, 3, 2), (3, 1, 1), (4, 2, 0), (9, 1, 0)]
)
def test_columns_that_a_held_value_covers(start: int, width: int, covered: int) -> None:
    value, x = torch.arange(8.0).view(1, 4, 2), torch.full((3, width, 2), -1.0)
    step = Step(positions=torch.arange(start, start + width).expand(3, -1), start=start)
    out = hold(value)(x, step)
    assert torch.equal(out[:, :covered], value[:, start : start + covered].expand(3, -1, -1))
    assert torch.equal(out[:, covered:], x[:, covered:]) and out.shape == x.shape


@pytest.mark.parametrize(("start", "rows", "keys", "covered"), [
    (0, 3, 3, 3), (0, 5, 5, 3), (2, 2, 4, 1), (3, 1, 4, 0), (0, 2, 2, 0),
])  # fmt: skip
def test_rows_that_a_held_pattern_covers(start: int, rows: int, keys: int, covered: int) -> None:
    """Keys that came later get nothing; fewer keys than were captured cannot be covered."""
    value = torch.rand(1, 2, 3, 3)
    x = torch.rand(1, 2, rows, keys)
    out = hold_pattern(value)(x, Step(positions=torch.arange(start, start + rows)[None], start=start))
    assert torch.equal(
        out[:, :, :covered, :3], value[:, :, start : start + covered, : min(keys, 3)][..., : out.shape[-1]]
    )
    assert not out[:, :, :covered, 3:].any() and torch.equal(out[:, :, covered:], x[:, :, covered:])


def test_a_held_pattern_of_more_keys_than_queries() -> None:
    value, x = torch.rand(1, 2, 2, 4), torch.rand(1, 2, 3, 5)
    out = hold_pattern(value)(x, Step(positions=torch.arange(3)[None]))
    assert torch.equal(out[:, :, :2, :4], value) and torch.equal(out[:, :, 2:], x[:, :, 2:])
    assert hold_pattern(value)(x, Step(positions=torch.arange(2, 5)[None], start=2)) is x


def test_modules_that_are_no_plain_language_model() -> None:
    from thoughtscope.models.loading import model_from

    for family, field, words in (("gpt2", "add_cross_attention", "cross-attention"),
                                 ("gemma3", "use_bidirectional_attention", "both directions")):  # fmt: skip
        module = tiny_model(family, layers=1).module
        setattr(module.config, field, True)
        with pytest.raises(UnsupportedModel, match=words):
            model_from(module, name="odd")


def test_a_frozen_scale_belongs_to_a_norm(model: Model) -> None:
    with (
        pytest.raises(UnknownSite, match="is not made by a norm"),
        hooked(model, norm_scales={Site("resid_pre", 0): torch.ones(1)}),
    ):
        pass
    with (
        pytest.raises(UnknownSite, match=r"returned shape \(1, 2, 16\), not \(1, 3, 16\)"),
        hooked(model, writes={Site("resid_pre", 0): lambda x, step: x[:, :2]}),
    ):
        forward(model, tokens_from_ids(model, [1, 2, 3]))


def test_positions_are_noted_in_every_kind_of_forward(model: Model) -> None:
    """With a mask, with explicit positions, with neither, and with a cache before them."""
    from transformers import DynamicCache

    seen: list[Step] = []
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    with torch.no_grad(), hooked(model, reads={Site("resid_pre", 0): lambda x, step: seen.append(step)}):
        model.module(input_ids=ids)
        model.module(ids, position_ids=torch.tensor([[4, 5, 6]]))
        model.module(input_ids=ids, attention_mask=torch.tensor([[0, 1, 1], [1, 1, 1]]))
        cache = DynamicCache()
        model.module(input_ids=ids, past_key_values=cache, use_cache=True)
        model.module(input_ids=ids[:, :2], past_key_values=cache, use_cache=True)
        model.module(inputs_embeds=model.family.embed_module(ids))
    expected = [([[0, 1, 2]] * 2, 0), ([[4, 5, 6]] * 2, 0), ([[-1, 0, 1], [0, 1, 2]], 0), ([[0, 1, 2]] * 2, 0),
                ([[3, 4]] * 2, 3), ([[0, 1, 2]] * 2, 0)]  # fmt: skip
    assert [(step.positions.tolist(), step.start) for step in seen] == expected


@pytest.mark.parametrize("label", VARIANTS)
def test_a_pass_that_stops_early_gives_what_a_whole_one_gives(label: str) -> None:
    model = tiny_variant(label, layers=3)
    tokens = tokens_from_ids(model, IDS)
    sites = [
        Site(kind, layer) for layer in (0, 1) for kind in LAYER_KINDS if kind not in model.family.missing
    ]
    early, whole = capture(model, tokens, sites), capture(model, tokens, sites, stop=False)
    assert all(torch.equal(early[site], whole[site]) for site in sites) and list(early) == sites
    ran: list[int] = []
    handles = [
        block.module.register_forward_hook(lambda *_, n=n: ran.append(n))
        for n, block in enumerate(model.family.blocks)
    ]
    for wanted, stop, blocks in (("resid_post.0", True, [0]), ("resid_pre.2", True, [0, 1, 2]), ("embed", True, [0]),
                                 ("resid_post.0", False, [0, 1, 2]), ("logits", True, [0, 1, 2]), ("final_norm", True, [0, 1, 2])):  # fmt: skip
        ran.clear()
        capture(model, tokens, [wanted], stop=stop)
        assert ran == blocks, wanted
    for handle in handles:
        handle.remove()
    assert forward(model, tokens, last_layer=1) is None
    for kind in GLOBAL_KINDS:
        assert capture(model, tokens, [kind])[kind].shape[:2] == tokens.ids.shape


def test_the_shapes_of_sites(model: Model) -> None:
    block = model.family.blocks[0]
    shapes = {
        "resid_pre": (16,),
        "q": (4, 4),
        "k": (2, 4),
        "v": (2, 4),
        "z": (4, 4),
        "mlp_act": (32,),
        "mlp_in": (16,),
    }
    for kind, shape in shapes.items():
        assert model.shape(f"{kind}.1") == shape and model.width(Site(kind, 1)) == int(
            torch.tensor(shape).prod()
        )
    assert (model.n_layers, model.d_model, model.n_heads, model.n_kv_heads, block.group) == (2, 16, 4, 2, 2)
    assert (model.vocab_size, model.max_positions, model.dtype) == (260, 256, torch.float32)
    for site, words in (
        ("resid_pre.2", "layers 0 to 1"),
        ("logits", "no vector"),
        ("pattern.0", "no vector"),
    ):
        with pytest.raises(UnknownSite, match=words):
            model.shape(site)
    acts = capture(model, tokens_from_ids(model, IDS), ["resid_pre.1"])
    assert "resid_pre.1" in acts and Site("resid_pre", 0) not in acts and len(acts) == 1
    assert acts.to("cpu")["resid_pre.1"].shape == (2, 6, 16)
    with pytest.raises(UnknownSite, match="Name it in the call of capture"):
        acts["resid_pre.0"]


@pytest.mark.parametrize(
    ("window", "seen"), [(None, [1, 2, 3, 4]), (2, [1, 2, 2, 2]), (1, [1, 1, 1, 1]), (9, [1, 2, 3, 4])]
)
def test_the_keys_that_a_query_sees(model: Model, window: int | None, seen: list[int]) -> None:
    from dataclasses import replace

    sees = replace(model.family.blocks[0], window=window).sees(4)
    assert sees.sum(1).tolist() == seen and bool(sees.diagonal().all()) and not bool(sees.triu(1).any())


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_without_a_mask_are_plainly_causal(family: str) -> None:
    """In a decode step the query rows are the last of the key axis."""
    query, key = torch.randn(1, 2, 2, 4), torch.randn(1, 2, 5, 4)
    mask = attention._additive(None, query, key)
    assert (mask == 0).int().tolist() == [[[[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]]] and mask.min() == torch.finfo(
        torch.float32
    ).min
    given = torch.tensor([[[[True, False, True, True, False], [False] * 5]]])
    assert torch.equal(attention._additive(given, query, key) == 0, given)
    assert attention._additive(mask, query, key) is mask
    scores = attention._scores(query, key, torch.zeros(()))
    torch.testing.assert_close(scores, torch.einsum("bhqd,bhkd->bhqk", query, key) / 2)
    capped = attention._scores(query, key[:, :1], torch.ones(()), scaling=0.3, softcap=0.5)
    by_hand = torch.einsum("bhqd,bkd->bhqk", query, key[:, 0]) * 0.3
    torch.testing.assert_close(capped, torch.tanh(by_hand / 0.5) * 0.5 + 1)


# --- tokens --------------------------------------------------------------------------------------------------------


def test_rows_of_a_batch_and_their_padding(model: Model) -> None:
    tokens = tokens_from_ids(model, IDS)
    assert tokens.ids.tolist() == [IDS[0], [258, 258, 258, *IDS[1]]] or tokens.ids.tolist() == [
        IDS[0],
        [0, 0, 0, *IDS[1]],
    ]
    assert tokens.mask.tolist() == [[True] * 6, [False] * 3 + [True] * 3] and len(tokens) == 2
    assert tokens.positions.tolist() == [[0, 1, 2, 3, 4, 5], [-1, -1, -1, 0, 1, 2]]
    assert positions_of(torch.tensor([[0, 1, 1]])).tolist() == [[-1, 0, 1]]
    row = tokens.row(1)
    assert row.ids.tolist() == [IDS[1]] and row.mask.all() and len(row) == 1
    assert (row.texts[0], row.pieces[0], row.offsets[0]) == (
        tokens.texts[1],
        tokens.pieces[1],
        tokens.offsets[1],
    )
    assert pad_left([[1], [2, 3]], filler=9).ids.tolist() == [[9, 1], [2, 3]] and pad_left([[1]]).texts == (
        "",
    )
    assert pad_left([[1], [2, 3]]).ids.tolist() == [[0, 1], [2, 3]]
    more = append(tokens, model, torch.tensor([[65], [66]]))
    assert (
        more.ids[:, -1].tolist() == [65, 66]
        and more.mask[:, -1].all()
        and more.texts[1] == tokens.texts[1] + "B"
    )
    size = len(tokens.texts[1].encode())
    assert more.offsets[1][-1] == (size, size + 1) and more.pieces[0][-1] == "A"


def test_lengths_and_ids_that_are_just_allowed(model: Model) -> None:
    assert tokens_from_ids(model, [0, 259]).ids.tolist() == [[0, 259]]
    assert tokens_from_ids(model, torch.tensor([[1, 2], [3, 4]])).ids.shape == (2, 2)
    assert tokens_from_ids(model, torch.tensor([1, 2])).ids.shape == (1, 2)
    for bad in (-1, 260):
        with pytest.raises(
            ThoughtscopeError, match=f"Token id {bad} is outside the vocabulary: allowed 0 to 259"
        ):
            tokens_from_ids(model, [1, bad])
    for nothing in ([], [[]], [[1], []]):
        with pytest.raises(ThoughtscopeError, match="at least one id"):
            tokens_from_ids(model, nothing)
    assert tokens_from_ids(model, [1] * 256).ids.shape == (1, 256)
    with pytest.raises(LimitExceeded, match=r"257 tokens; .* allows 256"):
        tokens_from_ids(model, [1] * 257)
    assert tokenize(model, "abc", max_tokens=4).ids.shape == (1, 4)
    with pytest.raises(LimitExceeded, match=r"4 tokens; .* allows 3"):
        tokenize(model, "abc", max_tokens=3)
    assert tokenize(model, "x" * 255, max_tokens=999).ids.shape == (1, 256)
    with pytest.raises(LimitExceeded):
        tokenize(model, "x" * 256, max_tokens=999)
    longest = pieces.longest_piece(model.tokenizer)
    assert longest == 8 * max(len(piece.encode()) for piece in model.tokenizer.get_vocab())
    with pytest.raises(LimitExceeded, match=f"over {4} tokens"):
        tokens_module._check_text(model, "x" * (4 * longest + 1), 4)
    tokens_module._check_text(model, "x" * (4 * longest), 4)
    longer = generate(model, tokens_from_ids(model, [1] * 250), max_new_tokens=6, stop_at_end=False)
    assert longer.ids.shape == (1, 256)


def test_the_beginning_token_of_each_row(model: Model) -> None:
    plain, begun = tokenize(model, "ab", special_tokens=False, bos=False), tokenize(model, "ab")
    assert plain.ids.tolist() == [[97, 98]] and begun.ids.tolist() == [[256, 97, 98]]
    assert wants_bos(model, begun) is None and "'a'" in (wants_bos(model, plain) or "")
    mixed = tokens_from_ids(model, [[256, 1, 2], [98, 3]])
    assert (
        "'b'" in (wants_bos(model, mixed) or "")
        and wants_bos(model, tokens_from_ids(model, [[256, 1, 2], [256]])) is None
    )
    assert tokenize(model, "ab", bos=True).ids.tolist() == [[256, 97, 98]]
    with_it = tokenize(model, "ab", special_tokens=False, bos=True)
    assert with_it.ids.tolist() == [[256, 97, 98]] and with_it.offsets[0] == ((0, 0), (0, 1), (1, 2))
    assert with_it.pieces[0] == ("<|begin|>", "a", "b") == begun.pieces[0]
    without = tokenize(model, "ab", bos=False)
    assert (without.ids.tolist(), without.pieces[0], without.offsets[0]) == (
        [[97, 98]],
        ("a", "b"),
        ((0, 1), (1, 2)),
    )
    row = Row([256, 97], ["<|begin|>", "a"], [(0, 9), (9, 10)])  # written out in the text: it stays
    assert tokens_module._with_bos(model, row, False) is row
    alone = Row([256], ["<|begin|>"], [(0, 0)])
    assert tokens_module._with_bos(model, alone, False) is alone


def test_bytes_of_tokens_along_a_text() -> None:
    text = "né 中"
    data = [b"<s>", b" n", "é".encode()[:1], "é".encode()[1:], b" ", "中".encode()]
    spans = [(0, 0), (0, 1), (1, 2), (1, 2), (2, 3), (3, 4)]
    added = [True, False, False, False, False, False]
    exact = [(0, 0), (0, 1), (1, 2), (2, 3), (3, 4), (4, 7)]
    assert byte_offsets(text, data, spans, added) == exact
    # Not spelled by the tokens' own bytes: the characters that each came from.
    assert byte_offsets(text, [b"<s>", b"N", b"E", b"E", b" ", b"Z"], spans, added) == [
        (0, 0), (0, 1), (1, 3), (1, 3), (3, 4), (4, 7)
    ]  # fmt: skip
    assert byte_offsets(text + "!", data, spans, added)[-1] == (4, 7)


def test_bytes_of_every_width() -> None:
    text = "a\x7f\x80éߡक中\uffff😀"
    data = text.encode()
    assert pieces.show(data) == text and pieces.decode(data) == (text, list(range(len(data) + 1)))
    assert pieces.show("😀".encode()[:3] + b"a") == "<0xF0><0x9F><0x98>a"
    assert pieces.show(b"\xc3a\x0a\xff") == "<0xC3>a\n<0xFF>"
    assert pieces.decode(b"\xffa") == ("\ufffda", [0, 3, 4])
    table = pieces.characters_of_bytes()
    assert len(set(table)) == 256 and table[0x21:0x7F] == "".join(map(chr, range(0x21, 0x7F)))
    assert (table[0], table[0x20], table[0x7F], table[0xA0], table[0xAD]) == ("Ā", "Ġ", "ġ", "ł", "Ń")
    assert table[0xA1:0xAD] + table[0xAE:] == "".join(map(chr, [*range(0xA1, 0xAD), *range(0xAE, 0x100)]))
    assert pieces._bytes_of_byte_level("Ġa€") == b" a" + "€".encode()


@pytest.mark.parametrize(("backend", "spelled"), [
    ({"decoder": {"type": "ByteLevel"}}, {"Ġa": b" a"}),
    ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}]}}, {"Ġ": b" "}),
    ({"decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}]}}, {"<0x0A>": b"\n", "▁a": b" a", "<0x0>": b"<0x0>"}),
    ({"decoder": {"type": "WordPiece"}, "model": {"continuing_subword_prefix": "##"}}, {"##ing": b"ing", "a": b"a"}),
    ({"model": {"continuing_subword_prefix": "##"}}, {"##ing": b"##ing", "<0x0A>": b"<0x0A>"}),
    ({}, {"##": b"##", "▁▁": b"  "}),
])  # fmt: skip
def test_how_vocabularies_spell_bytes(backend: dict, spelled: dict) -> None:
    spell = pieces._spelling(backend)
    assert {piece: spell(piece) for piece in spelled} == spelled


def test_text_of_ids_with_and_without_a_tokenizer(model: Model) -> None:
    assert token_text(model, 65) == "A" and token_text(model, 0xE4) == "<0xE4>"
    assert describe(model, [0xC3, 0xA9, 65]) == ("éA", ["<0xC3>", "<0xA9>", "A"], [(0, 1), (1, 2), (2, 3)])
    bare = tiny_model("llama", vocab_size=100)
    assert bare.tokenizer is None and token_text(bare, 7) == "⟨7⟩"
    assert describe(bare, [7, 8]) == ("", ["⟨7⟩", "⟨8⟩"], [(0, 0), (0, 0)])
    with pytest.raises(UnsupportedModel, match="tokens_from_ids"):
        tokenize(bare, "a")
    padded = tokens_from_ids(tiny_model("llama", vocab_size=259), [[1, 2], [3]])
    assert padded.ids[1, 0] == 258  # the padding token's id
    assert tokens_from_ids(bare, [[1, 2], [3]]).ids[1, 0] == 0


@pytest.mark.parametrize(("generation", "config", "ends"), [
    (None, None, set()), (5, None, {5}), ([5, 6], None, {5, 6}), (None, 7, {7}), (0, 7, {0}), (None, [7, 8], {7, 8}),
])  # fmt: skip
def test_the_tokens_that_end_a_text(generation: Any, config: Any, ends: set) -> None:
    model = tiny_model("llama", layers=1)
    model.module.generation_config.eos_token_id, model.family.config.eos_token_id = generation, config
    assert end_tokens(model) == ends


def test_edits_and_writes_of_one_site_in_a_generation(model: Model) -> None:
    """The edit first, then the write; each once."""
    site = Site("resid_post", 1)
    seen: list[torch.Tensor] = []

    def write(x: torch.Tensor, step: Step) -> torch.Tensor:
        seen.append(x)
        return x

    fives = Edit(site=site, op="set", vector=torch.full((16,), 5.0))
    longer = generate(
        model, tokens_from_ids(model, [1, 2]), max_new_tokens=3, edits=[fives], writes={site: write}
    )
    assert (
        longer.ids.shape == (1, 5)
        and [x.shape[1] for x in seen] == [2, 1, 1]
        and all((x == 5).all() for x in seen)
    )
    seen.clear()
    generate(model, tokens_from_ids(model, [1, 2]), max_new_tokens=3, writes={site: write}, cache=False)
    assert [x.shape[1] for x in seen] == [2, 3, 4]


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("proxy", "address"), [
    ({}, ("huggingface.co", 443)), ({"HTTPS_PROXY": "http://proxy.here:3128"}, ("proxy.here", 3128)),
    ({"https_proxy": "http://proxy.here"}, ("proxy.here", 80)), ({"ALL_PROXY": "https://proxy.here"}, ("proxy.here", 443)),
    ({"HTTPS_PROXY": "", "ALL_PROXY": "http://other:1"}, ("other", 1)), ({"HTTPS_PROXY": "nonsense"}, ("", 80)),
])  # fmt: skip
def test_the_address_that_is_tried(proxy: dict, address: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(constants, "ENDPOINT", "https://huggingface.co")
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in proxy.items():
        monkeypatch.setenv(name, value)
    tried: list[tuple] = []

    class Connection:
        def close(self) -> None:
            tried.append(("closed",))

    monkeypatch.setattr(
        socket, "create_connection", lambda to, timeout: tried.append((to, timeout)) or Connection()
    )
    assert checkpoints.unreachable() is None
    assert tried == [(address, 1.5), ("closed",)]
    monkeypatch.setattr(constants, "is_offline_mode", lambda: True)
    assert checkpoints.unreachable() == "HF_HUB_OFFLINE is set"


def test_reasons_why_a_host_cannot_be_reached() -> None:
    def fail(error: OSError) -> None:
        raise error

    assert (
        checkpoints._in_time(lambda: fail(OSError(5, "no route")), "here")
        == "no connection to here (no route)"
    )
    assert checkpoints._in_time(lambda: fail(OSError("odd")), "here") == "no connection to here (odd)"
    assert checkpoints._in_time(lambda: None, "here") is None
    assert (
        checkpoints.first_line(ValueError("  one.\ntwo")) == "one"
        and checkpoints.first_line(ValueError()) == "ValueError"
    )
    assert checkpoints._at(None) == "" and checkpoints._at("v1") == " at revision v1"


@pytest.mark.parametrize(
    "index", [[], {}, {"weight_map": {}}, {"weight_map": ["a"]}, {"weight_map": {"a": 1, "b": "x"}}]
)
def test_an_index_without_a_map_is_refused(index: Any, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CorruptArtefact, match=r"weight_map|not a JSON object"):
        checkpoints.weight_files(tmp_path)


def test_weight_files_by_name(tmp_path: Path) -> None:
    with pytest.raises(CorruptArtefact, match=r"model\.safetensors is missing"):
        checkpoints.weight_files(tmp_path)
    assert not checkpoints._looks_whole(tmp_path)
    (tmp_path / "b.bin").touch()
    with pytest.raises(UnsupportedModel, match=r"only as pickle \(b\.bin\)"):
        checkpoints.weight_files(tmp_path)
    assert checkpoints._looks_whole(tmp_path)  # it is there, and is refused with its own reason
    (tmp_path / "model.safetensors").touch()
    assert checkpoints.weight_files(tmp_path) == [tmp_path / "model.safetensors"]
    assert not checkpoints._looks_whole(tmp_path)
    (tmp_path / "config.json").touch()
    assert checkpoints._looks_whole(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "2", "y": "1", "z": "2"}}))
    for name in "12":
        (tmp_path / name).touch()
    assert checkpoints.weight_files(tmp_path) == [tmp_path / "1", tmp_path / "2"]
    index.write_text(json.dumps({"weight_map": {"x": "../1"}}))
    with pytest.raises(CorruptArtefact, match="is missing"):
        checkpoints.weight_files(tmp_path)
    (tmp_path / "SHA256SUMS").write_text(f"{0:064}  gone\n")
    with pytest.raises(CorruptArtefact, match="gone is missing, but"):
        checkpoints._check_sums(tmp_path, shipped=False)
    (tmp_path / "SHA256SUMS").write_text(f"{0:064}  1\n")
    with pytest.raises(CorruptArtefact, match="1 was altered"):
        checkpoints._check_sums(tmp_path, shipped=False)
    with pytest.raises(UnknownModel, match="is a file"):
        checkpoints.locate(str(tmp_path / "1"))
    with pytest.raises(UnknownModel, match="no config"):
        (tmp_path / "config.json").unlink()
        checkpoints.locate(str(tmp_path))


@pytest.mark.parametrize(("device", "count", "found"), [
    (None, 0, "cpu"), (None, 1, "cuda"), ("cuda", 1, "cuda"), ("cuda:1", 2, "cuda:1"), ("cuda:1", 1, None), ("cuda", 0, None),
    ("cpu", 0, "cpu"), ("meta", 0, None), ("nonsense", 0, None), ("cuda:0", 1, "cuda:0"),
])  # fmt: skip
def test_the_device_that_is_meant(
    device: str | None, count: int, found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    if found is not None:
        assert loading.device_named(device) == torch.device(found)
    else:
        with pytest.raises(
            (ThoughtscopeError, UnsupportedModel),
            match="holds shapes" if device == "meta" else "on this machine",
        ):
            loading.device_named(device)
    assert (
        loading._dtype(None) == "auto"
        and loading._dtype("bfloat16") == loading._dtype(torch.bfloat16) == torch.bfloat16
    )


@pytest.mark.parametrize(("names", "tied", "words"), [
    (["a.self_attn.q_proj.bias"], False, '"attention_bias": true'), (["a.mlp.up_proj.bias"], True, '"mlp_bias": true'),
    (["a.self_attn.q_proj.bias", "a.mlp.up_proj.bias"], False, "Use the config"), (["x.weight"], True, "holds 1 tensors"),
    (["lm_head.weight"], False, r"lm_head\.weight"), ([f"t{n}" for n in range(5)], True, r"first are t0, t1, t2\."),
])  # fmt: skip
def test_tensors_without_a_place(names: list[str], tied: bool, words: str) -> None:
    with pytest.raises(UnsupportedModel, match=words):
        loading._refuse_unused(Path("here"), names, tied=tied)
    loading._refuse_unused(
        Path("here"), ["model.lm_head.weight", "h.0.attn.masked_bias", "a.rotary_emb.inv_freq"], tied=True
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_random_model_has_nothing_at_its_comfortable_default(family: str) -> None:
    """Weights of norms far from 1 (effective ones, on Gemma), biases that are not 0, activations near 1."""
    model = tiny_model(family, layers=2, seed=3)
    assert model.revision == "seed-3" and model.name == f"random-{family}"
    norms = [norm for _, norm in model.family.norms.values()]
    weights = torch.cat([norm.weight for norm in norms])
    assert 0.35 < weights.min() < 0.6 and 1.9 < weights.max() < 2.25
    for name, parameter in model.module.named_parameters():
        assert not parameter.requires_grad and 0.01 < float(parameter.float().std()) < 2, name
    assert torch.equal(tiny_model(family, seed=3).family.unembed, model.family.unembed)
    assert not torch.equal(tiny_model(family, seed=4).family.unembed, model.family.unembed)
    errors = prove(model)
    assert len(errors) >= 12 and max(errors.values()) < 1e-4
    for name in errors:
        assert not name.startswith("chain") or errors[name] == 0
    assert set(model.family.missing) <= set(SITE_KINDS)
    assert hooks.Step(positions=torch.zeros(1, 1, dtype=torch.long)).start == 0
