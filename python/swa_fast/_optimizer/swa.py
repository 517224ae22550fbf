"""The mean of the weights: arguments, schedule and snapshots of the SWA optimizers."""

from __future__ import annotations

from typing import Any

from .._mean import due_at_step
from .._schedule import check_integer
from .wrapper import Wrapper


class SnapshotMean(Wrapper):
    """`SWA` of every Keras; a front end inherits from it before its `AveragedOptimizerWrapper`."""

    def __init__(
        self,
        optimizer: Any,
        start_averaging: int = 0,
        average_period: int = 10,
        name: str = "SWA",
        sequential_update: bool = True,
        **kwargs: Any,
    ) -> None:
        """Wraps `optimizer`.

        Args:
            optimizer: as for `AveragedOptimizerWrapper`.
            start_averaging: first step that takes a snapshot, >= 0.
            average_period: steps from one snapshot to the next, >= 1.
            name: name of the optimizer.
            sequential_update: whether to average strictly after the step; both settings give the
                same numbers here.
            **kwargs: settings of the inner optimizer: `clipnorm`, `clipvalue`, `global_clipnorm`,
                `learning_rate` (or `lr`) and `decay`, as for `AveragedOptimizerWrapper`.

        Raises:
            TypeError: an argument is of the wrong type, or unknown.
            ValueError: `start_averaging` or `average_period` is too small, the inner optimizer's
                name is unknown or a keyword argument contradicts it.
        """
        start = check_integer("start_averaging", start_averaging, at_least=0)
        period = check_integer("average_period", average_period, at_least=1)
        super().__init__(optimizer, sequential_update, name, **kwargs)
        self._start = start
        self._period = period

    def average_op(self, var: Any, average_var: Any) -> Any:
        """Takes a snapshot of one variable if `iterations` says that one is due.

        Args:
            var: model variable, as it is after the inner optimizer's step and its constraint.
            average_var: its average.

        Returns:
            Whatever the assignment returned.
        """
        framework = self._framework
        ops, read = framework.ops, framework.read
        due, count = due_at_step(read(self.iterations), self._start, self._period)
        if self._steps_override is not None:
            count = ops.minimum(count, ops.cast(read(self._store.snapshots), count.dtype))
        average = read(average_var)
        mean = framework.mean(average, read(var), count)
        return average_var.assign(ops.where(due, mean, average))

    def _after_step(self, before: Any, after: Any) -> None:
        if type(self).average_op is not SnapshotMean.average_op:
            super()._after_step(before, after)
            return
        store = self._store
        if store.averager is None:
            store.averager = self._framework.make_averager(
                store.pairs, store.snapshots, self._start, self._period
            )
        store.averager.after_step(before, after)

    def _count_after(self, step: Any, taken: Any) -> Any:
        ops = self._framework.ops
        due, count = due_at_step(self._framework.read(step), self._start, self._period)
        return ops.where(due, ops.minimum(ops.cast(count, taken.dtype), taken) + 1, taken)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal optimizer, without its state."""
        return {
            **super().get_config(),
            "start_averaging": self._start,
            "average_period": self._period,
        }
