"""When a snapshot is due: the one rule that every wrapper follows.

The rule is that of ``tfa.optimizers.SWA``: with ``start`` = m and ``period`` = k, snapshots are
taken at steps m, m + k, m + 2k, ..., where the first step is 0.
"""

from __future__ import annotations

import operator
from typing import Any


def snapshot(step: Any, start: int, period: int) -> tuple[Any, Any]:
    """Tells whether a snapshot is due at ``step``, and how many were taken before it.

    Written with operators alone, so that it works on Python integers and on the integer tensors of
    any framework, inside compiled graphs too.

    Args:
        step: number of steps completed before this one, >= 0; an int or an integer tensor.
        start: first step that takes a snapshot, >= 0.
        period: steps from one snapshot to the next, >= 1.

    Returns:
        ``(due, count)``: whether to take a snapshot now, and the ``count`` to give to
        ``running_mean_`` for it. ``count`` is meaningful only if ``due`` is true.

    Example:
        >>> [snapshot(step, start=2, period=3) for step in (1, 2, 3, 5)]
        [(False, -1), (True, 0), (False, 0), (True, 1)]
    """
    elapsed = step - start
    return (elapsed >= 0) & (elapsed % period == 0), elapsed // period


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
