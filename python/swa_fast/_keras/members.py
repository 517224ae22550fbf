"""Members that the wrapping optimizers of both Kerases have, as functions of such an optimizer.

A wrapper binds them in its class. It has `_keeper` (a `SnapshotKeeper`), `_optimizer` (the one
inside), `name`, `weights` and `state_in_keras_file()`.
"""

# ruff: noqa: D417, `self` needs no description

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Sequence
from typing import Any

from .optimizer_arguments import check_variables


def inner_setting(name: str, while_building: Any = None) -> Any:
    """Returns a property of the wrapper that is the inner optimizer's attribute `name`.

    Args:
        name: of the attribute.
        while_building: what the property says while Keras builds the wrapper itself, which must
            make nothing for what the inner optimizer does.
    """

    def get(self: Any) -> Any:
        if self.__dict__.get("_optimizer") is None or self.__dict__.get("_is_building"):
            return while_building
        return getattr(self.innermost_optimizer, name)

    def set_(self: Any, value: Any) -> None:
        # Keras's own constructor sets its defaults before there is an inner optimizer.
        if self.__dict__.get("_optimizer") is not None:
            setattr(self.innermost_optimizer, name, value)

    return property(get, set_, doc=f"The inner optimizer's `{name}`.")


def assign_average_vars(self: Any, var_list: Any) -> Any:
    """Gives variables the values of their averages.

    Variables that are not trained (such as the moving statistics of BatchNormalization) or are no
    floating-point numbers have no average and are left alone. Before the first snapshot all are,
    with a warning.

    Args:
        var_list: model variables, for example `model.variables`, or the model.

    Returns:
        None in eager code, an operation in a TensorFlow graph.

    Raises:
        TypeError: `var_list` holds something that is not a variable.
        ValueError: the optimizer was not built, or not with a trainable variable; nothing was
            assigned.
    """
    return self._keeper.assign(var_list, "assign_average_vars")


def applied(self: Any, model_or_variables: Any) -> contextlib.AbstractContextManager[None]:
    """Gives variables the values of their averages for the body of a `with` statement.

    Afterwards each has its own value back, to the bit, whatever happened in the body. In eager
    code; evaluate there, and take no step.

    Args:
        model_or_variables: a model or its variables; those without an average are left alone.

    Raises:
        TypeError: something is not a variable.
        ValueError: the optimizer was not built, or not with a trainable variable; nothing was
            assigned.
    """
    manager: contextlib.AbstractContextManager[None] = self._keeper.applied(
        model_or_variables, "applied"
    )
    return manager


def swap_weights(self: Any, var_list: Any = None) -> None:
    """Exchanges the values of variables and their averages; a second call undoes it, to the bit.

    Also where the variable is half precision and holds its average rounded meanwhile, if nobody
    writes to it. In eager code, and outside of a strategy's replicas. Before the first snapshot
    nothing is exchanged, with a warning.

    Args:
        var_list: model variables or the model; None for all variables that have an average.

    Raises:
        TypeError: `var_list` holds something that is not a variable.
        ValueError: the optimizer was not built, or not with a trainable variable; nothing was
            exchanged.
    """
    self._keeper.swap(var_list, "swap_weights")


def set_weights(self: Any, weights: Sequence[Any]) -> None:
    """Takes back what `get_weights` returned.

    Raises:
        ValueError: the optimizer is not built, or the list does not fit; nothing was assigned.
    """
    if self._keeper.taken is None:
        raise ValueError(  # the first words are those of Keras
            "You are calling `set_weights()` on an optimizer that is not built: set_weights needs "
            f"an optimizer that was built: call {self.name}.build(variables), or take a step, first"
        )
    self._keeper.set_values(self.weights, list(weights), "weights")


def save_own_variables(self: Any, store: Any) -> None:
    """Writes the snapshot count and averages; a Keras optimizer inside saves its own state."""
    self._keeper.save(self.state_in_keras_file(), store)


def load_own_variables(self: Any, store: Any) -> None:
    """Reads what `save_own_variables` wrote.

    As with every Keras optimizer, a store of another size is skipped with a warning: it belongs
    to another optimizer, or this one is not built yet.

    Raises:
        ValueError: a shape does not fit; nothing was assigned.
    """
    self._keeper.load(self.state_in_keras_file(), store)


def snapshots(self: Any) -> int:
    """Snapshots in the averages; in `MovingAverage` the variables at the start are one of them."""
    count: int = self._keeper.count()
    return count


def skipped(self: Any) -> int:
    """Snapshots left out because a value was not finite, with `nonfinite="skip"`."""
    count: int = self._keeper.count_skipped()
    return count


def shadow_copy(self: Any, model_weights: Sequence[Any]) -> None:
    """Makes averages of variables, and `swap_weights()` exchanges these and no others from now on.

    An average begins as its variable; one that is there already stays as it is.

    Args:
        model_weights: variables. An optimizer that is not built yet is built with them.

    Raises:
        TypeError: something is not a variable, or it is a model.
        ValueError: the optimizer was built, and not with one of the variables.
    """
    variables = check_variables(model_weights, "shadow_copy", takes_model=False)
    self.build(variables)
    self._keeper.choose_swapped(variables, "shadow_copy")


def has_shadow_copy(self: Any) -> bool:
    """Whether there are averages, because the optimizer was built or `shadow_copy` called."""
    return self._keeper.taken is not None


def takes_apply_state(average_op: Any) -> bool:
    """Returns whether an `average_op` is written for later versions of TensorFlow Addons.

    There its arguments are (var, average_var, local_apply_state).
    """
    parameters = list(inspect.signature(average_op).parameters.values())[1:]  # but for self
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    wanted = [p for p in parameters if p.kind in positional and p.default is p.empty]
    return len(wanted) > 2


def device_and_dtype(variable: Any) -> tuple[Any, Any]:
    """Returns under what an `apply_state` has what belongs to a variable."""
    dtype = variable.dtype
    return getattr(variable, "device", None), getattr(dtype, "base_dtype", dtype)


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
