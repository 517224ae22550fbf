"""The learning rates of the 'constant' and 'cyclic' schedules, and the counting of batches.

Epochs and batches count from 0 here; `start` is the first epoch of averaging. The formulas are
those of keras-swa 0.1.7, the cycle that of section 3.1 of Izmailov et al. 2018 (arXiv 1803.05407).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from swa_fast.average import due

from .checks import Arguments
from .runtime import Runtime


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
        >>> [round(constant(epoch, 10, 1.0, 0.2), 6) for epoch in (0, 5, 7, 9, 30)]
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


class RateDriver:
    """Sets the rate as the schedule says.

    Args:
        runtime: the Keras of the optimizer.
        optimizer: of the model that is trained; None in a loop that has its own, under 'manual'.
        asked: the callback's arguments.
        saved: the rates of the `fit` that this one may go on from, or None.

    Attributes:
        rates: that the schedule moves between.
        record: what was set: one for each epoch under 'constant', for each batch under 'cyclic'.

    Raises:
        ValueError: something else drives the rate, or it is lower than `swa_lr`.
    """

    def __init__(
        self, runtime: Runtime, optimizer: Any, asked: Arguments, saved: Sequence[Any] | None
    ) -> None:
        """Reads the optimizer's rate; sets nothing yet."""
        if asked.schedule != "manual" and optimizer is None:
            raise ValueError(
                f"lr_schedule={asked.schedule!r} sets the rate of the model's optimizer. Received: "
                "a model that was not compiled with one"
            )
        self._driven = optimizer is None or runtime.rate_is_driven(optimizer)
        if asked.schedule != "manual" and self._driven:
            raise ValueError(
                f"lr_schedule={asked.schedule!r} sets the optimizer's learning rate, which must be "
                "a number. Received: an optimizer whose learning rate is a schedule object or a "
                'function; give the optimizer a number, or use lr_schedule="manual" and keep it'
            )
        self._runtime, self._optimizer, self._asked = runtime, optimizer, asked
        self._held: float | None = None
        self.record: list[float] = []
        self._initial = math.nan if optimizer is None else runtime.rate(optimizer)
        if saved is None:
            self.start_anew()
        else:
            self.rates = Rates(*saved)

    def start_anew(self) -> None:
        """Takes the rates from the optimizer, as it was when `fit` began, and not from `saved`.

        Raises:
            ValueError: the optimizer's rate is lower than `swa_lr`.
        """
        asked = self._asked
        self.rates = resolve(asked.schedule, asked.swa_lr, asked.swa_lr2, self._initial)

    def begin_epoch(self, epoch: int) -> None:
        """Sets the rate of an epoch, if the schedule is 'constant'."""
        if self._asked.schedule != "constant":
            return
        if self._held is None:
            initial, lower, _ = self.rates
            self._set(constant(epoch, self._asked.start, initial, lower))
        else:
            self.record.append(0)

    def begin_batch(self, epoch: int, batch: int, steps: int | None) -> None:
        """Sets the rate of a batch under 'cyclic'.

        Args:
            epoch: counted from 0.
            batch: in its epoch.
            steps: batches in an epoch, None if not known yet.

        Raises:
            ValueError: `steps` is not known, and must be.
        """
        if self._held is not None:
            self.record.append(0)
            return
        if steps is None and epoch >= self._asked.start:
            raise ValueError(
                "the 'cyclic' schedule must know the number of batches in an epoch before "
                f"averaging starts. Received: data of unknown length in epoch {epoch + 1}, "
                "the first of this fit; give steps_per_epoch"
            )
        asked = self._asked
        self._set(cyclic(epoch, batch, steps or 1, asked.start, asked.period, self.rates))

    def hold_at_zero(self) -> None:
        """Shows a rate of zero until `release`; a rate that something drives stays as it is."""
        if self._driven:
            return
        self._held = self._runtime.rate(self._optimizer)
        self._runtime.set_rate(self._optimizer, 0.0)

    def release(self) -> None:
        """Gives the rate from before `hold_at_zero` back; harmless without it."""
        if self._held is not None:
            self._runtime.set_rate(self._optimizer, self._held)
            self._held = None

    def _set(self, rate: float) -> None:
        self._runtime.set_rate(self._optimizer, rate)
        self.record.append(rate)


class StepCounter:
    """Counts training batches over all epochs, leaving out the batch-normalization epoch.

    Args:
        period: batches from one snapshot to the next; None if none is averaged by batch.
        start: the first batch of averaging; None for the first of the first averaging epoch.
        in_epoch: batches in an epoch; None if Keras does not know before the first has ended.
        in_full: whether the last execution of an epoch runs as many batches as all others.

    Attributes:
        done: batches completed.
        start: the first batch of averaging, once it is known.
        in_epoch: batches in an epoch, once it is known.
    """

    def __init__(
        self,
        period: int | None = None,
        start: int | None = None,
        in_epoch: int | None = None,
        in_full: bool = False,
    ) -> None:
        """Starts before the first batch."""
        self.done = 0
        self.start = start
        self.in_epoch = in_epoch
        self._period = period
        self._in_full = in_full
        self._of_this_epoch = 0

    def begin_epoch(self) -> None:
        """Must be called when an epoch begins."""
        self._of_this_epoch = 0

    def ran(self, batch: int, trains: bool = True) -> int:
        """Counts what ran up to `batch`, and returns how many batches that were.

        Args:
            batch: the last one of an execution, in its epoch.
            trains: False in the batch-normalization epoch, whose batches do not count.
        """
        # With steps_per_execution > 1 several ran; where the data ends fewer than Keras says.
        end = batch + 1
        if self.in_epoch is not None and not self._in_full:
            end = min(end, self.in_epoch)
        ran = end - self._of_this_epoch
        self._of_this_epoch = end
        if trains:
            self.done += ran
        return ran

    def due(self, ran: int, averages: bool) -> bool:
        """Tells whether one of the last `ran` batches takes a snapshot.

        Args:
            ran: from `ran`.
            averages: whether this epoch belongs to averaging.
        """
        if self._period is None:
            return False
        if self.start is None and averages:
            self.start = self.done - self._of_this_epoch
        start, period = self.start, self._period
        return start is not None and any(
            due(step + 1, start, period) for step in range(self.done - ran, self.done)
        )

    def end_epoch(self) -> None:
        """Learns the number of batches in an epoch."""
        if self.in_epoch is None and self._of_this_epoch:
            self.in_epoch = self._of_this_epoch
