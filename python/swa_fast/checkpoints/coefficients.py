"""Coefficients of checkpoints in their average: pure functions, oldest checkpoint first.

Each returns a list of float64 numbers whose sum is 1 up to rounding.

Example:
    >>> from swa_fast.checkpoints import coefficients
    >>> [round(c, 6) for c in coefficients.minus_sqrt(5)]
    [0.447214, 0.185242, 0.142141, 0.11983, 0.105573]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from .errors import CheckpointError, require_checkpoints
from .profiles import Power, power

__all__ = [
    "SCHEDULES",
    "Power",
    "cosine",
    "decays_to_coefficients",
    "ema",
    "explicit",
    "linear",
    "mean",
    "minus_sqrt",
    "power",
    "schedule",
    "wsm",
]

SUM_TOLERANCE = 1e-6
"""How far the sum of typed coefficients may be from 1: six digits are enough to type."""


def mean(count: int) -> list[float]:
    """Return ``1 / count`` for each checkpoint.

    Raises:
        CheckpointError: ``count`` is less than 1.
    """
    require_checkpoints(count)
    return [1 / count] * count


def explicit(
    weights: Sequence[float], *, normalize: bool = False, allow_negative: bool = False
) -> list[float]:
    """Return weights that a user has typed, checked.

    Args:
        weights: one for each checkpoint.
        normalize: divide them by their sum.
        allow_negative: accept weights below 0.

    Raises:
        CheckpointError: a weight is not finite, or is negative; or the sum is not 1 within 1e-6, or
            with ``normalize`` not greater than 0.

    Example:
        >>> from swa_fast.checkpoints import coefficients
        >>> coefficients.explicit([1, 3], normalize=True)
        [0.25, 0.75]
    """
    values = [float(weight) for weight in weights]
    require_checkpoints(len(values))
    for value in values:
        if not math.isfinite(value):
            raise CheckpointError(f"a weight must be finite. Received: {value}")
        if value < 0 and not allow_negative:
            raise CheckpointError(
                f"a weight must not be negative. Received: {value:g}. If that is meant, as in task "
                "arithmetic, say so by --allow-negative"
            )
    total = math.fsum(values)
    if normalize:
        if not total > 0:
            raise CheckpointError(f"weights to normalize must have a sum > 0. Received: {total:g}")
        return [value / total for value in values]
    if abs(total - 1) > SUM_TOLERANCE:
        raise CheckpointError(
            f"the weights must have the sum 1. Received: {total:.9g}. --normalize divides by it"
        )
    return values


def ema(count: int, decay: float) -> list[float]:
    """Return the coefficients of an exponential average that begins with the first checkpoint.

    ``decay ** (count - 1)`` for the first, ``(1 - decay) * decay ** (count - 1 - k)`` for number k.

    Raises:
        CheckpointError: ``decay`` is not within 0 and 1, or ``count`` is less than 1.

    Example:
        >>> from swa_fast.checkpoints import coefficients
        >>> coefficients.ema(3, 0.5)
        [0.25, 0.25, 0.5]
    """
    require_checkpoints(count)
    if not 0 <= decay <= 1:
        raise CheckpointError(f"the decay of ema must be from 0 to 1. Received: {decay}")
    first = [decay ** (count - 1)]
    return first + [(1 - decay) * decay ** (count - 1 - k) for k in range(1, count)]


def decays_to_coefficients(decays: Sequence[float]) -> list[float]:
    """Return what to merge so that later updates count as if their learning rate had decayed.

    WSM (arXiv 2507.17634): update j after the first checkpoint is to count ``w_j``. Then checkpoint
    0 gets ``1 - w_1``, checkpoint j gets ``w_j - w_(j+1)``, and the last one, k, gets ``w_k``.

    Args:
        decays: ``w_1 >= ... >= w_k``, within 0 and 1: one fewer than there are checkpoints.

    Raises:
        CheckpointError: they are not.

    Example:
        >>> from swa_fast.checkpoints import coefficients
        >>> coefficients.decays_to_coefficients([0.75, 0.25])
        [0.25, 0.5, 0.25]
    """
    steps = [1.0, *(float(decay) for decay in decays), 0.0]
    if any(not later <= earlier for earlier, later in pairwise(steps)):
        raise CheckpointError(
            f"decays must not grow, and lie within 0 and 1. Received: {list(decays)}"
        )
    return [earlier - later for earlier, later in pairwise(steps)]


def wsm(count: int, shape: str) -> list[float]:
    """Return the coefficients that stand in for a decay of the learning rate over ``count`` steps.

    WSM, "warmup, stable, merge" (arXiv 2507.17634), with the decay ``w_j = f(j / count)``:

    - ``linear``: ``f(x) = 1 - x``, which is the mean;
    - ``cosine``: ``f(x) = (1 + cos(pi * x)) / 2``;
    - ``sqrt``: ``f(x) = 1 - sqrt(x)``, Megatron's ``minus-sqrt``.

    Args:
        count: number of checkpoints, the one before the decay included.
        shape: "linear", "cosine" or "sqrt".

    Raises:
        CheckpointError: ``shape`` is another name, or ``count`` is less than 1.
    """
    if shape not in _SHAPES:
        raise CheckpointError(
            f"the shape of wsm must be one of {', '.join(_SHAPES)}. Received: {shape!r}"
        )
    require_checkpoints(count)
    return decays_to_coefficients([_SHAPES[shape](j / count) for j in range(1, count)])


def linear(count: int) -> list[float]:
    """Return Megatron-LM's ``linear``: ``wsm(count, "linear")``, the mean."""
    return wsm(count, "linear")


def cosine(count: int) -> list[float]:
    """Return the coefficients of ``wsm(count, "cosine")``: the cosine decay of a rate."""
    return wsm(count, "cosine")


def minus_sqrt(count: int) -> list[float]:
    """Return the coefficients that Megatron-LM calls ``minus-sqrt``: ``wsm(count, "sqrt")``."""
    return wsm(count, "sqrt")


def schedule(
    name: str, count: int, snapshots: Sequence[tuple[float, float] | None] | None = None
) -> tuple[list[float], Power | None]:
    """Return the coefficients that a name on the command line stands for.

    Args:
        name: ``mean``, ``ema:DECAY``, ``wsm:linear``, ``wsm:cosine``, ``wsm:sqrt``, ``linear``,
            ``minus-sqrt`` or ``power:SIGMA``.
        count: number of checkpoints.
        snapshots: for ``power``, ``(step, sigma_rel)`` of each checkpoint, None where it says none.

    Returns:
        The coefficients, and for ``power`` how good they are, else None.

    Raises:
        CheckpointError: the name or its number is wrong, or a checkpoint lacks what ``power``
            needs.

    Example:
        >>> from swa_fast.checkpoints import coefficients
        >>> coefficients.schedule("ema:0.5", 2)
        ([0.5, 0.5], None)
    """
    kind, has_argument, argument = name.partition(":")
    if kind == "wsm" and has_argument:
        return wsm(count, argument), None
    if kind == "ema" and has_argument:
        return ema(count, _number("ema", argument)), None
    if kind == "power" and has_argument:
        known = [snapshot for snapshot in snapshots or () if snapshot is not None]
        if len(known) != count:
            raise CheckpointError(
                "power needs checkpoints whose metadata carries step and sigma_rel: "
                f"{count - len(known)} of {count} do not"
            )
        found = power(known, _number("power", argument))
        return found.coefficients, found
    if kind in _PLAIN and not has_argument:
        return _PLAIN[kind](count), None
    raise CheckpointError(f"a schedule must be one of {', '.join(SCHEDULES)}. Received: {name!r}")


SCHEDULES = (
    "mean",
    "ema:DECAY",
    "wsm:linear",
    "wsm:cosine",
    "wsm:sqrt",
    "linear",
    "minus-sqrt",
    "power:SIGMA",
)
"""What ``schedule`` understands."""

_SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda x: 1 - x,
    "cosine": lambda x: (1 + math.cos(math.pi * x)) / 2,
    "sqrt": lambda x: 1 - math.sqrt(x),
}

_PLAIN: dict[str, Callable[[int], list[float]]] = {
    "mean": mean,
    "linear": linear,
    "minus-sqrt": minus_sqrt,
}


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise CheckpointError(f"{name}: needs a number. Received: {text!r}") from None
