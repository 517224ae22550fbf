"""Averages into `tf.Variable`s: in eager code, in graphs and on replicas."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from ._averager import in_xla, once_for_all_replicas, update_on_replicas


def taken_now(snapshots: Any) -> int | None:
    """Returns the snapshot count, the first replica's, in eager code; None in a graph."""
    if not tf.executing_eagerly():
        return None
    return int(tf.distribute.get_strategy().experimental_local_results(snapshots)[0].read_value())


def assign_averages(pairs: Sequence[tuple[Any, Any]], snapshots: Any, nothing_yet: str) -> Any:
    """Assigns to each variable its average if there is a snapshot.

    Args:
        pairs: each model variable and its average.
        snapshots: integer variable, the number of snapshots in the averages.
        nothing_yet: what to print to stderr in a graph that runs before the first snapshot.

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
            tf.print(nothing_yet, output_stream=sys.stderr)
        return tf.no_op()

    strategy = tf.distribute.get_strategy()
    taken = strategy.experimental_local_results(snapshots)[0].read_value()
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
