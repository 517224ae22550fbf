"""Averages into the model, on every backend and in every context."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import keras

from .._wrapper_settings import nothing_yet
from ._optimizer_backends import native
from ._optimizer_steps import is_concrete, read


def assign_averages(pairs: Sequence[tuple[Any, Any]], snapshots: Any, title: str) -> Any:
    """Assigns to each variable its average, or warns if there is no snapshot yet.

    Args:
        pairs: each model variable and its average.
        snapshots: integer variable, the number of snapshots in the averages.
        title: name of the optimizer, for the warning.

    Returns:
        None in eager code, an operation in a TensorFlow graph.
    """
    if keras.backend.backend() == "tensorflow":
        from ..tensorflow._assign import assign_averages as assign_in_tensorflow

        native_pairs = [(native(variable), native(average)) for variable, average in pairs]
        return assign_in_tensorflow(native_pairs, native(snapshots), title)
    taken = read(snapshots)
    if is_concrete(taken) and int(taken) == 0:
        warnings.warn(nothing_yet(title), stacklevel=4)
        return None
    for variable, average in pairs:
        value = keras.ops.cast(read(average), variable.dtype)
        if not is_concrete(taken):
            value = keras.ops.where(taken > 0, value, read(variable))
        variable.assign(value)
    return None
