"""Keras 3 on TensorFlow as the callback sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from swa_fast.tensorflow.variables import Reader, measured, tensors

from ._callback_backend import KerasBackend


class TensorFlowBackend(KerasBackend):
    """Keras 3 on TensorFlow."""

    _end_of_data = (StopIteration, tf.errors.OutOfRangeError)

    def __init__(self) -> None:
        super().__init__()
        self._reader = Reader()

    def hold(self, variables: Sequence[Any]) -> list[Any]:
        """Keeps the variables' tensors: an assign gives a variable a new buffer."""
        return tensors(_values(variables))

    def read(self, variables: Sequence[Any]) -> list[Any]:
        """Shares memory with the variables where they are on the CPU."""
        return self._reader.read(_values(variables))

    def measured(self, variable: Any) -> Any:
        """Averages over the replicas of a strategy."""
        return measured(variable.value)


def _values(variables: Sequence[Any]) -> list[Any]:
    """Returns what holds the variables' values; `Variable.value` takes 20 times as long."""
    try:
        return [variable._value for variable in variables]
    except AttributeError:  # private, so it may go
        return [variable.value for variable in variables]
