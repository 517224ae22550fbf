"""Members that `tfa.optimizers.SWA` has and a Keras 3 optimizer has not.

Functions of a wrapping optimizer, which binds them in its class.
"""

# ruff: noqa: D417, `self` needs no description

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from .._keras.members import gradients_of
from .._keras.optimizer_arguments import check_loss, check_pairs, check_variable, refuse_model
from .runtime import native


def apply_gradients(self: Any, grads_and_vars: Iterable[Any], name: str | None = None) -> Any:
    """Makes one step from (gradient, variable) pairs.

    Args:
        grads_and_vars: pairs, as from `zip(gradients, variables)`; a gradient may be None.
        name: accepted for compatibility, without effect.

    Returns:
        The iteration counter, one higher.

    Raises:
        TypeError: a pair is malformed.
        ValueError: there is no gradient at all, or a variable the optimizer was not built with.
    """
    pairs = check_pairs(grads_and_vars)
    gradients, variables = (list(side) for side in zip(*pairs, strict=True))
    self._require_step(variables, "apply_gradients: grads_and_vars")
    self.apply(gradients, variables)
    return self.iterations


def minimize(
    self: Any,
    loss: Any,
    var_list: Any,
    grad_loss: Any = None,
    name: str | None = None,
    tape: Any = None,
) -> Any:
    """Computes gradients and makes one step from them (TensorFlow backend).

    Args:
        loss: callable without arguments that returns the loss, or a tensor and its `tape`.
        var_list: variables, or a callable that returns them once the loss was computed.
        grad_loss: gradient with respect to the loss; None for ones.
        name: accepted for compatibility, without effect.
        tape: `tf.GradientTape` that recorded the loss.

    Returns:
        What `apply_gradients` returns.

    Raises:
        AttributeError: the backend is not TensorFlow.
        TypeError: `var_list` holds something that is not a variable, or is a model.
        ValueError: `loss` is a tensor and there is no tape, or `var_list` is None.
    """
    tf = _tensorflow("minimize")
    check_loss(loss, var_list, tape)
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
        scaled = self.scale_loss(loss)
    gradients = tape.gradient(scaled, natives, grad_loss)
    return self.apply_gradients(zip(gradients, variables, strict=True), name=name)


def get_gradients(self: Any, loss: Any, params: Sequence[Any]) -> list[Any]:
    """Returns the gradients of `loss`, a callable or, in a graph, a tensor, by `params`.

    Raises:
        AttributeError: the backend is not TensorFlow, or `loss` is an eager tensor, which does not
            know how it was computed.
        ValueError: a parameter has no gradient.
    """
    tf = _tensorflow("get_gradients")
    refuse_model(params, "get_gradients", "params")
    return gradients_of(tf, loss, params, _natives(params))


def get_updates(self: Any, loss: Any, params: Sequence[Any]) -> list[Any]:
    """Makes one step on `params` and returns its operations as a list."""
    refuse_model(params, "get_updates", "params")
    gradients = self.get_gradients(loss, params)
    return [self.apply_gradients(zip(gradients, params, strict=True))]


def get_slot_names(self: Any) -> list[str]:
    """Returns the names of the wrapper's slots, "average" first."""
    return list(self._keeper.slots)


def get_slot(self: Any, var: Any, slot_name: str) -> Any:
    """Returns the slot variable of a model variable; "average" is its average.

    Raises:
        AttributeError: `var` is not a variable.
        KeyError: there is no such slot, or it has none for `var`.
    """
    check_variable(var, "get_slot")
    slots = self._keeper.slots
    if slot_name not in slots:
        raise KeyError(
            f"{self.name} has the slots {sorted(slots)}. Received: {slot_name!r}; the "
            "inner optimizer's state is in inner_optimizer.variables"
        )
    key = self._var_key(var)
    if key not in slots[slot_name]:
        built = "was not built with it" if self.built else "is not built yet"
        raise KeyError(
            f"{self.name} has no {slot_name!r} for the variable {var.name!r}: it {built}"
        )
    return slots[slot_name][key]


def add_slot(
    self: Any, var: Any, slot_name: str, initializer: Any = "zeros", shape: Any = None
) -> Any:
    """Returns the slot variable `slot_name` of `var`, made now if there is none yet.

    Args:
        var: model variable.
        slot_name: name of the slot.
        initializer: initial value: an initializer, the name of one, or an array.
        shape: shape of the slot; None for that of `var`.
    """
    slot = self._keeper.slots.setdefault(slot_name, {})
    key = self._var_key(var)
    if key not in slot:
        slot[key] = add_variable_like(self, var, slot_name, initializer, shape)
        self._keeper.added.append(slot[key])
    return slot[key]


def add_variable_like(
    self: Any,
    var: Any,
    name: str,
    initializer: Any = "zeros",
    shape: Any = None,
    dtype: Any = None,
    make: Any = None,
) -> Any:
    """Makes an optimizer variable beside a model variable: same device, same shape and dtype.

    Args:
        self: the optimizer.
        var: model variable.
        name: what the new one holds; its own name also tells whose.
        initializer: as in `add_slot`.
        shape: another shape; None for the same.
        dtype: another dtype; None for the same.
        make: makes the variable, of `add_variable`'s arguments; None for `add_variable`.
    """
    make = self.add_variable if make is None else make
    owner = str(getattr(var, "path", var.name)).replace("/", "_").replace(":", "_")
    arguments = {
        "shape": tuple(var.shape) if shape is None else tuple(shape),
        "dtype": keras.backend.standardize_dtype(dtype or var.dtype),
        "initializer": _initializer(initializer),
        "layout": getattr(var, "_layout", None),
        "name": f"{owner}_{name}",
    }
    strategy = getattr(self, "_distribution_strategy", None)
    if strategy is None:
        return make(**arguments)
    with strategy.extended.colocate_vars_with(native(var)):
        return make(**arguments)


def add_weight(
    self: Any,
    name: str,
    shape: Sequence[int] = (),
    dtype: Any = None,
    initializer: Any = "zeros",
    trainable: bool | None = None,
    synchronization: Any = None,
    aggregation: str = "none",
) -> Any:
    """Adds a variable to the optimizer's state.

    Args:
        name: name of the variable.
        shape: its shape.
        dtype: its dtype; None for Keras's default.
        initializer: as in `add_slot`.
        trainable: accepted for compatibility: no optimizer state is trainable.
        synchronization: accepted for compatibility, without effect.
        aggregation: "none", "mean", "sum" or "only_first_replica".
    """
    variable = self.add_variable(
        shape=tuple(shape),
        dtype=dtype,
        initializer=_initializer(initializer),
        aggregation=aggregation,
        name=name,
    )
    self._keeper.added.append(variable)
    return variable


def weights(self: Any) -> list[Any]:
    """All state variables: the iteration counter first, averages after the inner state."""
    counter = self.innermost_optimizer._iterations
    return [counter, *(each for each in self.variables if each is not counter)]


def get_weights(self: Any) -> list[Any]:
    """Returns the values of `weights` as NumPy arrays that nothing else writes to."""
    return [np.array(keras.ops.convert_to_numpy(each)) for each in self.weights]


def _initializer(initializer: Any) -> Any:
    if isinstance(initializer, str) or callable(initializer):
        return initializer
    return lambda shape, dtype=None: keras.ops.broadcast_to(
        keras.ops.convert_to_tensor(initializer, dtype=dtype), shape
    )


def _tensorflow(member: str) -> Any:
    if keras.backend.backend() != "tensorflow":
        raise AttributeError(
            f"{member} needs the TensorFlow backend, whose tape records gradients. With "
            f"{keras.backend.backend()}, compute them yourself and call apply(gradients, "
            "variables), or stateless_apply with jax; or use model.fit"
        )
    import tensorflow as tf

    return tf


def _natives(variables: Any) -> list[Any]:
    natives = []
    for index, variable in enumerate(variables):
        variable = native(variable)
        if not hasattr(variable, "assign"):
            raise TypeError(
                f"minimize: var_list must hold variables. Received at index {index}: "
                f"{type(variable).__name__}"
            )
        natives.append(variable)
    return natives
