"""What the wrapping optimizers of both Kerases are: members that users call, and construction."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

from .keeper import SnapshotKeeper
from .optimizer_arguments import (
    apply_settings,
    check_settings,
    check_weights,
    check_wrapper_arguments,
)
from .rules import Rule


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


class AveragingOptimizer:
    """Base of `AveragedOptimizerWrapper` in both Kerases, mixed into an optimizer of that Keras.

    Attributes:
        _keras: the package, which has `optimizers`.
        _kinds: the classes that the inner optimizer may have.
        _wanted: the same in words.
        _scaler: the class of this Keras's LossScaleOptimizer.
    """

    _keras: ClassVar[Any]
    _kinds: ClassVar[tuple[type, ...]]
    _wanted: ClassVar[str]
    _scaler: ClassVar[type]
    _keeper: SnapshotKeeper
    _optimizer: Any
    _fused: bool
    name: Any
    weights: Any
    iterations: Any
    build: Any

    clipnorm = inner_setting("clipnorm")
    clipvalue = inner_setting("clipvalue")
    global_clipnorm = inner_setting("global_clipnorm")
    weight_decay = inner_setting("weight_decay")
    use_ema = inner_setting("use_ema", while_building=False)
    ema_momentum = inner_setting("ema_momentum")
    ema_overwrite_frequency = inner_setting("ema_overwrite_frequency")
    learning_rate = inner_setting("learning_rate")
    lr = inner_setting("learning_rate")

    def __init__(
        self,
        optimizer: Any,
        sequential_update: bool = True,
        name: str = "AverageOptimizer",
        **kwargs: Any,
    ) -> None:
        """Wraps `optimizer`.

        Args:
            optimizer: the inner optimizer that makes the steps, or the name of one.
            sequential_update: whether to average strictly after the step. Both settings give the
                same numbers here. A str in this place is the name, which is the second argument in
                later versions of TensorFlow Addons.
            name: name of the optimizer.
            **kwargs: `clipnorm`, `clipvalue`, `global_clipnorm`, `learning_rate` (or `lr`) and
                `decay`, all set on the inner optimizer. `decay` gives it the schedule
                `learning_rate / (1 + decay * iterations)`.

        Raises:
            TypeError: an argument is of the wrong type, or unknown.
            ValueError: the inner optimizer's name is unknown or a keyword argument contradicts it.
        """
        if isinstance(sequential_update, str):
            sequential_update, name = True, sequential_update
        if isinstance(optimizer, str):
            optimizer = self._named(optimizer)
        check_wrapper_arguments(optimizer, self._kinds, self._wanted, sequential_update, name)
        innermost = self._inside_scalers(optimizer)
        settings = check_settings(innermost, kwargs, type(self))
        self._begin(optimizer, name)
        self._sequential_update = sequential_update
        self._average_by(None)
        apply_settings(innermost, settings, self._keras.optimizers.schedules)

    def _named(self, name: str) -> Any:
        """Returns an optimizer of a name."""
        raise NotImplementedError

    def _begin(self, optimizer: Any, name: str) -> None:
        """Makes this an optimizer of its Keras, around `optimizer`."""
        raise NotImplementedError

    def _average_by(self, rule: Rule | None, skips: bool = False, fused: Any = False) -> None:
        """Says how to average; None for `average_op` of a subclass."""
        raise NotImplementedError

    def _require_built_with(self, variables: Sequence[Any], called: str) -> None:
        """Builds this if it is not; raises ValueError if it was built without one of `variables`.

        Args:
            variables: the variables.
            called: the method that the user called, and its argument that holds them.
        """
        raise NotImplementedError

    def state_in_keras_file(self) -> list[Any]:
        """Returns what a ".keras" file holds for the wrapper itself, in its order."""
        raise NotImplementedError

    @classmethod
    def _inside_scalers(cls, optimizer: Any) -> Any:
        scaler: Any = cls._scaler
        while isinstance(optimizer, scaler):
            optimizer = optimizer.inner_optimizer
        return optimizer

    @property
    def inner_optimizer(self) -> Any:
        """The optimizer that was wrapped."""
        return self._optimizer

    @property
    def innermost_optimizer(self) -> Any:
        """The optimizer that makes the steps, inside any number of LossScaleOptimizers."""
        return self._inside_scalers(self._optimizer)

    def average_op(self, var: Any, average_var: Any) -> Any:
        """Updates one average after a step.

        While this runs, `self.iterations` is the number of steps completed before this one.

        Args:
            var: model variable, as it is after the inner optimizer's step and its constraint.
            average_var: its average.

        Returns:
            Whatever the assignment returned.
        """
        if self._keeper.rule is None:
            raise NotImplementedError(f"{type(self).__name__} must implement average_op")
        return self._keeper.average_op(var, average_var, self.iterations)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal optimizer, without its state."""
        return {
            "name": self.name,
            "optimizer": self._keras.optimizers.serialize(self._optimizer),
            **({} if self._sequential_update else {"sequential_update": False}),
        }

    def assign_average_vars(self, var_list: Any) -> Any:
        """Gives variables the values of their averages.

        Variables that are not trained (such as the moving statistics of BatchNormalization) or are
        no floating-point numbers have no average and are left alone. Before the first snapshot all
        are, with a warning.

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

    def applied(self, model_or_variables: Any) -> contextlib.AbstractContextManager[None]:
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
        return self._keeper.applied(model_or_variables, "applied")

    def swap_weights(self, var_list: Any = None) -> None:
        """Exchanges the values of variables and their averages; a second call undoes it exactly.

        Also where the variable is half precision and holds its average rounded meanwhile, if nobody
        writes to it: every bit is as it was. In eager code, and outside of a strategy's replicas.
        Before the first snapshot nothing is exchanged, with a warning.

        Args:
            var_list: model variables or the model; None for all variables that have an average.

        Raises:
            TypeError: `var_list` holds something that is not a variable.
            ValueError: the optimizer was not built, or not with a trainable variable; nothing was
                exchanged.
        """
        self._keeper.swap(var_list, "swap_weights")

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Takes back what `get_weights` returned.

        Raises:
            TypeError: `weights` is no list.
            ValueError: the list does not fit, as that of an optimizer that was built does not where
                this one was not; nothing was assigned.
        """
        values = check_weights(weights)
        held = self.weights
        if self._keeper.taken is None and len(values) != len(held):
            raise ValueError(  # the first words are those of Keras
                "You are calling `set_weights()` on an optimizer that is not built: set_weights "
                f"needs an optimizer that was built: call {self.name}.build(variables), or take a "
                "step, first"
            )
        self._keeper.set_values(held, values, "set_weights: weights")

    def save_own_variables(self, store: Any) -> None:
        """Writes the snapshot count and averages; a Keras optimizer inside saves its own state."""
        self._keeper.save(self.state_in_keras_file(), store)

    def load_own_variables(self, store: Any) -> None:
        """Reads what `save_own_variables` wrote.

        As with every Keras optimizer, a store of another size is skipped with a warning: it belongs
        to another optimizer, or this one is not built yet.

        Raises:
            ValueError: a shape does not fit; nothing was assigned.
        """
        self._keeper.load(self.state_in_keras_file(), store)

    @property
    def snapshots(self) -> int:
        """Snapshots in the averages; in `MovingAverage` the variables at the start are one."""
        return self._keeper.count()

    @property
    def skipped(self) -> int:
        """Snapshots left out because a value was not finite, with `nonfinite="skip"`."""
        return self._keeper.count_skipped()


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
