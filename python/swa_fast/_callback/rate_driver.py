"""The optimizer's learning rate during one `fit`: set, recorded, and given back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import rates as _rates
from .arguments import Arguments
from .backend import Backend


class RateDriver:
    """Sets the rate as the schedule says.

    Args:
        backend: the Keras of the optimizer.
        optimizer: of the model that is trained.
        asked: the callback's arguments.
        saved: the rates of the `fit` that this one may go on from, or None.

    Attributes:
        rates: that the schedule moves between.
        record: what was set: one for each epoch under 'constant', for each batch under 'cyclic'.

    Raises:
        ValueError: something else drives the rate, or it is lower than `swa_lr`.
    """

    def __init__(
        self, backend: Backend, optimizer: Any, asked: Arguments, saved: Sequence[Any] | None
    ) -> None:
        if asked.schedule != "manual" and backend.rate_is_driven(optimizer):
            raise ValueError(
                f"lr_schedule={asked.schedule!r} sets the optimizer's learning rate, which must be "
                "a number. Received: an optimizer whose learning rate is a schedule object or a "
                'function; give the optimizer a number, or use lr_schedule="manual" and keep it'
            )
        self._backend, self._optimizer, self._asked = backend, optimizer, asked
        self._held: float | None = None
        self.record: list[float] = []
        self._initial = backend.rate(optimizer)
        if saved is None:
            self.start_anew()
        else:
            self.rates = _rates.Rates(*saved)

    def start_anew(self) -> None:
        """Takes the rates from the optimizer, as it was when `fit` began, and not from `saved`.

        Raises:
            ValueError: the optimizer's rate is lower than `swa_lr`.
        """
        asked = self._asked
        self.rates = _rates.resolve(asked.schedule, asked.swa_lr, asked.swa_lr2, self._initial)

    def begin_epoch(self, epoch: int) -> None:
        """Sets the rate of an epoch, if the schedule is 'constant'."""
        if self._asked.schedule != "constant":
            return
        if self._held is None:
            initial, lower, _ = self.rates
            self._set(_rates.constant(epoch, self._asked.start, initial, lower))
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
        self._set(_rates.cyclic(epoch, batch, steps or 1, asked.start, asked.period, self.rates))

    def hold_at_zero(self) -> None:
        """Shows a rate of zero until `release`; a rate that something drives stays as it is."""
        if self._backend.rate_is_driven(self._optimizer):
            return
        self._held = self._backend.rate(self._optimizer)
        self._backend.set_rate(self._optimizer, 0.0)

    def release(self) -> None:
        """Gives the rate from before `hold_at_zero` back; harmless without it."""
        if self._held is not None:
            self._backend.set_rate(self._optimizer, self._held)
            self._held = None

    def _set(self, rate: float) -> None:
        self._backend.set_rate(self._optimizer, rate)
        self.record.append(rate)
