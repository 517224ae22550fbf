"""Snapshots into Keras 3 variables by operations of Keras, and averages in private memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from .._keras.rules import Rule, take
from .._keras.runtime import Averager, Pair
from .runtime import BACKEND, KerasAverages, is_concrete, native, read


class KerasAverager:
    """Snapshots by Keras operations, on any backend; the arguments are those of `averager`."""

    def __init__(
        self,
        updates: KerasAverages,
        pairs: Sequence[Pair],
        taken: Any,
        skipped: Any,
        rule: Rule,
        average_op: Callable[[Any, Any, Any], Any] | None,
    ) -> None:
        """Begins without having read anything."""
        self._updates = updates
        self._pairs = pairs
        self._taken = taken
        self._skipped = skipped
        self._rule = rule
        self._average_op = average_op

    def after_step(self, before: Any, after: Any) -> None:
        """See `swa_fast._keras.runtime.Averager`."""
        due = self._rule.due(before) & (after > before)
        if not is_concrete(due):
            self._take_where(due, before)
        elif due:
            if self._skipped is not None and not bool(self._all_finite()):
                self._skipped.assign(read(self._skipped) + 1)
            else:
                self._take(before)

    def _take(self, step: Any) -> None:
        taken = int(read(self._taken)) if isinstance(step, int) else read(self._taken)
        if self._average_op is not None:
            for variable, average in self._pairs:
                self._average_op(variable, average, step)
        else:
            coefficient = self._rule.coefficient(keras.ops, step, taken)
            if not self._take_in_place(coefficient):
                for variable, average in self._pairs:
                    mixed = self._updates.mixed
                    average.assign(mixed(self._rule, read(average), read(variable), coefficient))
        self._taken.assign(self._rule.taken_after(keras.ops, step, taken))

    def _take_in_place(self, coefficient: Any) -> bool:
        """Averages natively where the backend's variables own their memory: on torch."""
        if BACKEND != "torch" or _in_stateless_scope():
            return False
        try:
            take(
                self._rule,
                [average.value.detach() for _, average in self._pairs],
                [variable.value.detach() for variable, _ in self._pairs],
                coefficient,
            )
        except (BufferError, TypeError, ValueError):
            return False
        return True

    def _take_where(self, due: Any, step: Any) -> None:
        """Takes a snapshot in a trace, in the steps in which `due` is true."""
        ops = keras.ops
        if self._skipped is not None:
            finite, skipped = self._all_finite(), read(self._skipped)
            left_out = ops.cast(ops.logical_and(due, ops.logical_not(finite)), skipped.dtype)
            self._skipped.assign(skipped + left_out)
            due = ops.logical_and(due, finite)
        taken = read(self._taken)
        if self._average_op is not None:
            for variable, average in self._pairs:
                kept = read(average)
                self._average_op(variable, average, step)
                average.assign(ops.where(due, read(average), kept))
        else:
            values = [read(variable) for variable, _ in self._pairs]
            averages = [read(average) for _, average in self._pairs]

            def take() -> list[Any]:
                coefficient = self._rule.coefficient(ops, step, taken)
                return [
                    self._updates.mixed(self._rule, average, value, coefficient)
                    for average, value in zip(averages, values, strict=True)
                ]

            means = ops.cond(due, take, lambda: averages)
            for (_, average), mean in zip(self._pairs, means, strict=True):
                average.assign(mean)
        after = self._rule.taken_after(ops, step, taken)
        self._taken.assign(ops.where(due, ops.cast(after, taken.dtype), taken))

    def _all_finite(self) -> Any:
        ops = keras.ops
        if not self._pairs:
            return True
        return ops.all(ops.stack([ops.all(ops.isfinite(read(value))) for value, _ in self._pairs]))


def _in_stateless_scope() -> bool:
    """Tells whether variables stand for tensors of the caller's, which nobody may write to."""
    from keras.src.backend.common.stateless_scope import in_stateless_scope

    return bool(in_stateless_scope())


class PrivateVariable(keras.Variable):  # type: ignore[misc]
    """A Keras variable on TensorFlow in private memory: whatever reads it gets a copy.

    It is saved and restored as any other, by Keras and by `tf.train.Checkpoint`.
    """

    def _initialize(self, value: Any) -> None:
        from ..tensorflow.fused import PrivateArray

        value = value() if callable(value) else value
        self.memory = PrivateArray(value, self._dtype)
        self._value = self.memory  # has a shape, which is all that Keras asks of it

    def _direct_assign(self, value: Any) -> None:
        self.memory.write(value)

    @property
    def value(self) -> Any:
        """A tensor with a copy of what the variable holds."""
        return self.memory.read()

    def numpy(self) -> Any:
        """Returns a copy of what the variable holds."""
        return self.memory.array.copy()

    @property
    def _shared_name(self) -> str:
        return str(self.path)

    def _serialize_to_tensors(self) -> Any:
        return {"VARIABLE_VALUE": self.value}

    def _restore_from_tensors(self, restored_tensors: Any) -> Any:
        self.assign(restored_tensors["VARIABLE_VALUE"])
        return self.value


class FusedAverages(KerasAverages):
    """Averages in private memory, after eager steps on TensorFlow."""

    def make_variable(self, owner: Any, arguments: dict[str, Any]) -> Any:
        """See `KerasAverages`."""
        with keras.name_scope(owner.name):
            variable = PrivateVariable(trainable=False, **arguments)
        owner._track_variable(variable)
        return variable

    def averager(
        self,
        pairs: Sequence[Pair],
        taken: Any,
        skipped: Any,
        rule: Rule,
        average_op: Callable[[Any, Any, Any], Any] | None,
    ) -> Averager:
        """See `Averages`."""
        if average_op is not None:
            return super().averager(pairs, taken, skipped, rule, average_op)
        from ..tensorflow.fused import FusedAverager

        return FusedAverager(
            [(native(variable), average.memory) for variable, average in pairs],
            taken.memory,
            None if skipped is None else skipped.memory,
            rule,
        )
