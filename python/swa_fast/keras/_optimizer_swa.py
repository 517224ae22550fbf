"""Stochastic weight averaging as a Keras 3 optimizer."""

from __future__ import annotations

import keras

from .._optimizer.swa import SnapshotMean
from ._optimizer_wrapper import AveragedOptimizerWrapper


@keras.saving.register_keras_serializable(package="swa_fast")
class SWA(SnapshotMean, AveragedOptimizerWrapper):
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
