"""Interleaved timing. No test here asserts on how long anything takes."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable

import pytest

from swa_fast._bench import (
    timing,
)


class FakeClock:
    """Time passes only when a task says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def task(
        self, key: str, cost: float | Callable[[], float], every_round: bool = False
    ) -> timing.Task:
        def work() -> None:
            self.calls.append(key)
            self.now += cost if isinstance(cost, float) else cost()

        return timing.Task(key, work, every_round)


def test_interleave_runs_every_task_once_per_round_in_changing_order() -> None:
    clock = FakeClock()
    tasks = [clock.task(key, 1.0) for key in "abcd"]
    samples = timing.interleave(tasks, 40.0, prime=False, clock=clock)
    warm_up, timed = clock.calls[:8], clock.calls[8:]
    assert sorted(warm_up) == sorted("aabbccdd")
    rounds = [tuple(timed[start : start + 4]) for start in range(0, len(timed), 4)]
    assert len(rounds) == 10
    assert all(sorted(one) == list("abcd") for one in rounds)
    assert len(set(rounds)) > 1
    for key in "abcd":
        assert samples[key].rounds == list(range(10))
        assert samples[key].seconds == [1.0] * 10
        assert samples[key].median == 1.0


def test_interleave_has_a_least_and_a_largest_number_of_rounds() -> None:
    clock = FakeClock()
    slow = timing.interleave([clock.task("a", 100.0)], 1.0, prime=False, clock=clock)
    assert len(slow["a"].seconds) == timing.MIN_ROUNDS
    fast = timing.interleave([clock.task("a", 1e-6)], 1e9, prime=False, clock=clock)
    assert len(fast["a"].seconds) == timing.MAX_ROUNDS


def test_interleave_lets_slow_tasks_sit_out_but_not_the_reference() -> None:
    clock = FakeClock()
    tasks = [
        clock.task("fast", 1.0),
        clock.task("medium", 9.0),
        clock.task("slow", 100.0),
        clock.task("reference", 100.0, every_round=True),
    ]
    samples = timing.interleave(tasks, 1.0, prime=False, clock=clock)
    assert samples["fast"].rounds == [0, 1, 2, 3, 4, 5, 6]
    assert samples["medium"].rounds == [0, 1, 2, 4, 6]
    assert samples["slow"].rounds == [0, 1, 2]
    assert len(samples["slow"].rounds) == timing.MIN_SAMPLES
    assert samples["reference"].rounds == samples["fast"].rounds


def test_interleave_primes_each_task_just_before_it_is_timed() -> None:
    clock = FakeClock()
    tasks = [clock.task(key, 1.0) for key in "abc"]
    samples = timing.interleave(tasks, 1.0, prime=True, clock=clock)
    timed = clock.calls[6:]
    assert timed[0::2] == timed[1::2]
    assert samples["a"].seconds == [1.0] * timing.MIN_ROUNDS


def test_interleave_lets_the_machine_settle_after_a_task_that_lingers() -> None:
    clock = FakeClock()
    lingering = timing.Task("b", clock.task("b", 0.02).run, lingers=True)
    timing.interleave([clock.task("a", 0.004), lingering], 1e-9, prime=True, clock=clock)
    runs = [len(list(group)) for key, group in itertools.groupby(clock.calls[4:]) if key == "a"]
    assert set(runs) <= {2, 4, 2 + 4, 4 + 4}  # primed for 10 ms after b, once after a itself
    assert 4 in runs


def test_interleave_rests_after_a_task_that_lingers_if_it_does_not_prime() -> None:
    clock = FakeClock()
    rests: list[str] = []
    lingering = timing.Task("b", clock.task("b", 1.0).run, lingers=True)
    tasks = [clock.task("a", 1.0), lingering]
    timing.interleave(
        tasks, 1.0, prime=False, clock=clock, sleep=lambda seconds: rests.append(clock.calls[-1])
    )
    assert rests == ["b"] * (timing.MIN_ROUNDS - (clock.calls[-1] == "b"))


def test_interleave_reports_progress_up_to_one() -> None:
    clock = FakeClock()
    seen: list[float] = []
    timing.interleave([clock.task("a", 1.0)], 10.0, prime=False, clock=clock, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[0] == 0.0
    assert seen[-1] == 1.0


@pytest.mark.parametrize("enabled", [True, False])
def test_interleave_stops_the_garbage_collector_and_puts_it_back(enabled: bool) -> None:
    states = []
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        task = timing.Task("a", lambda: states.append(gc.isenabled()))
        timing.interleave([task], 1e-9, prime=False)
        assert gc.isenabled() is enabled
        assert not any(states[2:])
    finally:
        (gc.enable if before else gc.disable)()


def test_ratios_do_not_see_drift() -> None:
    clock = FakeClock()
    # The machine gets slower with every moment that passes, for both alike within a round.
    slowness = [1.0]

    def cost(base: float) -> Callable[[], float]:
        return lambda: base * slowness[0]

    def drift(fraction: float) -> None:
        slowness[0] *= 1.5

    samples = timing.interleave(
        [clock.task("fast", cost(1.0)), clock.task("slow", cost(3.0))],
        1.0,
        prime=False,
        clock=clock,
        progress=drift,
    )
    assert timing.median_ratio(samples["slow"], samples["fast"]) == pytest.approx(3.0)
    assert timing.median_ratio(samples["fast"], samples["slow"]) == pytest.approx(1 / 3)


def test_ratios_use_only_rounds_that_both_took_part_in() -> None:
    fast = timing.Samples([0, 1, 2, 3], [1.0, 2.0, 4.0, 8.0])
    slow = timing.Samples([1, 3], [6.0, 40.0])
    assert timing.ratios(slow, fast) == [3.0, 5.0]
    assert timing.median_ratio(slow, fast) == 4.0
