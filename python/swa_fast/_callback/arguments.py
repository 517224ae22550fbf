"""The checks of the callback's arguments: keras-swa's messages where it had them."""

from __future__ import annotations

import dataclasses
import math
import sys
import warnings
from typing import Any

from swa_fast._schedule import check_integer

_ANY = -sys.maxsize
"""No bound here: keras-swa's own message about the bound comes next."""

SCHEDULES = ("manual", "constant", "cyclic")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What the callback was asked to do, checked.

    Attributes:
        start_epoch: first epoch of averaging, counted from 1.
        schedule: one of `SCHEDULES`.
        swa_lr: a rate or "auto".
        swa_lr2: a rate, "auto" or None.
        period: epochs from one snapshot to the next, or in a cycle.
        start_step: first batch of averaging counted from 0; None for the first of `start_epoch`.
        every_n_steps: batches from one snapshot to the next; None to average by epoch.
        decay: of an exponential average; None for the mean.
    """

    start_epoch: int
    schedule: str
    swa_lr: float | str
    swa_lr2: float | str | None
    period: int
    start_step: int | None
    every_n_steps: int | None
    decay: float | None

    @property
    def start(self) -> int:
        """First epoch of averaging, counted from 0."""
        return self.start_epoch - 1

    @property
    def first_snapshot(self) -> int:
        """The epoch, counted from 0, at whose end the first snapshot is taken.

        Under 'cyclic' that is the last epoch of the first cycle, where the rate is lowest.
        """
        return self.start + (self.period - 1 if self.schedule == "cyclic" else 0)


def check(
    start_epoch: Any,
    lr_schedule: Any,
    swa_lr: Any,
    swa_lr2: Any,
    swa_freq: Any,
    start_step: Any,
    every_n_steps: Any,
    decay: Any,
) -> Arguments:
    """Returns the checked arguments.

    Raises:
        TypeError: a number is of the wrong type.
        ValueError: a value is out of range, the schedule is unknown, or two arguments exclude each
            other.
    """
    start_epoch = check_integer("start_epoch", start_epoch, _ANY)
    if start_epoch < 2:
        raise ValueError('"swa_start" attribute cannot be lower than 2.')
    if lr_schedule not in SCHEDULES:
        raise ValueError(f'"{lr_schedule}" is not a valid learning rate schedule')
    swa_freq = check_integer("swa_freq", swa_freq, _ANY)
    if lr_schedule == "cyclic" and swa_freq < 2:
        raise ValueError('"swa_freq" must be higher than 1 for cyclic schedule.')
    check_integer("swa_freq", swa_freq, 1)
    swa_lr = _rate("swa_lr", swa_lr)
    if swa_lr2 is not None:
        swa_lr2 = _rate("swa_lr2", swa_lr2)
    if swa_lr == "auto" and swa_lr2 != "auto":
        raise ValueError('"swa_lr2" cannot be manually set if "swa_lr" is automatic.')
    if (
        lr_schedule == "cyclic"
        and isinstance(swa_lr, float)
        and isinstance(swa_lr2, float)
        and swa_lr > swa_lr2
    ):
        raise ValueError('"swa_lr" must be lower than "swa_lr2".')
    if every_n_steps is not None:
        every_n_steps = check_integer("every_n_steps", every_n_steps, 1)
    if start_step is not None:
        start_step = check_integer("start_step", start_step, 0)
        every_n_steps = 1 if every_n_steps is None else every_n_steps
    if decay is not None:
        decay = _number("decay", decay)
        if not 0 < decay < 1:
            raise ValueError(f"decay must be > 0 and < 1. Received: {decay:g}")
    return Arguments(
        start_epoch, lr_schedule, swa_lr, swa_lr2, swa_freq, start_step, every_n_steps, decay
    )


def warn_without_cycle(arguments: Arguments, last: int) -> None:
    """Warns if no cycle ends by `last`, the last training epoch counted from 0."""
    by_cycle = arguments.schedule == "cyclic" and arguments.every_n_steps is None
    if by_cycle and arguments.first_snapshot > last:
        warnings.warn(
            f"no cycle ends before training does: the first would end with epoch "
            f"{arguments.first_snapshot + 1}, the last training epoch is {last + 1}, so "
            "no weights will be averaged",
            UserWarning,
            stacklevel=3,
        )


def _rate(name: str, value: Any) -> float | str:
    if isinstance(value, str):
        if value == "auto":
            return value
        raise ValueError(f'{name} must be a number or "auto". Received: {value!r}')
    number = _number(name, value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be >= 0 and finite. Received: {number:g}")
    return number


def _number(name: str, value: Any) -> float:
    if (
        isinstance(value, bool)
        or getattr(value, "shape", ()) != ()
        or not hasattr(value, "__float__")
    ):
        raise TypeError(
            f"{name} must be a number. Received: {value!r} of type {type(value).__name__}"
        )
    return float(value)
