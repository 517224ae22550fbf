"""Members of legacy Keras's two optimizer classes, and of TensorFlow Addons' wrapper.

Functions of a wrapping optimizer, which binds them in its class. It is an optimizer of the older
class, and answers for the members that only the newer one has.
"""

# ruff: noqa: D417, `self` needs no description

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from .._keras.members import gradients_of
from .._keras.optimizer_arguments import check_variable, refuse_model
from .inner import SlotOwner, average_dtype, true_dtype
from .runtime import PrivateSlot

LEGACY = tf_keras.optimizers.legacy.Optimizer


class CallableList(list[Any]):
    """A list that an optimizer shows as an attribute and, as older ones do, as a method."""

    def __call__(self) -> list[Any]:
        """Returns itself."""
        return self


def get_gradients(self: Any, loss: Any, params: Sequence[Any]) -> list[Any]:
    """Returns the gradients of `loss`, a callable or, in a graph, a tensor, by `params`."""
    refuse_model(params, "get_gradients", "params")
    return gradients_of(tf, loss, params, params)


def get_slot(self: Any, var: Any, slot_name: str) -> Any:
    """Returns the slot variable of a model variable; "average" is its average.

    Raises:
        AttributeError: `var` is not a variable.
        KeyError: there is no such slot, or it has none for `var`.
    """
    check_variable(var, "get_slot")
    try:
        return LEGACY.get_slot(self, var, slot_name)
    except KeyError:
        raise KeyError(
            f"{self.name} has no {slot_name!r} for the variable {var.name!r}; it has the "
            f"slots {self.get_slot_names()}, for the variables it was built with"
        ) from None


def add_slot(
    self: Any, var: Any, slot_name: str, initializer: Any = "zeros", shape: Any = None
) -> Any:
    """Returns the slot variable `slot_name` of `var`, made now if there is none yet.

    As in every legacy optimizer, but "average" is float32 where the variable is half precision.
    """
    if slot_name == "average" and average_dtype(var) != true_dtype(var):
        if tf.is_tensor(initializer):
            initializer = tf.cast(initializer, average_dtype(var))
        var = SlotOwner(var, average_dtype(var))
    if slot_name == "average" and self.is_fused():
        return _private_slot(self, var, initializer, shape)
    return LEGACY.add_slot(self, var, slot_name, initializer, shape)


def _private_slot(self: Any, var: Any, initializer: Any, shape: Any) -> Any:
    """As an older optimizer's `add_slot`, of the slot "average" in private memory."""
    if "average" not in self._slot_names:
        self._slot_names.append("average")
    slots = self._slots.setdefault(var._unique_id, {})
    if "average" not in slots:
        if isinstance(initializer, str):
            initializer = tf_keras.initializers.get(initializer)
        if callable(initializer):
            initializer = initializer(
                shape=var.shape if shape is None else shape, dtype=true_dtype(var)
            )
        value = initializer.wrapped_value if hasattr(initializer, "wrapped_value") else initializer
        slot = PrivateSlot(value, true_dtype(var), f"{var._shared_name}/average")
        slots["average"] = slot
        self._restore_slot_variable("average", var, slot)
        self._weights.append(slot)
    return slots["average"]


def variables(self: Any) -> Any:
    """`weights`, as an attribute or, as on every legacy optimizer, as a call."""
    return CallableList(self.weights)


def add_variable(
    self: Any, shape: Any, dtype: Any = None, initializer: Any = "zeros", name: str | None = None
) -> Any:
    """Adds a variable to the optimizer's state, as optimizers of the newer class do.

    Args:
        shape: its shape.
        dtype: its dtype; None for Keras's default.
        initializer: an initializer or the name of one.
        name: its name.
    """
    variable = self.add_weight(
        name or "variable",
        shape,
        dtype=dtype or tf_keras.backend.floatx(),
        initializer=initializer,
        trainable=False,
    )
    self._weights.append(variable)
    return variable


def add_variable_from_reference(
    self: Any,
    model_variable: Any,
    variable_name: str,
    shape: Any = None,
    initial_value: Any = None,
) -> Any:
    """Adds a variable beside a model variable, as optimizers of the newer class do.

    It is the slot `variable_name` of `model_variable`.

    Args:
        model_variable: the model variable.
        variable_name: what the new one holds.
        shape: its shape; None for that of `model_variable`.
        initial_value: its initial value; None for zeros.
    """
    if initial_value is None:
        return self.add_slot(model_variable, variable_name, shape=shape)
    return self.add_slot(model_variable, variable_name, tf.convert_to_tensor(initial_value))


def compute_gradients(
    self: Any, loss: Any, var_list: Any, tape: Any = None
) -> list[tuple[Any, Any]]:
    """Returns (gradient, variable) pairs, as optimizers of the newer class do.

    Args:
        loss: callable without arguments that returns the loss, or a tensor and its `tape`.
        var_list: variables, or a callable that returns them once the loss was computed.
        tape: `tf.GradientTape` that recorded the loss.
    """
    refuse_model(var_list, "compute_gradients")
    return self._inner.compute_gradients(loss, var_list, None, tape)  # type: ignore[no-any-return]


def aggregate_gradients(self: Any, grads_and_vars: Iterable[Any]) -> list[Any]:
    """Returns (gradient, variable) pairs with the gradients' sums over replicas.

    `apply_gradients(..., skip_gradients_aggregation=True)` then does not sum again.
    """
    return self._inner.aggregate_gradients(list(grads_and_vars))  # type: ignore[no-any-return]


def exclude_from_weight_decay(self: Any, var_list: Any = None, var_names: Any = None) -> None:
    """Excludes variables from the inner optimizer's weight decay.

    Raises:
        AttributeError: the inner optimizer is one of the older class, which has no weight decay.
    """
    _newer(self, "exclude_from_weight_decay").exclude_from_weight_decay(var_list, var_names)


def update_step(self: Any, gradient: Any, variable: Any) -> Any:
    """Makes the inner optimizer's step on one variable, without averaging.

    Raises:
        AttributeError: the inner optimizer is one of the older class, which has no such method.
    """
    return _newer(self, "update_step").update_step(gradient, variable)


def _newer(self: Any, member: str) -> Any:
    inner = self.innermost_optimizer
    if not hasattr(inner, member):
        raise AttributeError(
            f"{member} needs a tf_keras.optimizers.Optimizer inside. {self.name} has a legacy "
            f"{type(inner).__name__}"
        )
    return inner
