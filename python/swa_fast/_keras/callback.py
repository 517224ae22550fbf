"""`Averaging`: the hooks and the state of every callback that averages, for any Keras."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from . import checks
from . import state as _state
from .fit import RunningFit
from .runtime import Runtime
from .session import Session, swapped

_BATCH_HOOKS = ("on_train_batch_begin", "on_train_batch_end")


class Averaging:
    """Base of the callbacks, mixed into a Keras's own; a `Session` does the work of each `fit`."""

    params: Any
    model: Any
    _make_runtime: Callable[[], Runtime]
    _make_fit: Callable[[Runtime, Any], RunningFit]

    def __init__(self) -> None:
        """Begins without a state to go on from."""
        super().__init__()
        self._session: Session | None = None
        self._resume: Any = None
        self._add_batch_hooks()

    def __getstate__(self) -> dict[str, Any]:
        """Returns what to copy or pickle: all but the batch hooks."""
        return {name: value for name, value in vars(self).items() if name not in _BATCH_HOOKS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Makes a copy whose batch hooks are its own."""
        vars(self).update(state)
        self._add_batch_hooks()

    def _batch_hooks(self) -> dict[str, Callable[[int], None]]:
        """Returns what is to be called at which batch hook."""
        raise NotImplementedError

    def _add_batch_hooks(self) -> None:
        # Keras looks at what a callback overrides: a batch hook costs every batch, so there is one
        # only if it has work to do.
        for name, ours in self._batch_hooks().items():
            setattr(self, name, self._hook(name, ours))

    def _hook(self, name: str, ours: Callable[[int], None]) -> Callable[..., None]:
        theirs = getattr(type(self), name).__get__(self)  # a subclass's, or Keras's own

        def hook(batch: int, logs: Any = None) -> None:
            ours(batch)
            theirs(batch, logs)

        return hook

    def _make_session(self, runtime: Runtime, fit: RunningFit) -> Session:
        """Returns the session of the `fit` that begins, after all checks."""
        raise NotImplementedError

    def _now(self) -> Session:
        assert self._session is not None, "on_train_begin comes first"
        return self._session

    def _given_params(self) -> Mapping[str, Any]:
        """Returns what `fit`, or the maker of a `CallbackList`, said of the training."""
        return getattr(self, "params", None) or {}

    def _waits(self) -> bool:
        return self._session is not None and self._session.waits

    # Hooks -----------------------------------------------------------------------------------

    def on_train_begin(self, logs: Any = None) -> None:
        """Checks everything that can be checked before the first batch."""
        if self._session is not None:  # a fit may have failed before its first epoch, or a loop
            self._session.abandon()
        runtime = self._make_runtime()
        session = self._make_session(runtime, self._make_fit(runtime, self.model))
        if self._resume is not None:
            session.go_on_from(self._resume)
        session.begin()
        if session.wishes.at_end is not None or session.wishes.validated is not None:
            checks.claim(self)
        self._session, self._resume = session, None
        if session.wishes.at_end is not None:
            checks.warn_of_later_callbacks(self, session.fit.callbacks())
        checks.warn_without_validation(self, session.fit, session.wishes.validated is not None)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Notes the epoch, and goes on from a backup in the first."""
        self._now().begin_epoch(epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Averages by epoch, and backs the state up."""
        self._now().end_epoch(epoch)

    def on_train_end(self, logs: Any = None) -> None:
        """Leaves the model with the averages and exact statistics."""
        self._now().finish(interrupted=False)

    def _end_batch(self, batch: int) -> None:
        self._now().end_batch(batch)

    # State -----------------------------------------------------------------------------------

    def get_state(self) -> Mapping[str, Any]:
        """Returns copies of the averages, their count and what else a resumed `fit` needs.

        Example:
            >>> other.set_state(swa.get_state())  # doctest: +SKIP
        """
        return self._no_state() if self._session is None else self._session.state()

    def set_state(self, state: Any) -> None:
        """Makes the next `fit` go on from `state`.

        Args:
            state: from `get_state`. The model's and the optimizer's own weights are the caller's.

        Raises:
            TypeError: it is not a dict.
            ValueError: it does not have what `get_state` gives.
        """
        self._resume = self._check_state(state)

    def save_state(self, path: str | os.PathLike[str]) -> None:
        """Writes `get_state()` to an `.npz` file, whole or not at all."""
        _state.save(path, self.get_state())

    def load_state(self, path: str | os.PathLike[str]) -> None:
        """Makes the next `fit` go on from a file that `save_state` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not a state.
        """
        self._resume = _state.load(path, self._check_state)

    def _no_state(self) -> Mapping[str, Any]:
        """Returns what `get_state` returns before the first `fit`."""
        raise NotImplementedError

    def _check_state(self, state: Any) -> Any:
        raise NotImplementedError

    def _with_snapshot(self, name: str) -> Session:
        session = self._session
        if session is None or session.held.counts[name] == 0:
            raise RuntimeError(f"average {name!r} has no snapshot yet: train first")
        return session

    @contextlib.contextmanager
    def _applied(self, name: str) -> Iterator[None]:
        session = self._with_snapshot(name)
        session.check_weights()
        with swapped(session.runtime, session.model, session.held.copies(name), saves=True):
            yield
