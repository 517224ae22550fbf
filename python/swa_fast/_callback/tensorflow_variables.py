"""Reading `tf.Variable`s cheaply, for Keras 3 on TensorFlow and for tf_keras."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf


def tensors(variables: Sequence[Any]) -> list[Any]:
    """Returns the variables' tensors, which share their memory until the next assign.

    A variable that is assigned while such a tensor is alive moves to a new buffer, so a kept tensor
    is an exact snapshot.

    Args:
        variables: `tf.Variable`s or a strategy's distributed ones, read outside its replicas.
    """
    # ReadVariableOp by itself takes a fifth of the time of Variable.value().
    read = tf.raw_ops.ReadVariableOp
    return [
        read(resource=variable.handle, dtype=variable.dtype)
        if isinstance(variable, tf.Variable)
        and not isinstance(variable, tf.distribute.DistributedValues)
        else tf.convert_to_tensor(variable)
        for variable in variables
    ]


def measured(variable: Any) -> npt.NDArray[Any]:
    """Returns the float64 mean over replicas, each of which measures its part of a batch."""
    replicas = getattr(variable, "values", None)
    if isinstance(variable, tf.distribute.DistributedValues) and replicas:
        parts = np.stack([replica.numpy() for replica in replicas])
        return np.asarray(parts.mean(axis=0, dtype=np.float64))
    return np.asarray(variable.numpy(), np.float64)


class Reader:
    """Reads lists of variables for native calls, the same list ever faster.

    One compiled function that returns all values costs a third of as many single reads, but tracing
    it costs as much as hundreds of them. So a list is read singly until it has come often enough,
    or at once by the function if the caller says that it will come often.
    """

    def __init__(self) -> None:
        self._variables: list[Any] = []
        self._reads = 0
        self._function: Any = None

    def read(self, variables: Sequence[Any], often: bool) -> list[Any]:
        """Returns views of the variables' memory where it is the host's, else copies.

        Args:
            variables: `tf.Variable`s or a strategy's distributed ones, read outside its replicas.
            often: this list will be read hundreds of times.
        """
        same = len(variables) == len(self._variables) and all(
            map(operator.is_, variables, self._variables)
        )
        if not same:
            self._variables, self._reads, self._function = list(variables), 0, None
        self._reads += 1
        if (
            self._function is None
            and (often or self._reads > _READS_BEFORE_FUNCTION)
            and all(map(_is_on_host, variables))
        ):
            self._function = _reading(self._variables)
        read = tensors(variables) if self._function is None else self._function()
        return [_view(tensor) for tensor in read]


_READS_BEFORE_FUNCTION = 200
"""Tracing and the first run take about 1.5 ms a variable, and save 6 us of each read."""


def _is_on_host(variable: Any) -> bool:
    return (
        isinstance(variable, tf.Variable)
        and not isinstance(variable, tf.distribute.DistributedValues)
        and "CPU" in variable.device
    )


def _reading(variables: Sequence[Any]) -> Any:
    """Returns a compiled function without arguments that returns the variables' values."""
    read = tf.raw_ops.ReadVariableOp

    def values() -> list[Any]:
        return [read(resource=variable.handle, dtype=variable.dtype) for variable in variables]

    return tf.function(values, autograph=False).get_concrete_function()


def _view(tensor: Any) -> Any:
    """Returns what the native call takes fastest; it keeps the tensor's memory alive."""
    if "CPU" not in tensor.device:
        return np.asarray(tensor)
    try:
        return memoryview(tensor)
    except (ValueError, BufferError):  # bfloat16 has no buffer format: DLPack
        return tensor
