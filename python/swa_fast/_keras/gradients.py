"""Gradients as the optimizers of Keras 2 gave them to users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def gradients_of(tf: Any, loss: Any, params: Sequence[Any], natives: Sequence[Any]) -> list[Any]:
    """Returns the gradients of `loss` by variables, for `get_gradients`.

    Args:
        tf: TensorFlow.
        loss: a callable, or, in a graph, a tensor.
        params: the variables, as the user named them.
        natives: the same as `tf.Variable`s.

    Raises:
        AttributeError: `loss` is an eager tensor, which does not know how it was computed.
        ValueError: a variable has no gradient.
    """
    if callable(loss):
        with tf.GradientTape() as tape:
            tape.watch(natives)
            value = loss()
        gradients = tape.gradient(value, natives)
    elif tf.executing_eagerly():
        raise AttributeError(
            "get_gradients takes a tensor in a graph only (tf.function). In eager code, pass a "
            "callable that returns the loss, or use tf.GradientTape"
        )
    else:
        gradients = tf.gradients(loss, list(natives))
    for index, (gradient, variable) in enumerate(zip(gradients, params, strict=True)):
        if gradient is None:
            raise ValueError(f"params[{index}], {variable.name!r}, has no gradient from the loss")
    return list(gradients)
