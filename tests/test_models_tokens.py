"""Tokens: offsets are exact bytes for any script and any kind of vocabulary; bad prompts are refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from tests.tiny_models import tiny_model
from thoughtscope.core.errors import LimitExceeded, ThoughtscopeError, UnsupportedModel
from thoughtscope.models import (
    MissingBos,
    Model,
    generate,
    load_model,
    model_from,
    pad_left,
    token_text,
    tokenize,
    tokens_from_ids,
    wants_bos,
)
from thoughtscope.models.pieces import decode, show
from thoughtscope.models.tokens import _encoded

TEXTS = [
    "Fact: the capital of Texas is Austin.",
    "  two  spaces\n\nand\ttabs ",
    "café naïve — “quotes” …",
    "北京是中国的首都。",
    "emoji 👩‍🚀🇫🇷 and text",
    "\u00a0nbsp\u3000wide",
    "x",
]


def _with_tokenizer(tokenizer: Tokenizer, **options) -> Model:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options)
    bare = tiny_model("llama", vocab_size=tokenizer.get_vocab_size() + 3, prove_sites=False)
    return model_from(bare.module, fast, name="tokenized", prove_sites=False)


def byte_level(*, prefix_space: bool = False, trim: bool = False, merges: int = 60) -> Model:
    """A trained byte-level BPE whose merges cut characters apart."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=256 + merges, initial_alphabet=alphabet, special_tokens=["<bos>"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=trim),
            processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)]),
        ]
    )
    return _with_tokenizer(tokenizer, bos_token="<bos>")


def sentencepiece() -> Model:
    """A Llama-2 or Gemma shaped vocabulary: ▁ for spaces, a dummy prefix, bytes as <0xE4>."""
    pieces = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [
        "▁",
        *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,:",
        "th",
        "▁th",
        "▁the",
        "é",
        "中",
    ]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    merges = [("t", "h"), ("▁", "th"), ("▁th", "e")]
    tokenizer = Tokenizer(
        BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return _with_tokenizer(tokenizer, bos_token="<s>", unk_token="<unk>")


def covered(tokens, row: int = 0) -> bytes:
    """The text's bytes as the offsets give them, in order."""
    data = tokens.texts[row].encode()
    return b"".join(data[start:end] for start, end in tokens.offsets[row])


MODELS = {
    "byte level": byte_level,
    "byte level, trimmed": lambda: byte_level(trim=True),
    "byte level, prefix space": lambda: byte_level(prefix_space=True),
    "sentencepiece": sentencepiece,
}


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    return {name: make() for name, make in MODELS.items()}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("text", TEXTS)
def test_offsets_cover_the_text_byte_for_byte(models: dict[str, Model], name: str, text: str) -> None:
    tokens = tokenize(models[name], text)
    spans = tokens.offsets[0]
    assert spans[0] == (0, 0)
    assert covered(tokens) == text.encode()
    assert [end for _, end in spans[1:-1]] == [start for start, _ in spans[2:]]
    assert len(tokens.pieces[0]) == len(spans) == tokens.ids.shape[1]


@settings(max_examples=60, deadline=None)
@given(text=st.text(min_size=1, max_size=30))
def test_offsets_of_arbitrary_text(text: str) -> None:
    model = _MODEL
    try:
        tokens = tokenize(model, text)
    except ThoughtscopeError as error:
        assert "surrogate" in str(error)
        return
    assert covered(tokens) == text.encode()
    assert tokens_from_ids(model, tokens.ids[:, 1:]).texts == (text,)


_MODEL = byte_level()


def test_a_character_split_over_tokens_keeps_its_bytes(models: dict[str, Model]) -> None:
    model = tiny_model("llama")  # one token per byte
    tokens = tokenize(model, "a北é")
    assert tokens.pieces[0] == ("<|begin|>", "a", "<0xE5>", "<0x8C>", "<0x97>", "<0xC3>", "<0xA9>")
    assert tokens.offsets[0] == ((0, 0), (0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6))
    fallback = tokenize(models["sentencepiece"], "the 中é北")
    assert fallback.pieces[0] == ("<s>", " the", " ", "中", "é", "<0xE5>", "<0x8C>", "<0x97>")
    assert fallback.offsets[0] == ((0, 0), (0, 3), (3, 4), (4, 7), (7, 9), (9, 10), (10, 11), (11, 12))


def test_normalised_text_keeps_the_range_of_its_characters() -> None:
    """Where a normaliser rewrites the text, ranges point into what was typed, pieces show what the model sees."""
    tokenizer = Tokenizer(Unigram([("<unk>", 0.0), *((c, -1.0) for c in "abcdefghij ")], unk_id=0))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    model = _with_tokenizer(tokenizer, unk_token="<unk>")
    tokens = tokenize(model, "ＡBé c")
    assert tokens.pieces[0][:2] == ("a", "b")
    assert tokens.offsets[0][:2] == ((0, 3), (3, 4))
    assert tokens.offsets[0][-1] == (7, 8)


def test_batches_are_padded_on_the_left_with_positions_from_the_first_real_token() -> None:
    model = tiny_model("gpt2")
    tokens = tokenize(model, ["abcd", "xy"])
    assert tokens.mask.tolist() == [[True] * 5, [False, False, True, True, True]]
    assert tokens.positions.tolist() == [[0, 1, 2, 3, 4], [-1, -1, 0, 1, 2]]
    assert tokens.pieces[1] == ("<|begin|>", "x", "y") and len(tokens) == 2
    alone = tokenize(model, "xy")
    row = tokens.row(1)
    assert torch.equal(row.ids, alone.ids) and (row.texts, row.pieces, row.offsets) == (
        alone.texts,
        alone.pieces,
        alone.offsets,
    )


def test_special_tokens_are_optional_and_have_no_place_in_the_text() -> None:
    model = tiny_model("gpt2")
    assert tokenize(model, "ab").ids.tolist() == [[256, ord("a"), ord("b")]]
    bare = tokenize(model, "ab", special_tokens=False)
    assert bare.pieces == (("a", "b"),) and bare.offsets == (((0, 1), (1, 2)),)
    written = tokenize(model, "a<|end|>b", special_tokens=False)
    assert written.pieces == (("a", "<|end|>", "b"),)
    assert written.offsets == (((0, 1), (1, 8), (8, 9)),)


def _without_template(model: Model) -> Model:
    """The same tokenizer, but one that puts no beginning-of-text token by itself, as GPT-2's and SmolLM2's."""
    model.tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return model


def test_a_missing_beginning_token_is_said_and_put_when_asked() -> None:
    model = _without_template(tiny_model("gpt2"))
    with pytest.warns(MissingBos, match=r"begins with 'a', without random-gpt2's.*<\|begin\|>.*bos=True"):
        bare = tokenize(model, ["ab", "abc"])
    assert (bare.ids[0] != 256).all()
    assert "without" in wants_bos(model, bare)
    asked = tokenize(model, ["ab", "abc"], bos=True)
    assert torch.equal(asked.ids, tokenize(tiny_model("gpt2"), ["ab", "abc"]).ids)
    assert asked.pieces[0] == ("<|begin|>", "a", "b") and asked.offsets[0] == ((0, 0), (0, 1), (1, 2))
    assert wants_bos(model, asked) is None
    assert torch.equal(tokenize(model, ["ab", "abc"], bos=False).ids, bare.ids)  # said, so no warning
    written = tokenize(model, "<|begin|>ab")  # typed into the prompt
    assert written.ids.tolist() == [[256, 97, 98]]
    assert torch.equal(tokenize(model, "<|begin|>ab", bos=True).ids, written.ids)
    assert tokenize(model, "ab", special_tokens=False).ids.tolist() == [[97, 98]]  # said in another way


def test_a_tokenizer_that_puts_the_token_itself_puts_it_once_and_leaves_it_out_when_asked() -> None:
    model = tiny_model("gpt2")
    assert (
        tokenize(model, "ab", bos=True).ids.tolist() == [[256, 97, 98]] == tokenize(model, "ab").ids.tolist()
    )
    assert tokenize(model, "ab", bos=False).ids.tolist() == [[97, 98]]
    assert tokenize(model, "<|begin|>ab", bos=False, special_tokens=False).ids.tolist() == [[256, 97, 98]]


def test_a_tokenizer_without_such_a_token_is_left_in_peace() -> None:
    model = _without_template(tiny_model("gpt2"))
    model.tokenizer.bos_token = None
    assert wants_bos(model, tokenize(model, "ab")) is None
    with pytest.raises(ThoughtscopeError, match=r"names no beginning-of-text token"):
        tokenize(model, "ab", bos=True)
    assert wants_bos(tiny_model("llama", vocab_size=50), tokens_from_ids(model, [1, 2])) is None


def test_the_specimens_prompts_begin_as_it_was_trained() -> None:
    model = load_model("specimen")
    assert wants_bos(model, tokenize(model, "Fact: the capital")) is None


def test_nothing_is_written_onto_the_users_tokenizer() -> None:
    model = tiny_model("llama")
    before = set(vars(model.tokenizer))
    tokenize(model, "ab")
    assert set(vars(model.tokenizer)) == before


def test_one_text_for_a_token_everywhere() -> None:
    model = tiny_model("llama")
    tokens = tokenize(model, "aé ", special_tokens=False)
    assert tuple(token_text(model, token) for token in tokens.ids[0].tolist()) == tokens.pieces[0]
    assert token_text(model, 0xE4) == "<0xE4>" and token_text(model, 256) == "<|begin|>"
    assert token_text(tiny_model("llama", vocab_size=50), 7) == "⟨7⟩"


def test_rows_of_ids_are_padded_on_the_left() -> None:
    tokens = pad_left([[5, 6, 7], [8]], filler=2)
    assert tokens.ids.tolist() == [[5, 6, 7], [2, 2, 8]]
    assert tokens.mask.tolist() == [[True] * 3, [False, False, True]]
    assert tokens.texts == ("", "") and tokens.pieces == ((), ())


def test_chat_templates_are_applied_once_and_without_a_second_begin_token() -> None:
    model = tiny_model("llama")
    with pytest.raises(ThoughtscopeError, match=r"no chat template"):
        tokenize(model, chat="hi")
    model.tokenizer.chat_template = (
        "<|begin|>{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    tokens = tokenize(model, chat="hi")
    assert tokens.texts == ("<|begin|>[user]hi[assistant]",)
    assert (tokens.ids == 256).sum() == 1
    assert covered(tokens) == tokens.texts[0].encode()
    talk = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    assert tokenize(model, chat=talk).texts == ("<|begin|>[user]a[assistant]b[user]c[assistant]",)
    assert len(tokenize(model, chat=[talk[:1], talk])) == 2
    model.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ThoughtscopeError, match=r"roles must alternate"):
        tokenize(model, chat=talk)


def test_bad_prompts_are_refused_with_the_reason() -> None:
    model = tiny_model("gpt2")
    for empty in ("", [], ["a", ""]):
        with pytest.raises(ThoughtscopeError, match=r"empty"):
            tokenize(model, empty)
    with pytest.raises(ThoughtscopeError, match=r"surrogate pair at character 1"):
        tokenize(model, "a\ud83d")
    with pytest.raises(ThoughtscopeError, match=r"messages are given as chat="):
        _encoded(model, ["a", {"role": "user", "content": "b"}], None, True, 99)
    with pytest.raises(ThoughtscopeError, match=r"no token ids"):
        tokens_from_ids(model, [])
    with pytest.raises(ThoughtscopeError, match=r"260 is outside the vocabulary: allowed 0 to 259"):
        tokens_from_ids(model, [1, 260])


def test_limits_hold_before_any_work_is_done() -> None:
    model = tiny_model("gpt2")  # 256 positions
    assert tokenize(model, "a" * 255).ids.shape[1] == 256
    with pytest.raises(LimitExceeded, match=r"257 tokens; random-gpt2 allows 256"):
        tokenize(model, "a" * 256)
    with pytest.raises(LimitExceeded, match=r"4 tokens; random-gpt2 allows 3"):
        tokenize(model, "aaa", max_tokens=3)
    with pytest.raises(LimitExceeded, match=r"50,000,000 bytes"):
        tokenize(model, "a" * 50_000_000)
    with pytest.raises(LimitExceeded):
        tokens_from_ids(model, [[1] * 257])


def test_models_without_a_fast_tokenizer_are_refused() -> None:
    model = tiny_model("llama", vocab_size=50)
    assert model.tokenizer is None
    with pytest.raises(UnsupportedModel, match=r"tokens_from_ids"):
        tokenize(model, "text")
    tokens = tokens_from_ids(model, [[1, 2, 3], [4]])
    assert tokens.pieces == (("⟨1⟩", "⟨2⟩", "⟨3⟩"), ("⟨4⟩",)) and tokens.texts == ("", "")
    slow = type("SlowTokenizer", (), {})()
    with pytest.raises(UnsupportedModel, match=r"SlowTokenizer.*fast"):
        tokenize(model_from(model.module, slow, name="slow", prove_sites=False), "text")


def test_ids_come_back_as_text_with_invalid_bytes_marked() -> None:
    model = tiny_model("llama")
    whole = tokenize(model, "é北", special_tokens=False)
    broken = tokens_from_ids(model, whole.ids[:, 1:4])  # second half of é, first two bytes of 北
    assert broken.texts == ("\ufffd" * 3,)
    assert broken.offsets == (((0, 3), (3, 6), (6, 9)),)
    assert tokens_from_ids(model, whole.ids).offsets == whole.offsets


def test_generated_tokens_continue_text_and_offsets() -> None:
    model = tiny_model("qwen3")
    tokens = tokenize(model, ["ab 北", "c"])
    longer = generate(model, tokens, max_new_tokens=5)
    for row in range(2):
        assert longer.texts[row].startswith(tokens.texts[row])
        assert longer.offsets[row][: len(tokens.offsets[row])] == tokens.offsets[row]
        assert longer.offsets[row][-1][1] == len(longer.texts[row].encode())
        assert covered(longer, row) == longer.texts[row].encode()
        assert len(longer.pieces[row]) == int(longer.mask[row].sum())


@given(st.binary(max_size=24))
def test_bytes_are_shown_and_decoded_without_loss_of_place(data: bytes) -> None:
    text, where = decode(data)
    assert len(where) == len(data) + 1 and where[-1] == len(text.encode())
    assert where == sorted(where)
    if "\ufffd" not in text:
        assert text.encode() == data and show(data) == text
