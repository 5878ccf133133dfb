"""Rows that are the model's own, batches that depend on their step alone, and the thread that makes them ahead."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from itertools import islice

import pytest
import torch

from tests.tiny_models import tiny_model
from thoughtscope.core.errors import ThoughtscopeError, UnknownSite, UnsupportedModel
from thoughtscope.core.site import Site
from thoughtscope.models import capture, tokenize, tokens_from_ids
from thoughtscope.training.data import Feed, HarvestStream, Moments, Share, Stream, harvest
from thoughtscope.training.data.ahead import ahead
from thoughtscope.training.data.harvest import _EMPTY, POOL, cut_contexts, encoder, packed_contexts

SITES = ("resid_post.0", "z.1", "mlp_act.0")
SMALL = Feed(context=16, forward_tokens=128)


def documents(n: int = 120, most: int = 45, seed: int = 0) -> list[list[int]]:
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, most, (n,), generator=random).tolist()
    return [torch.randint(3, 250, (length,), generator=random).tolist() for length in lengths]


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


def stream(model, docs=None, **changes):
    settings = {"batch": 40, "feed": SMALL, "buffer_tokens": 40 * 24, "seed": 3} | changes
    return HarvestStream(model, documents() if docs is None else docs, SITES, **settings)


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[site], b[site]) for site in a)


# --- rows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("skip_first", [True, False])
def test_rows_are_those_of_a_capture(family, skip_first):
    """Every token of every document once, with what the model holds there when it sees that context alone."""
    model = tiny_model(family)
    docs = documents(20)
    feed = Feed(context=16, forward_tokens=128, skip_first=skip_first, dtype=torch.float32)
    expected = {}
    for number, ids in enumerate(docs):
        for start in range(0, len(ids), 16):
            stretch = ids[start : start + 16]
            acts = capture(model, tokens_from_ids(model, stretch), SITES)
            for position in range(skip_first, len(stretch)):
                x = {site: acts[site][0, position].flatten() for site in SITES}
                expected[number, start + position] = stretch[position], position, x
    seen = set()
    for found in harvest(model, docs, SITES, feed):
        for row in range(len(found)):
            key = int(found.document[row]), int(found.offset[row])
            token, position, x = expected[key]
            assert (int(found.token[row]), int(found.position[row])) == (token, position)
            for site in SITES:
                torch.testing.assert_close(found.rows[Site.parse(site)][row], x[site], atol=2e-5, rtol=1e-4)
            assert key not in seen
            seen.add(key)
    assert seen == set(expected)


def test_contexts_of_a_text_all_begin_with_its_begin_token(model):
    """And together they are the text, the begin token counted once."""
    texts = ["abc", "x" * 100, "", "a longer text, " * 5]
    bos = model.tokenizer.bos_token_id
    found: dict[int, list[int]] = {}
    for context in cut_contexts(
        encoder(model), enumerate(texts), Feed(context=8, forward_tokens=64), bos=bos
    ):
        assert context.ids[0] == bos and len(context.ids) <= 8
        there = found.setdefault(context.document, [bos])
        assert context.offset == len(there) - 1
        there += context.ids[1:].tolist()
    expected = {n: tokenize(model, text).ids[0].tolist() for n, text in enumerate(texts) if text}
    assert found == expected


def test_texts_are_encoded_as_the_tokenizer_does(model):
    texts = ["Hello", "ünïcode ☃", "<|begin|> inside", " spaces  "]
    model.tokenizer(["cut me off"], truncation=True, max_length=2)  # a setting that the tokenizer keeps
    assert encoder(model)(texts) == model.tokenizer(texts)["input_ids"]


def test_texts_and_token_ids_can_stand_side_by_side(model):
    """Each document is read as if the other kind were not there."""
    (found,) = harvest(model, ["ab", [7, 8, 9], "c"], SITES, Feed(skip_first=False))
    written = {n: model.tokenizer(text)["input_ids"] for n, text in ((0, "ab"), (2, "c"))}
    for number, ids in {**written, 1: [7, 8, 9]}.items():
        assert found.token[found.document == number].tolist() == ids


def test_passes_hold_little_padding(model):
    docs = documents(2400, most=60)
    packed = list(packed_contexts(encoder(model), enumerate(docs), Feed(context=64, forward_tokens=512)))
    assert [each.contexts[0].document < 60 for each in packed[:3]] == [True] * 3  # the first come soon
    packed = packed[2 * POOL :]
    real = sum(len(context.ids) for each in packed for context in each.contexts)
    padded = sum(max(len(c.ids) for c in each.contexts) * len(each.contexts) for each in packed)
    assert all(max(len(c.ids) for c in each.contexts) * len(each.contexts) <= 512 for each in packed)
    assert real / padded > 0.94
    lengths = [len(each.contexts[0].ids) for each in packed]
    assert lengths != sorted(lengths) and lengths != sorted(lengths, reverse=True)


def test_one_pass_serves_all_sites(model):
    calls = []
    handle = model.module.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        found = list(harvest(model, documents(), SITES, SMALL))
    finally:
        handle.remove()
    assert len(calls) == len(found)
    assert {site: x.shape[1] for site, x in found[0].rows.items()} == {
        Site("resid_post", 0): 16, Site("z", 1): 16, Site("mlp_act", 0): 32,
    }  # fmt: skip
    assert all(x.dtype == torch.bfloat16 for x in found[0].rows.values())


def test_what_is_not_finite_is_refused():
    model = tiny_model("llama")
    for docs in ([[5, 6, 7]], lambda: [[5, 6, 7]] * 400):
        with torch.no_grad():
            model.module.model.embed_tokens.weight[6] = 3e5
        feed = Feed(context=16, forward_tokens=64, dtype=torch.float16)
        with pytest.raises(
            ThoughtscopeError, match=r"resid_post.0 are not finite in torch.float16.*wider type"
        ):
            if callable(docs):
                next(
                    HarvestStream(
                        model, docs, ["resid_post.0"], batch=8, buffer_tokens=96, feed=feed
                    ).batches()
                )
            else:
                list(harvest(model, docs, ["resid_post.0"], feed))
    with torch.no_grad():
        model.module.model.embed_tokens.weight[6] = float("nan")
    with pytest.raises(ThoughtscopeError, match="The model itself makes them"):
        list(harvest(model, [[5, 6, 7]], ["resid_post.0"]))


def test_mistakes_are_named(model):
    with pytest.raises(ThoughtscopeError, match="outside the vocabulary: allowed 0 to 259"):
        list(harvest(model, [[1, 260]], SITES))
    with pytest.raises(UnknownSite):
        HarvestStream(model, ["a"], ["resid_post.9"])
    with pytest.raises(ThoughtscopeError, match="buffer_tokens of 6 batches"):
        HarvestStream(model, ["a"], SITES, batch=100, buffer_tokens=599)
    with pytest.raises(ThoughtscopeError, match="4 lanes cannot be shared by 5"):
        stream(model, lanes=4, share=Share(rank=0, world=5))
    with pytest.raises(ThoughtscopeError, match="rank is 0 to world - 1"):
        Share(rank=2, world=2)
    for wrong in ({"context": 1}, {"context": 64, "forward_tokens": 63}, {"dtype": torch.int8}):
        with pytest.raises(ThoughtscopeError):
            Feed(**wrong)
    bare = tiny_model("llama", vocab_size=100)
    with pytest.raises(ThoughtscopeError, match="no tokenizer"):
        list(harvest(bare, ["a"], SITES))

    class Slow:
        bos_token_id = None

    from dataclasses import replace

    with pytest.raises(UnsupportedModel, match="Slow, which is no fast tokenizer"):
        list(harvest(replace(model, tokenizer=Slow()), ["a"], SITES))


@pytest.mark.parametrize("docs", [[], [[5]] * 3, lambda: iter([])], ids=["none", "too short", "function"])
def test_documents_without_text_do_not_go_round_for_ever(model, docs):
    with pytest.raises(ThoughtscopeError, match=r"holds? no (documents|text)"):
        next(stream(model, docs).batches())
    assert _EMPTY > 1000


# --- batches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("passes", [1, 2])
def test_batches_depend_on_their_step_alone(model, passes):
    """Entering anywhere gives the same bits as having come from the start: this is what makes resuming exact."""
    made = stream(model, passes=passes)
    whole = list(islice(made.batches(), 60))
    random = torch.Generator().manual_seed(1)
    for step in [0, 1, 3, 4, *torch.randint(0, 57, (12,), generator=random).tolist()]:
        again = list(islice(stream(model, passes=passes).batches(step), 3))
        assert all(same(a, b) for a, b in zip(again, whole[step:], strict=False))
    assert same(next(made.batches(37)), whole[37])  # nor does it matter what the same stream has given before


def test_batches_hold_every_row_once(model):
    """The rows of a source that is read once, until a piece is no longer full: each is that of one harvested token."""
    docs = documents(240)
    site, feed = Site("resid_post", 0), Feed(context=16, forward_tokens=128, dtype=torch.float32)
    made = HarvestStream(model, iter(docs), [site], batch=40, feed=feed, buffer_tokens=40 * 24, lanes=3)
    given = []
    with pytest.raises(ThoughtscopeError, match="ran out in piece"):
        for batch in made.batches():
            given.append(batch[site])
    rows = torch.cat(given)
    held = torch.cat([found.rows[site] for found in harvest(model, docs, [site], feed)])
    assert len(held) - 2.5 * 40 * 8 - 128 < len(rows) <= len(held)
    nearest = torch.cdist(rows, held, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
    assert float(nearest.values.max()) < 1e-4
    # equal rows (one token at one place of equal contexts) are rare, so nearly all are hit by one row only
    assert len(nearest.indices.unique()) > 0.97 * len(rows)


def test_rows_are_mixed_over_documents(model):
    """A batch holds rows of many documents, and no document's rows fill it."""
    docs = [[3 + number % 200] * 30 for number in range(400)]
    made = HarvestStream(model, docs, ["embed"], batch=64, feed=SMALL, buffer_tokens=64 * 60, lanes=4)
    for batch in islice(made.batches(), 12):
        kinds = batch[Site("embed")].unique(dim=0)
        assert len(kinds) > 12


def test_passes_go_through_a_window_again(model):
    made = stream(model, passes=2, batch=40)
    batches = list(islice(made.batches(), 8 + 16))
    first = [torch.cat([b[Site("resid_post", 0)] for b in batches[i : i + 4]]) for i in (0, 4)]
    assert not torch.equal(*first)
    assert torch.equal(*(x.unique(dim=0) for x in first))


@pytest.mark.parametrize("world", [2, 3, 5])
def test_processes_make_blocks_of_the_same_batches(model, world):
    whole = stream(model)
    shares = [stream(model, share=Share(rank=rank, world=world)) for rank in range(world)]
    assert [row for share in shares for row in share.rows] == list(range(40))
    each = [share.batches(5) for share in shares]
    for expected in islice(whole.batches(5), 6):
        parts = [next(batches) for batches in each]
        assert same({site: torch.cat([part[site] for part in parts]) for site in expected}, expected)
    one, other = whole.moments, shares[-1].moments
    assert all(torch.equal(one[site].mean, other[site].mean) for site in one)


def test_skipping_runs_no_model(model):
    """A far step costs the tokens on the way, and the forward passes of two pieces."""
    calls = []
    handle = model.module.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        next(stream(model).batches())
        near = len(calls)
        next(stream(model).batches(400))
        assert len(calls) - near <= 5 * near  # two pieces, and the one that is made ahead
        far = len(calls)
        list(islice(stream(model).batches(), 400))
        assert len(calls) - far > 100
    finally:
        handle.remove()


def test_a_source_that_is_read_once(model):
    """It may be looked into for the moments, gives the same batches as a list, and is not read a second time."""
    docs = documents(500)
    once = stream(model, iter(docs), lanes=2)
    expected = stream(model, docs, lanes=2)
    assert once.moments[Site("z", 1)].mean_square == expected.moments[Site("z", 1)].mean_square
    got = list(islice(once.batches(), 10))
    assert all(same(a, b) for a, b in zip(got, expected.batches(), strict=False))
    with pytest.raises(ThoughtscopeError, match="iterator can be read once only"):
        next(once.batches())


def test_a_stream_is_a_stream(model):
    made: Stream = stream(model)
    assert made.sites == tuple(map(Site.parse, SITES))
    batch = next(made.batches())
    assert {site: x.shape[1] for site, x in batch.items()} == made.widths


# --- moments -------------------------------------------------------------------------------------------------------


def test_moments_are_exact_and_merge():
    x = torch.randn(1000, 7, dtype=torch.float64) * 3 + 100
    whole = Moments.of(x)
    torch.testing.assert_close(whole.mean, x.mean(0), rtol=1e-14, atol=0)
    assert whole.mean_square == pytest.approx(float((x - x.mean(0)).square().mean()), rel=1e-12)
    merged = (
        Moments.of(x[:0])
        .merged(Moments.of(x[:300]))
        .merged(Moments.of(x[300:301]))
        .merged(Moments.of(x[301:]))
    )
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-13, atol=0)
    assert merged.mean_square == pytest.approx(whole.mean_square, rel=1e-12)
    assert merged.n_rows == whole.n_rows == 1000


def test_moments_are_those_of_the_first_rows(model):
    docs = documents(2000)
    made = stream(model, docs, lanes=1)
    rows = torch.cat([f.rows[Site("resid_post", 0)] for f in harvest(model, docs[:200], SITES[:1], SMALL)])
    size = made.moments[Site("resid_post", 0)].n_rows
    assert size == 8 * 40
    assert float(made.moments[Site("resid_post", 0)].mean.norm()) == pytest.approx(
        float(rows.double().mean(0).norm()), rel=0.3
    )


# --- the thread ----------------------------------------------------------------------------------------------------


def test_ahead_gives_the_items_in_order_and_is_never_far_ahead():
    made = []

    def items():
        for number in range(20):
            made.append(number)
            yield number

    for number in ahead(items, n=2):
        time.sleep(0.002)
        assert len(made) <= number + 3


def test_ahead_raises_where_it_happened():
    def items():
        yield 1
        yield 2
        raise ThoughtscopeError("no more")

    got = []
    with pytest.raises(ThoughtscopeError, match="no more"):
        got.extend(ahead(items, n=5))
        pytest.fail("swallowed")
    items_again = ahead(items)
    assert [next(items_again), next(items_again)] == [1, 2]
    with pytest.raises(ThoughtscopeError):
        next(items_again)


def test_ahead_ends_with_its_consumer():
    closed = threading.Event()

    def items():
        try:
            while True:
                yield 1
        finally:
            closed.set()

    before = threading.active_count()
    running = ahead(items)
    next(running)
    assert threading.active_count() == before + 1
    running.close()
    assert closed.wait(5) and threading.active_count() == before
    for _ in ahead(items):
        break
    time.sleep(0.05)
    assert threading.active_count() == before


def test_a_program_ends_with_a_stream_open():
    code = (
        "from itertools import count\nfrom thoughtscope.training.data.ahead import ahead\n"
        "it = ahead(count)\nprint(next(it), next(it))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 1\n", "")
