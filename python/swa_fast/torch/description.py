"""How an averager's arguments describe its averages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from swa_fast.average import Average, check_averages

# The key of the one average of an averager that was given none by name.
UNNAMED = ""


def described(
    averages: Any, dtype: Any, decay: Any, start: Any, period: Any, initial: Any
) -> dict[str, Average]:
    """Returns the averages by name, from either way to describe them.

    Args:
        averages: a dict of several, or None.
        dtype: of a single average, as the others that follow.
        decay: see ``swa_fast.Average``.
        start: see ``swa_fast.Average``.
        period: see ``swa_fast.Average``.
        initial: see ``swa_fast.Average``.

    Raises:
        TypeError: an argument has the wrong type, or both ways are used.
        ValueError: an argument is out of range.
    """
    if averages is None:
        check_dtype(dtype)
        return {UNNAMED: Average(decay, start, period, dtype, initial)}
    given: dict[str, Any] = {
        "dtype": dtype,
        "decay": decay,
        "start": start or None,
        "period": None if period == 1 else period,
        "initial": initial or None,
    }
    received = [name for name, value in given.items() if value is not None]
    if received:
        raise TypeError(
            f"{', '.join(received)} describe a single average, and averages describes several: put "
            "them into each swa_fast.Average"
        )
    checked: Mapping[str, Average] = check_averages(averages)
    return dict(checked)


def check_dtype(dtype: Any) -> None:
    """Raises TypeError for anything but a floating-point torch.dtype or None."""
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"dtype must be a floating-point torch.dtype. Received: {dtype!r}")
