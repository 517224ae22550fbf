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
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .errors import CheckpointError

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

ERROR_LIMIT = 0.01
"""A profile's relative error above which a user should be warned."""

MAGNITUDE_LIMIT = 3.0
"""A sum of absolute coefficients above which rounding in the snapshots is amplified too much."""


def mean(count: int) -> list[float]:
    """Return ``1 / count`` for each checkpoint.

    Raises:
        CheckpointError: ``count`` is less than 1.
    """
    _require_checkpoints(count, 1)
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
    _require_checkpoints(len(values), 1)
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
    _require_checkpoints(count, 1)
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
    _require_checkpoints(count, 1)
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


@dataclass(frozen=True)
class Power:
    """How snapshots of power averages make the average of another width.

    Attributes:
        coefficients: one for each snapshot, in the order given; their sum is 1.
        error: L2 distance of the profile that they make from the one wanted, as a share of the
            wanted profile's norm.
        magnitude: sum of the absolute coefficients: how much the snapshots' rounding may grow.
    """

    coefficients: list[float]
    error: float
    magnitude: float

    @property
    def warnings(self) -> list[str]:
        """Sentences that a user should know, one for each limit that was passed."""
        found = []
        if self.error > ERROR_LIMIT:
            found.append(
                f"the snapshots make the profile asked for only up to an error of {self.error:.2%}:"
                " more of them, or of other widths, would make it better"
            )
        if self.magnitude > MAGNITUDE_LIMIT:
            found.append(
                f"the absolute coefficients add up to {self.magnitude:.1f}, which multiplies the "
                "rounding errors of the snapshots: ask for a width nearer to theirs"
            )
        return found


def power(
    snapshots: Sequence[tuple[float, float]], sigma_rel: float, step: float | None = None
) -> Power:
    """Return the coefficients of an average whose width is chosen after the training.

    Post-hoc EMA (Karras et al. 2024, arXiv 2312.02696, section 3.2 and algorithm 3). A power
    average of relative width ``sigma_rel`` at step t weighs step u by ``u ** gamma``, up to t.
    Those of the snapshots are combined so that the sum of their profiles is nearest, in the L2
    norm, to the one wanted. Solved by least squares in float64 on profiles of norm 1, then divided
    by the sum.

    Args:
        snapshots: ``(step, sigma_rel)`` of each: the update at which it was taken and the relative
            width of the power average that it holds.
        sigma_rel: the width wanted, in (0, 1 / sqrt(12)].
        step: where the wanted average ends; the last snapshot's step if None.

    Raises:
        CheckpointError: there is no snapshot, or a step or a width is out of range.

    Example:
        >>> from swa_fast.checkpoints import coefficients
        >>> steps = range(1000, 11000, 1000)
        >>> found = coefficients.power([(t, s) for t in steps for s in (0.05, 0.1)], 0.07)
        >>> found.error < 0.01, found.magnitude < 3
        (True, True)
    """
    _require_checkpoints(len(snapshots), 1)
    steps = np.array([_positive("step", taken) for taken, _ in snapshots])
    gammas = np.array([_gamma(width) for _, width in snapshots])
    end = float(steps.max()) if step is None else _positive("step", step)
    gamma = _gamma(sigma_rel)
    inner = _inner(steps[:, None], gammas[:, None], steps[None], gammas[None])
    wanted = _inner(steps, gammas, np.array(end), np.array(gamma))
    wanted_square = float(_inner(*(np.array(x) for x in (end, gamma, end, gamma))))
    norms = np.sqrt(np.diag(inner))
    scaled = np.linalg.lstsq(inner / np.outer(norms, norms), wanted / norms, rcond=None)[0]
    found = scaled / norms
    found = found / found.sum()
    square = found @ inner @ found - 2 * (found @ wanted) + wanted_square
    return Power(
        coefficients=[float(x) for x in found],
        error=math.sqrt(max(0.0, float(square)) / wanted_square),
        magnitude=float(np.abs(found).sum()),
    )


def schedule(
    name: str, count: int, snapshots: Sequence[tuple[float, float] | None] | None = None
) -> tuple[list[float], list[str]]:
    """Return the coefficients that a name on the command line stands for, and warnings.

    Args:
        name: ``mean``, ``ema:DECAY``, ``wsm:linear``, ``wsm:cosine``, ``wsm:sqrt``, ``linear``,
            ``minus-sqrt`` or ``power:SIGMA``.
        count: number of checkpoints.
        snapshots: for ``power``, ``(step, sigma_rel)`` of each checkpoint, None where it says none.

    Raises:
        CheckpointError: the name or its number is wrong, or a checkpoint lacks what ``power``
            needs.

    Example:
        >>> from swa_fast.checkpoints import coefficients
        >>> coefficients.schedule("ema:0.5", 2)
        ([0.5, 0.5], [])
    """
    kind, has_argument, argument = name.partition(":")
    if kind == "wsm" and has_argument:
        return wsm(count, argument), []
    if kind == "ema" and has_argument:
        return ema(count, _number("ema", argument)), []
    if kind == "power" and has_argument:
        known = [snapshot for snapshot in snapshots or () if snapshot is not None]
        if len(known) != count:
            raise CheckpointError(
                "power needs checkpoints whose metadata carries step and sigma_rel: "
                f"{count - len(known)} of {count} do not"
            )
        found = power(known, _number("power", argument))
        return found.coefficients, found.warnings
    if kind in _PLAIN and not has_argument:
        return _PLAIN[kind](count), []
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


def _require_checkpoints(count: int, least: int) -> None:
    if count < least:
        raise CheckpointError(f"at least {least} checkpoint is needed. Received: {count}")


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise CheckpointError(f"{name}: needs a number. Received: {text!r}") from None


def _positive(name: str, value: float) -> float:
    number = float(value)
    if not 0 < number < math.inf:
        raise CheckpointError(f"a snapshot's {name} must be > 0 and finite. Received: {value}")
    return number


def _gamma(sigma_rel: float) -> float:
    """Return the exponent of the profile of this relative width: algorithm 2 of the paper."""
    widest = 1 / math.sqrt(12)
    if not 1e-6 <= sigma_rel <= math.nextafter(widest, 1):
        raise CheckpointError(
            f"sigma_rel must be > 0 and <= 1 / sqrt(12), which is {widest:.6f}. "
            f"Received: {sigma_rel}"
        )
    inverse_square = float(sigma_rel) ** -2
    roots = np.roots([1.0, 7.0, 16.0 - inverse_square, 12.0 - inverse_square])
    return max(0.0, float(roots.real.max()))


def _inner(
    t_a: np.ndarray, gamma_a: np.ndarray, t_b: np.ndarray, gamma_b: np.ndarray
) -> np.ndarray:
    """Integral of the product of two profiles ``(gamma + 1) / t * (u / t) ** gamma`` up to t."""
    ratio = t_a / t_b
    exponent = np.where(t_a < t_b, gamma_b, -gamma_a)
    numerator = (gamma_a + 1) * (gamma_b + 1) * ratio**exponent
    return np.asarray(numerator / ((gamma_a + gamma_b + 1) * np.maximum(t_a, t_b)))
