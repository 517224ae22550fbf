"""Reading TensorFlow's variables: all at once, exact, and never a view that changes under us."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np

import swa_fast

from . import TENSORFLOW, check
from .environment import Environment, assert_same_bits


def _variables() -> list[Any]:
    """One of each type and kind of shape, those that legacy Keras or a strategy would make too."""
    import tensorflow as tf

    shapes = [((2, 3), "float32"), ((6,), "bfloat16"), ((3, 2), "float16"), ((6,), "float64")]
    variables = [
        tf.Variable(tf.cast(tf.reshape(tf.range(6) + index, shape), dtype))
        for index, (shape, dtype) in enumerate(shapes)
    ]
    return [*variables, tf.Variable(2.5), tf.Variable(tf.zeros((0, 3)))]


def _assert_read(reader: Any, variables: list[Any]) -> None:
    import tensorflow as tf

    wanted = [tf.cast(variable, tf.float64).numpy() for variable in variables]
    values = reader.read(variables)
    wide = [np.zeros(value.shape, np.float64) for value in values]
    swa_fast.copy_(wide, values)
    assert_same_bits(wide, wanted)


@check(*TENSORFLOW)
def one_operation_gives_what_single_reads_give(env: Environment) -> None:
    """For each type and shape, after writes, and for another list than the last."""
    import tensorflow as tf

    from swa_fast.tensorflow.variables import Reader

    variables, reader = _variables(), Reader()
    for _ in range(2):
        _assert_read(reader, variables)
        for variable in variables:
            variable.assign_add(tf.ones_like(variable))
    for other in (variables[::-1], variables[:2], []):
        _assert_read(reader, other)
    _assert_read(reader, variables)
    with mock.patch.object(tf.raw_ops, "ReadVariableOp", None):  # no single read is made
        reader.read(variables)


@check(*TENSORFLOW)
def without_the_private_operation_the_public_one_reads(env: Environment) -> None:
    from tensorflow.python.eager import execute

    from swa_fast.tensorflow.variables import Reader

    variables, reader = _variables(), Reader()
    gone = mock.Mock(side_effect=RuntimeError("no such operation"))
    with mock.patch.object(execute, "execute", gone):
        _assert_read(reader, variables)
    assert gone.call_count == 1
    _assert_read(reader, variables)
    with mock.patch.dict("sys.modules", {"tensorflow.python.eager": None}):
        _assert_read(Reader(), variables)


@check(*TENSORFLOW)
def variables_on_several_devices(env: Environment) -> None:
    import tensorflow as tf

    from swa_fast.tensorflow.variables import Reader

    variables: list[Any] = []
    for device in ("CPU:0", "CPU:1", "CPU:0"):
        with tf.device(device):
            variables.append(tf.Variable(tf.range(3.0) + len(variables)))
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        variables.append(tf.Variable([7.0, 8.0]))
    for listed in (variables[1:2], variables[:3], variables):
        reader = Reader()
        for _ in range(2):
            _assert_read(reader, listed)


@check(*TENSORFLOW)
def what_is_held_survives_every_kind_of_write(env: Environment) -> None:
    """An assign gives a variable a new buffer; a sparse update writes in place."""
    import tensorflow as tf

    from swa_fast.tensorflow.variables import Reader, tensors

    variables = [tf.Variable(tf.range(6.0)) for _ in range(3)]
    # Once a variable was updated in this way, TensorFlow copies it when it is read.
    variables[2].scatter_sub(tf.IndexedSlices(tf.constant([1.0]), tf.constant([0])))
    before = [variable.numpy() for variable in variables]
    held = tensors(variables)
    views = Reader().read(variables)
    assert_same_bits([np.array(view) for view in views], before)
    del views
    variables[0].assign_add(tf.ones(6))
    for variable in variables[1:]:
        variable.scatter_add(tf.IndexedSlices(tf.constant([5.0]), tf.constant([1])))
    assert variables[2].numpy()[1] == before[2][1] + 5
    assert_same_bits([tensor.numpy() for tensor in held], before)
