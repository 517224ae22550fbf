"""Averaging on each Keras backend: what runs after a step, in eager code and in graphs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras

from .._mean import due_and_count, mean_expression
from ._optimizer_steps import is_concrete, read

Pair = tuple[Any, Any]


def native(variable: Any) -> Any:
    """Returns the `tf.Variable` behind a Keras variable on TensorFlow, or one as it is."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def make_averager(pairs: Sequence[Pair], snapshots: Any, start: int, period: int) -> Any:
    """Returns an object whose `after_step(before, after)` takes a snapshot if one is due.

    Args:
        pairs: each model variable and its average.
        snapshots: integer variable, the number of snapshots in the averages.
        start: first step that takes a snapshot.
        period: steps from one snapshot to the next.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        from ..tensorflow._averager import TensorFlowAverager

        return TensorFlowAverager(
            averages=[native(average) for _, average in pairs],
            values=[native(variable) for variable, _ in pairs],
            taken=native(snapshots),
            start=start,
            period=period,
        )
    update = _torch_update if backend == "torch" else _keras_update
    return _Averager(list(pairs), snapshots, start, period, update)


class _Averager:
    """Snapshots by Keras operations, on any backend."""

    def __init__(
        self,
        pairs: list[Pair],
        snapshots: Any,
        start: int,
        period: int,
        update: Callable[[list[Pair], Any], None],
    ) -> None:
        self._pairs = pairs
        self._snapshots = snapshots
        self._start = start
        self._period = period
        self._update = update

    def after_step(self, before: Any, after: Any) -> None:
        due, count = due_and_count(before, after, self._start, self._period)
        if is_concrete(due):
            if due:
                taken = min(int(count), int(self._snapshots))
                self._update(self._pairs, taken)
                self._snapshots.assign(taken + 1)
            return
        ops, snapshots = keras.ops, self._snapshots
        count = ops.minimum(ops.cast(count, snapshots.dtype), read(snapshots))
        values = [read(variable) for variable, _ in self._pairs]
        averages = [read(average) for _, average in self._pairs]

        def take() -> list[Any]:
            return [
                updated_mean(average, value, count)
                for average, value in zip(averages, values, strict=True)
            ]

        means = ops.cond(due, take, lambda: averages)
        for (_, average), mean in zip(self._pairs, means, strict=True):
            average.assign(mean)
        snapshots.assign(ops.where(due, count + 1, read(snapshots)))


def _keras_update(pairs: list[Pair], count: int) -> None:
    for variable, average in pairs:
        average.assign(updated_mean(read(average), read(variable), count))


def updated_mean(average: Any, value: Any, count: Any) -> Any:
    """Returns `mean_expression` of two tensors on the active backend."""
    if keras.backend.backend() == "jax":
        return _jax_mean()(average, value, count)
    return mean_expression(keras.ops, average, value, count)


@functools.cache
def _jax_mean() -> Any:
    # As one program. By itself, XLA would compile the division as a multiplication by a rounded
    # reciprocal, and errors would add up from snapshot to snapshot.
    import jax

    return jax.jit(functools.partial(mean_expression, keras.ops))


def _torch_update(pairs: list[Pair], count: int) -> None:
    """The same expression, rounded alike, in place: torch's buffers are its variables' own."""
    import torch

    with torch.no_grad():
        averages = [average.value for _, average in pairs]
        values = [variable.value for variable, _ in pairs]
        if count == 0 or not averages:
            for average, value in zip(averages, values, strict=True):
                average.copy_(value)
            return
        torch._foreach_mul_(averages, float(count))
        torch._foreach_add_(
            averages,
            [value.to(average.dtype) for average, value in zip(averages, values, strict=True)],
        )
        torch._foreach_div_(averages, float(count + 1))


def update_if(
    before: Any,
    after: Any,
    pairs: Sequence[Pair],
    average_op: Callable[[Any, Any], Any],
    snapshots: Any,
    count_after: Callable[[Any], Any],
) -> None:
    """Calls `average_op(variable, average)` for each pair unless the step was skipped.

    Args:
        before: steps completed before the one just made; an int or a tensor.
        after: the same, read after it.
        pairs: each model variable and its average.
        average_op: updates one average.
        snapshots: integer variable, the number of snapshots in the averages.
        count_after: returns its new value after the calls from its value before.
    """
    if keras.backend.backend() == "tensorflow":
        from ..tensorflow._averager import update_if as tensorflow_update_if

        native_pairs = [(native(variable), native(average)) for variable, average in pairs]
        tensorflow_update_if(
            before, after, native_pairs, average_op, native(snapshots), count_after
        )
        return
    stepped = before != after
    if is_concrete(stepped):
        if stepped:
            for variable, average in pairs:
                average_op(variable, average)
            snapshots.assign(count_after(read(snapshots)))
        return
    for variable, average in pairs:
        kept = read(average)
        average_op(variable, average)
        average.assign(keras.ops.where(stepped, read(average), kept))
    taken = read(snapshots)
    snapshots.assign(keras.ops.where(stepped, count_after(taken), taken))
