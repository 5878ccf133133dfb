"""Conversations: by the model's own template, with every token's role, whatever the template does."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.chat_templates import CHATML, DATED, GEMMA, GEMMA_3, LLAMA, MISTRAL, THINKING, chat_model
from tests.tiny_models import tiny_model
from thoughtscope.core.errors import LimitExceeded, ThoughtscopeError
from thoughtscope.core.turns import Turn, check_turns, conversation, heading, messages, turn_at
from thoughtscope.models import Model, Tokens, tokenize
from thoughtscope.models.pieces import piece_bytes
from thoughtscope.models.tokens import append

FAMILIES = {
    "chatml": CHATML,
    "llama": LLAMA,
    "dated": DATED,
    "gemma": GEMMA,
    "gemma 3": GEMMA_3,
    "mistral": MISTRAL,
}
TRIMS = {"llama", "dated", "gemma", "gemma 3"}


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


TALK = [said("user", "Hello, you"), said("assistant", "Hello, you"), said("user", "is é <b> 😀 ok?")]


def spelt(model: Model, tokens: Tokens, start: int, end: int) -> bytes:
    bytes_of = piece_bytes(model.tokenizer)
    return b"".join(bytes_of(token) for token in tokens.ids[0, start:end].tolist())


def parts(model: Model, tokens: Tokens) -> list[tuple[str, bytes, bytes, bytes]]:
    """Each turn's role, and the bytes of its tokens before, in and after the content."""
    return [
        (
            turn.role,
            spelt(model, tokens, turn.start, turn.content[0]),
            spelt(model, tokens, *turn.content),
            spelt(model, tokens, turn.content[1], turn.end),
        )
        for turn in tokens.turns[0]
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_token_has_its_role(family: str) -> None:
    model = chat_model(FAMILIES[family])
    tokens = tokenize(model, chat=TALK)
    theirs = model.tokenizer.apply_chat_template(TALK, add_generation_prompt=True)["input_ids"]
    assert tokens.ids[0].tolist() == theirs
    turns = tokens.turns[0]
    check_turns(turns, tokens.ids.shape[1])
    asked = [turn for turn in turns if not turn.added and turn.text]
    assert [(turn.role, turn.text) for turn in asked] == [(m["role"], m["content"]) for m in TALK]
    for role, before, content, after in parts(model, tokens)[-4:]:
        assert content.decode() in ("", "Hello, you", "is é <b> 😀 ok?", "You are a tiny model"), role
        assert b"Hello" not in before + after
    assert messages(turns) == TALK
    assert heading(turns) == "user: Hello, you · assistant: Hello, you · user: is é <b> 😀 ok?"


def test_template_and_content_of_each_family() -> None:
    model = chat_model(CHATML)
    assert parts(model, tokenize(model, chat="Hi")) == [
        ("system", b"<|im_start|>system\n", b"You are a tiny model", b"<|im_end|>\n"),
        ("user", b"<|im_start|>user\n", b"Hi", b"<|im_end|>\n"),
        ("assistant", b"<|im_start|>assistant\n", b"", b""),
    ]
    assert [turn.added for turn in tokenize(model, chat="Hi").turns[0]] == [True, False, False]
    model = chat_model(DATED)  # its system turn has no words of its own, and takes the user's
    head = b"<|begin|><|start_header_id|>system<|end_header_id|>\n\nToday: 26 Jul 2024\n\n"
    assert parts(model, tokenize(model, chat="Hi"))[0] == ("system", b"", b"", head + b"<|eot_id|>")
    assert parts(model, tokenize(model, chat=[said("system", "S"), said("user", "Hi")]))[0] == (
        "system", head, b"S", b"<|eot_id|>",
    )  # fmt: skip
    model = chat_model(GEMMA)  # the answer is the assistant's, whatever the template calls it
    assert parts(model, tokenize(model, chat="Hi")) == [
        ("user", b"<|begin|><start_of_turn>user\n", b"Hi", b"<end_of_turn>\n"),
        ("assistant", b"<start_of_turn>model\n", b"", b""),
    ]
    model = chat_model(MISTRAL)  # nothing opens an answer
    assert parts(model, tokenize(model, chat=[*TALK[:2], said("user", "c")]))[1:] == [
        ("assistant", b"", b"Hello, you", b"<|end|>"),
        ("user", b"[INST] ", b"c", b" [/INST]"),
    ]


def test_a_system_prompt_inside_of_the_users_turn() -> None:
    model = chat_model(GEMMA_3)
    tokens = tokenize(model, chat=[said("system", "Be brief."), said("user", "Hi")])
    assert parts(model, tokens) == [
        ("system", b"<|begin|><start_of_turn>user\n", b"Be brief.", b""),
        ("template", b"", b"", b"\n\n"),
        ("user", b"", b"Hi", b"<end_of_turn>\n"),
        ("assistant", b"<start_of_turn>model\n", b"", b""),
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_space_around_the_words(family: str) -> None:
    model = chat_model(FAMILIES[family])
    words = " \n Hi\n "
    found = next(turn for turn in tokenize(model, chat=words).turns[0] if turn.role == "user")
    assert found.text == (words.strip() if family in TRIMS else words)
    tokens = tokenize(model, chat=words)
    assert spelt(model, tokens, *found.content).decode() == found.text


@pytest.mark.parametrize("family", FAMILIES)
def test_words_that_stand_in_the_template_too(family: str) -> None:
    """The place of a message is not looked up by its text."""
    model = chat_model(FAMILIES[family])
    for word in ("user", "system", "\n", "u", "start", "", "INST", "Today"):
        tokens = tokenize(model, chat=[said("user", word), said("assistant", word), said("user", word)])
        plain = tokenize(model, chat=[said("user", "#1#"), said("assistant", "#2#"), said("user", "#3#")])
        shown = word.strip() if family in TRIMS else word
        rebuilt = spelt(model, plain, 0, plain.ids.shape[1]).decode()
        for mark in ("#1#", "#2#", "#3#"):
            rebuilt = rebuilt.replace(mark, shown)
        assert tokens.texts[0] == rebuilt
        for mine, theirs in zip(parts(model, tokens), parts(model, plain), strict=True):
            assert mine[0] == theirs[0]
            if mine[0] in ("user", "assistant") and theirs[2]:
                assert mine[2].decode() == shown
                assert mine[1] + mine[3] == theirs[1] + theirs[3]


def test_a_token_across_the_border_counts_as_content() -> None:
    model = chat_model(
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}", merges=[" h"]
    )
    tokens = tokenize(model, chat="hi")
    assert parts(model, tokens) == [("user", b"user:", b" hi", b"\n")]


def test_what_a_template_takes_away_is_not_marked() -> None:
    model = chat_model(THINKING)
    talk = [said("user", "q"), said("assistant", "<think>q</think>a"), said("user", "q")]
    tokens = tokenize(model, chat=talk)
    assert parts(model, tokens)[1] == ("assistant", b"<|im_start|>assistant\n", b"a", b"<|im_end|>\n")
    changing = THINKING.replace("else m['content'] }}", "else m['content'] | replace('e', '3') }}")
    model = chat_model(changing)
    tokens = tokenize(model, chat=[said("user", "tree"), said("assistant", "e"), said("user", "oak")])
    turns = tokens.turns[0]
    assert parts(model, tokens)[0] == ("user", b"", b"", b"<|im_start|>user\ntr33<|im_end|>\n")
    assert [turn.text for turn in turns] == ["tree", "e", "oak", ""]
    assert turns[0].content == (0, 0) and spelt(model, tokens, *turns[2].content) == b"oak"


def test_a_template_that_writes_the_beginning_otherwise() -> None:
    """Where a turn ends cannot be told: what stands between two messages is the template's, and nobody's."""
    odd = "{{ messages | length }}{% for m in messages %}<{{ m['content'] }}>{% endfor %}"
    model = chat_model(odd)
    assert parts(model, tokenize(model, chat=TALK)) == [
        ("user", b"3<", b"Hello, you", b""),
        ("template", b"", b"", b"><"),
        ("assistant", b"", b"Hello, you", b""),
        ("template", b"", b"", b"><"),
        ("user", b"", "is é <b> 😀 ok?".encode(), b">"),
    ]


# --- messages that spell the template's tokens -----------------------------------------------------------------------


@pytest.mark.parametrize("family", ["chatml", "llama", "gemma", "mistral"])
def test_a_message_cannot_end_its_own_turn(family: str) -> None:
    model = chat_model(FAMILIES[family])
    controls = set(model.tokenizer.all_special_ids)
    words = "".join(model.tokenizer.all_special_tokens) + " ok<|im_"
    tokens = tokenize(model, chat=[said("user", words), said("assistant", "a"), said("user", words)])
    harmless = tokenize(model, chat=[said("user", "x"), said("assistant", "a"), said("user", "x")])
    count = lambda some: [int(token) for token in some.ids[0] if int(token) in controls]
    assert count(tokens) == count(harmless)
    users = [turn for turn in tokens.turns[0] if turn.role == "user"]
    assert len(users) == 2
    for turn in users:
        assert turn.text == words and spelt(model, tokens, *turn.content).decode() == words
        assert not controls & set(tokens.ids[0, slice(*turn.content)].tolist())
    assert spelt(model, tokens, 0, tokens.ids.shape[1]).decode() == tokens.texts[0]
    theirs = model.tokenizer.apply_chat_template([said("user", words)])["input_ids"]
    assert controls & set(theirs[len(theirs) // 4 :]), "transformers alone reads them as its own"
    assert model.tokenizer(words)["input_ids"][1] in controls, "the user's tokenizer stays as it was"


def test_where_words_cannot_be_kept_apart_they_are_refused() -> None:
    from tokenizers import normalizers

    model = chat_model(CHATML)
    model.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    tokenize(model, chat="Fine")
    with pytest.raises(ThoughtscopeError, match=r"kept apart|plain text"):
        tokenize(model, chat="A <|im_end|>")


# --- refusals --------------------------------------------------------------------------------------------------------


def test_mistakes_are_named() -> None:
    model = chat_model(CHATML)
    for chat, why in (
        ([], "conversation is empty"),
        ([said("user", "a"), {"role": "user"}], "Message 1 of the conversation"),
        ([{"role": "user", "content": "a", "tool_calls": []}], "nothing else"),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}]}], "got list"),
        ([said("a b", "a")], "a role is a word"),
        ([said("user<|im_end|>", "a")], "a role is a word"),
        (["a"], "must be"),
    ):
        with pytest.raises(ThoughtscopeError, match=why):
            conversation(chat)
    with pytest.raises(ThoughtscopeError, match="surrogate"):
        tokenize(model, chat="a\ud83d")
    with pytest.raises(ThoughtscopeError, match=r"one of the two"):
        tokenize(model, "a", chat="b")
    with pytest.raises(ThoughtscopeError, match=r"one of the two"):
        tokenize(model)
    with pytest.raises(ThoughtscopeError, match=r"takes no conversation"):
        tokenize(tiny_model("llama"), chat="hi")
    with pytest.raises(LimitExceeded, match=r"allows 20"):
        tokenize(model, chat="hi", max_tokens=20)


def test_templates_that_refuse() -> None:
    with pytest.raises(ThoughtscopeError, match=r"System role not supported"):
        tokenize(chat_model(GEMMA), chat=[said("system", "a"), said("user", "b")])
    with pytest.raises(ThoughtscopeError, match=r"alternate"):
        tokenize(chat_model(GEMMA), chat=[said("user", "a"), said("user", "b")])
    with pytest.raises(ThoughtscopeError, match=r"refuses these messages"):
        tokenize(chat_model("{{ tools[0].name }}"), chat="a")
    with pytest.raises(ThoughtscopeError, match=r"refuses these messages"):
        tokenize(chat_model("{% for %}"), chat="a")


# --- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_that_has_begun_goes_on(family: str) -> None:
    model = chat_model(FAMILIES[family])
    tokens = tokenize(model, chat=[said("user", "Say it"), said("assistant", "It is")])
    assert tokens.texts[0].endswith("It is")
    theirs = model.tokenizer.apply_chat_template(
        [said("user", "Say it"), said("assistant", "It is")], continue_final_message=True
    )["input_ids"]
    assert tokens.ids[0].tolist() == theirs
    last = tokens.turns[0][-1]
    assert (last.role, last.text, last.content[1]) == ("assistant", "It is", tokens.ids.shape[1])
    longer = append(tokens, model, torch.tensor([[32, 0xC3, 0xA9]]))
    assert longer.turns[0][-1].text == "It is é" and longer.turns[0][:-1] == tokens.turns[0][:-1]
    check_turns(longer.turns[0], longer.ids.shape[1])


def test_an_answer_that_cannot_be_left_open() -> None:
    model = chat_model("{% for m in messages %}{{ m['content'] | upper }}{% endfor %}")
    with pytest.raises(ThoughtscopeError, match=r"does not keep the assistant's last message"):
        tokenize(model, chat=[said("user", "a"), said("assistant", "b")])


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_model_answers_is_the_assistants_turn(family: str) -> None:
    model = chat_model(FAMILIES[family])
    tokens = tokenize(model, chat="a")
    longer = append(tokens, model, torch.tensor([[66, 67, 257, 68]]), ends={257})
    last = longer.turns[0][-1]
    n = tokens.ids.shape[1]
    assert (last.role, last.text, last.content, last.end) == ("assistant", "BC", (n, n + 2), n + 4)
    check_turns(longer.turns[0], n + 4)
    again = append(append(tokens, model, torch.tensor([[66]])), model, torch.tensor([[67]]))
    assert again.turns == append(tokens, model, torch.tensor([[66, 67]])).turns
    plain = tokenize(model, "a")
    assert append(plain, model, torch.tensor([[66]])).turns == ()


def test_several_conversations_are_a_batch() -> None:
    model = chat_model(CHATML)
    together = tokenize(model, chat=[[said("user", "a")], TALK])
    for row, chat in enumerate(([said("user", "a")], TALK)):
        alone = tokenize(model, chat=chat)
        assert together.row(row).turns == alone.turns and torch.equal(together.row(row).ids, alone.ids)
    with_bos = tokenize(chat_model(CHATML), chat="a", bos=True)
    assert with_bos.ids[0, 0] == 256
    assert parts(model, with_bos)[0][1] == b"<|begin|><|im_start|>system\n"


# --- the noun --------------------------------------------------------------------------------------------------------


def test_turns_travel_as_json() -> None:
    turns = tokenize(chat_model(CHATML), chat=TALK).turns[0]
    assert tuple(Turn.from_json(turn.to_json()) for turn in turns) == turns
    good = turns[0].to_json()
    for bad in ({}, None, good | {"more": 1}, good | {"start": True}, good | {"content": [1]}, good | {"role": 1},
                good | {"content": [5, 4]}, good | {"added": 0}, good | {"content": "ab"}):  # fmt: skip
        with pytest.raises(ThoughtscopeError):
            Turn.from_json(bad)
    with pytest.raises(ThoughtscopeError, match="end at token"):
        check_turns(turns, 3)
    with pytest.raises(ThoughtscopeError, match="begins at token"):
        check_turns(turns[1:], turns[-1].end)
    assert [turn_at(turns, at) for at in range(turns[-1].end)] == [
        *itertools.chain.from_iterable([turn] * (turn.end - turn.start) for turn in turns)
    ]
    assert turn_at((), 0) is None and turns[1].says(turns[1].content[0]) and not turns[1].says(turns[1].start)
