"""The callback itself, for any Keras: what happens at which hook."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from swa_fast.average import due

from . import arguments as _arguments
from . import before_training, running
from . import state as _state
from .averages import Averages
from .backend import Backend
from .finish import finish
from .guard import Guard, find_callback_list, fit_locals
from .rate_driver import RateDriver
from .resumable import Resumable
from .statistics_pass import StatisticsPass
from .steps import StepCounter
from .validation import evaluate_on_averages

_BATCH_HOOKS = ("on_train_batch_begin", "on_train_batch_end")
_WATCHED_HOOKS = (*_BATCH_HOOKS, "on_epoch_begin", "on_epoch_end")


class AveragingCallback(Resumable):
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
            restored exactly afterwards.
        backup_path: an `.npz` file that is rewritten after each epoch, beside BackupAndRestore's:
            the next `fit` goes on from it, and deletes it at its end.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range; `fit` raises it for what only shows there.
    """

    params: Any
    model: Any

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
    ) -> None:
        self._arguments = _arguments.check(
            start_epoch, lr_schedule, swa_lr, swa_lr2, swa_freq, start_step, every_n_steps, decay
        )
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
        self._averages = Averages(decay)
        self._epochs_done = 0
        self._steps = StepCounter()
        self._rates: RateDriver | None = None
        self._resume: _state.State | None = None
        self._guard: Guard | None = None
        self._pass: StatisticsPass | None = None
        self._finished = True
        self._first_epoch = True
        self._goes_on = False
        self._add_batch_hooks()

    def __getstate__(self) -> dict[str, Any]:
        """Returns what to copy or pickle: all but the batch hooks."""
        return {name: value for name, value in vars(self).items() if name not in _BATCH_HOOKS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Makes a copy whose batch hooks are its own."""
        vars(self).update(state)
        self._add_batch_hooks()

    def _add_batch_hooks(self) -> None:
        # Keras looks at what a callback overrides: a batch hook costs every batch, so there is one
        # only if it has work to do.
        cyclic = self._arguments.schedule == "cyclic"
        if cyclic:
            self._add_hook("on_train_batch_begin", self._set_cyclic_rate)
        if cyclic or self._arguments.every_n_steps is not None:
            self._add_hook("on_train_batch_end", self._count_batch)

    def _add_hook(self, name: str, ours: Callable[[int], None]) -> None:
        theirs = getattr(type(self), name).__get__(self)  # a subclass's, or Keras's own

        def hook(batch: int, logs: Any = None) -> None:
            ours(batch)
            theirs(batch, logs)

        setattr(self, name, hook)

    @property
    def lr_record(self) -> list[float]:
        """The learning rates that were set in the last `fit`, as in `history.history["lr"]`.

        One for each epoch under 'constant', one for each batch under 'cyclic'.
        """
        return [] if self._rates is None else self._rates.record

    def _make_backend(self) -> Backend:
        raise TypeError("AveragingCallback must be mixed into a Keras callback")

    # Hooks -----------------------------------------------------------------------------------

    def on_train_begin(self, logs: Any = None) -> None:
        """Checks everything that can be checked before the first batch."""
        if self._guard is not None:  # left behind by a fit that failed before its first epoch
            self._guard.remove()
        backend = self._backend = self._make_backend()
        asked, resume = self._arguments, self._resume
        epochs, steps = self.params["epochs"], self.params.get("steps")
        running.check_alone(self.model, self.params)
        before_training.check_epochs(asked, epochs)
        before_training.check_length(backend, self.model, asked, steps)
        rates = RateDriver(backend, self.model.optimizer, asked, self._saved_rates())
        before_training.check_data(self.bn_data, self.batch_size, self.validate_with_average)

        running.claim(self.model, self.params)
        self._rates = rates
        self._show_rates()
        self._epochs = epochs
        self._averages = Averages(asked.decay)
        self._epochs_done = 0
        in_full = backend.runs_in_full(fit_locals(self.model))
        self._steps = StepCounter(asked.every_n_steps, asked.start_step, steps, in_full)
        self._averaged_epoch = -1
        self._goes_on = resume is not None
        if resume is not None:
            self._go_on_from(resume)
        self._resume = self._pass = None
        self._finished, self._first_epoch = False, True

        if self.bn_data is None and backend.batch_norm_layers(self.model):
            self._say(
                "Model uses batch normalization. SWA will require last epoch "
                "to be a forward pass and will run with no learning rate"
            )
        before_training.warn_of_later_callbacks(self, find_callback_list(backend.callback_list))
        _arguments.warn_without_cycle(asked, epochs - 1 - self._is_statistics_epoch(epochs - 1))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Sets the epoch's rate, and prepares the batch-normalization epoch."""
        if self._first_epoch:
            self._first_epoch = False
            self._load_backup(epoch)
            self._begin_watching()
        self._epoch = epoch
        self._steps.begin_epoch()
        if epoch == self._arguments.start:
            self._say(f"\nEpoch {epoch + 1:05d}: starting stochastic weight averaging")
        if self._is_statistics_epoch(epoch):
            self._begin_statistics_epoch(epoch)
        assert self._rates is not None
        self._rates.begin_epoch(epoch)

    def _set_cyclic_rate(self, batch: int) -> None:
        """Sets the batch's rate."""
        assert self._rates is not None
        self._rates.begin_batch(self._epoch, batch, self._steps.in_epoch)

    def _count_batch(self, batch: int) -> None:
        """Counts batches, and averages by batch where that was asked for."""
        if self._steps.count(batch, self._pass is None, self._epoch >= self._arguments.start):
            self._take_snapshot()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Averages by epoch, and backs the state up."""
        self._steps.end_epoch()
        if self._pass is None:
            self._average_epoch()
        self._epochs_done = epoch + 1
        if self.backup_path is not None:
            _state.save_backup(self.backup_path, self.get_state())

    def on_train_end(self, logs: Any = None) -> None:
        """Leaves the model with the averages and exact statistics."""
        self._finish(interrupted=False)

    # Steps -----------------------------------------------------------------------------------

    def _begin_watching(self) -> None:
        backend, model = self._backend, self.model
        callbacks = find_callback_list(backend.callback_list)
        if callbacks is None:
            return
        self._guard = guard = Guard(lambda: self._finish(interrupted=True), callbacks)
        for name in _WATCHED_HOOKS:
            guard.watch(callbacks, name)
        if self.validate_with_average:  # inside of what is watched: it gives the weights back first
            evaluate_on_averages(self, guard, model)
        backend.watch(guard, model, fit_locals(model))

    def _is_statistics_epoch(self, epoch: int) -> bool:
        return (
            epoch == self._epochs - 1
            and self.bn_data is None
            and any(layer.trainable for layer in self._backend.batch_norm_layers(self.model))
        )

    def _begin_statistics_epoch(self, epoch: int) -> None:
        backend, model = self._backend, self.model
        self._check_weights()
        if self._averages.count:
            backend.assign(backend.weights(model), self._averages.copies())
            self._announce(epoch)
        self._say(f"\nEpoch {epoch + 1:05d}: reinitializing batch normalization layers")
        self._say(f"\nEpoch {epoch + 1:05d}: running forward pass to adjust batch normalization")
        assert self._rates is not None
        self._rates.hold_at_zero()
        self._begin_pass()

    def _begin_pass(self) -> StatisticsPass:
        layers = [layer for layer in self._backend.batch_norm_layers(self.model) if layer.trainable]
        statistics_pass = StatisticsPass(self._backend, self.model, layers)
        statistics_pass.install()
        self._pass = statistics_pass
        if self._guard is not None:
            self._guard.watch(self.model, "train_function")
        return statistics_pass

    def _average_epoch(self) -> None:
        """Takes the snapshot that is due at the end of the present epoch, once."""
        asked = self._arguments
        takes = due(self._epoch + 1, asked.first_snapshot, asked.period)
        if takes and asked.every_n_steps is None and self._epoch != self._averaged_epoch:
            self._take_snapshot()
            self._averaged_epoch = self._epoch
        else:
            self._check_weights()

    def _take_snapshot(self) -> None:
        backend = self._backend
        variables = backend.weights(self.model)
        self._averages.take(
            backend.read(variables),
            lambda: [backend.label(variable) for variable in variables],
            lambda: [backend.dtype(variable) for variable in variables],
        )

    def _check_weights(self) -> None:
        variables = self._backend.weights(self.model)
        self._averages.check(
            [tuple(variable.shape) for variable in variables],
            lambda: [self._backend.label(variable) for variable in variables],
        )

    def _finish(self, interrupted: bool) -> None:
        if self._finished:
            return
        self._finished = True
        finish(self, fit_locals(self.model), interrupted)

    def _announce(self, epoch: int) -> None:
        self._say(f"\nEpoch {epoch + 1:05d}: final model weights set to stochastic weight average")

    def _say(self, text: str) -> None:
        # Only called between epochs, when Keras's progress bar has ended its line.
        if self.verbose > 0:
            print(text, flush=True)
