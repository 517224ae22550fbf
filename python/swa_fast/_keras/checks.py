"""The checks of the callbacks: their arguments, and what shows before the first batch of a `fit`.

The messages begin as those of keras-swa where it had them.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import warnings
import weakref
from typing import Any

from swa_fast._checks import check_integer

from .data import input_batches, serves_once
from .fit import RunningFit

_ANY = -sys.maxsize
"""No bound here: keras-swa's own message about the bound comes next."""

SCHEDULES = ("manual", "constant", "cyclic")

NONFINITE = ("propagate", "skip")


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
        raise ValueError(
            '"swa_start" attribute cannot be lower than 2. start_epoch counts from 1 and must be '
            f">= 2. Received: start_epoch={start_epoch}"
        )
    if lr_schedule not in SCHEDULES:
        raise ValueError(
            f'"{lr_schedule}" is not a valid learning rate schedule. lr_schedule must be one of '
            f"{SCHEDULES}. Received: {lr_schedule!r}"
        )
    swa_freq = check_integer("swa_freq", swa_freq, _ANY)
    if lr_schedule == "cyclic" and swa_freq < 2:
        raise ValueError(
            f'"swa_freq" must be higher than 1 for cyclic schedule. Received: swa_freq={swa_freq}'
        )
    check_integer("swa_freq", swa_freq, 1)
    swa_lr = _rate("swa_lr", swa_lr)
    if swa_lr2 is not None:
        swa_lr2 = _rate("swa_lr2", swa_lr2)
    if swa_lr == "auto" and swa_lr2 != "auto":
        raise ValueError(
            '"swa_lr2" cannot be manually set if "swa_lr" is automatic. With swa_lr="auto", '
            f'swa_lr2 must be "auto". Received: swa_lr2={swa_lr2}'
        )
    if (
        lr_schedule == "cyclic"
        and isinstance(swa_lr, float)
        and isinstance(swa_lr2, float)
        and swa_lr > swa_lr2
    ):
        raise ValueError(
            f'"swa_lr" must be lower than "swa_lr2". Received: swa_lr={swa_lr}, swa_lr2={swa_lr2}'
        )
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


def warn_of_unused_rate(arguments: Arguments) -> None:
    """Warns of rates that 'manual' does not set."""
    if arguments.schedule == "manual" and (arguments.swa_lr, arguments.swa_lr2) != ("auto", "auto"):
        warnings.warn(
            "swa_lr and swa_lr2 have no effect with lr_schedule='manual', which leaves the "
            "learning rate alone: use 'constant' or 'cyclic'. "
            f"Received: swa_lr={arguments.swa_lr}, swa_lr2={arguments.swa_lr2}",
            UserWarning,
            stacklevel=3,
        )


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """Returns `value` if it is one of `choices`, else raises ValueError."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {choices}. Received: {value!r}")
    return value


def check_path(name: str, value: Any) -> Any:
    """Returns `value` if it is None or names a file, else raises TypeError."""
    if value is not None and not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} must be None, a str or a path. Received: {value!r}")
    return value


def check_batch_size(batch_size: Any) -> int | None:
    """Returns the argument if it is None or an int >= 1; raises TypeError or ValueError if not."""
    return None if batch_size is None else check_integer("batch_size", batch_size, 1)


def check_verbose(verbose: Any) -> int:
    """Returns the argument if it is a bool or an int >= 0; else TypeError or ValueError."""
    return verbose if isinstance(verbose, bool) else check_integer("verbose", verbose, 0)


def check_epochs(asked: Arguments, epochs: int | None) -> None:
    """Raises ValueError if training ends before averaging begins, or nobody says when it ends."""
    if epochs is None:
        raise ValueError(
            "SWA must know the number of epochs. Received: a CallbackList without it; give "
            "CallbackList(..., epochs=...)"
        )
    if asked.start_epoch >= epochs:
        raise ValueError(
            '"swa_start" attribute must be lower than "epochs". '
            f"Received: start_epoch={asked.start_epoch}, epochs={epochs}"
        )


def check_data(data: Any, batch_size: int | None, validates: bool) -> None:
    """Checks `bn_data`, if there is any.

    Raises:
        TypeError: it is neither arrays nor iterable.
        ValueError: it is a dataset that never ends, or cannot serve every validation and has to.
    """
    if data is None:
        return
    if validates and serves_once(data):
        raise ValueError(
            "with validate_with_average bn_data must serve every validation. Received: "
            f"{type(data).__name__}, which can be read once; give arrays or a dataset"
        )
    input_batches(data, batch_size or 32, name="bn_data")


def check_length(fit: RunningFit, counts: bool, steps: int | None) -> None:
    """Raises ValueError if batches must be counted and Keras cannot say how many ran.

    Keras 3 says after each execution that all of its batches ran, the last one's too.

    Args:
        fit: that begins.
        counts: whether batches must be counted.
        steps: batches in an epoch, None if Keras does not know.
    """
    together = fit.steps_per_execution()
    if counts and steps is None and together > 1:
        raise ValueError(
            "'cyclic' and averaging by batch must know the number of batches in an epoch if "
            "several run in one execution. Received: data of unknown length with "
            f"steps_per_execution={together}; give steps_per_epoch"
        )


def warn_of_later_callbacks(callback: Any, callbacks: list[Any]) -> None:
    """Warns of callbacks that overwrite the averages when training ends.

    Args:
        callback: that averages.
        callbacks: all of the `fit`, in their order.
    """
    place = next((i for i, other in enumerate(callbacks) if other is callback), len(callbacks))
    name = _name(callback)
    for later in callbacks[place + 1 :]:
        if getattr(later, "restore_best_weights", False) is True:
            warnings.warn(
                f"{type(later).__name__} with restore_best_weights=True comes after {name} in "
                "callbacks: when training ends it puts the weights of one epoch in the place of "
                f"the averages. Put {name} after it",
                UserWarning,
                stacklevel=3,
            )


def warn_without_validation(callback: Any, fit: RunningFit, validates: bool) -> None:
    """Warns if averages are to be validated, and `fit` has no data for it, or there is no `fit`."""
    has = fit.validates()
    if validates and not has:
        name = _name(callback)
        warnings.warn(
            f"{name} got validate_with_average in a loop of your own, whose validation it does not "
            f"see: evaluate inside of `with {name.lower()}.applied():`"
            if has is None
            else f"{name} got validate_with_average, and fit no validation_data and no "
            "validation_split: nothing will be validated",
            UserWarning,
            stacklevel=4,
        )


_RUNNING: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
"""For each model the `params` dict that Keras makes anew for each `fit`, and gives to all of its
callbacks; and the callback that leaves its averages in the model."""


def check_alone(callback: Any, waits: bool) -> None:
    """Raises ValueError if another callback has claimed the model in this `fit`.

    Args:
        callback: that begins.
        waits: whether it has begun already and no epoch came: then it is in the list twice. In a
            loop of the user's own, a `CallbackList` may serve for several trainings.
    """
    params, other = _RUNNING.get(callback.model, (None, None))
    if params is None or params is not getattr(callback, "params", None):
        return
    if waits or other() is not callback:
        raise ValueError(
            "only one SWA callback can average a model in one fit. Received: two of them in "
            "callbacks; swa_fast's Averages keeps several averages in one"
        )


def claim(callback: Any) -> None:
    """Makes `check_alone` fail for other callbacks from now on, in this `fit`."""
    _RUNNING[callback.model] = getattr(callback, "params", None), weakref.ref(callback)


def _name(callback: Any) -> str:
    """Returns the public name of a callback of ours, which a subclass may have left."""
    public = [kind for kind in type(callback).__mro__ if kind.__module__.startswith("swa_fast.")]
    return public[0].__name__ if public else type(callback).__name__
