"""The arithmetic contract written in NumPy, independently of the C++ code."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, Any]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
STORAGE_DTYPES = [np.dtype(np.float64), np.dtype(np.float32), np.dtype(np.float16), BFLOAT16]

# Significant bits and the exponent of the smallest subnormal of the two narrow types.
_NARROW = {np.dtype(np.float16): (11, -24, 65504.0), BFLOAT16: (8, -133, 3.3895313892515355e38)}


def compute_dtype(average: np.dtype[Any], value: np.dtype[Any]) -> np.dtype[Any]:
    double = np.dtype(np.float64)
    return double if double in (average, value) else np.dtype(np.float32)


def round_to(dtype: np.dtype[Any], array: Array) -> Array:
    """Rounds float32 or float64 once, to nearest even, to any storage type.

    NumPy and ml_dtypes round float64 to bfloat16 in two steps, so narrow types are done by hand:
    scaling by powers of two is exact, and ``rint`` rounds ties to even.
    """
    if dtype not in _NARROW:
        with np.errstate(all="ignore"):
            return array.astype(dtype)
    digits, lowest, largest = _NARROW[dtype]
    wide = array.astype(np.float64)
    with np.errstate(all="ignore"):
        _, exponent = np.frexp(wide)
        quantum = np.maximum(exponent - digits, lowest)
        rounded = np.ldexp(np.rint(np.ldexp(wide, -quantum)), quantum)
        rounded = np.where(np.isfinite(wide), rounded, wide)
        rounded = np.where(np.abs(rounded) > largest, np.copysign(np.inf, wide), rounded)
        return rounded.astype(np.float32).astype(dtype)


def lerp(average: Array, value: Array, weight: float) -> Array:
    """``average + (value - average) * weight`` in the compute type, stored as the average's."""
    compute = compute_dtype(average.dtype, value.dtype)
    a, v = average.astype(compute), value.astype(compute)
    with np.errstate(all="ignore"):
        return round_to(average.dtype, a + (v - a) * compute.type(weight))


def running_mean(average: Array, value: Array, count: int) -> Array:
    if count == 0:
        return round_to(average.dtype, value) if value.dtype != average.dtype else value.copy()
    compute = compute_dtype(average.dtype, value.dtype)
    return lerp(average, value, mean_weight(compute, count))


def mean_weight(compute: np.dtype[Any], count: int) -> float:
    """1 / (count + 1) rounded once: the nearest of the numbers around it, compared exactly."""
    exact = Fraction(1, count + 1)
    near = compute.type(1 / (count + 1))
    infinity = compute.type(np.inf)
    around = [near, np.nextafter(near, -infinity), np.nextafter(near, infinity)]
    return min((float(x) for x in around), key=lambda x: abs(Fraction(x) - exact))


def assert_same_bits(actual: Array, expected: Array, context: str = "") -> None:
    """Bit for bit, except that a NaN only has to be a NaN."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    both_nan = np.isnan(actual.astype(np.float64)) & np.isnan(expected.astype(np.float64))
    unsigned = f"u{actual.dtype.itemsize}"
    different = (actual.reshape(-1).view(unsigned) != expected.reshape(-1).view(unsigned)).reshape(
        actual.shape
    ) & ~both_nan
    if different.any():
        index = tuple(int(i[0]) for i in np.nonzero(different)) if actual.ndim else ()
        raise AssertionError(
            f"{context} differs first at {index}: {actual[index]!r} instead of {expected[index]!r}"
        )


def hard_values(rng: np.random.Generator, dtype: np.dtype[Any], size: int) -> Array:
    """Random numbers over many magnitudes with special values mixed in."""
    numbers = rng.standard_normal(size) * 2.0 ** rng.integers(-30, 20, size)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 6e-8, -6e-8, 1e-40, 65504.0, 65520.0, 3.4e38]
    chosen = rng.random(size) < 0.2
    numbers[chosen] = rng.choice(special, int(chosen.sum()))
    return round_to(dtype, numbers)
