"""The learning rates of the 'constant' and 'cyclic' schedules, as pure functions.

Epochs and batches count from 0 here; `start` is the first epoch of averaging. The formulas are
those
of keras-swa 0.1.7, the cycle that of section 3.1 of Izmailov et al. 2018 (arXiv 1803.05407).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Rates(NamedTuple):
    """The three rates a schedule moves between.

    Attributes:
        initial: the optimizer's rate when training began.
        lower: the rate of averaging, and the end of a cycle.
        upper: the beginning of a cycle; None unless the schedule is 'cyclic'.
    """

    initial: float
    lower: float
    upper: float | None


def resolve(
    schedule: str, swa_lr: float | str, swa_lr2: float | str | None, initial: float
) -> Rates:
    """Puts numbers in the place of "auto".

    Args:
        schedule: 'manual', 'constant' or 'cyclic'.
        swa_lr: a rate, or "auto" for a tenth of `initial`.
        swa_lr2: a rate, "auto" for a quarter of the way from `swa_lr` up to `initial`, or None for
            ten times `swa_lr`.
        initial: the optimizer's rate.

    Returns:
        The rates.

    Raises:
        ValueError: `swa_lr` is above `initial` (compared in float32, as optimizers store it).

    Example:
        >>> resolve("cyclic", 0.5, "auto", 1.0)
        Rates(initial=1.0, lower=0.5, upper=0.625)
    """
    lower = 0.1 * initial if isinstance(swa_lr, str) else float(swa_lr)
    if np.float32(lower) > np.float32(initial):
        raise ValueError(
            '"swa_lr" must be lower than rate set in optimizer. '
            f"Received: swa_lr={lower:g}, rate of the optimizer {initial:g}"
        )
    upper = None
    if schedule == "cyclic":
        if swa_lr2 is None:
            upper = 10 * lower
        elif isinstance(swa_lr2, str):
            upper = lower + (initial - lower) * 0.25
        else:
            upper = float(swa_lr2)
    return Rates(initial, lower, upper)


def constant(epoch: int, start: int, initial: float, lower: float) -> float:
    """Returns the rate of `epoch` under 'constant'.

    It is `initial` for half of the epochs before `start`, goes down to `lower` in a line that ends
    at 90 % of them, and stays there.

    Args:
        epoch: >= 0.
        start: first epoch of averaging, >= 1.
        initial: the optimizer's rate.
        lower: the rate of averaging.

    Example:
        >>> [constant(epoch, 10, 1.0, 0.2) for epoch in (0, 5, 7, 9, 30)]
        [1.0, 1.0, 0.6, 0.2, 0.2]
    """
    passed = epoch / start
    if passed <= 0.5:
        factor = 1.0
    elif passed <= 0.9:
        factor = 1.0 - (1.0 - lower / initial) * (passed - 0.5) / 0.4
    else:
        return lower
    return initial * factor


def cyclic(epoch: int, batch: int, steps: int, start: int, period: int, rates: Rates) -> float:
    """Returns the rate of one batch: `constant` before `start`, then cycles from upper to lower.

    The last batch of a cycle runs at exactly the lower rate, the first one step below the upper.

    Args:
        epoch: >= 0.
        batch: index of the batch in its epoch.
        steps: batches in an epoch.
        start: first epoch of averaging, >= 1.
        period: epochs in a cycle, >= 2.
        rates: from `resolve`, with an upper rate.

    Example:
        >>> rates = Rates(1.0, 0.1, 0.5)
        >>> [round(cyclic(3, batch, 2, 3, 2, rates), 6) for batch in (0, 1)]
        [0.4, 0.3]
    """
    if epoch < start:
        return constant(epoch, start, rates.initial, rates.lower)
    assert rates.upper is not None
    position = ((epoch - start) % period) * steps + batch + 1
    passed = min(position / (period * steps), 1.0)
    return (1 - passed) * rates.upper + passed * rates.lower
