"""Averages in private memory, updated by the fused kernel after eager steps of TensorFlow.

TensorFlow shares the buffers of its variables, so native code may not write into them. It may write
into arrays that nobody else has: an average here is such an array, and all that is handed out of it
is a copy. Why that is faster, and when: docs/tensorflow.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from .._keras.rules import Rule, take
from .variables import Reader

Array = npt.NDArray[Any]


class PrivateArray:
    """An array that nobody else sees.

    Attributes:
        array: the memory; only for native calls, and never handed out.
    """

    def __init__(self, value: Any, dtype: Any) -> None:
        """Copies `value`."""
        self.array: Array = np.array(value, tf.as_dtype(dtype).as_numpy_dtype, order="C")

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's."""
        return self.array.shape

    def read(self) -> Any:
        """Returns a tensor with a copy of the array: TensorFlow may keep an array's own memory."""
        return tf.convert_to_tensor(self.array.copy())

    def write(self, value: Any) -> None:
        """Copies a value of the same shape, in any dtype, into the array."""
        self.array[...] = np.asarray(value)


class FusedAverager:
    """Takes snapshots into private arrays, one native call each; see `_keras.runtime.Averager`.

    Args:
        pairs: each model variable, a `tf.Variable`, and the array of its average.
        taken: array of one integer, the snapshots in the averages.
        skipped: the same, the snapshots left out because a value was not finite; None if such
            values are averaged as they are.
        rule: when a snapshot is taken, and how it is mixed in.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Any, PrivateArray]],
        taken: PrivateArray,
        skipped: PrivateArray | None,
        rule: Rule,
    ) -> None:
        """Begins without having read anything."""
        self._variables = [variable for variable, _ in pairs]
        self._arrays = [average.array for _, average in pairs]
        self._taken = taken
        self._skipped = skipped
        self._rule = rule
        self._reader = Reader()

    def after_step(self, before: int, after: int) -> None:
        """Takes a snapshot if one is due; see `_keras.runtime.Averager`."""
        if after == before or not self._rule.due(before):
            return
        values = self._reader.read(self._variables)
        if self._skipped is not None and not all(np.isfinite(np.asarray(v)).all() for v in values):
            self._skipped.array[...] += 1
            return
        taken = int(self._taken.array)
        take(self._rule, self._arrays, values, self._rule.coefficient(None, before, taken))
        self._taken.array[...] = self._rule.taken_after(None, before, taken)


def require_eager(owner: str) -> None:
    """Raises ValueError where a step is not eager: in a `tf.function` or on replicas."""
    if not tf.executing_eagerly() or tf.distribute.has_strategy():
        raise ValueError(
            f"{owner}(fused=True) averages after eager steps, and this one is in a tf.function or "
            "on a strategy's replicas. Call apply_gradients eagerly, compile the model with "
            "run_eagerly=True, or leave fused=True out"
        )
