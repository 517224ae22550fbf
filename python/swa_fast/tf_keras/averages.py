"""Averages in legacy Keras's variables: TensorFlow's, in eager code, in graphs and on replicas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from .._keras.rules import Rule
from .._keras.runtime import Averager, Pair
from ..tensorflow.averager import TensorFlowAverager, assign_averages, exchange, number
from ..tensorflow.fused import FusedAverager, PrivateArray


class LegacyAverages:
    """`swa_fast._keras.runtime.Averages`."""

    ops = tf

    def read(self, value: Any) -> Any:
        """See `Averages`."""
        return value.read_value() if hasattr(value, "read_value") else tf.convert_to_tensor(value)

    def to_numpy(self, variable: Any) -> Any:
        """See `Averages`."""
        return np.array(variable.numpy())

    def number(self, count: Any) -> int | None:
        """See `Averages`."""
        return number(count)

    def mixed(self, rule: Rule, average: Any, value: Any, coefficient: Any) -> Any:
        """See `Averages`."""
        return rule.mixed(tf, average, value, coefficient)

    def averager(
        self,
        pairs: Sequence[Pair],
        taken: Any,
        skipped: Any,
        rule: Rule,
        average_op: Callable[[Any, Any, Any], Any] | None,
    ) -> Averager:
        """See `Averages`."""
        return TensorFlowAverager(pairs, taken, skipped, rule, average_op)

    def assign_averages(self, pairs: Sequence[Pair], taken: Any, nothing_yet: str) -> Any:
        """See `Averages`."""
        return assign_averages(pairs, taken, nothing_yet)

    def keep(self, variable: Any) -> Any:
        """See `Averages`."""
        return tf.identity(variable.read_value())

    def restore(self, variable: Any, kept: Any) -> None:
        """See `Averages`."""
        variable.assign(kept)

    def exchange(self, pair: Pair, average: Any) -> None:
        """See `Averages`."""
        exchange(pair, average)


AVERAGES = LegacyAverages()


class PrivateSlot(tf.__internal__.tracking.Trackable):  # type: ignore[misc]
    """What stands for a slot variable in private memory: whatever reads it gets a copy.

    It is saved and restored as a variable, by legacy Keras and by `tf.train.Checkpoint`.

    Attributes:
        memory: what it holds, for native calls only.
        name: as a variable's.
        dtype: as a variable's.
        shape: as a variable's.
        trainable: False.
    """

    trainable = False
    _distribute_strategy = None  # as of a variable that no strategy made

    def __init__(self, value: Any, dtype: Any, name: str) -> None:
        """Copies `value`."""
        self.memory = PrivateArray(value, dtype)
        self.name = f"{name}:0"
        self.dtype = tf.as_dtype(dtype)
        self.shape = tf.TensorShape(self.memory.shape)
        self.device = "/job:localhost/replica:0/task:0/device:CPU:0"

    def assign(self, value: Any, *_: Any, **__: Any) -> PrivateSlot:
        """Copies a value of the same shape.

        Raises:
            ValueError: the shape is another.
        """
        if tuple(np.shape(value)) != self.memory.shape:
            raise ValueError(
                f"{self.name} has shape {self.memory.shape}. Received shape: {np.shape(value)}"
            )
        self.memory.write(value)
        return self

    def assign_add(self, value: Any) -> PrivateSlot:
        """Adds a value of the same shape."""
        return self.assign(self.memory.array + np.asarray(value))

    def assign_sub(self, value: Any) -> PrivateSlot:
        """Subtracts a value of the same shape."""
        return self.assign(self.memory.array - np.asarray(value))

    def read_value(self) -> Any:
        """Returns a tensor with a copy."""
        return self.memory.read()

    value = read_value

    def numpy(self) -> Any:
        """Returns a copy."""
        return self.memory.array.copy()

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        """Returns a copy."""
        return np.array(self.memory.array, dtype)

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> Any:
        """Returns a tensor with a copy."""
        return tf.convert_to_tensor(self.memory.read(), dtype=dtype, name=name)

    def _serialize_to_tensors(self) -> Any:
        return {"VARIABLE_VALUE": self.read_value()}

    def _restore_from_tensors(self, restored_tensors: Any) -> Any:
        return self.assign(restored_tensors["VARIABLE_VALUE"])


class FusedLegacyAverages(LegacyAverages):
    """Averages in private memory, after eager steps."""

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
        return FusedAverager(
            [(variable, average.memory) for variable, average in pairs],
            taken.memory,
            None if skipped is None else skipped.memory,
            rule,
        )


FUSED = FusedLegacyAverages()
