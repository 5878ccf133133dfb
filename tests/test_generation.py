"""Continuations: greedy as transformers gives them, drawn as the probabilities say, a token at a time."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tests.chat_templates import CHATML, chat_model
from tests.tiny_models import tiny_model
from thoughtscope.core.errors import InvalidPlan, LimitExceeded, ThoughtscopeError
from thoughtscope.core.site import Site
from thoughtscope.models import (
    Edit,
    Sampling,
    forward,
    generate,
    pad_left,
    stream,
    tokenize,
    tokens_from_ids,
)
from thoughtscope.models.pieces import whole_characters
from thoughtscope.models.sampling import draw, generators, probabilities

IDS = [[3, 1, 4, 1, 5, 9], [2, 7, 1]]
PUSH = Edit(site=Site("resid_post", 0), op="scale", value=-1.0)


def test_greedy_is_what_transformers_generates() -> None:
    model = tiny_model("llama")
    for ids in IDS:
        tokens = tokens_from_ids(model, [ids])
        ours = generate(model, tokens, max_new_tokens=12, stop_at_end=False)
        theirs = model.module.generate(tokens.ids, max_new_tokens=12, do_sample=False, pad_token_id=0)
        assert torch.equal(ours.ids, theirs)


# --- what is drawn ---------------------------------------------------------------------------------------------------


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    generator = torch.Generator().manual_seed(0)
    for trial in range(40):
        logits = torch.randn(1, 11, generator=generator) * 2
        exact = logits.double().softmax(-1)[0]
        order = sorted(range(11), key=lambda token: (-float(exact[token]), token))
        top_p = float(torch.rand(1, generator=generator))
        chances, ids = probabilities(logits, Sampling(top_p=top_p))
        kept = set(ids[0][chances[0] > 0].tolist())
        size = next(n for n in range(1, 12) if math.fsum(float(exact[t]) for t in order[:n]) >= top_p)
        assert kept == set(order[:size]), trial
        assert float(chances.sum()) == pytest.approx(1, abs=1e-12)
        ratio = chances[0][chances[0] > 0] / exact[ids[0][chances[0] > 0]]
        assert torch.allclose(ratio, ratio[:1].expand_as(ratio), rtol=1e-12)
    flat = torch.zeros(1, 4)  # of equals those with the lowest ids, and exactly as many as it takes
    assert (probabilities(flat, Sampling(top_p=0.5))[0] > 0).sum() == 2
    assert probabilities(flat, Sampling(top_p=0.5))[1][0, :2].tolist() == [0, 1]


def test_temperature_and_top_k() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0]])
    chances, ids = probabilities(logits, Sampling(temperature=0.5))
    assert ids.tolist() == [[1, 3, 2, 0]]
    assert torch.allclose(chances, torch.tensor([[6.0, 4.0, 2.0, 0.0]]).double().softmax(-1))
    chances, _ = probabilities(logits, Sampling(top_k=2))
    assert (
        torch.allclose(chances[0, :2], torch.tensor([3.0, 2.0]).double().softmax(-1))
        and not chances[0, 2:].any()
    )
    one, _ = probabilities(logits, Sampling(top_k=2, top_p=0.6))
    assert one.tolist() == [[1, 0, 0, 0]]


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_p": 0.8}, {"top_k": 5}], ids=str)
def test_draws_follow_the_probabilities(options: dict[str, float]) -> None:
    """A chi-square test of 4,000 first tokens, each of a seed of its own."""
    model = tiny_model("llama", vocab_size=24)
    tokens = tokens_from_ids(model, [IDS[0]])
    logits = forward(model, tokens)
    assert logits is not None
    n = 4000
    sampling = Sampling(**options, seed=tuple(range(n)))
    last = logits[:, -1].expand(n, -1)
    drawn = draw(last, sampling, generators(sampling, n))[:, 0]
    chances, ids = probabilities(last[:1], sampling)
    counts = torch.bincount(drawn, minlength=24)[ids[0]].double()
    expected = chances[0] * n
    assert counts[expected == 0].sum() == 0
    enough = expected >= 5
    rest = expected[~enough].sum()
    squares = ((counts - expected)[enough] ** 2 / expected[enough]).sum()
    squares += 0 if rest < 1 else (counts[~enough].sum() - rest) ** 2 / rest
    freedom = int(enough.sum()) - 1 + int(rest >= 1)
    # Wilson and Hilferty: within four standard deviations of what chance gives
    assert (float(squares) / freedom) ** (1 / 3) < 1 - 2 / (9 * freedom) + 4 * math.sqrt(2 / (9 * freedom))
    whole = generate(model, tokens, max_new_tokens=1, sampling=Sampling(**options, seed=7))
    assert int(whole.ids[0, -1]) == int(drawn[7])


def test_a_seed_gives_the_same_tokens_whatever_stands_beside() -> None:
    model = tiny_model("llama")
    sampling = Sampling(temperature=2.0, top_p=0.95, seed=11)
    together = generate(model, tokens_from_ids(model, IDS), max_new_tokens=10, sampling=sampling)
    torch.manual_seed(5)
    for row, ids in enumerate(IDS):
        alone = generate(model, tokens_from_ids(model, [ids]), max_new_tokens=10, sampling=sampling)
        assert alone.ids[0, -10:].tolist() == together.ids[row, -10:].tolist()
    whole = generate(
        model, tokens_from_ids(model, [IDS[0]]), max_new_tokens=10, sampling=sampling, cache=False
    )
    assert whole.ids[0, -10:].tolist() == together.ids[0, -10:].tolist()
    other = Sampling(temperature=2.0, top_p=0.95, seed=(11, 12))
    apart = generate(model, tokens_from_ids(model, [IDS[0], IDS[0]]), max_new_tokens=10, sampling=other).ids
    assert apart[0, -10:].tolist() == together.ids[0, -10:].tolist() != apart[1, -10:].tolist()


def test_sampling_out_of_range() -> None:
    for options, why in (
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": 0}, "top_k"),
        ({"seed": -1}, "seed"),
        ({"seed": (1, 2**63)}, "seed"),
    ):
        with pytest.raises(ThoughtscopeError, match=why):
            Sampling(**options)  # type: ignore[arg-type]
    with pytest.raises(ThoughtscopeError, match="2 rows need one seed or 2"):
        generate(
            tiny_model("llama"), pad_left([[1], [2]]), max_new_tokens=1, sampling=Sampling(seed=(1, 2, 3))
        )


# --- a token at a time -----------------------------------------------------------------------------------------------


def test_a_stream_is_the_continuation() -> None:
    model = tiny_model("llama")
    tokens = tokens_from_ids(model, IDS)
    for sampling in (None, Sampling(temperature=3.0, seed=2)):
        whole = generate(model, tokens, max_new_tokens=12, sampling=sampling, stop_at_end=False)
        steps = list(stream(model, tokens, max_new_tokens=12, sampling=sampling, stop_at_end=False))
        assert torch.equal(torch.stack([step.ids for step in steps], dim=1), whole.ids[:, -12:])
        for row in range(2):
            assert tokens.texts[row] + "".join(step.texts[row] for step in steps) == whole.texts[row]


def test_steered_and_not_side_by_side() -> None:
    """Streams that are drawn from in turn do not see each other's edits, and leave no hook behind."""
    model = tiny_model("llama")
    tokens = tokens_from_ids(model, [IDS[0]])
    plain, steered = (
        stream(model, tokens, max_new_tokens=8),
        stream(model, tokens, max_new_tokens=8, edits=[PUSH]),
    )
    both = list(zip(plain, steered, strict=True))
    ids = [[int(step.ids[0]) for step in side] for side in zip(*both, strict=True)]
    assert ids[0] == generate(model, tokens, max_new_tokens=8).ids[0, -8:].tolist()
    assert ids[1] == generate(model, tokens, max_new_tokens=8, edits=[PUSH]).ids[0, -8:].tolist()
    assert ids[0] != ids[1]
    begun = stream(model, tokens, max_new_tokens=8, edits=[PUSH])
    next(begun)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.module.modules())
    assert torch.is_grad_enabled()
    begun.close()  # type: ignore[attr-defined]
    with pytest.raises(StopIteration):
        next(begun)


def test_a_stream_computes_only_what_is_asked_for() -> None:
    model = tiny_model("llama")
    calls = []
    handle = model.module.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        steps = stream(model, tokens_from_ids(model, [IDS[0]]), max_new_tokens=50)
        assert not calls
        list(itertools.islice(steps, 3))
        assert len(calls) == 3
    finally:
        handle.remove()
    with pytest.raises(LimitExceeded):  # at once, not when the first step is asked for
        stream(model, tokens_from_ids(model, [IDS[0]]), max_new_tokens=10_000)


def test_text_comes_in_whole_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    from thoughtscope.models import generation

    model = tiny_model("llama")
    said = iter(["aé😀".encode(), b"\xe2\x82"])
    script = [byte for part in said for byte in part]
    monkeypatch.setattr(generation._Continuation, "step", lambda self: torch.tensor([script.pop(0)]))
    steps = stream(model, tokens_from_ids(model, [[1]]), max_new_tokens=9)
    assert [step.texts[0] for step in steps] == ["a", "", "é", "", "", "", "😀", "", "\ufffd\ufffd"]


@pytest.mark.parametrize("text", ["a", "é", "€", "😀", "é€"])
def test_whole_characters(text: str) -> None:
    data = text.encode()
    for end in range(len(data) + 1):
        whole = data[: whole_characters(data[:end])].decode()
        assert text.startswith(whole) and len(whole.encode()) > end - 4
    assert whole_characters(data) == len(data) and whole_characters(data + b"\xff") == len(data) + 1
    assert whole_characters(b"\xc3a") == 2 and whole_characters(b"\x80") == 1


def test_an_end_token_ends_the_text_and_the_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    from thoughtscope.models import generation

    model = chat_model(CHATML)
    end = model.tokenizer.convert_tokens_to_ids("<|im_end|>")
    monkeypatch.setattr(generation, "end_tokens", lambda model: {end})
    tokens = tokenize(model, chat=[[{"role": "user", "content": "a"}], [{"role": "user", "content": "bc"}]])
    columns = iter([[65, 66], [end, 67], [68, end], [69, 70]])
    monkeypatch.setattr(generation._Continuation, "step", lambda self: torch.tensor(next(columns)))
    steps = list(stream(model, tokens, max_new_tokens=9))
    assert [step.texts for step in steps] == [("A", "B"), ("", "C"), ("", "")]
    assert [step.ended for step in steps] == [(False, False), (True, False), (True, True)]
    columns = iter([[65, 66], [end, 67], [68, end]])
    longer = generate(model, tokens, max_new_tokens=9)
    assert [turns[-1].text for turns in longer.turns] == ["A", "BC"]
    assert [turns[-1].role for turns in longer.turns] == ["assistant", "assistant"]


def test_edits_that_break_the_model_are_told() -> None:
    model = tiny_model("llama")
    with pytest.raises(InvalidPlan, match="NaN"):
        next(
            stream(
                model,
                tokens_from_ids(model, [[1, 2]]),
                max_new_tokens=2,
                writes={Site("resid_post", 0): lambda x, step: x * math.nan},
            )
        )
