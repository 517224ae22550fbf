"""The part of the callback that saves its state and goes on from it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from . import state as _state
from .averages import Averages
from .backend import Backend
from .rate_driver import RateDriver
from .rates import Rates
from .steps import StepCounter


class Resumable:
    """Mixin with the state of a callback that averages."""

    backup_path: str | os.PathLike[str] | None
    swa_lr: float | str
    swa_lr2: float | str | None
    model: Any
    _backend: Backend
    _averages: Averages
    _epochs_done: int
    _steps: StepCounter
    _rates: RateDriver | None
    _resume: _state.State | None
    _goes_on: bool
    _check_weights: Callable[[], None]

    def get_state(self) -> _state.State:
        """Returns copies of the averages, their count and what else a resumed `fit` needs.

        Example:
            >>> other.set_state(swa.get_state())  # doctest: +SKIP
        """
        return _state.State(
            averages=self._averages.copies(),
            count=self._averages.count,
            epochs=self._epochs_done,
            steps=self._steps.done,
            start_step=self._steps.start,
            rates=None if self._rates is None else list(self._rates.rates),
        )

    def set_state(self, state: Any) -> None:
        """Makes the next `fit` go on from `state`.

        Args:
            state: from `get_state`. The model's and the optimizer's own weights are the caller's.

        Raises:
            TypeError: it is not a dict.
            ValueError: it does not have what `get_state` gives.
        """
        self._resume = _state.check(state)

    def save_state(self, path: str | os.PathLike[str]) -> None:
        """Writes `get_state()` to an `.npz` file, whole or not at all."""
        _state.save(path, self.get_state())

    def load_state(self, path: str | os.PathLike[str]) -> None:
        """Makes the next `fit` go on from a file that `save_state` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not a state.
        """
        self._resume = _state.load(path)

    def _go_on_from(self, state: _state.State) -> None:
        self._averages.restore(state["averages"], state["count"])
        if all(getattr(layer, "built", True) for layer in self._backend.layers(self.model)):
            self._check_weights()
        self._epochs_done = state["epochs"]
        self._steps.done, self._steps.start = state["steps"], state["start_step"]
        if state["rates"] is not None and self._rates is not None:
            self._rates.rates = Rates(*state["rates"])  # type: ignore[arg-type]

    def _saved_rates(self) -> list[float | None] | None:
        """Returns the rates of the state that the `fit` that begins may go on from."""
        saved = self._resume
        if saved is None and self.backup_path is not None:
            saved = next(iter(_state.backups(self.backup_path)), None)
        return None if saved is None else saved["rates"]

    def _show_rates(self) -> None:
        """Puts numbers in the place of "auto" in the callback's attributes."""
        assert self._rates is not None
        self.swa_lr = self._rates.rates.lower
        if self._rates.rates.upper is not None:
            self.swa_lr2 = self._rates.rates.upper

    def _load_backup(self, epoch: int) -> None:
        """Goes on from the backup made before `epoch`; the first epoch starts anew."""
        if self.backup_path is None:
            return
        assert self._rates is not None
        if epoch == 0:
            if not self._goes_on:  # what an aborted run left behind is not of this one
                self._rates.start_anew()
                self._show_rates()
            return
        states = _state.backups(self.backup_path)
        for state in states:
            if state["epochs"] == epoch:
                self._go_on_from(state)
                self._show_rates()
                return
        if states:
            raise ValueError(
                f"backup_path must hold the state of epoch {epoch}, after which this fit resumes. "
                f"Received: states of epochs {[state['epochs'] for state in states]} in "
                f"{str(self.backup_path)!r}"
            )
