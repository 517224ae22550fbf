"""The arithmetic and the taking of turns behind the callback's row of `fit`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from keras_epochs import BUDGET, FitRatio, Turns


def test_error_is_that_of_a_median() -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(1.005, 0.02, (400, 81))
    ratios = [FitRatio.of(sample) for sample in samples]
    inside = np.mean([abs(ratio.median - 1.005) < ratio.error for ratio in ratios])
    assert 0.9 < inside < 0.99
    assert ratios[0].median == np.median(samples[0])


@pytest.mark.parametrize(
    ("median", "error", "kept"),
    [(1.0, 0.002, True), (1.02, 0.002, False), (1.005, 0.01, None), (1.015, 0.01, None)],
)
def test_verdict_is_open_where_the_spread_is_too_wide(
    median: float, error: float, kept: bool | None
) -> None:
    assert BUDGET == 1.01
    assert FitRatio(median, error).verdict() is kept


@pytest.mark.parametrize(("hooks", "kept"), [(0.003, True), (0.02, None)])
def test_hooks_decide_where_the_spread_is_too_wide(hooks: float, kept: bool | None) -> None:
    assert FitRatio(1.005, 0.05, hooks).verdict() is kept
    assert FitRatio(1.2, 0.05, hooks).verdict() is False


def test_turns_alternate_and_survive_a_thread_that_fails() -> None:
    turns, order = Turns(), list[tuple[int, int]]()

    def run(which: int) -> None:
        turns.wait(which)
        try:
            for epoch in range(4):
                order.append((which, epoch))
                if which == 0 and epoch == 2:
                    raise RuntimeError("no")
                turns.hand_over(which)
                turns.wait(which)
        finally:
            turns.leave(which)

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.submit(run, 0), threads.submit(run, 1)
        with pytest.raises(RuntimeError, match="no"):
            first.result(timeout=30)
        second.result(timeout=30)
    assert order == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2), (1, 3)]
