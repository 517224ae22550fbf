"""Averages into the model, on every backend and in every context."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

import keras

from ._optimizer_backends import native
from ._optimizer_steps import is_concrete, read

_NOTHING_YET = "has taken no snapshot yet: assign_average_vars leaves the variables as they are"


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
        return _assign_in_tensorflow(pairs, native(snapshots), title)
    taken = read(snapshots)
    if is_concrete(taken) and int(taken) == 0:
        warnings.warn(f"{title} {_NOTHING_YET}", stacklevel=4)
        return None
    for variable, average in pairs:
        value = keras.ops.cast(read(average), variable.dtype)
        if not is_concrete(taken):
            value = keras.ops.where(taken > 0, value, read(variable))
        variable.assign(value)
    return None


def _assign_in_tensorflow(pairs: Sequence[tuple[Any, Any]], snapshots: Any, title: str) -> Any:
    import tensorflow as tf

    from ..tensorflow._averager import in_xla, once_for_all_replicas, update_on_replicas

    native_pairs = [(native(variable), native(average)) for variable, average in pairs]

    def assign(variable: Any, average: Any) -> None:
        variable.assign(tf.cast(average.read_value(), variable.dtype))

    def nothing_yet() -> Any:
        if not in_xla():
            tf.print(f"{title} {_NOTHING_YET}", output_stream=sys.stderr)
        return tf.no_op()

    if tf.executing_eagerly():
        if int(_first_replica(tf, snapshots)) == 0:
            warnings.warn(f"{title} {_NOTHING_YET}", stacklevel=5)
            return None
        if not tf.distribute.has_strategy():
            for variable, average in native_pairs:
                assign(variable, average)
            return None

    if tf.distribute.has_strategy():

        def on_replicas(strategy: Any, before: Any, _: Any) -> None:
            def update() -> Any:
                swapped = [(average, variable) for variable, average in native_pairs]
                update_on_replicas(strategy, swapped, lambda average, var: assign(var, average))
                return tf.no_op()

            tf.cond(before > 0, update, nothing_yet)

        taken = _first_replica(tf, snapshots)
        once_for_all_replicas(on_replicas, taken, taken)
        return None

    def update() -> Any:
        for variable, average in native_pairs:
            assign(variable, average)
        return tf.no_op()

    return tf.cond(snapshots.read_value() > 0, update, nothing_yet)


def _first_replica(tf: Any, variable: Any) -> Any:
    local = tf.distribute.get_strategy().experimental_local_results(variable)
    return local[0].read_value()
