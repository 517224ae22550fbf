"""The callback of keras-swa, for any Keras."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from .._checks import check_flag
from ..average import Average
from . import checks
from . import state as _state
from .callback import Averaging
from .fit import RunningFit
from .rates import RateDriver, Rates, StepCounter
from .runtime import Runtime
from .session import Session, Wishes
from .swa_session import NAME, SwaSession


class AveragingCallback(Averaging):
    """Averages the weights of a model during `fit` and leaves the model with the average.

    The API and the schedules are those of keras-swa, after Izmailov et al. 2018 (arXiv 1803.05407).
    A snapshot of the weights is taken at the end of every `swa_freq`-th epoch from `start_epoch`
    on; under 'cyclic', at the end of each cycle, where the rate is lowest. When training ends, by
    its last epoch, by early stopping or by an exception, the model has the average of the
    snapshots. All floating-point weights are averaged, in float32 (float64 weights in float64).

    A model with batch normalization needs moving statistics of its averaged weights. Unless
    `bn_data` is given, the last epoch is a forward pass for that: no weight changes, the learning
    rate shows zero, and each moving statistic becomes the mean over the epoch's batches. When
    training ends early, the same pass runs over the data of `fit` right away.

    Args:
        start_epoch: first epoch of averaging, counted from 1; >= 2 and lower than `epochs`.
        lr_schedule: 'manual' leaves the learning rate alone. 'constant' holds the optimizer's rate
            for the first half of the epochs before `start_epoch`, goes down to `swa_lr` in a line
            that ends at 90 % of them, and stays there. 'cyclic' does the same up to `start_epoch`;
            from there each batch goes a step down from `swa_lr2` to `swa_lr`, over `swa_freq`
            epochs, again and again.
        swa_lr: learning rate of averaging; "auto" is a tenth of the optimizer's.
        swa_lr2: where a cycle begins; "auto" is a quarter of the way from `swa_lr` to the
            optimizer's rate, None is ten times `swa_lr`.
        swa_freq: epochs from one snapshot to the next, or in a cycle (then >= 2).
        batch_size: no longer needed; samples in a batch when `bn_data` is arrays (then 32 if None).
        verbose: 1 prints what keras-swa prints.
        bn_data: what `update_bn` takes: recomputes moving statistics after training, so that the
            last epoch trains. With `validate_with_average` also before each validation, for which
            a generator is refused. An endless generator is not recognized.
        start_step: average by batch, from this batch on (counted from 0 over all epochs).
        every_n_steps: average by batch: batches from one snapshot to the next; from the first batch
            of `start_epoch` on unless `start_step` is given.
        decay: > 0 and < 1 makes it an exponential average: at each snapshot after the first,
            `decay * average + (1 - decay) * weights`.
        validate_with_average: run `fit`'s validation on the averages; the model's own weights are
            restored exactly afterwards. A `ModelCheckpoint(monitor="val_...", save_best_only=True)`
            saves the weights that were validated.
        backup_path: an `.npz` file that is rewritten after each epoch, beside BackupAndRestore's:
            the next `fit` goes on from it, and deletes it at its end. Averages that are not finite
            are not written to it, and then it is not deleted.
        nonfinite: "propagate" averages NaN and infinity; "skip" leaves out a whole snapshot that
            holds one, counts it in `skipped` and warns at the end. Checking reads all weights once
            more.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range; `fit` raises it for what only shows there.
    """

    def __init__(
        self,
        start_epoch: int,
        lr_schedule: str = "manual",
        swa_lr: float | str = "auto",
        swa_lr2: float | str | None = "auto",
        swa_freq: int = 1,
        batch_size: int | None = None,
        verbose: int = 0,
        *,
        bn_data: Any = None,
        start_step: int | None = None,
        every_n_steps: int | None = None,
        decay: float | None = None,
        validate_with_average: bool = False,
        backup_path: str | os.PathLike[str] | None = None,
        nonfinite: str = "propagate",
    ) -> None:
        """Checks the arguments."""
        self._arguments = checks.check(
            start_epoch, lr_schedule, swa_lr, swa_lr2, swa_freq, start_step, every_n_steps, decay
        )
        self.nonfinite = checks.check_choice("nonfinite", nonfinite, checks.NONFINITE)
        batch_size = checks.check_batch_size(batch_size)
        verbose = checks.check_verbose(verbose)
        check_flag("validate_with_average", validate_with_average)
        checks.check_path("backup_path", backup_path)
        super().__init__()
        self.start_epoch = start_epoch
        self.lr_schedule = lr_schedule
        self.swa_lr = swa_lr
        self.swa_lr2 = swa_lr2
        self.swa_freq = swa_freq
        self.batch_size = batch_size
        self.verbose = verbose
        self.bn_data = bn_data
        self.validate_with_average = validate_with_average
        self.backup_path = backup_path
        self._rates: RateDriver | None = None

    __init__.__qualname__ = "SWA.__init__"  # what Python says is to be what the user called

    @property
    def lr_record(self) -> list[float]:
        """The learning rates that were set in the last `fit`, as in `history.history["lr"]`.

        One for each epoch under 'constant', one for each batch under 'cyclic'.
        """
        return [] if self._rates is None else self._rates.record

    @property
    def skipped(self) -> int:
        """Snapshots that were left out of the last `fit` because they were not finite."""
        return 0 if self._session is None else self._session.held.skipped[NAME]

    def applied(self) -> AbstractContextManager[None]:
        """Puts the average in the model's place inside a `with` block, then the weights back.

        What is saved inside of the block are the averages.

        Raises:
            RuntimeError: there is no snapshot yet.
        """
        return self._applied(NAME)

    def _batch_hooks(self) -> dict[str, Callable[[int], None]]:
        hooks: dict[str, Callable[[int], None]] = {}
        cyclic = self._arguments.schedule == "cyclic"
        if cyclic:
            hooks["on_train_batch_begin"] = self._begin_batch
        if cyclic or self._arguments.every_n_steps is not None:
            hooks["on_train_batch_end"] = self._end_batch
        return hooks

    def _begin_batch(self, batch: int) -> None:
        session = self._now()
        assert isinstance(session, SwaSession)
        session.begin_batch(batch)

    def _make_session(self, runtime: Runtime, fit: RunningFit) -> Session:
        asked, params = self._arguments, self._given_params()
        epochs, steps = params.get("epochs"), params.get("steps")
        checks.check_alone(self, self._waits())
        checks.check_epochs(asked, epochs)
        assert epochs is not None
        counts = asked.schedule == "cyclic" or asked.every_n_steps is not None
        checks.check_length(fit, counts, steps)
        wishes = Wishes(
            averages={NAME: Average(asked.decay)},
            at_end=NAME,
            validated=NAME if self.validate_with_average else None,
            bn_data=self.bn_data,
            batch_size=self.batch_size or 32,
            skips=self.nonfinite == "skip",
            backup_path=self.backup_path,
            verbose=self.verbose > 0,
        )
        counter = StepCounter(asked.every_n_steps, asked.start_step, steps, fit.runs_in_full())
        session = SwaSession(runtime, fit, wishes, counter, asked, epochs, self._resume)
        checks.check_data(wishes.bn_data, wishes.batch_size, wishes.validated is not None)
        checks.warn_of_unused_rate(asked)
        self._rates = session.rates
        session.show_rates = self._show_rates
        self._show_rates(session.rates.rates)
        return session

    def _show_rates(self, rates: Rates) -> None:
        """Puts numbers in the place of "auto" in the callback's attributes."""
        self.swa_lr = rates.lower
        if rates.upper is not None:
            self.swa_lr2 = rates.upper

    def _no_state(self) -> Mapping[str, Any]:
        return _state.State(
            averages=[],
            count=0,
            epochs=0,
            steps=0,
            start_step=self._arguments.start_step,
            rates=None,
        )

    def _check_state(self, state: Any) -> Any:
        return _state.check(state)
