"""Checks of arguments: each returns the value in its final form, or says what it must be."""

from __future__ import annotations

import math
import operator
from typing import Any

DTYPES = ("float64", "float32", "float16", "bfloat16")
"""Storage types of averages."""


def check_decay(name: str, value: Any) -> float:
    """Returns ``value`` as a float in [0, 1]; raises TypeError or ValueError that says so."""
    number = check_number(name, value)
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"{name} must be between 0 and 1. Received: {number}")
    return number


def check_number(name: str, value: Any) -> float:
    """Returns ``value`` as a float; raises TypeError that says so if it is not a real number."""
    if (
        isinstance(value, bool)
        or getattr(value, "shape", ()) != ()
        or not hasattr(value, "__float__")
    ):
        raise TypeError(f"{name} must be a number. Received: {value!r}")
    try:
        return float(value)
    except OverflowError:  # an int beyond float64
        return math.inf if value > 0 else -math.inf


def check_positive(name: str, value: Any) -> float:
    """Returns ``value`` as a finite float > 0; raises TypeError or ValueError that says so."""
    number = check_number(name, value)
    if not 0.0 < number < math.inf:
        raise ValueError(f"{name} must be > 0 and finite. Received: {number}")
    return number


def check_integer(name: str, value: Any, at_least: int) -> int:
    """Returns ``value`` as an int >= ``at_least``; raises TypeError or ValueError naming it."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(
            f"{name} must be an int. Received: {value!r} of type {type(value).__name__}"
        )
    number = operator.index(value)
    if number < at_least:
        raise ValueError(f"{name} must be >= {at_least}. Received: {number}")
    return number


def check_flag(name: str, value: Any) -> bool:
    """Returns ``value`` if it is a bool; raises TypeError that says so if not."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False. Received: {value!r}")
    return value


def dtype_name(dtype: Any) -> str:
    """Returns the name of a storage type, given by its name or as the dtype of any framework.

    Raises:
        TypeError: it is neither a string nor a floating-point type that averages can have.
        ValueError: it is a string that names none.

    Example:
        >>> import numpy as np
        >>> from swa_fast._checks import dtype_name
        >>> dtype_name(np.float32), dtype_name(np.dtype("float64"))
        ('float32', 'float64')
    """
    name = dtype
    if not isinstance(dtype, str):
        # NumPy's and TensorFlow's dtypes have a name, scalar types and JAX's have that of a class,
        # torch's has only its string, "torch.float32".
        name = getattr(dtype, "name", getattr(dtype, "__name__", str(dtype).rpartition(".")[2]))
    if name not in DTYPES:
        kind = ValueError if isinstance(dtype, str) else TypeError
        raise kind(f"dtype must be one of {', '.join(DTYPES)}. Received: {dtype!r}")
    return str(name)
