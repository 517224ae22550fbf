"""The bit-for-bit check against NumPy catches what is wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import swa_fast
from swa_fast._bench import (
    arena,
    check,
    competitors,
)
from swa_fast._bench.errors import CheckError


def fused_targets(made: arena.Arena) -> list[check.Target]:
    return [
        check.Target(entry.label, entry.update, flat=entry.key == competitors.FLAT)
        for entry in competitors.build_fused(made)
    ]


def test_check_accepts_the_fused_call(made: arena.Arena) -> None:
    compared = check.check(made, fused_targets(made), np.random.default_rng(0))
    assert compared == len(check.COUNTS) + 1


def test_check_accepts_the_plain_expression(made: arena.Arena) -> None:
    def update(count: int) -> None:
        weight = np.float32(1 / (count + 1))
        for a, v in zip(made.averages, made.values, strict=True):
            a[...] = v if count == 0 else a + (v - a) * weight

    assert check.check(made, [check.Target("NumPy", update)], np.random.default_rng(0)) == 4


def one_ulp(made: arena.Arena) -> None:
    last = made.averages[4]
    last[69_999] = np.nextafter(last[69_999], np.float32(9))


def negative_zero(made: arena.Arena) -> None:
    made.averages[1][2] = -0.0
    made.values[1][2] = -0.0


def padding(made: arena.Arena) -> None:
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
    made: arena.Arena, damage: Callable[[arena.Arena], None], message: str
) -> None:
    def update(count: int) -> None:
        swa_fast.running_mean_(made.averages, made.values, count)
        if count == 2:
            damage(made)

    with pytest.raises(CheckError, match=message) as caught:
        check.check(made, [check.Target("bad kernel", update)], np.random.default_rng(0))
    assert "tiny (bad kernel, count=2)" in str(caught.value)


def test_check_catches_a_wrong_flat_update(made: arena.Arena) -> None:
    good = fused_targets(made)[0]
    bad = check.Target("flat", lambda count: None, flat=True)
    with pytest.raises(CheckError, match=r"flat, count=4.*averages\[0\] of shape \(70024,\)"):
        check.check(made, [good, bad], np.random.default_rng(0))


def test_check_catches_a_first_update_that_is_no_exact_copy(made: arena.Arena) -> None:
    def update(count: int) -> None:
        weight = np.float32(1 / (count + 1))
        for a, v in zip(made.averages, made.values, strict=True):
            a += (v - a) * weight

    with pytest.raises(CheckError, match=r"count=0"):
        check.check(made, [check.Target("NumPy", update)], np.random.default_rng(0))
