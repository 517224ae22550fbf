"""What the two `AverageModelCheckpoint`s share: whose averages are saved, and how."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any


def check_update_weights(update_weights: Any) -> bool:
    """Returns the argument if it is a bool; raises TypeError if not."""
    if not isinstance(update_weights, bool):
        hint = "; the file comes second" if isinstance(update_weights, (str, os.PathLike)) else ""
        raise TypeError(f"update_weights must be True or False. Received: {update_weights!r}{hint}")
    return update_weights


def check_filepath(filepath: Any) -> Any:
    """Returns the argument if it names a file; raises TypeError if not."""
    if not isinstance(filepath, (str, os.PathLike)):
        raise TypeError(f"filepath must be a str or a path. Received: {filepath!r}")
    return filepath


def averaging_optimizer(optimizer: Any, wrapper: type) -> Any:
    """Returns the optimizer that keeps averages, inside any number of LossScaleOptimizers.

    Args:
        optimizer: that of a model.
        wrapper: the class of the averaging optimizers.

    Raises:
        TypeError: there is none.
    """
    found = optimizer
    while not isinstance(found, wrapper) and hasattr(found, "inner_optimizer"):
        found = found.inner_optimizer
    if not isinstance(found, wrapper):
        # The first sentence is that of TensorFlow Addons, which misses a space.
        raise TypeError(
            "AverageModelCheckpoint is only used when trainingwith MovingAverage or "
            "StochasticAverage: the model's optimizer must be a SWA, a MovingAverage or another "
            f"AveragedOptimizerWrapper of swa_fast. Received: {type(optimizer).__name__}"
        )
    return found


def save_averages(optimizer: Any, model: Any, update_weights: bool, save: Callable[[], Any]) -> Any:
    """Returns what `save` returned, called while the model holds the averages.

    Args:
        optimizer: the one that keeps them.
        model: the model.
        update_weights: whether the model keeps them afterwards; else it has its own weights back.
        save: saves the model.
    """
    if update_weights:
        optimizer.assign_average_vars(model.trainable_variables)
        return save()
    with optimizer.applied(model.trainable_variables):
        return save()
