"""The callbacks that average by batch: `EMA`, and `Averages` of several at once, for any Keras."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from .. import decays
from .._checks import check_flag, check_integer
from ..average import Average, check_averages
from . import checks
from . import state as _state
from .callback import Averaging
from .fit import RunningFit
from .rates import StepCounter
from .runtime import Array, Runtime
from .session import Session, Wishes


class AveragesCallback(Averaging):
    """Keeps several averages of a model's weights during `fit`, each by its own schedule.

    Every training batch is an update, counted from 1 over all epochs; after each, the averages that
    are due take a snapshot, all in one pass over the weights. With `steps_per_execution` > 1 those
    that are due within an execution take it at its end. All floating-point weights are averaged,
    moving statistics of batch normalization among them, in float32 (float64 weights in float64)
    unless an average has a dtype. No epoch is spent on batch normalization.

    Each `fit` begins anew, unless a state was loaded.

    Args:
        averages: `{name: swa_fast.Average(...)}`; their `start` and `period` count batches.
        apply_at_end: the name of the average that the model has when training ends, by its last
            epoch, by early stopping or by an exception; None leaves it its own weights.
        validate_with_average: the name of the average that `fit`'s validation runs on; the model's
            own weights are restored exactly afterwards. A `ModelCheckpoint(monitor="val_...",
            save_best_only=True)` saves the weights that were validated. None for its own weights.
        bn_data: what `update_bn` takes: recomputes moving statistics after the average was put in
            place at the end, and before each validation of an average.
        batch_size: samples in a batch when `bn_data` is arrays.
        backup_path: an `.npz` file that is rewritten after each epoch, beside BackupAndRestore's:
            the next `fit` goes on from it, and deletes it at its end.
        nonfinite: "propagate" averages NaN and infinity; "skip" leaves out a whole snapshot that
            holds one, counts it in `skipped` and warns at the end.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range, or a name is not one of an average.

    Example:
        >>> from swa_fast import Average, decays
        >>> averages = Averages(
        ...     {"fast": Average(decay=0.99), "slow": Average(decay=decays.half_life(2000))},
        ...     validate_with_average="slow",
        ...     apply_at_end="slow",
        ... )
        >>> averages.counts
        {'fast': 0, 'slow': 0}
    """

    def __init__(
        self,
        averages: Mapping[str, Average],
        *,
        apply_at_end: str | None = None,
        validate_with_average: str | None = None,
        bn_data: Any = None,
        batch_size: int = 32,
        backup_path: str | os.PathLike[str] | None = None,
        nonfinite: str = "propagate",
    ) -> None:
        """Checks the arguments."""
        names = list(check_averages(averages))
        self._described = dict(averages)
        for name, value in (
            ("apply_at_end", apply_at_end),
            ("validate_with_average", validate_with_average),
        ):
            if value is not None and value not in names:
                raise ValueError(
                    f"{name} must be None or the name of an average, {names}. Received: {value!r}"
                )
        self.nonfinite = checks.check_choice("nonfinite", nonfinite, checks.NONFINITE)
        check_integer("batch_size", batch_size, 1)
        checks.check_path("backup_path", backup_path)
        super().__init__()
        self.apply_at_end = apply_at_end
        self.validate_with_average = validate_with_average
        self.bn_data = bn_data
        self.batch_size = batch_size
        self.backup_path = backup_path

    __init__.__qualname__ = "Averages.__init__"  # as for SWA

    @property
    def counts(self) -> dict[str, int]:
        """Snapshots in each average, by its name."""
        return self._of_session(lambda session: session.held.counts)

    @property
    def skipped(self) -> dict[str, int]:
        """Snapshots that were left out because they were not finite, by the average's name."""
        return self._of_session(lambda session: session.held.skipped)

    def weights(self, name: str) -> list[Array]:
        """Returns copies of an average, in the order of the model's floating-point weights.

        Raises:
            KeyError: there is no average of that name.
            RuntimeError: it has no snapshot yet.
        """
        self._check_name(name)
        held = self._with_snapshot(name).held
        return held.copies(name)

    def applied(self, name: str) -> AbstractContextManager[None]:
        """Puts an average in the model's place inside a `with` block, then the weights back.

        What is saved inside of the block are the averages.

        Raises:
            KeyError: there is no average of that name.
            RuntimeError: it has no snapshot yet.

        Example:
            >>> with averages.applied("slow"):  # doctest: +SKIP
            ...     model.evaluate(x, y)
        """
        self._check_name(name)
        return self._applied(name)

    def _check_name(self, name: str) -> None:
        if name not in self._described:
            raise KeyError(f"there is no average {name!r}, but {list(self._described)}")

    def _of_session(self, read: Callable[[Session], dict[str, int]]) -> dict[str, int]:
        if self._session is None:
            return dict.fromkeys(self._described, 0)
        return dict(read(self._session))

    def _batch_hooks(self) -> dict[str, Callable[[int], None]]:
        return {"on_train_batch_end": self._end_batch}

    def _make_session(self, runtime: Runtime, fit: RunningFit) -> Session:
        steps = self._given_params().get("steps")
        wishes = Wishes(
            averages=self._described,
            at_end=self.apply_at_end,
            validated=self.validate_with_average,
            bn_data=self.bn_data,
            batch_size=self.batch_size,
            skips=self.nonfinite == "skip",
            backup_path=self.backup_path,
            verbose=False,
        )
        if wishes.at_end is not None or wishes.validated is not None:
            checks.check_alone(self, self._waits())
        checks.check_length(fit, True, steps)
        checks.check_data(wishes.bn_data, wishes.batch_size, wishes.validated is not None)
        counter = StepCounter(in_epoch=steps, in_full=fit.runs_in_full())
        return Session(runtime, fit, wishes, counter)

    def _no_state(self) -> Mapping[str, Any]:
        return _state.NamedState(
            averages={name: [] for name in self._described},
            counts=dict.fromkeys(self._described, 0),
            config={name: average.to_dict() for name, average in self._described.items()},
            steps=0,
            epochs=0,
        )

    def _check_state(self, state: Any) -> Any:
        return _state.check_named(state, self._described)


class EMACallback(AveragesCallback):
    """Keeps an exponential moving average of a model's weights during `fit`.

    After each training batch that takes a snapshot, `average + (weights - average) * (1 - decay)`;
    the first snapshot is copied. `Averages` says what is averaged, and when.

    Args:
        decay: the share of the old average that the new one keeps, from 0 to 1, or a schedule of
            `swa_fast.decays`.
        warmup: begin with a low decay: that of a snapshot after s others is
            `1 - (1 + s / warmup_gamma) ** -warmup_power`, at most `decay`; see `decays.warmup`.
        start_step: batches before the first snapshot.
        period: batches from one snapshot to the next.
        warmup_gamma: > 0; so many times as many snapshots make the same decay as with 1.
        warmup_power: > 0.
        dtype: of the average: "float64", "float32", "float16" or "bfloat16"; see
            `swa_fast.Average`.
        apply_at_end: whether the model has the average when training ends.
        validate_with_average: whether `fit`'s validation runs on the average, and `ModelCheckpoint`
            saves what was validated.
        bn_data: as in `Averages`.
        batch_size: as in `Averages`.
        backup_path: as in `Averages`.
        nonfinite: as in `Averages`.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range, or `warmup` is given with a schedule.

    Example:
        >>> ema = EMA(decay=0.999, warmup=True, validate_with_average=True)
        >>> ema.count
        0
    """

    def __init__(
        self,
        decay: float | decays.Schedule = 0.999,
        warmup: bool = False,
        start_step: int = 0,
        period: int = 1,
        *,
        warmup_gamma: float = 1.0,
        warmup_power: float = 2 / 3,
        dtype: Any = None,
        apply_at_end: bool = True,
        validate_with_average: bool = False,
        bn_data: Any = None,
        batch_size: int = 32,
        backup_path: str | os.PathLike[str] | None = None,
        nonfinite: str = "propagate",
    ) -> None:
        """Checks the arguments."""
        for name, value in (
            ("warmup", warmup),
            ("apply_at_end", apply_at_end),
            ("validate_with_average", validate_with_average),
        ):
            check_flag(name, value)
        if decay is None:
            raise TypeError(
                "decay must be a number or a schedule of swa_fast.decays. Received: None; Averages "
                "takes an Average() for the mean"
            )
        if warmup and callable(decay):
            raise ValueError(
                "warmup=True makes a schedule of a number, so decay must be a number. "
                f"Received: {decay!r}"
            )
        schedule = (
            decays.warmup(decay, warmup_gamma, warmup_power)  # type: ignore[arg-type]
            if warmup
            else decay
        )
        average = Average(
            schedule,
            start=check_integer("start_step", start_step, 0),
            period=period,
            dtype=dtype,
        )
        super().__init__(
            {"ema": average},
            apply_at_end="ema" if apply_at_end else None,
            validate_with_average="ema" if validate_with_average else None,
            bn_data=bn_data,
            batch_size=batch_size,
            backup_path=backup_path,
            nonfinite=nonfinite,
        )

    __init__.__qualname__ = "EMA.__init__"  # as for SWA

    @property
    def count(self) -> int:
        """Snapshots in the average."""
        return self.counts["ema"]

    def weights(self, name: str = "ema") -> list[Array]:
        """Returns copies of the average, in the order of the model's floating-point weights.

        Raises:
            RuntimeError: it has no snapshot yet.
        """
        return super().weights(name)

    def applied(self, name: str = "ema") -> AbstractContextManager[None]:
        """Puts the average in the model's place inside a `with` block, then the weights back.

        What is saved inside of the block are the averages.

        Raises:
            RuntimeError: it has no snapshot yet.
        """
        return super().applied(name)
