"""`copies`: lists that a mean or a lerp copies in the same call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import swa_fast
from reference import assert_same_bits, running_mean

Call = Callable[..., None]
CALLS = [
    pytest.param(lambda a, v, **options: swa_fast.running_mean_(a, v, 3, **options), id="mean"),
    pytest.param(lambda a, v, **options: swa_fast.lerp_(a, v, 0.25, **options), id="lerp"),
]


def lists() -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    rng = np.random.default_rng(0)
    averages = [rng.standard_normal(shape, np.float32) for shape in ((3, 5), (), (70_000,))]
    values = [rng.standard_normal(a.shape, np.float32) for a in averages]
    dst = [np.zeros(7, np.int64), np.zeros((2, 2), bool), np.zeros(3, np.float16), np.zeros(0)]
    src = [np.arange(7), np.ones((2, 2), bool), np.array([1.0, 2.5, np.nan]), np.zeros(0)]
    return averages, values, dst, src


@pytest.mark.parametrize("call", CALLS)
def test_averages_and_copies(call: Call) -> None:
    averages, values, dst, src = lists()
    before = [average.copy() for average in averages]
    call(averages, values, copies=(dst, src))
    for average, old, value in zip(averages, before, values, strict=True):
        assert_same_bits(average, running_mean(old, value, 3))
    for target, source in zip(dst, src, strict=True):
        assert_same_bits(target, source.astype(target.dtype))


def test_copies_do_not_depend_on_the_weight() -> None:
    for call in (
        lambda a, v, **options: swa_fast.lerp_(a, v, 0.0, **options),
        lambda a, v, **options: swa_fast.lerp_(a, v, 1.0, **options),
        lambda a, v, **options: swa_fast.running_mean_(a, v, 0, **options),
    ):
        averages, values, dst, src = lists()
        call(averages, values, copies=[dst, src])
        assert dst[0].tolist() == list(range(7))
        assert dst[1].all()


def test_copies_alone_and_none() -> None:
    _, _, dst, src = lists()
    swa_fast.running_mean_([], [], 1, copies=(dst, src))
    assert dst[0].tolist() == list(range(7))
    swa_fast.running_mean_([], [], 1, copies=([], []))
    swa_fast.running_mean_([], [], 1, copies=None)


@pytest.mark.parametrize("call", CALLS)
def test_an_error_in_either_part_writes_nothing(call: Call) -> None:
    read_only = np.zeros(7, np.int64)
    read_only.flags.writeable = False
    for bad_dst, bad_src, error, message in (
        (np.zeros(3), np.zeros(4), ValueError, r"copies\[0\]\[4\] has shape \(3,\), copies\[1\]"),
        (read_only, np.ones(7, np.int64), BufferError, r"copies\[0\]\[4\] is read-only"),
        (np.zeros(7), np.ones(7, np.int64), TypeError, r"copies\[0\]\[4\] has dtype float64, cop"),
        (np.zeros(8)[::2], np.ones(4), BufferError, r"copies\[0\]\[4\] is not contiguous"),
        ("text", np.ones(4), TypeError, r"copies\[0\]\[4\] must be a tensor"),
    ):
        averages, values, dst, src = lists()
        before = [array.copy() for array in [*averages, *dst]]
        with pytest.raises(error, match=message):
            call(averages, values, copies=([*dst, bad_dst], [*src, bad_src]))
        with pytest.raises(ValueError, match=r"averages\[0\] has shape"):
            call([np.zeros(2), *averages], [np.zeros(3), *values], copies=(dst, src))
        with pytest.raises(ValueError, match=r"copies\[0\] has 4 tensors, copies\[1\] has 3"):
            call(averages, values, copies=(dst, src[:3]))
        for array, old in zip([*averages, *dst], before, strict=True):
            assert_same_bits(array, old)


@pytest.mark.parametrize("call", CALLS)
def test_the_two_parts_must_not_overlap(call: Call) -> None:
    block = np.zeros(20, np.float32)
    other = np.ones(10, np.float32)
    for averages, values, dst, src, message in (
        (block[:10], other, block[5:15], other, r"averages\[0\] and copies\[0\]\[0\] overlap"),
        (other, block[:10], block[5:15], other.copy(), r"copies\[0\]\[0\] and values\[0\] overlap"),
        (block[:10], other, other.copy(), block[:10], r"averages\[0\] and copies\[1\]\[0\] overl"),
    ):
        with pytest.raises(ValueError, match=message):
            call([averages], [values], copies=([dst], [src]))
        assert not block.any()
    call([block[:10]], [other], copies=([block[10:]], [other]))  # sources may be shared
    assert block[10:].all()


@pytest.mark.parametrize("copies", [5, "ab", [[]], ([], [], []), {"dst": [], "src": []}])
def test_copies_must_be_a_pair_of_lists(copies: Any) -> None:
    with pytest.raises(TypeError, match=r"copies(\[0\])? must be (None or a pair|a list)"):
        swa_fast.lerp_([], [], 0.5, copies=copies)


def test_torch_sees_that_copies_are_written() -> None:
    torch = pytest.importorskip("torch")
    average, buffer = torch.zeros(3), torch.zeros(2, dtype=torch.int64)
    saved = torch.zeros(3)
    swa_fast.lerp_(
        [average], [torch.ones(3)], 0.5, copies=([buffer, saved], [buffer + 1, saved + 1])
    )
    assert (average._version, buffer._version, saved._version) == (1, 1, 1)
    swa_fast.lerp_([average], [torch.ones(3)], 0.0, copies=([buffer], [buffer + 1]))
    assert (average._version, buffer._version) == (1, 2)  # the average was not written
