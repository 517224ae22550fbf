"""Stochastic weight averaging as a legacy Keras optimizer."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras

from .._mean import mean_expression
from .._schedule import check_integer, snapshot
from ..tensorflow._averager import TensorFlowAverager
from ._optimizer_wrapper import AveragedOptimizerWrapper


@tf_keras.utils.register_keras_serializable(package="swa_fast")
class SWA(AveragedOptimizerWrapper):
    """The mean of the weights that another optimizer passes through.

    With `start_averaging` = m and `average_period` = k, a snapshot of the variables is taken after
    steps m, m + k, m + 2k, ... (the first step is 0), and the average is the mean of the snapshots
    (Izmailov et al. 2018, arXiv 1803.05407). Training goes on as without it, until
    `assign_average_vars` puts the averages into the model.

    The arguments, members and numbers are those of `tfa.optimizers.SWA`; see docs/tensorflow.md for
    what is different.

    Args:
        optimizer: the inner optimizer that makes the steps: a `tf_keras.optimizers.Optimizer`, a
            `tf_keras.optimizers.legacy.Optimizer`, or the name of a legacy one.
        start_averaging: first step that takes a snapshot, >= 0.
        average_period: steps from one snapshot to the next, >= 1.
        name: name of the optimizer.
        sequential_update: whether to average strictly after the step. Both settings give the same
            numbers here.
        **kwargs: `clipnorm`, `clipvalue`, `global_clipnorm`, `learning_rate` (or `lr`) and `decay`,
            all set on the inner optimizer.

    Raises:
        TypeError: an argument is of the wrong type, or unknown.
        ValueError: `start_averaging` or `average_period` is too small, the inner optimizer's name
            is unknown or a keyword argument contradicts it.

    Example:
        >>> import tf_keras
        >>> from swa_fast.tf_keras.optimizers import SWA
        >>> inner = tf_keras.optimizers.legacy.SGD(0.1)
        >>> optimizer = SWA(inner, start_averaging=100, average_period=10)
        >>> model = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(1)])
        >>> model.compile(optimizer, "mse")
    """

    def __init__(
        self,
        optimizer: Any,
        start_averaging: int = 0,
        average_period: int = 10,
        name: str = "SWA",
        sequential_update: bool = True,
        **kwargs: Any,
    ) -> None:
        """Wraps `optimizer`; see the class."""
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
        steps = tf.convert_to_tensor(self.iterations, tf.int64)
        due, count = snapshot(steps, self._start, self._period)
        if self._steps_override is not None:
            count = tf.minimum(count, self._snapshots)
        average = tf.convert_to_tensor(average_var)
        mean = mean_expression(tf, average, tf.convert_to_tensor(var), count)
        return average_var.assign(tf.where(due, mean, average))

    def _after_step(self, before: Any, after: Any) -> None:
        if type(self).average_op is not SWA.average_op:
            super()._after_step(before, after)
            return
        if self._averager is None:
            values, averages = zip(*self._pairs, strict=True) if self._pairs else ((), ())
            self._averager = TensorFlowAverager(
                averages, values, self._snapshots, self._start, self._period
            )
        self._averager.after_step(before, after)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal optimizer, without its state."""
        return {
            **super().get_config(),
            "start_averaging": self._start,
            "average_period": self._period,
        }
