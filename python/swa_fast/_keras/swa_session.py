"""`SwaSession`: one `fit` of the callback of keras-swa."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from ..average import due
from . import checks
from . import state as _state
from .checks import Arguments
from .fit import RunningFit
from .rates import RateDriver, Rates, StepCounter
from .runtime import Runtime
from .session import Session, Wishes
from .statistics import Recorder

NAME = "average"
"""The name of the one average of this callback."""


class SwaSession(Session):
    """One `fit` of the callback of keras-swa.

    Args:
        runtime: the Keras.
        fit: that is running.
        wishes: of the callback.
        steps: counts its batches.
        asked: the arguments of keras-swa.
        epochs: of the `fit`.
        resume: the state that it goes on from, or None.

    Attributes:
        rates: sets the learning rate.
        show_rates: called with the rates when a state or the optimizer says others.
    """

    def __init__(
        self,
        runtime: Runtime,
        fit: RunningFit,
        wishes: Wishes,
        steps: StepCounter,
        asked: Arguments,
        epochs: int,
        resume: Any,
    ) -> None:
        """Reads the rates; changes nothing yet."""
        super().__init__(runtime, fit, wishes, steps)
        self._asked, self._epochs = asked, epochs
        saved = next(iter(self.backups()), None) if resume is None else resume
        rates = None if saved is None else saved["rates"]
        self.rates = RateDriver(runtime, getattr(self.model, "optimizer", None), asked, rates)
        self.show_rates: Callable[[Rates], None] = lambda rates: None
        self._averaged_epoch = -1
        self._given_back = False

    # State -----------------------------------------------------------------------------------

    def state(self) -> Mapping[str, Any]:
        """Returns copies of all that a resumed `fit` needs."""
        return _state.State(
            averages=self.held.copies(NAME),
            count=self.held.counts[NAME],
            epochs=self.epochs_done,
            steps=self.steps.done,
            start_step=self.steps.start,
            rates=list(self.rates.rates),
        )

    def go_on_from(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` returned."""
        count = state["count"]
        self.held.restore({NAME: state["averages"]}, {NAME: count}, count)
        if self.runtime.built(self.model):
            self.check_weights()
        self.resumed = True
        self.epochs_done = state["epochs"]
        self.steps.done, self.steps.start = state["steps"], state["start_step"]
        if state["rates"] is not None:
            self.rates.rates = Rates(*state["rates"])
            self.show_rates(self.rates.rates)

    def check_state(self, state: Any) -> Any:
        """Returns `state` if it is one of this callback's; raises TypeError or ValueError."""
        return _state.check(state)

    def start_anew(self) -> None:
        """Takes the rates from the optimizer, and not from what an aborted run left behind."""
        self.rates.start_anew()
        self.show_rates(self.rates.rates)

    # Hooks -----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Says what will happen."""
        if self.wishes.bn_data is None and self.runtime.batch_norm_layers(self.model):
            self._say(
                "Model uses batch normalization. SWA will require last epoch "
                "to be a forward pass and will run with no learning rate"
            )
        last = self._epochs - 1
        checks.warn_without_cycle(self._asked, last - self._is_statistics_epoch(last))

    def begin_epoch(self, epoch: int) -> None:
        """Sets the epoch's rate, and prepares the batch-normalization epoch."""
        super().begin_epoch(epoch)
        if epoch == self._asked.start:
            self._say(f"\nEpoch {epoch + 1:05d}: starting stochastic weight averaging")
        if self._is_statistics_epoch(epoch):
            self._begin_statistics_epoch(epoch)
        self.rates.begin_epoch(epoch)

    def begin_batch(self, batch: int) -> None:
        """Sets the batch's rate under 'cyclic'."""
        self.runtime.sync(self.model)
        self.rates.begin_batch(self.epoch, batch, self.steps.in_epoch)

    def end_batch(self, batch: int) -> None:
        """Counts batches, and averages by batch where that was asked for."""
        trains = self.recorder is None
        ran = self.steps.ran(batch, trains)
        if trains and self.steps.due(ran, self.epoch >= self._asked.start):
            self.take()

    def take_of_epoch(self) -> None:
        """Takes the snapshot that is due at the end of the present epoch, once."""
        if self.recorder is not None:
            return
        asked = self._asked
        takes = due(self.epoch + 1, asked.first_snapshot, asked.period)
        if takes and asked.every_n_steps is None and self.epoch != self._averaged_epoch:
            self.take()
            self._averaged_epoch = self.epoch
        else:
            self.check_weights()

    def abandon(self) -> None:
        """Gives the learning rate back, too, and writes the record into the history."""
        ends = not self._first_epoch and not self._given_back
        super().abandon()
        self.rates.release()
        history = getattr(self.model, "history", None)
        if ends and history is not None and self.rates.record:
            history.history.setdefault("lr", []).extend(self.rates.record)
        self._given_back = True

    # Moving statistics -----------------------------------------------------------------------

    def _is_statistics_epoch(self, epoch: int) -> bool:
        return (
            epoch == self._epochs - 1
            and self.wishes.bn_data is None
            and any(layer.trainable for layer in self.runtime.batch_norm_layers(self.model))
        )

    def _begin_statistics_epoch(self, epoch: int) -> None:
        self.check_weights()
        if self.held.counts[NAME]:
            self.assign(NAME)
            self._announce(epoch)
        self._say(f"\nEpoch {epoch + 1:05d}: reinitializing batch normalization layers")
        self._say(f"\nEpoch {epoch + 1:05d}: running forward pass to adjust batch normalization")
        self.rates.hold_at_zero()
        self._begin_pass()

    def _begin_pass(self) -> Recorder:
        layers = self.runtime.batch_norm_layers(self.model)
        trained = [layer for layer in layers if layer.trainable]
        self.recorder = recorder = Recorder(trained, self.runtime.stand_in)
        self.fit.begin_pass(recorder)
        return recorder

    def _end_pass(self) -> None:
        assert self.recorder is not None
        self.fit.end_pass(self.recorder)
        self.recorder = None

    def _finish(self, interrupted: bool) -> None:
        runtime, model, count = self.runtime, self.model, self.held.counts[NAME]
        recorder = self.recorder
        if recorder is not None:
            self._end_pass()
        if count:
            # Also after the statistics epoch: an optimizer with use_ema overwrites weights at its
            # end.
            self.assign(NAME)
            if recorder is None:
                self._announce(self.epochs_done)
        else:
            self._warn_of_nothing(interrupted)
        if recorder is not None and recorder.assign_means(runtime):
            pass
        elif self.wishes.bn_data is not None:
            self._measure_bn_data()
        elif recorder is not None and recorder.batches > 0:
            _warn_of_inference_mode()
        elif count and any(layer.trainable for layer in runtime.batch_norm_layers(model)):
            self._measure_training_data()
        self.warn_of_nonfinite()

    def _warn_of_nothing(self, interrupted: bool) -> None:
        done = self.epochs_done
        if done > self._asked.start:
            why = "before any snapshot was taken"
        elif not interrupted and done > 0:
            why = f"before start_epoch={self._asked.start_epoch}: nothing was averaged"
        else:
            return
        warnings.warn(
            f"training stopped after epoch {done} {why}: the model keeps its last weights",
            UserWarning,
            stacklevel=2,
        )

    def _measure_training_data(self) -> None:
        """Runs one pass over the data of the `fit` that ends before its last epoch."""
        recorder = self._begin_pass()
        ran = self.fit.run_epoch()
        self._end_pass()
        self.assign(NAME)
        measured = recorder.assign_means(self.runtime)
        if recorder.batches > 0 and not measured:
            _warn_of_inference_mode()
        elif not ran or not measured:
            warnings.warn(
                "training stopped before its last epoch, or in a loop of your own, and its data "
                "could not be started anew, so the moving statistics are the average of the "
                "snapshots': give bn_data, or call update_bn",
                UserWarning,
                stacklevel=2,
            )

    # Words -----------------------------------------------------------------------------------

    def _announce(self, epoch: int) -> None:
        self._say(f"\nEpoch {epoch + 1:05d}: final model weights set to stochastic weight average")

    def _say(self, text: str) -> None:
        # Only called between epochs, when Keras's progress bar has ended its line.
        if self.wishes.verbose:
            print(text, flush=True)


def _warn_of_inference_mode() -> None:
    warnings.warn(
        "no batch-normalization layer ran in training mode, so there was nothing to measure and "
        "the moving statistics are the average of the snapshots': set trainable=False on layers "
        "that run in inference mode, and no epoch is spent on them",
        UserWarning,
        stacklevel=2,
    )
