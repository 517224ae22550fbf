"""Keras 3 optimizers that average weights: the API of TensorFlow Addons' optimizers."""

from __future__ import annotations

from .._keras.optimizers import ExponentialOptimizer, MeanOptimizer
from .optimizer_wrapper import AveragedOptimizerWrapper  # before Keras: it says what to install

import keras  # isort: skip

__all__ = ["SWA", "AveragedOptimizerWrapper", "MovingAverage"]


@keras.saving.register_keras_serializable(package="swa_fast")
class SWA(MeanOptimizer, AveragedOptimizerWrapper):
    """The mean of the weights that another optimizer passes through.

    With `start_averaging` = m and `average_period` = k, a snapshot of the variables is taken after
    steps m, m + k, m + 2k, ... (the first step is 0), and the average is the mean of the snapshots
    (Izmailov et al. 2018, arXiv 1803.05407). Training goes on as without it, until
    `assign_average_vars` puts the averages into the model.

    The arguments, members and numbers are those of `tfa.optimizers.SWA`; see docs/tensorflow.md for
    what is different, and `__init__` for the arguments. The inner optimizer is a
    `keras.optimizers.Optimizer` or the name of one.

    Example:
        >>> import keras
        >>> from swa_fast.keras.optimizers import SWA
        >>> optimizer = SWA(keras.optimizers.SGD(0.1), start_averaging=100, average_period=10)
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> model.compile(optimizer, "mse")
    """


@keras.saving.register_keras_serializable(package="swa_fast")
class MovingAverage(ExponentialOptimizer, AveragedOptimizerWrapper):
    """The exponential moving average of the weights that another optimizer passes through.

    After each step, `average -= (average - variable) * (1 - decay)`, from averages that begin as
    the variables. The arguments, members and numbers are those of `tfa.optimizers.MovingAverage`;
    see docs/tensorflow.md for what is different, and `__init__` for the arguments. The inner
    optimizer is a `keras.optimizers.Optimizer` or the name of one.

    Example:
        >>> import keras
        >>> from swa_fast.keras.optimizers import MovingAverage
        >>> optimizer = MovingAverage(keras.optimizers.SGD(0.1), average_decay=0.999)
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> model.compile(optimizer, "mse")
    """
