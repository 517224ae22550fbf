"""Gradients as the optimizers of Keras 2 computed them (TensorFlow backend)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from .._optimizer.gradients import gradients_of


def _tensorflow(member: str) -> Any:
    if keras.backend.backend() != "tensorflow":
        raise AttributeError(
            f"{member} needs the TensorFlow backend, whose tape records gradients. With "
            f"{keras.backend.backend()}, compute them yourself and call apply(gradients, "
            "variables), or stateless_apply with jax; or use model.fit"
        )
    import tensorflow as tf

    return tf


def compute_gradients(
    optimizer: Any, loss: Any, var_list: Any, grad_loss: Any, tape: Any
) -> list[tuple[Any, Any]]:
    """Returns (gradient, variable) pairs for `minimize`.

    Raises:
        AttributeError: the backend is not TensorFlow.
        TypeError: `var_list` holds something that is not a variable.
        ValueError: `loss` is a tensor and there is no tape, or `var_list` is None.
    """
    tf = _tensorflow("minimize")
    if var_list is None:
        raise ValueError("var_list must be a list of variables or a callable. Received: None")
    if not callable(loss) and tape is None:
        raise ValueError("loss must be a callable, or a tensor and the tape that recorded it")
    tape = tape if tape is not None else tf.GradientTape()
    if callable(loss):
        with tape:
            if not callable(var_list):
                tape.watch(_natives(var_list))
            loss = loss()
    if callable(var_list):
        var_list = var_list()
    variables = list(tf.nest.flatten(var_list))
    natives = _natives(variables)
    with tape:
        scaled = optimizer.scale_loss(loss)
    gradients = tape.gradient(scaled, natives, grad_loss)
    return list(zip(gradients, variables, strict=True))


def symbolic_gradients(loss: Any, params: Sequence[Any]) -> list[Any]:
    """Returns the gradients of `loss` by `params`, for `get_gradients`.

    Raises:
        AttributeError: the backend is not TensorFlow, or `loss` is an eager tensor, which does not
            know how it was computed.
        ValueError: a parameter has no gradient.
    """
    tf = _tensorflow("get_gradients")
    natives = _natives(params)
    return gradients_of(tf, loss, params, natives)


def _natives(variables: Any) -> list[Any]:
    natives = []
    for index, variable in enumerate(variables):
        if isinstance(variable, keras.Variable):
            variable = variable.value
        if not hasattr(variable, "assign"):
            raise TypeError(
                f"var_list must hold variables. Received at index {index}: "
                f"{type(variable).__name__}"
            )
        natives.append(variable)
    return natives
