"""Recordings: the same on disk and in memory, by one process and by two, killed or not; and examples picked from them."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from tests.tiny_microscope import random_dictionary, shared_model
from thoughtscope.atlas import Recording, bank_of_recording, collect_examples, load_recording, record
from thoughtscope.atlas import collect as collecting
from thoughtscope.atlas.columns import Columns, by_feature, joined
from thoughtscope.atlas.picking import LOOKS, Windows, figures, pick, strongest_first
from thoughtscope.core.errors import CorruptArtefact, DictionaryMismatch, ThoughtscopeError
from thoughtscope.core.share import Share
from thoughtscope.dictionaries import Dictionary

STRETCH = 100
SMALL = {"stretch_tokens": STRETCH, "batch_tokens": 60}


@cache
def dictionary() -> Dictionary:
    return random_dictionary(shared_model())


@cache
def documents() -> list[list[int]]:
    random = torch.Generator().manual_seed(4)
    lengths = torch.randint(2, 30, (60,), generator=random).tolist()
    return [torch.randint(3, 250, (length,), generator=random).tolist() for length in lengths]


def recorded(folder=None, **changes) -> Recording:
    found = record(shared_model(), dictionary(), documents(), folder, **SMALL | changes)
    assert found is not None
    return found


def same(one: Recording, two: Recording) -> bool:
    assert len(one.stretches) == len(two.stretches) > 3
    equal = np.array_equal(one.ids, two.ids) and np.array_equal(one.starts, two.starts)
    for number, n_features in enumerate(one.plan.n_features):
        a, b = (each.columns(number, 0, n_features) for each in (one, two))
        equal &= all(np.array_equal(getattr(a, name), getattr(b, name)) for name in vars(a))
    return equal


# --- recording -----------------------------------------------------------------------------------------------------


def test_what_is_on_disk_is_what_was_in_memory(tmp_path):
    whole = recorded()
    assert same(whole, recorded(tmp_path / "on disk")) and same(whole, load_recording(tmp_path / "on disk"))
    assert len(whole.ids) == sum(map(len, documents()))


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_recording_that_was_stopped_goes_on(tmp_path, after):
    """Nothing that was written is made again, and the files are those of a recording in one go."""

    class Stop(Exception): ...

    def stop(stage: str, done: int, total: int | None, **_: float) -> None:
        if done >= after * STRETCH:
            raise Stop

    recorded(tmp_path / "whole")
    with pytest.raises(Stop):
        recorded(tmp_path / "halves", progress=stop)
    with pytest.raises(CorruptArtefact, match=f"stretch-{after + 1:05d}|stretch"):
        load_recording(tmp_path / "halves")
    written = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "halves").glob("stretch-*/*.safetensors")
    }
    assert written
    recorded(tmp_path / "halves")
    assert all(path.stat().st_mtime_ns == time for path, time in written.items())
    files = [
        sorted(str(path.relative_to(home)) for path in home.glob("stretch-*/*.safetensors"))
        for home in (tmp_path / "whole", tmp_path / "halves")
    ]
    assert files[0] == files[1]  # their names carry their hashes


def test_two_processes_record_what_one_does(tmp_path):
    passes = []
    handle = shared_model().module.register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        halves = [
            record(
                shared_model(),
                dictionary(),
                documents(),
                tmp_path / "both",
                **SMALL,
                share=Share(rank=rank, world=2),
            )
            for rank in range(2)
        ]
        by_two = len(passes)
        whole = recorded()
        assert len(passes) - by_two == by_two  # each did its own half
    finally:
        handle.remove()
    assert halves[0] is None and halves[1] is not None and same(halves[1], whole)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"context": 12}, "context 64, now 12"), ({"max_tokens": 77}, "max_tokens 200000, now 77")],
)
def test_another_recording_in_the_folder_is_refused(tmp_path, changes, named):
    recorded(tmp_path)
    with pytest.raises(ThoughtscopeError, match=named):
        recorded(tmp_path, **changes)
    with pytest.raises(ThoughtscopeError, match="documents"):
        record(shared_model(), dictionary(), documents()[::-1], tmp_path, **SMALL)


def test_what_makes_no_recording_is_refused(tmp_path):
    with pytest.raises(ThoughtscopeError, match="no text"):
        record(shared_model(), dictionary(), [])
    with pytest.raises(ThoughtscopeError, match="of 1 or more; got 0"):
        record(shared_model(), dictionary(), documents(), context=0)
    with pytest.raises(CorruptArtefact, match="manifest"):
        load_recording(tmp_path / "nowhere")


def test_damage_is_named(tmp_path):
    recorded(tmp_path)
    for path in sorted((tmp_path / "stretch-00001").iterdir()):
        sound = path.read_bytes()
        path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
        with pytest.raises(CorruptArtefact, match="stretch-00001"):
            load_recording(tmp_path)
        path.write_bytes(sound)
    load_recording(tmp_path)


# --- examples ------------------------------------------------------------------------------------------------------


def plain_top(columns: Columns, ids: np.ndarray, starts: np.ndarray, window: tuple[int, int], n: int) -> list:
    """The strongest distinct texts of each feature, one feature and one event after the other."""
    found = []
    for feature in range(len(columns.count)):
        here = slice(columns.offsets[feature], columns.offsets[feature + 1])
        events = sorted(zip(-columns.value[here].astype(float), columns.token[here].tolist(), strict=True))
        seen, taken = set(), []
        for _, token in events[: n * LOOKS]:
            document = int(np.searchsorted(starts, token, side="right")) - 1
            first, end = (
                max(starts[document], token - window[0]),
                min(starts[document + 1], token + window[1] + 1),
            )
            text = tuple(ids[first:end])
            if text not in seen and len(taken) < n:
                taken.append(token)
            seen.add(text)
        found.append(taken)
    return found


@pytest.mark.parametrize("window", [(0, 0), (2, 1), (40, 40)])
def test_the_strongest_examples_are_those_of_a_plain_search(window):
    """Also where most texts are equal: a window of one token has few different ones."""
    whole = recorded()
    windows = Windows.over(whole.ids, whole.starts, window)
    for number, n_features in enumerate(whole.plan.n_features):
        columns = whole.columns(number, 0, n_features)
        picked = pick(columns, strongest_first(columns), windows, n_top=4, n_quantile=2, seed=0)
        expected = plain_top(columns, whole.ids, whole.starts, window, 4)
        for feature in range(n_features):
            mine = slice(picked.offsets[feature], picked.offsets[feature + 1])
            tokens, groups = columns.token[picked.event[mine]], picked.group[mine]
            assert tokens[groups == 0].tolist() == expected[feature]
            names = windows.name[tokens]
            assert len(set(names.tolist())) == len(names)
            assert (columns.feature[picked.event[mine]] == feature).all()


def test_what_is_active_within_an_example_is_all_that_is():
    whole, window = recorded(), (3, 2)
    windows = Windows.over(whole.ids, whole.starts, window)
    columns = whole.columns(1, 0, whole.plan.n_features[1])
    picked = pick(columns, strongest_first(columns), windows, n_top=3, n_quantile=1, seed=0)
    for example, event in enumerate(picked.event.tolist()):
        feature, peak = columns.feature[event], columns.token[event]
        inside = (columns.feature == feature) & (columns.token >= windows.first[peak])
        inside &= columns.token < windows.end[peak]
        mine = slice(picked.active_offsets[example], picked.active_offsets[example + 1])
        assert picked.active[mine].tolist() == np.flatnonzero(inside).tolist()


def test_windows_have_one_name_if_and_only_if_they_hold_one_text():
    random = np.random.default_rng(0)
    ids = random.integers(0, 2, 300).astype(np.int32)
    starts = np.array([0, 7, 8, 100, 300])
    windows = Windows.over(ids, starts, (3, 2))
    texts: dict[tuple, int] = {}
    for first, end, name in zip(windows.first, windows.end, windows.name, strict=True):
        assert texts.setdefault(tuple(ids[first:end]), name) == name
    assert len(set(texts.values())) == len(texts) > 20


def test_figures_are_those_of_numpy():
    whole = recorded()
    columns = whole.columns(0, 0, whole.plan.n_features[0])
    histogram, quantiles = figures(columns, strongest_first(columns))
    for feature in range(len(columns.count)):
        values = columns.value[columns.offsets[feature] : columns.offsets[feature + 1]].astype(np.float32)
        if len(values):
            np.testing.assert_allclose(
                quantiles[feature], np.quantile(values, (0, 0.25, 0.5, 0.75, 1)), rtol=1e-5
            )
            counts = np.histogram(values, bins=30, range=(0, values.max()))[0]
            assert np.abs(histogram[feature] - counts).sum() <= 2 and histogram[feature].sum() == len(values)
        else:
            assert not quantiles[feature].any() and not histogram[feature].any()


def test_negative_activations_are_the_weakest():
    value = np.array([0.5, -2, 3, -0.25, 0, 3], np.float16)
    columns = by_feature(np.zeros(6, np.int32), np.arange(6, dtype=np.int32), value, 2)
    assert strongest_first(columns).tolist() == [2, 5, 0, 4, 3, 1]


def test_columns_of_parts_of_a_text_are_those_of_the_text():
    random = np.random.default_rng(1)
    feature = random.integers(0, 9, 400).astype(np.int32)
    token, value = (
        np.sort(random.integers(0, 200, 400)).astype(np.int32),
        random.random(400).astype(np.float16),
    )
    whole = by_feature(feature, token, value, 9)
    cuts = [(0, 50), (50, 51), (51, 200)]
    parts = []
    for start, end in cuts:
        here = (token >= start) & (token < end)
        parts.append(by_feature(feature[here], token[here] - start, value[here], 9))
    again = joined(parts, [start for start, _ in cuts])
    assert all(np.array_equal(getattr(whole, name), getattr(again, name)) for name in vars(whole))


def test_a_bank_made_in_blocks_is_one_made_at_once(monkeypatch):
    whole = recorded()
    at_once = bank_of_recording(shared_model(), dictionary(), whole)
    monkeypatch.setattr(collecting, "BLOCK", 40)
    in_blocks = bank_of_recording(shared_model(), dictionary(), whole)
    for layer, n_features in enumerate(whole.plan.n_features):
        for index in range(n_features):
            one, two = (bank.detail(layer, index) for bank in (at_once, in_blocks))
            tops = [each.pop("examples_quantiles")[:1] for each in (one, two)]  # the others are drawn
            assert one == two and tops[0] == tops[1]


def test_a_bank_from_disk_is_one_from_memory(tmp_path):
    kept = collect_examples(shared_model(), dictionary(), documents(), folder=tmp_path)
    plain = collect_examples(shared_model(), dictionary(), documents())
    assert all(kept.detail(1, index) == plain.detail(1, index) for index in range(kept.n_features))


def test_a_recording_of_another_dictionary_is_refused():
    other = random_dictionary(shared_model(), scan="another")
    with pytest.raises(DictionaryMismatch, match="another dictionary"):
        bank_of_recording(shared_model(), other, recorded())
