"""Averages kept in ``tf.Variable``s: taken in eager code, in graphs, under XLA and on replicas.

Nothing here writes through a pointer: TensorFlow shares buffers between variables and tensors, and
only its own assignment knows when one may be reused. How this was chosen: docs/tensorflow.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from .._mean import due_and_count, mean_expression


class TensorFlowAverager:
    """Updates averages from model variables, and remembers how many snapshots they hold.

    Args:
        averages: floating-point variables, in the order of ``values``.
        values: the variables whose mean is taken, of any floating dtype.
        taken: integer scalar variable, the number of snapshots in the averages.
        start: first step that takes a snapshot.
        period: steps from one snapshot to the next.
    """

    def __init__(
        self,
        averages: Sequence[Any],
        values: Sequence[Any],
        taken: Any,
        start: int,
        period: int,
    ) -> None:
        self._pairs = list(zip(values, averages, strict=True))
        self._taken = taken
        self._start = start
        self._period = period
        self._compiled: Any = None

    def after_step(self, before: Any, after: Any) -> None:
        """Takes a snapshot if one is due.

        Args:
            before: steps completed before the one just made; an int in eager code, else a tensor.
            after: the same, read after it.
        """

        def decide(before: Any, after: Any) -> tuple[Any, Any]:
            return due_and_count(before, after, self._start, self._period)

        if tf.distribute.has_strategy():

            def take_on_replicas(strategy: Any, before: Any, after: Any) -> None:
                due, count = decide(before, after)

                def take() -> Any:
                    number = self._number(count)
                    update_on_replicas(
                        strategy,
                        self._pairs,
                        lambda value, average: _update(value, average, number),
                    )
                    return self._record(number)

                tf.cond(due, take, tf.no_op)

            once_for_all_replicas(take_on_replicas, before, after)
            return
        due, count = decide(before, after)
        if isinstance(due, bool):
            if due:
                self._take(count)
        else:
            # The count once more, inside: the one outside is pruned, and other steps compute none.
            run_if(due, lambda: self._take(decide(before, after)[1]))

    def _number(self, count: Any) -> Any:
        """The schedule's count, or the snapshots at hand where there are fewer of them."""
        return tf.minimum(tf.cast(count, self._taken.dtype), self._taken.read_value())

    def _record(self, number: Any) -> Any:
        with tf.control_dependencies([self._taken.assign(number + 1)]):
            return tf.no_op()  # the one thing that both branches of a cond can return

    def _take(self, count: Any) -> None:
        dtype = self._taken.dtype
        count = tf.constant(count, dtype) if isinstance(count, int) else tf.cast(count, dtype)
        self._fused()(count)

    def _fused(self) -> Any:
        """A whole snapshot as one kernel that XLA fuses from the expression.

        Each average is read and written once: in its own buffer where nobody else holds it, in a
        new one where somebody does. The concrete function, because a `tf.function` would hash the
        hundreds of variables that it captures at every call.
        """
        if self._compiled is None:
            on_gpu = any("GPU" in each.device for pair in self._pairs for each in pair)

            def take(count: Any) -> None:
                number = self._number(count)
                for value, average in self._pairs:
                    _update(value, average, number)
                self._taken.assign(number + 1)

            compiled = tf.function(take, jit_compile=None if on_gpu else True, autograph=False)
            with tf.init_scope():  # it must outlive the graph in which it is first needed
                self._compiled = compiled.get_concrete_function(
                    tf.TensorSpec((), self._taken.dtype)
                )
        return self._compiled


def _update(value: Any, average: Any, count: Any) -> None:
    average.assign(mean_expression(tf, average.read_value(), value.read_value(), count))


def once_for_all_replicas(body: Callable[[Any, Any, Any], None], before: Any, after: Any) -> None:
    """Calls ``body(strategy, before, after)`` where variables of all replicas can be updated.

    That is a cross-replica context where the strategy has merge calls; ``before`` and ``after``,
    equal on all replicas, are the first one's.
    """

    def merged(strategy: Any, before: Any, after: Any) -> None:
        first = [strategy.experimental_local_results(each)[0] for each in (before, after)]
        body(strategy, *first)

    strategy = tf.distribute.get_strategy()
    if tf.distribute.in_cross_replica_context():
        merged(strategy, before, after)
    else:
        tf.__internal__.distribute.interim.maybe_merge_call(merged, strategy, before, after)


def update_on_replicas(
    strategy: Any, pairs: Sequence[tuple[Any, Any]], update: Callable[[Any, Any], Any]
) -> None:
    """Calls ``update(value, average)`` with each replica's own copies of each pair."""
    for value, average in pairs:
        strategy.extended.update(
            average,
            lambda average, value: update(value, average),
            args=(value,),
            group=False,
        )


def update_if(
    before: Any,
    after: Any,
    pairs: Sequence[tuple[Any, Any]],
    average_op: Callable[[Any, Any], Any],
    taken: Any,
    count_after: Callable[[Any], Any],
) -> None:
    """Calls ``average_op(value, average)`` for each pair unless the step was skipped.

    Args:
        before: steps completed before the one just made; an int or a tensor.
        after: the same, read after it.
        pairs: each model variable and its average.
        average_op: updates one average; under a strategy, of one replica.
        taken: integer variable, the number of snapshots in the averages.
        count_after: returns its new value after the calls from its value before.
    """

    def count() -> Any:
        return taken.assign(count_after(taken.read_value()))

    if tf.distribute.has_strategy():

        def on_replicas(strategy: Any, before: Any, after: Any) -> None:
            def take() -> Any:
                update_on_replicas(strategy, pairs, average_op)
                with tf.control_dependencies([count()]):
                    return tf.no_op()

            tf.cond(before != after, take, tf.no_op)

        once_for_all_replicas(on_replicas, before, after)
        return

    def take() -> None:
        for value, average in pairs:
            average_op(value, average)
        count()

    stepped = before != after
    if isinstance(stepped, bool):
        if stepped:
            take()
    else:
        run_if(stepped, take)


def run_if(due: Any, take: Callable[[], object]) -> None:
    """Adds ``take`` to the graph that is traced, to run in the steps in which ``due`` is true.

    For XLA as a loop of at most one turn. What a loop carries, XLA updates in place; of a
    condition, it copies in one branch every variable that the other writes (TensorFlow 2.21, in the
    optimized HLO), and every step would pay for averages that it does not touch.
    """
    if in_xla():

        def turn(due: Any) -> Any:
            take()
            return tf.zeros_like(due)

        tf.while_loop(lambda due: due, turn, [due])
        return

    def branch() -> Any:
        take()
        return tf.no_op()  # the one thing that both branches of a cond can return

    tf.cond(due, branch, tf.no_op)


def in_xla() -> bool:
    """Tells whether what is traced now will be compiled by XLA, where there is no printing."""
    from tensorflow.python.ops import control_flow_util

    return bool(control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))
