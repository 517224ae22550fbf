"""The bit-for-bit check against NumPy catches what is wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import lists
import swa_fast
from bench_tools import TINY
from swa_fast.bench import CheckError, competitors, run
from swa_fast.bench.competitors import Group
from swa_fast.bench.workloads import Arena


def check(made: Arena, *groups: Group) -> int:
    return run.check(made, groups, np.random.default_rng(0))


def group(made: Arena, label: str, update: Callable[[int], object]) -> Group:
    return Group({label: update}, made.averages, prime=False)


def test_check_accepts_the_fused_call(made: Arena) -> None:
    fused = competitors.numpy_group(made)
    assert check(made, fused) == len(run.COUNTS)
    # Of further ways to the same kernels, one update each.
    assert check(made, fused, fused, fused) == len(run.COUNTS) + 2


def test_check_accepts_the_plain_expression(made: Arena) -> None:
    def update(count: int) -> None:
        weight = np.float32(1 / (count + 1))
        for a, v in zip(made.averages, made.values, strict=True):
            a[...] = v if count == 0 else a + (v - a) * weight

    assert check(made, group(made, "NumPy", update)) == 4


def test_check_exchanges_the_numbers_of_tensors_that_are_elsewhere(made: Arena) -> None:
    averages, values = ([array.copy() for array in x] for x in (made.averages, made.values))
    order = []

    def load() -> None:
        order.append("load")
        for target, source in zip(
            [*averages, *values], [*made.averages, *made.values], strict=True
        ):
            target[...] = source

    def store() -> None:
        order.append("store")
        for target, source in zip(made.averages, averages, strict=True):
            target[...] = source

    def update(count: int) -> None:
        swa_fast.running_mean_(averages, values, count)

    assert check(made, Group({"elsewhere": update}, averages, False, load, store)) == 4
    assert order == ["load", "store"] * 4


def one_ulp(made: Arena) -> None:
    last = made.averages[4]
    last[69_999] = np.nextafter(last[69_999], np.float32(9))


def negative_zero(made: Arena) -> None:
    made.averages[1][2] = -0.0
    made.values[1][2] = -0.0


def padding(made: Arena) -> None:
    made.averages_all[15] = 0.0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (one_ulp, r"averages\[4\] of shape \(70000,\) differs first at \(69999,\).*1 of 70,000"),
        (negative_zero, r"averages\[1\] of shape \(7,\) differs first at \(2,\)"),
        (padding, r"padding between two tensors"),
    ],
)
def test_check_names_the_first_wrong_element(
    made: Arena, damage: Callable[[Arena], None], message: str
) -> None:
    def update(count: int) -> None:
        swa_fast.running_mean_(made.averages, made.values, count)
        if count == 2:
            damage(made)

    with pytest.raises(CheckError, match=message) as caught:
        check(made, group(made, "bad kernel", update))
    assert "tiny (bad kernel, count=2)" in str(caught.value)


def test_check_catches_a_second_way_that_does_nothing(made: Arena) -> None:
    good, bad = competitors.numpy_group(made), group(made, "idle", lambda count: None)
    with pytest.raises(CheckError, match=r"idle, count=4.*averages\[0\] of shape \(3, 5\)"):
        check(made, good, bad)


def test_check_catches_a_first_update_that_is_no_exact_copy(made: Arena) -> None:
    def update(count: int) -> None:
        weight = np.float32(1 / (count + 1))
        for a, v in zip(made.averages, made.values, strict=True):
            a += (v - a) * weight

    with pytest.raises(CheckError, match=r"count=0"):
        check(made, group(made, "NumPy", update))


def test_the_flat_buffer_has_as_many_elements_in_the_same_memory(made: Arena) -> None:
    before = made.averages_all.copy()
    lists.flat(made)(1)
    end = TINY.elements
    half = np.float32(0.5)
    expected = before[:end] + (made.values_all[:end] - before[:end]) * half
    assert np.array_equal(made.averages_all[:end], expected)
    assert np.array_equal(made.averages_all[end:], before[end:])
