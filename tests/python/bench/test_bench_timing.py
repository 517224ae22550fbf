"""Interleaved timing. No test here asserts on how long anything takes."""

from __future__ import annotations

import doctest
import gc
import json
from collections.abc import Callable

import pytest

from bench_tools import FakeClock
from swa_fast.bench import timing
from swa_fast.bench.timing import Comparison, Ratio, compare


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock(monkeypatch)


def test_every_call_takes_its_turn_in_each_round_in_changing_order(clock: FakeClock) -> None:
    found = compare({key: clock.call(key, 1.0) for key in "abcd"}, 40.0)
    warm_up, timed = clock.calls[:8], clock.calls[8:]
    assert sorted(warm_up) == sorted("aabbccdd")
    rounds = [tuple(timed[start : start + 4]) for start in range(0, len(timed), 4)]
    assert len(rounds) == 10
    assert all(sorted(one) == list("abcd") for one in rounds)
    assert len(set(rounds)) > 1
    for key in "abcd":
        assert found.seconds[key] == dict.fromkeys(range(10), 1.0)
        assert found.median(key) == 1.0


def test_there_is_a_least_and_a_largest_number_of_rounds(clock: FakeClock) -> None:
    slow = compare({"a": clock.call("a", 100.0)}, 1.0)
    assert len(slow.seconds["a"]) == timing.MIN_ROUNDS
    fast = compare({"a": clock.call("a", 1e-2)}, 1e9)
    assert len(fast.seconds["a"]) == timing.MAX_ROUNDS


def test_slow_calls_sit_rounds_out_but_not_the_first(clock: FakeClock) -> None:
    costs = {"first": 100.0, "fast": 1.0, "medium": 9.0, "slow": 100.0}
    found = compare({key: clock.call(key, cost) for key, cost in costs.items()}, 1.0)
    rounds = {key: list(seconds) for key, seconds in found.seconds.items()}
    assert rounds["first"] == rounds["fast"] == [0, 1, 2, 3, 4, 5, 6]
    assert rounds["medium"] == [0, 1, 2, 4, 6]
    assert rounds["slow"] == [0, 1, 2]
    assert len(rounds["slow"]) == timing.MIN_SAMPLES


def test_a_short_call_is_repeated_and_its_time_is_that_of_one(clock: FakeClock) -> None:
    calls = {"long": clock.call("long", 5e-3), "short": clock.call("short", 1e-5)}
    found = compare(calls, 1e-9)
    assert found.median("short") == pytest.approx(1e-5)
    assert found.median("long") == pytest.approx(5e-3)
    assert clock.calls.count("short") == 2 + 100 * timing.MIN_ROUNDS
    # What counts for sitting out is how long a measurement takes: both are in every round.
    assert len(found.seconds["short"]) == len(found.seconds["long"]) == timing.MIN_ROUNDS


def test_each_call_is_primed_just_before_it_is_timed(clock: FakeClock) -> None:
    found = compare({key: clock.call(key, 1.0) for key in "abc"}, 1.0, prime=True)
    timed = clock.calls[6:]
    assert timed[0::2] == timed[1::2]
    assert list(found.seconds["a"].values()) == [1.0] * timing.MIN_ROUNDS


@pytest.mark.parametrize("prime", [False, True])
def test_the_machine_settles_after_a_call_that_lingers(clock: FakeClock, prime: bool) -> None:
    calls = {"a": clock.call("a", 1.0), "b": clock.call("b", 1.0)}
    found = compare(calls, 1.0, prime=prime, lingering={"b"})
    assert clock.rests == ["b"] * timing.MIN_ROUNDS
    assert found.median("a") == found.median("b") == pytest.approx(1.0)  # no rest is timed


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_stops_and_is_put_back(enabled: bool) -> None:
    states: list[bool] = []
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        compare({"a": lambda: states.append(gc.isenabled())}, 1e-9)
        assert gc.isenabled() is enabled
        assert not any(states[2:])
    finally:
        (gc.enable if before else gc.disable)()


def test_ratios_do_not_see_drift(clock: FakeClock) -> None:
    def cost(base: float) -> Callable[[], float]:
        # The machine gets slower from round to round, for both alike within one.
        return lambda: base * 1.5 ** ((len(clock.calls) - 1) // 2)

    calls = {"fast": clock.call("fast", cost(1.0)), "slow": clock.call("slow", cost(3.0))}
    found = compare(calls, 1.0)
    assert len(set(found.seconds["fast"].values())) == timing.MIN_ROUNDS
    for ratio, expected in ((found.ratio("slow"), 3.0), (found.ratio("fast", "slow"), 1 / 3)):
        assert ratio.median == pytest.approx(expected)
        assert ratio.high - ratio.low < 1e-9


def test_ratios_use_only_rounds_that_both_took_part_in() -> None:
    fast = {0: 1.0, 1: 2.0, 2: 4.0, 3: 8.0}
    found = Comparison({"fast": fast, "slow": {1: 6.0, 3: 40.0}})
    assert found.ratio("slow") == Ratio(4.0, 3.5, 4.5)
    assert found.ratio("fast", "slow").median == pytest.approx((1 / 3 + 1 / 5) / 2)
    assert found.ratio("fast") == Ratio(1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (Ratio(1.36, 1.2, 1.5), "1.36x faster"),
        (Ratio(0.8, 0.7, 0.9), "1.25x slower"),
        (Ratio(1.05, 0.98, 1.2), "noisy"),
        (Ratio(1.0, 1.0, 1.0), "1.00x faster"),
    ],
)
def test_a_ratio_in_words(ratio: Ratio, words: str) -> None:
    assert str(ratio) == words


def test_a_ratio_is_noisy_where_its_quartiles_lie_on_both_sides_of_what_it_decides() -> None:
    ratio = Ratio(3.1, 2.9, 3.4)
    assert not ratio.is_noisy()
    assert ratio.is_noisy(3.0)
    assert not ratio.is_noisy(2.9)
    assert not ratio.is_noisy(3.5)


def test_a_comparison_prints_medians_and_ratios_with_their_spread() -> None:
    theirs = {0: 4e-6, 1: 5e-6, 2: 6e-6}
    found = Comparison({"ours": dict.fromkeys(range(3), 2e-6), "theirs": theirs, "like": theirs})
    lines = str(found).splitlines()
    assert lines[0].split() == ["us", "of", "ours", "quartiles"]
    assert lines[2].split() == ["ours", "2.00"]
    assert lines[3].split() == ["theirs", "5.00", "2.50x", "2.25x", "to", "2.75x"]
    noisy = Comparison({"ours": {0: 2.0, 1: 2.0, 2: 2.0}, "other": {0: 1.0, 1: 2.1, 2: 3.0}})
    assert str(noisy).endswith(", noisy")
    assert str(noisy).splitlines()[0].split()[0] == "ms"


def test_a_comparison_as_json_has_everything() -> None:
    found = Comparison({"ours": {0: 1.0, 1: 1.0}, "theirs": {0: 2.0, 1: 4.0}})
    content = json.loads(json.dumps(found.to_json()))
    assert content["theirs"] == {
        "median": 3.0,
        "ratio": {"median": 3.0, "low": 2.5, "high": 3.5},
        "rounds": [0, 1],
        "seconds": [2.0, 4.0],
    }
    assert content["ours"]["ratio"]["median"] == 1.0


def test_the_example_runs() -> None:
    result = doctest.testmod(timing)
    assert result.attempted == 2
    assert result.failed == 0
