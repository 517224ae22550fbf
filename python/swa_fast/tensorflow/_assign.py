"""Averages into `tf.Variable`s: in eager code, in graphs and on replicas."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from .._wrapper_settings import nothing_yet
from ._averager import in_xla, once_for_all_replicas, update_on_replicas


def assign_averages(pairs: Sequence[tuple[Any, Any]], snapshots: Any, title: str) -> Any:
    """Assigns to each variable its average, or warns if there is no snapshot yet.

    Args:
        pairs: each model variable and its average.
        snapshots: integer variable, the number of snapshots in the averages.
        title: name of the optimizer, for the warning.

    Returns:
        None in eager code, an operation in a graph.
    """

    def assign(variable: Any, average: Any) -> None:
        variable.assign(tf.cast(average.read_value(), variable.dtype))

    def assign_all() -> Any:
        for variable, average in pairs:
            assign(variable, average)
        return tf.no_op()

    def leave_alone() -> Any:
        if not in_xla():
            tf.print(nothing_yet(title), output_stream=sys.stderr)
        return tf.no_op()

    strategy = tf.distribute.get_strategy()
    taken = strategy.experimental_local_results(snapshots)[0].read_value()
    if tf.executing_eagerly() and int(taken) == 0:
        # Seen from the caller of the optimizer's assign_average_vars.
        warnings.warn(nothing_yet(title), stacklevel=4)
        return None
    if not tf.distribute.has_strategy():
        if tf.executing_eagerly():
            assign_all()
            return None
        return tf.cond(taken > 0, assign_all, leave_alone)

    def on_replicas(strategy: Any, taken: Any, _: Any) -> None:
        def assign_everywhere() -> Any:
            swapped = [(average, variable) for variable, average in pairs]
            update_on_replicas(strategy, swapped, lambda average, var: assign(var, average))
            return tf.no_op()

        tf.cond(taken > 0, assign_everywhere, leave_alone)

    once_for_all_replicas(on_replicas, taken, taken)
    return None
