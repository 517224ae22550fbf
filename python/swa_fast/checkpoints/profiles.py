"""Averages of averages: how snapshots of power averages make one of another width.

Post-hoc EMA, Karras et al. 2024 (arXiv 2312.02696). The profile of an average says how much each
step of the training weighs in it; that of a power average is ``(gamma + 1) / t * (u / t) ** gamma``
for step u up to step t.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .. import decays
from .errors import CheckpointError, require_checkpoints

__all__ = ["Power", "power"]

ERROR_LIMIT = 0.01
"""A profile's relative error above which a user should be warned."""

MAGNITUDE_LIMIT = 3.0
"""A sum of absolute coefficients above which rounding in the snapshots is amplified too much."""


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
    require_checkpoints(len(snapshots))
    steps = np.array([_positive("step", taken) for taken, _ in snapshots])
    gammas = np.array([_gamma(width) for _, width in snapshots])
    end = float(steps.max()) if step is None else _positive("step", step)
    gamma = _gamma(sigma_rel)
    with np.errstate(all="ignore"):  # what comes of it is looked at below
        inner = _inner(steps[:, None], gammas[:, None], steps[None], gammas[None])
        wanted = _inner(steps, gammas, np.array(end), np.array(gamma))
        wanted_square = float(_inner(*(np.array(x) for x in (end, gamma, end, gamma))))
        norms = np.sqrt(np.diag(inner))
        matrix, target = inner / np.outer(norms, norms), wanted / norms
        found = np.full(len(steps), np.nan)
        if all(np.isfinite(x).all() for x in (matrix, target, wanted_square)):
            found = np.linalg.lstsq(matrix, target, rcond=None)[0] / norms
            found = found / found.sum()
    if not np.isfinite(found).all():
        raise CheckpointError(
            f"the width {sigma_rel} at step {end:g} is too far from those of the snapshots"
        )
    square = found @ inner @ found - 2 * (found @ wanted) + wanted_square
    return Power(
        coefficients=[float(x) for x in found],
        error=math.sqrt(max(0.0, float(square)) / wanted_square),
        magnitude=float(np.abs(found).sum()),
    )


def _positive(name: str, value: float) -> float:
    number = float(value)
    if not 0 < number < math.inf:
        raise CheckpointError(f"a snapshot's {name} must be > 0 and finite. Received: {value}")
    return number


def _gamma(sigma_rel: float) -> float:
    try:
        return decays.power(sigma_rel=sigma_rel).gamma
    except (TypeError, ValueError) as error:
        raise CheckpointError(str(error)) from None


def _inner(
    t_a: np.ndarray, gamma_a: np.ndarray, t_b: np.ndarray, gamma_b: np.ndarray
) -> np.ndarray:
    """Integral of the product of two profiles ``(gamma + 1) / t * (u / t) ** gamma`` up to t."""
    ratio = t_a / t_b
    exponent = np.where(t_a < t_b, gamma_b, -gamma_a)
    numerator = (gamma_a + 1) * (gamma_b + 1) * ratio**exponent
    return np.asarray(numerator / ((gamma_a + gamma_b + 1) * np.maximum(t_a, t_b)))
