"""Legacy Keras optimizers that average weights: the API of TensorFlow Addons' optimizers."""

from __future__ import annotations

from .._keras.optimizers import ExponentialOptimizer, MeanOptimizer
from .optimizer_wrapper import AveragedOptimizerWrapper  # before Keras: it says what to install

import tf_keras  # isort: skip

__all__ = ["SWA", "AveragedOptimizerWrapper", "MovingAverage"]


@tf_keras.utils.register_keras_serializable(package="swa_fast")
class SWA(MeanOptimizer, AveragedOptimizerWrapper):
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


@tf_keras.utils.register_keras_serializable(package="swa_fast")
class MovingAverage(ExponentialOptimizer, AveragedOptimizerWrapper):
    """`swa_fast.keras.optimizers.MovingAverage` for legacy Keras: an exponential moving average.

    The inner optimizer is a `tf_keras.optimizers.legacy.Optimizer`, a `tf_keras.optimizers.
    Optimizer`, or the name of a legacy one; see `__init__` for the arguments.

    Example:
        >>> import tf_keras
        >>> from swa_fast.tf_keras.optimizers import MovingAverage
        >>> optimizer = MovingAverage(tf_keras.optimizers.legacy.SGD(0.1), average_decay=0.999)
        >>> model = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(1)])
        >>> model.compile(optimizer, "mse")
    """
