"""The contest of collecting: when two lists of strongest examples are the same, and what its ratios are made of."""

from __future__ import annotations

import time

import numpy as np
import pytest

from bench.collecting.clock import Clock, collected
from bench.collecting.contest import OURS, shown, summary
from bench.collecting.equality import compare, floors, windowed, within
from bench.peer.equality import Unequal

FEATURES, TOP = 5, 4


def table(*rows: tuple[int, int, float]) -> dict[str, np.ndarray]:
    feature, place, value = zip(*rows, strict=True)
    return {"feature": np.array(feature), "place": np.array(place), "value": np.array(value)}


def drawn(seed: int = 0) -> dict[str, np.ndarray]:
    """Every token of 20 has another value for each feature; the strongest of each."""
    random = np.random.default_rng(seed)
    value = np.sort(random.uniform(1, 9, (FEATURES, 20)), axis=1)[:, ::-1][:, :TOP]
    place = np.stack([random.permutation(20)[:TOP] for _ in range(FEATURES)])
    return {
        "feature": np.repeat(np.arange(FEATURES), TOP),
        "place": place.ravel(),
        "value": value.ravel().copy(),
    }


def floor_of(*tables) -> np.ndarray:
    return np.maximum.reduce([floors(each, TOP, FEATURES) for each in tables])


def test_equal_lists_are_equal_whatever_their_order_and_rounding():
    ours = drawn()
    order = np.random.default_rng(1).permutation(len(ours["value"]))
    theirs = {name: column[order] for name, column in ours.items()}
    theirs["value"] = theirs["value"].astype(np.float16).astype(float)
    found = compare(ours, theirs, floor_of(ours, theirs))
    # The weakest of a full list lies on the border, beyond which nothing is known.
    assert found["compared"] == FEATURES * (TOP - 1) and found["on_one_side"] == 0
    assert 0 < found["value_error"] < 1e-3


@pytest.mark.parametrize(
    "change",
    [
        lambda each: each["place"].__setitem__(0, 99),
        lambda each: each["value"].__setitem__(0, each["value"][0] * 1.01),
        lambda each: each["feature"].__setitem__(0, 3),
    ],
)
def test_another_place_value_or_feature_is_seen(change):
    ours, theirs = drawn(), drawn()
    change(theirs)
    with pytest.raises(Unequal):
        compare(ours, theirs, floor_of(drawn()))


def test_who_is_last_by_rounding_is_left_out():
    """Two tokens of almost the same value: each side keeps another one, and both are right."""
    ours = table((0, 1, 5.0), (0, 2, 4.0), (0, 3, 3.0), (0, 4, 2.0))
    theirs = table((0, 1, 5.0), (0, 2, 4.0), (0, 3, 3.0), (0, 7, 2.0001))
    assert compare(ours, theirs, floor_of(ours, theirs))["compared"] == 3


def test_a_list_that_is_not_full_has_all_there_are():
    ours, theirs = table((0, 1, 5.0), (0, 2, 4.0)), table((0, 1, 5.0))
    assert floors(ours, TOP, FEATURES).tolist() == [0] * FEATURES
    with pytest.raises(Unequal):
        compare(ours, theirs, floor_of(ours, theirs))


def test_windows_keep_their_strongest_token_and_edges_are_left_out():
    tokens = table((0, 3, 5.0), (0, 1, 7.0), (0, 9, 2.0), (1, 3, 1.0))
    found = windowed(tokens, 4)
    assert sorted(zip(*(found[name].tolist() for name in ("feature", "place", "value")), strict=True)) == [
        (0, 0, 7.0),
        (0, 2, 2.0),
        (1, 0, 1.0),
    ]
    inside = within(tokens, 8, 2, 5)
    assert inside["place"].tolist() == []
    assert within(tokens, 8, 1, 4)["place"].tolist() == [3, 1, 9, 3]


def test_a_clock_counts_what_a_call_takes_also_where_it_breaks_off():
    class Module:
        def forward(self, broken: bool) -> None:
            time.sleep(0.02)
            if broken:
                raise ValueError

    module = Module()
    clock = Clock(module)

    def work() -> int:
        module.forward(False)
        with pytest.raises(ValueError):
            module.forward(True)
        return 7

    cost = collected({"forward": clock}, work, lambda _: {}, lambda found: found, None)
    assert cost["examples"] == 7 and 0.04 <= cost["forward_seconds"] <= cost["seconds"]


def test_ratios_are_of_examples_a_second_of_seconds_and_of_what_is_not_the_model():
    one = {"cpu_seconds": 1.0, "peak": 2**20, "peak_of": "call"}
    turns = {
        OURS: [{**one, "seconds": 4.0, "forward_seconds": 2.0, "outputs_seconds": 1.0, "examples": 100}],
        "delphi": [{**one, "seconds": 12.0, "forward_seconds": 4.0, "examples": 50}],
    }
    side = summary(turns)["sides"]["delphi"]
    assert side["ratio"] == 6 and side["ratio_of_seconds"] == 3
    assert side["ratio_without_forward"] == 4 and side["ratio_of_same_work"] == 4
    found = {
        "name": "n",
        "about": "a",
        "tokens": 8,
        "rounds": 1,
        "dtype": "float32",
        "equality": {},
    } | summary(turns)
    assert "delphi" in shown(found) and "6.0" in shown(found)
