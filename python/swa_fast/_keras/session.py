"""`Session`: the state of one `fit` of a callback that averages: begin, epoch, batch, finish."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..average import Average
from . import state as _state
from .averages import HeldAverages
from .fit import RunningFit, saving_refused
from .rates import StepCounter
from .runtime import Runtime
from .statistics import Recorder, update_bn


@dataclass(frozen=True)
class Wishes:
    """What a callback was asked to do, whatever its schedule.

    Attributes:
        averages: the averages, by name.
        at_end: the name of the average that the model has when training ends; None for none.
        validated: the name of the average that the validation of `fit` sees; None for none.
        bn_data: moving statistics are measured on it; None if it was not given.
        batch_size: samples in a batch of `bn_data`.
        skips: whether snapshots that are not finite are left out.
        backup_path: of the file that is written after each epoch, or None.
        verbose: whether to print what keras-swa prints.
    """

    averages: Mapping[str, Average]
    at_end: str | None
    validated: str | None
    bn_data: Any
    batch_size: int
    skips: bool
    backup_path: str | os.PathLike[str] | None
    verbose: bool


class Session:
    """The averages of one `fit`, taken after batches; `swa.SwaSession` takes them by epoch, too.

    Args:
        runtime: the Keras.
        fit: that is running.
        wishes: of the callback.
        steps: counts its batches.

    Attributes:
        held: the averages.
        steps: batches completed.
        epochs_done: epochs completed.
        finished: whether training has ended.
    """

    def __init__(
        self, runtime: Runtime, fit: RunningFit, wishes: Wishes, steps: StepCounter
    ) -> None:
        """Begins before the first epoch."""
        self.runtime, self.fit, self.wishes, self.steps = runtime, fit, wishes, steps
        self.model = fit.model
        self.held = HeldAverages(wishes.averages, wishes.skips)
        self.epochs_done = 0
        self.finished = False
        self.epoch = 0
        self.resumed = False
        self.recorder: Recorder | None = None  # in a pass that measures moving statistics
        self._first_epoch = True
        self._saves_judged = False
        self._judged: list[Any] | None = None

    @property
    def waits(self) -> bool:
        """Whether no epoch has begun yet."""
        return self._first_epoch

    # State -----------------------------------------------------------------------------------

    def state(self) -> Mapping[str, Any]:
        """Returns copies of all that a resumed `fit` needs."""
        held = self.held
        return _state.NamedState(
            averages={name: held.copies(name) for name in held.counts},
            counts=held.counts,
            config={name: average.to_dict() for name, average in self.wishes.averages.items()},
            steps=held.step,
            epochs=self.epochs_done,
        )

    def go_on_from(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` returned.

        Raises:
            ValueError: it is of a model with other weights.
        """
        self.held.restore(state["averages"], state["counts"], state["steps"])
        self.steps.done, self.epochs_done = state["steps"], state["epochs"]
        self.resumed = True
        if self.runtime.built(self.model):
            self.check_weights()

    def backups(self) -> list[dict[str, Any]]:
        """Returns the states that an earlier run left at `backup_path`, newest first."""
        path = self.wishes.backup_path
        return [] if path is None else _state.backups(path, self.check_state)

    def check_state(self, state: Any) -> Any:
        """Returns `state` if it is one of this callback's; raises TypeError or ValueError."""
        return _state.check_named(state, self.wishes.averages)

    def start_anew(self) -> None:
        """Forgets what a backup said that an aborted run left behind."""

    # Hooks -----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Takes the weights that training begins with into averages that ask for them."""
        if not any(average.initial for average in self.wishes.averages.values()) or self.resumed:
            return
        if not self.runtime.built(self.model):
            raise ValueError(
                "an average with initial=True begins with the weights before training. Received: "
                "a model that is not built; build it before fit"
            )
        self.held.begin(self.runtime.views(self.runtime.weights(self.model)))

    def begin_epoch(self, epoch: int) -> None:
        """Notes the epoch; in the first, goes on from a backup and begins to watch `fit`."""
        if self._first_epoch:
            self._first_epoch = False
            self._load_backup(epoch)
            self._watch()
        self.epoch, self._judged = epoch, None
        self.steps.begin_epoch()

    def end_batch(self, batch: int) -> None:
        """Takes the snapshots that are due after the batches that ran up to `batch`."""
        for _ in range(self.steps.ran(batch)):
            if self.held.due():
                self.take()
            else:
                self.held.pass_by()

    def end_epoch(self, epoch: int) -> None:
        """Counts the epoch, and backs the state up."""
        self.steps.end_epoch()
        self.take_of_epoch()
        self.epochs_done = epoch + 1
        path = self.wishes.backup_path
        if path is None:
            return
        if self.held.finite():
            _state.save_backup(path, self.state())
        else:
            warnings.warn(
                f"the averages after epoch {epoch + 1} are not finite, so backup_path keeps the "
                "state of an epoch before it",
                UserWarning,
                stacklevel=4,
            )

    def finish(self, interrupted: bool) -> None:
        """Leaves the model with the averages and exact moving statistics, all else as it was.

        Args:
            interrupted: whether an exception is passing; then nothing is raised here but a second
                KeyboardInterrupt.
        """
        if self.finished:
            return
        self.finished = True
        try:
            self._finish(interrupted)
        except Exception as error:
            if not interrupted:
                raise
            warnings.warn(
                f"fit was interrupted and the averages could not be put in place: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
        finally:
            self.abandon()
        path = self.wishes.backup_path
        if not interrupted and path is not None and self._left_finite():
            _state.delete_backups(path)

    def abandon(self) -> None:
        """Gives back all that was replaced, after the end or where a `fit` ended unseen."""
        self.finished = True
        self._judged = None
        self.fit.stop_watching()
        self.recorder = None

    # Snapshots -------------------------------------------------------------------------------

    def take(self) -> None:
        """Takes the weights into the averages that are due."""
        runtime = self.runtime
        variables = runtime.weights(self.model)
        self.held.take(
            runtime.views(variables),
            lambda: [runtime.label(variable) for variable in variables],
            runtime.finite,
        )

    def take_of_epoch(self) -> None:
        """Takes the snapshot that is due at the end of the present epoch, once: here, none is."""

    def check_weights(self) -> None:
        """Raises ValueError if the model's weights are not those that were averaged."""
        variables = self.runtime.weights(self.model)
        self.held.check(
            [tuple(variable.shape) for variable in variables],
            lambda: [self.runtime.label(variable) for variable in variables],
        )

    def assign(self, name: str) -> None:
        """Gives the model the average of that name."""
        self.check_weights()
        self.runtime.assign(self.runtime.weights(self.model), self.held.copies(name))

    # Validation ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def validating(self) -> Iterator[None]:
        """Puts the average to validate in the model's place, if there is one yet."""
        name = self.wishes.validated
        if name is None or self.recorder is not None or self.finished:
            yield  # in the batch-normalization epoch the averages are there
            return
        self.take_of_epoch()  # Keras validates before it says that the epoch has ended
        if self.held.counts[name] == 0:
            yield
            return
        with swapped(self.runtime, self.model, self.held.copies(name)):
            self._measure_bn_data()
            yield
            if self._saves_judged:  # not before: JAX's evaluation gives up the arrays it is given
                self._judged = self.runtime.hold(self.runtime.weights(self.model))

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Puts what this epoch's validation judged in the model's place, to be saved."""
        if self._judged is None:
            yield
            return
        variables = self.runtime.weights(self.model)
        before = self.runtime.hold(variables)
        try:
            self.runtime.assign(variables, self._judged)
            yield
        finally:
            self.runtime.assign(variables, before)

    # Inside ----------------------------------------------------------------------------------

    def _watch(self) -> None:
        callbacks = self.fit.callback_list()
        if callbacks is None:
            return
        self.fit.watch(callbacks, lambda: self.finish(interrupted=True))
        if self.wishes.validated is not None:
            # Inside of what is watched: it gives the weights back first.
            self.fit.evaluate_inside(self.validating)
            for callback in callbacks.callbacks:
                if _saves_the_best_of_validation(callback):
                    self.fit.end_epoch_inside(callback, self.saving)
                    self._saves_judged = True
        self.fit.watch_calls()

    def _load_backup(self, epoch: int) -> None:
        """Goes on from the backup made before `epoch`; the first epoch starts anew."""
        path = self.wishes.backup_path
        if path is None:
            return
        if epoch == 0:
            if not self.resumed:
                self.start_anew()
            return
        states = self.backups()
        for state in states:
            if state["epochs"] == epoch:
                self.go_on_from(state)
                return
        if states:
            raise ValueError(
                f"backup_path must hold the state of epoch {epoch}, after which this fit resumes. "
                f"Received: states of epochs {[state['epochs'] for state in states]} in "
                f"{str(path)!r}"
            )

    def _finish(self, interrupted: bool) -> None:
        name = self.wishes.at_end
        if name is not None and self.held.counts[name]:
            self.assign(name)
            self._measure_bn_data()
        elif name is not None and not interrupted:
            warnings.warn(
                f"training stopped after {self.held.step} batches, before the first snapshot of "
                f"average {name!r}: nothing was averaged, the model keeps its last weights",
                UserWarning,
                stacklevel=2,
            )
        self.warn_of_nonfinite()

    def warn_of_nonfinite(self) -> None:
        """Says how many snapshots were left out, or that the averages are not finite."""
        skipped = {name: count for name, count in self.held.skipped.items() if count}
        if skipped:
            warnings.warn(
                f"snapshots with values that are not finite were left out: {skipped}",
                UserWarning,
                stacklevel=2,
            )
        if not self._left_finite():
            kept = "" if self.wishes.backup_path is None else "; the backup at backup_path is kept"
            warnings.warn(
                "the averages hold values that are not finite, from weights that were not: "
                f"nonfinite='skip' leaves such snapshots out{kept}",
                UserWarning,
                stacklevel=2,
            )

    def _left_finite(self) -> bool:
        return self.wishes.skips or self.held.finite()

    def _measure_bn_data(self) -> None:
        """Recomputes the moving statistics of the weights in place, if there is data for it."""
        wishes = self.wishes
        if wishes.bn_data is not None:
            update_bn(self.runtime, self.model, wishes.bn_data, wishes.batch_size, None, False)


@contextlib.contextmanager
def swapped(
    runtime: Runtime, model: Any, averages: list[Any], saves: bool = False
) -> Iterator[None]:
    """Puts `averages` in the place of the model's floating-point weights, and exactly back.

    Args:
        runtime: the Keras of `model`.
        model: that gets them.
        averages: one array for each floating-point weight.
        saves: whether the model can be saved while they are there.
    """
    variables = runtime.weights(model)
    before = runtime.hold(variables)
    with contextlib.nullcontext() if saves else saving_refused(model):
        try:
            runtime.assign(variables, averages)
            yield
        finally:
            runtime.assign(variables, before)


def _saves_the_best_of_validation(callback: Any) -> bool:
    best, monitor = getattr(callback, "save_best_only", False), getattr(callback, "monitor", "")
    return best is True and str(monitor).startswith("val_")
