"""The counters of several averages, against their definitions and against averaging by hand."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import swa_fast
from swa_fast import Average, decays
from swa_fast._counters import Counters

UPDATES = 60

DECAYS = st.sampled_from(
    [
        None,
        0.0,
        0.9,
        1.0,
        decays.warmup(0.95),
        decays.ratio(0.9),
        decays.ramp(0.9, 5),
        decays.half_life(8),
        decays.power(sigma_rel=0.2),
        decays.after(20, decays.warmup(0.95)),
        decays.after(0, 0.5),
        decays.after(33, decays.half_life(8)),
    ]
)
AVERAGES = st.builds(
    Average,
    decay=DECAYS,
    start=st.integers(0, 40),
    period=st.integers(1, 25),
    initial=st.booleans(),
)
SKIPPED = st.sets(st.integers(1, UPDATES), max_size=8)
"""Updates whose values are not finite, so that no snapshot is taken of them."""


class Recorder:
    """A schedule that remembers what it was asked with."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int]] = []

    def __call__(self, s: int, t: int, n: int) -> float:
        self.asked.append((s, t, n))
        return 0.5


def by_hand(average: Average, skipped: set[int], updates: int = UPDATES) -> dict[int, Any]:
    """The decay of each snapshot, by update, straight from the definitions; None if it copies.

    For a mean, the number of snapshots before.
    """
    taken = [0] if average.initial else []
    found: dict[int, Any] = {}
    for t in range(average.start + 1, updates + 1, average.period):
        if t in skipped:
            continue
        schedule: Any = average.decay
        s, t_there = len(taken), t
        if isinstance(schedule, decays.after):
            # As if updates were counted from there, and snapshots too.
            s = len([each for each in taken if each > schedule.updates])
            t_there, schedule = t - schedule.updates, schedule.schedule
            copied = s == 0
        else:
            copied = not taken
        if copied:
            found[t] = None
        elif schedule is None:
            found[t] = s
        elif isinstance(schedule, float):
            found[t] = schedule
        else:
            found[t] = schedule(s, t_there, t - taken[-1])
        taken.append(t)
    return found


def run(
    counters: Counters, skipped: set[int], updates: int, each: Callable[[int, Any], None]
) -> None:
    """Makes updates, and gives what each one does to `each`."""
    while counters.step < updates:
        update = counters.step + 1
        weights = counters.weights()
        if weights is not None and update in skipped:
            weights = [None] * len(weights)
        each(update, weights)
        counters.advance(weights)


@settings(deadline=None)
@given(st.lists(AVERAGES, min_size=1, max_size=3), SKIPPED)
def test_weights_are_those_of_the_definitions(averages: list[Average], skipped: set[int]) -> None:
    for average in averages:
        if isinstance(average.decay, decays.after):
            skipped = {update for update in skipped if update > average.decay.updates}
    expected = [by_hand(average, skipped) for average in averages]
    counters = Counters(averages)

    def compare(update: int, weights: Any) -> None:
        due = any(average.due(update) for average in averages)
        assert (weights is not None) == due
        for index, of_average in enumerate(expected):
            weight = None if weights is None else weights[index]
            if update not in of_average:
                assert weight is None
            elif of_average[update] is None:
                assert weight in (0, 1.0)
                assert type(weight) is int or weight == 1.0
            elif averages[index].decay is None:
                assert type(weight) is int
                assert weight == of_average[update]
            else:
                assert type(weight) is float
                assert weight == 1.0 - of_average[update]

    run(counters, skipped, UPDATES, compare)
    for index, average in enumerate(averages):
        assert counters.counts[index] == len(expected[index]) + average.initial
        assert counters.last[index] == max(expected[index], default=0)


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(1, 12), st.booleans(), SKIPPED)
def test_counters_that_a_callable_is_asked_with(
    start: int, period: int, initial: bool, skipped: set[int]
) -> None:
    schedule = Recorder()
    average = Average(decay=schedule, start=start, period=period, initial=initial)
    taken = [0] if initial else []
    expected = []
    for t in range(start + 1, UPDATES + 1, period):
        if taken:
            expected.append((len(taken), t, t - taken[-1]))
        if t not in skipped:
            taken.append(t)
    run(Counters([average]), skipped, UPDATES, lambda update, weights: None)
    assert schedule.asked == expected


@settings(deadline=None)
@given(st.lists(AVERAGES, min_size=1, max_size=3), SKIPPED, st.integers(0, 2**32))
def test_averages_are_those_of_averaging_by_hand(
    averages: list[Average], skipped: set[int], seed: int
) -> None:
    for average in averages:
        if isinstance(average.decay, decays.after):
            skipped = {update for update in skipped if update > average.decay.updates}
    values = np.random.default_rng(seed).normal(size=(UPDATES + 1, 5))
    ours = [values[0].copy() for _ in averages]

    def take(update: int, weights: Any) -> None:
        for mine, weight in zip(ours, weights or (), strict=False):
            if isinstance(weight, int):
                swa_fast.running_mean_([mine], [values[update]], weight)
            elif weight is not None:
                swa_fast.lerp_([mine], [values[update]], weight)

    run(Counters(averages), skipped, UPDATES, take)
    for mine, average in zip(ours, averages, strict=True):
        expected = by_hand(average, skipped)
        if average.decay is None:
            taken = ([0] if average.initial else []) + list(expected)
            exact = [math.fsum(column) / len(taken) for column in values[taken].T] if taken else []
        else:
            kept = values[0].copy()
            for update, decay in expected.items():
                kept = (
                    values[update] if decay is None else decay * kept + (1 - decay) * values[update]
                )
            exact = list(kept) if expected or average.initial else []
        if exact:
            np.testing.assert_allclose(mine, exact, rtol=1e-12, atol=1e-13)
        else:
            assert (mine == values[0]).all()


@settings(deadline=None)
@given(st.lists(AVERAGES, min_size=1, max_size=3), SKIPPED, st.integers(0, UPDATES))
def test_resumed_anywhere(averages: list[Average], skipped: set[int], cut: int) -> None:
    whole: list[Any] = []
    run(Counters(averages), skipped, UPDATES, lambda update, weights: whole.append(weights))
    first = Counters(averages)
    run(first, skipped, cut, lambda update, weights: None)
    resumed: list[Any] = []
    second = Counters(averages)
    second.load(first.step, first.counts, first.last)
    for counters in (second, pickle.loads(pickle.dumps(first)), copy.deepcopy(first)):
        resumed.clear()
        run(counters, skipped, UPDATES, lambda update, weights: resumed.append(weights))
        assert resumed == whole[cut:]
        assert (counters.step, counters.counts, counters.last) == (
            UPDATES,
            second.counts,
            second.last,
        )


@settings(deadline=None)
@given(st.lists(AVERAGES, min_size=1, max_size=3), st.integers(0, UPDATES))
def test_two_counters_are_enough_where_none_was_left_out(averages: list[Average], cut: int) -> None:
    first = Counters(averages)
    run(first, set(), cut, lambda update, weights: None)
    assert first.counts == [average.count(cut) for average in averages]
    assert first.last == [average.last_due(cut) for average in averages]
    second = Counters(averages)
    second.load(first.step, first.counts)
    assert second.last == first.last


def test_left_out_before_after() -> None:
    """Those left out while each snapshot replaced the average are missing from s, never below 1."""
    schedule = Recorder()
    counters = Counters([Average(decay=decays.after(10, schedule))])
    run(counters, {2, 3}, 17, lambda update, weights: None)
    assert [s for s, _, _ in schedule.asked] == [1, 1, 1, 2, 3, 4]  # at updates 12 to 17


def test_nothing_changes_before_advance() -> None:
    counters = Counters([Average(), Average(decay=0.9, period=3)])
    for _ in range(7):
        before = (counters.step, counters.counts, counters.last)
        weights = counters.weights()
        assert counters.weights() == weights
        assert (counters.step, counters.counts, counters.last) == before
        counters.advance(weights)


@pytest.mark.parametrize("bad", [math.nan, 1.5, -0.5, None])
def test_a_callable_that_returns_no_decay(bad: Any) -> None:
    result: Any = 0.5
    counters = Counters([Average(), Average(decay=lambda s, t, n: result)])
    run(counters, set(), 5, lambda update, weights: None)
    before = (counters.step, counters.counts, counters.last)
    result = bad
    with pytest.raises((ValueError, TypeError), match="the decay that a schedule returns must be"):
        counters.weights()
    assert (counters.step, counters.counts, counters.last) == before
    result = 0.25
    assert counters.weights() == [5, 0.75]


def test_taken_back() -> None:
    """A snapshot that failed after it was counted; the other average's stays."""
    schedule = Recorder()
    counters = Counters([Average(period=3), Average(decay=schedule, period=4)])
    run(counters, set(), 5, lambda update, weights: None)
    assert (counters.counts, counters.last) == ([2, 2], [4, 5])
    counters.take_back(1)
    assert (counters.step, counters.counts, counters.last) == (5, [2, 1], [4, 1])
    schedule.asked.clear()
    run(counters, set(), 9, lambda update, weights: None)
    assert schedule.asked == [(1, 9, 8)]
    assert (counters.counts, counters.last) == ([3, 2], [7, 9])


BAD: list[tuple[tuple[Any, ...], type[Exception], str]] = [
    ((-1, [0, 0]), ValueError, "step must be >= 0. Received: -1"),
    ((3.0, [0, 0]), TypeError, "step must be an int. Received: 3.0 of type float"),
    ((3, [0, -2]), ValueError, "count must be >= 0. Received: -2"),
    ((3, [0, None]), TypeError, "count must be an int. Received: None of type NoneType"),
    ((3, [0]), ValueError, "counts must have one entry for each of 2 averages. Received: 1"),
    (
        (3, [0, 0], [1, 2, 3]),
        ValueError,
        "last must have one entry for each of 2 averages. Received: 3",
    ),
    (
        (3, [0, 5]),
        ValueError,
        "count and last must be at most step, the updates so far. "
        "Received: count=5, last=3, step=3",
    ),
    (
        (3, [0, 0], [0, 4]),
        ValueError,
        "count and last must be at most step, the updates so far. "
        "Received: count=0, last=4, step=3",
    ),
]


@pytest.mark.parametrize(("state", "kind", "message"), BAD, ids=lambda value: None)
def test_states_that_are_refused(state: Any, kind: type[Exception], message: str) -> None:
    counters = Counters([Average(decay=0.9), Average(initial=True)])
    run(counters, set(), 9, lambda update, weights: None)
    with pytest.raises(kind) as caught:
        counters.load(*state)
    assert str(caught.value) == message
    assert (counters.step, counters.counts, counters.last) == (9, [9, 10], [9, 9])
    assert counters.weights() == [1 - 0.9, 10]
