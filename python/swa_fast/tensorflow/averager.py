"""Averages kept in ``tf.Variable``s, taken and handed out: eagerly, in graphs and on replicas.

Nothing here writes through a pointer: TensorFlow shares buffers between variables and tensors, and
only its own assignment knows when one may be reused. How this was chosen:
docs/tensorflow_internals.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from .._keras.rules import Rule


class TensorFlowAverager:
    """Updates averages from model variables, and remembers how many snapshots they hold.

    Args:
        pairs: each model variable, of any floating dtype, and its average.
        taken: integer scalar variable, the snapshots in the averages.
        skipped: integer scalar variable, the snapshots left out because a value was not finite;
            None if such values are averaged as they are.
        rule: when a snapshot is taken, and how it is mixed in.
        average_op: called with (variable, average, steps before) instead of the rule's expression,
            under a strategy with one replica's own; None for that.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Any, Any]],
        taken: Any,
        skipped: Any,
        rule: Rule,
        average_op: Callable[[Any, Any, Any], Any] | None = None,
    ) -> None:
        """Begins without having compiled anything."""
        self._pairs = pairs
        self._taken = taken
        self._skipped = skipped
        self._rule = rule
        self._average_op = average_op
        self._compiled: Any = None

    def after_step(self, before: Any, after: Any) -> Any:
        """Takes a snapshot if one is due.

        Args:
            before: steps completed before the one just made; an int in eager code, else a tensor.
            after: the same, read after it.

        Returns:
            An operation in a graph of TensorFlow 1, else None.
        """
        if tf.distribute.has_strategy():
            return once_for_all_replicas(self._take_on_replicas, before, after)
        due = self._rule.due(before) & (after > before)
        if not isinstance(due, bool):
            return run_if(due, lambda: self._take_in_one_call(before))
        if due:
            self._take_in_one_call(before)
        return None

    def _take_on_replicas(self, strategy: Any, before: Any, after: Any) -> Any:
        def take() -> list[Any]:
            return self._take(
                before, lambda update: update_on_replicas(strategy, self._pairs, update)
            )

        def branch() -> Any:
            take()
            return tf.no_op()  # the one thing that both branches of a cond can return

        due = self._rule.due(before) & (after > before)
        if not tf.compat.v1.executing_eagerly_outside_functions():
            return run_if(due, take)
        tf.cond(due, branch, tf.no_op)
        return None

    def _take_in_one_call(self, step: Any) -> list[Any]:
        """Takes a snapshot, as one call of one kernel where the expression is ours.

        XLA fuses the kernel from the expression: each average is read and written once, in its own
        buffer where nobody else holds it, in a new one where somebody does. The concrete function,
        because a `tf.function` would hash the hundreds of variables that it captures at every call.
        """

        def update_all(update: Callable[[Any, Any], Any]) -> list[Any]:
            return [update(value, average) for value, average in self._pairs]

        in_graph_of_version_1 = not tf.compat.v1.executing_eagerly_outside_functions()
        if self._average_op is not None or in_graph_of_version_1:
            return self._take(step, update_all)
        dtype = self._taken.dtype
        if self._compiled is None:
            on_gpu = any("GPU" in each.device for pair in self._pairs for each in pair)

            def take(step: Any) -> None:
                self._take(step, update_all)

            compiled = tf.function(take, jit_compile=None if on_gpu else True, autograph=False)
            with tf.init_scope():  # it must outlive the graph in which it is first needed
                self._compiled = compiled.get_concrete_function(tf.TensorSpec((), dtype))
        self._compiled(tf.constant(step, dtype) if isinstance(step, int) else tf.cast(step, dtype))
        return []

    def _take(self, step: Any, update_all: Callable[[Callable[[Any, Any], Any]], Any]) -> list[Any]:
        """Takes a snapshot, unless it is to be left out; returns the operations that write."""
        if self._skipped is None:
            return self._average(step, update_all)
        finite = all_finite([first_replica(value) for value, _ in self._pairs])
        run_if(finite, lambda: self._average(step, update_all))
        left_out = tf.cast(tf.logical_not(finite), self._skipped.dtype)
        return [self._skipped.assign(first_replica(self._skipped).read_value() + left_out)]

    def _average(
        self, step: Any, update_all: Callable[[Callable[[Any, Any], Any]], Any]
    ) -> list[Any]:
        taken = first_replica(self._taken).read_value()
        average_op = self._average_op
        if average_op is not None:
            written = update_all(lambda value, average: average_op(value, average, step))
        else:
            coefficient = self._rule.coefficient(tf, step, taken)

            def update(value: Any, average: Any) -> Any:
                mixed = self._rule.mixed(tf, average.read_value(), value.read_value(), coefficient)
                return average.assign(mixed)

            written = update_all(update)
        after = self._rule.taken_after(tf, step, taken)
        return [*(written or ()), self._taken.assign(after)]


def all_finite(values: Sequence[Any]) -> Any:
    """Returns whether every element of the variables is finite, a boolean tensor."""
    finite = [tf.reduce_all(tf.math.is_finite(value.read_value())) for value in values]
    return tf.reduce_all(tf.stack(finite)) if finite else tf.constant(True)


def first_replica(variable: Any) -> Any:
    """Returns the first replica's own variable; one that no strategy distributes, as it is."""
    return tf.distribute.get_strategy().experimental_local_results(variable)[0]


def once_for_all_replicas(body: Callable[[Any, Any, Any], Any], before: Any, after: Any) -> Any:
    """Returns ``body(strategy, before, after)``, where variables of all replicas can be updated.

    That is a cross-replica context where the strategy has merge calls; ``before`` and ``after``,
    equal on all replicas, are the first one's.
    """

    def merged(strategy: Any, before: Any, after: Any) -> Any:
        first = [strategy.experimental_local_results(each)[0] for each in (before, after)]
        return body(strategy, *first)

    strategy = tf.distribute.get_strategy()
    if tf.distribute.in_cross_replica_context():
        return merged(strategy, before, after)
    return tf.__internal__.distribute.interim.maybe_merge_call(merged, strategy, before, after)


def update_on_replicas(
    strategy: Any, pairs: Sequence[tuple[Any, Any]], update: Callable[[Any, Any], Any]
) -> list[Any]:
    """Returns what ``update(value, average)`` did with each replica's own copies of each pair."""
    written = []
    for value, average in pairs:
        results = strategy.extended.update(
            average,
            lambda average, value: update(value, average),
            args=(value,),
            group=False,
        )
        written += tf.nest.flatten(strategy.experimental_local_results(results))
    return written


def run_if(due: Any, take: Callable[[], Any]) -> Any:
    """Adds ``take`` to the graph that is traced, to run in the steps in which ``due`` is true.

    Returns the operation that does it, which a graph of TensorFlow 1 has to be told to run; there,
    ``take`` must return the operations that write.

    For XLA as a loop of at most one turn. What a loop carries, XLA updates in place; of a
    condition, it copies in one branch every variable that the other writes (TensorFlow 2.21, in the
    optimized HLO), and every step would pay for averages that it does not touch.
    """
    if in_xla():

        def turn(due: Any) -> Any:
            take()
            return tf.zeros_like(due)

        return tf.while_loop(lambda due: due, turn, [due])

    def branch() -> Any:
        written = take()
        if tf.executing_eagerly() or tf.compat.v1.executing_eagerly_outside_functions():
            return tf.no_op()  # the one thing that both branches of a cond can return
        with tf.control_dependencies(written):
            return tf.constant(True)

    if tf.compat.v1.executing_eagerly_outside_functions():
        return tf.cond(due, branch, tf.no_op)
    return tf.group(tf.cond(due, branch, lambda: tf.constant(False)))


def in_xla() -> bool:
    """Tells whether what is traced now will be compiled by XLA, where there is no printing."""
    from tensorflow.python.ops import control_flow_util

    return bool(control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))


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
