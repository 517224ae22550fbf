"""Averages into `tf.Variable`s: in eager code, in graphs and on replicas."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from .averager import first_replica, in_xla, once_for_all_replicas, run_if, update_on_replicas


def number(count: Any) -> int | None:
    """Returns an integer variable's value, the first replica's, in eager code; None in a graph."""
    return int(first_replica(count).read_value()) if tf.executing_eagerly() else None


def assign_averages(pairs: Sequence[tuple[Any, Any]], taken: Any, nothing_yet: str) -> Any:
    """Copies each average into its variable. If ``taken`` is 0, copies nothing.

    Args:
        pairs: each model variable and its average.
        taken: integer variable, the number of snapshots in the averages.
        nothing_yet: what to print to stderr in a graph that runs before the first snapshot.

    Returns:
        None in eager code, an operation in a graph.
    """

    def assign(variable: Any, average: Any) -> Any:
        return variable.assign(tf.cast(average.read_value(), variable.dtype))

    def assign_all() -> Any:
        for variable, average in pairs:
            assign(variable, average)
        return tf.no_op()

    def leave_alone() -> Any:
        if not in_xla():
            tf.print(nothing_yet, output_stream=sys.stderr)
        return tf.no_op()

    taken = first_replica(taken).read_value()
    if not tf.distribute.has_strategy():
        if tf.executing_eagerly():
            assign_all()
            return None
        if not tf.compat.v1.executing_eagerly_outside_functions():
            # A graph of TensorFlow 1 runs only what it is told to, and prints nothing here.
            return run_if(taken > 0, lambda: [assign(*pair) for pair in pairs])
        return tf.cond(taken > 0, assign_all, leave_alone)

    def on_replicas(strategy: Any, taken: Any, _: Any) -> None:
        def assign_everywhere() -> Any:
            swapped = [(average, variable) for variable, average in pairs]
            update_on_replicas(strategy, swapped, lambda average, var: assign(var, average))
            return tf.no_op()

        tf.cond(taken > 0, assign_everywhere, leave_alone)

    once_for_all_replicas(on_replicas, taken, taken)
    return None


def exchange(pair: tuple[Any, Any], average: Any) -> None:
    """Exchanges the values of a variable and its average, on all replicas, in eager code.

    Args:
        pair: both.
        average: array that the average gets instead of the variable's value; None for that.
    """

    def write(variable: Any, held: Any) -> None:
        value, mean = variable.read_value(), held.read_value()
        held.assign(tf.cast(value, held.dtype) if average is None else average)
        variable.assign(tf.cast(mean, variable.dtype))

    strategy = tf.distribute.get_strategy()
    if not tf.distribute.has_strategy():
        write(*pair)
    elif tf.distribute.in_cross_replica_context():
        update_on_replicas(
            strategy, [(pair[1], pair[0])], lambda held, variable: write(variable, held)
        )
    else:
        raise ValueError("weights are swapped outside of strategy.run, for all replicas at once")
