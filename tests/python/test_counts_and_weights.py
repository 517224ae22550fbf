"""The numbers of a call: which counts and weights are taken, and how the others are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import swa_fast


def f32(*shape: int) -> np.ndarray[Any, Any]:
    return np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape) + 1


@pytest.mark.parametrize("count", [-1, -(10**30), 2**53, 10**30])
def test_counts_out_of_range(count: int) -> None:
    a = f32(3)
    with pytest.raises(ValueError, match=f"count must be at least 0 .*Received: {count}"):
        swa_fast.running_mean_([a], [f32(3)], count)
    assert (a == f32(3)).all()


@pytest.mark.parametrize("count", [1.0, "1", None, True, [1]])
def test_counts_of_a_wrong_type(count: Any) -> None:
    with pytest.raises(TypeError, match=r"count must be an int\. Received: "):
        swa_fast.running_mean_([f32(3)], [f32(3)], count)


def test_counts_of_other_integer_types() -> None:
    a = np.array([1.0])
    swa_fast.running_mean_([a], [np.array([3.0])], np.int64(1))
    assert a[0] == 2.0


@pytest.mark.parametrize("weight", [-1e-9, 1.0000001, float("nan"), float("inf"), -1, -1.0, 2])
def test_weights_out_of_range(weight: float) -> None:
    a = f32(3)
    with pytest.raises(ValueError, match=r"weight must be between 0 and 1\. Received: "):
        swa_fast.lerp_([a], [f32(3) * 2], weight)
    assert (a == f32(3)).all()


@pytest.mark.parametrize(
    "number", [10**400, 10**5000, -(10**5000)], ids=["400 digits", "5000 digits", "negative"]
)
def test_numbers_that_no_float_holds(number: int) -> None:
    a = f32(3)
    with pytest.raises(ValueError, match=r"weight must be between 0 and 1\. Received: "):
        swa_fast.lerp_([a], [f32(3) * 2], number)
    with pytest.raises(
        ValueError, match=r"count must be at least 0 and below 2\*\*53\. Received: "
    ):
        swa_fast.running_mean_([a], [f32(3) * 2], number)
    assert a.tobytes() == f32(3).tobytes()


def test_an_interruption_is_not_taken_for_a_wrong_type() -> None:
    class Interrupted:
        def __float__(self) -> float:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        swa_fast.lerp_([f32(3)], [f32(3)], Interrupted())


@pytest.mark.parametrize("weight", ["0.5", None, [0.5]])
def test_weights_of_a_wrong_type(weight: Any) -> None:
    with pytest.raises(TypeError, match=r"weight must be a number\. Received: "):
        swa_fast.lerp_([f32(3)], [f32(3)], weight)
