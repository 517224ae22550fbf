"""Stochastic weight averaging as a legacy Keras optimizer."""

from __future__ import annotations

import tf_keras

from .._optimizer.swa import SnapshotMean
from ._optimizer_wrapper import AveragedOptimizerWrapper


@tf_keras.utils.register_keras_serializable(package="swa_fast")
class SWA(SnapshotMean, AveragedOptimizerWrapper):
    """`swa_fast.keras.optimizers.SWA` for legacy Keras: the mean of the weights of a training.

    The inner optimizer is a `tf_keras.optimizers.legacy.Optimizer`, a `tf_keras.optimizers.
    Optimizer`, or the name of a legacy one; see `__init__` for the arguments.

    Example:
        >>> import tf_keras
        >>> from swa_fast.tf_keras.optimizers import SWA
        >>> inner = tf_keras.optimizers.legacy.SGD(0.1)
        >>> optimizer = SWA(inner, start_averaging=100, average_period=10)
        >>> model = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(1)])
        >>> model.compile(optimizer, "mse")
    """
