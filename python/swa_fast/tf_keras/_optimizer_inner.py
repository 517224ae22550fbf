"""One face for the two kinds of optimizer that legacy Keras has, for the wrapper around them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from .._wrapper_settings import CLIPPING


def true_dtype(variable: Any) -> Any:
    """Returns the dtype a variable is stored in; under mixed precision it reports another one."""
    return tf.as_dtype(getattr(variable, "true_dtype", None) or variable.dtype)


def average_dtype(variable: Any) -> Any:
    """Returns the dtype of a variable's average: float32 where the variable is half precision."""
    dtype = true_dtype(variable)
    return tf.float32 if dtype in (tf.float16, tf.bfloat16) else dtype


class SlotOwner:
    """A variable that reports another dtype, which its slot then gets."""

    def __init__(self, variable: Any, dtype: Any) -> None:
        """Stands for `variable`."""
        self._variable = variable
        self.true_dtype = dtype

    def __getattr__(self, name: str) -> Any:
        """Everything else is the variable's."""
        return getattr(self._variable, name)


def check_values(variables: Sequence[Any], values: Sequence[Any], title: str, owner: str) -> None:
    """Raises ValueError unless there is one value of the right shape for each variable."""
    if len(values) != len(variables):
        raise ValueError(
            f"{title} must hold {len(variables)} arrays, one for each variable of {owner}. "
            f"Received: {len(values)}"
        )
    for index, (variable, value) in enumerate(zip(variables, values, strict=True)):
        if tuple(np.shape(value)) != tuple(variable.shape):
            raise ValueError(
                f"{title}[{index}] must have shape {tuple(variable.shape)}, that of "
                f"{variable.name!r}. Received shape: {tuple(np.shape(value))}"
            )


def deserialize(config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None) -> Any:
    """Makes an inner optimizer from what `tf_keras.optimizers.serialize` returned."""
    legacy = bool(config.get("config", {}).get("is_legacy_optimizer", False))
    return tf_keras.optimizers.deserialize(
        copy.deepcopy(dict(config)), custom_objects=custom_objects, use_legacy_optimizer=legacy
    )


class Inner:
    """The inner optimizer, legacy or not, inside a LossScaleOptimizer or not."""

    def __init__(self, optimizer: Any) -> None:
        """Speaks for `optimizer`."""
        self._optimizer = optimizer
        self._legacy = isinstance(optimizer, tf_keras.optimizers.legacy.Optimizer)
        self._built = False

    @property
    def innermost(self) -> Any:
        """The optimizer that makes the steps."""
        optimizer = self._optimizer
        while isinstance(optimizer, tf_keras.mixed_precision.LossScaleOptimizer):
            optimizer = optimizer.inner_optimizer
        return optimizer

    @property
    def iterations(self) -> Any:
        """The variable that counts completed steps."""
        return self._optimizer.iterations

    def first_replica(self, variable: Any) -> Any:
        """Returns a variable's value on the first replica, wherever this is called."""
        local = tf.distribute.get_strategy().experimental_local_results(variable)
        return local[0].read_value()

    def read_steps(self) -> Any:
        """Returns the completed steps: an int in eager code, a tensor in a graph or on replicas."""
        steps = self.iterations.read_value()
        if tf.executing_eagerly() and not tf.distribute.has_strategy():
            return int(steps)
        return steps

    def read_scaling(self) -> Any:
        """Returns what tells later whether a LossScaleOptimizer skipped a step; None without one.

        In legacy Keras its iterations go on where it skips a step.
        """
        scaler = self._optimizer
        if scaler is self.innermost or not scaler.dynamic:
            return None
        return [
            scaler.dynamic_counter.read_value(),
            tf.cast(scaler.loss_scale, tf.float32),
        ]

    def steps_after(self, before: Any, scaling: Any) -> Any:
        """Returns the completed steps after a step: `before` again if it was skipped.

        Args:
            before: what `read_steps` returned before the step.
            scaling: what `read_scaling` returned before the step.
        """
        after = self.read_steps()
        if scaling is None:
            return after
        # A step with finite gradients counts one up, or, every `dynamic_growth_steps`, starts over
        # with a larger scale. One without starts over with a smaller scale, or the smallest.
        counter, scale = scaling
        new_counter, new_scale = self.read_scaling()
        growth = counter + 1 >= self._optimizer.dynamic_growth_steps
        skipped = (new_counter == 0) & ~(growth & (new_scale >= scale))
        if isinstance(after, int):
            return before if bool(skipped) else after
        return tf.where(skipped, before, after)

    def build(self, var_list: Sequence[Any]) -> None:
        """Creates the inner state for variables."""
        if self._legacy:
            self._optimizer._create_all_weights(var_list)
        elif not self._built:
            self._optimizer.build(var_list)
        self._built = True

    def variables(self) -> list[Any]:
        """Returns the inner state."""
        return list(self._optimizer.weights if self._legacy else self._optimizer.variables)

    def apply_gradients(self, pairs: list[Any], name: str | None, aggregate: bool) -> Any:
        """Makes a step."""
        if self._legacy:
            return self._optimizer.apply_gradients(
                pairs, name=name, experimental_aggregate_gradients=aggregate
            )
        return self._optimizer.apply_gradients(
            pairs, name=name, skip_gradients_aggregation=not aggregate
        )

    def compute_gradients(
        self, loss: Any, var_list: Any, grad_loss: Any, tape: Any
    ) -> list[tuple[Any, Any]]:
        """Returns (gradient, variable) pairs, unscaled where the loss was scaled."""
        if self._legacy:
            return list(
                self._optimizer._compute_gradients(loss, var_list, grad_loss=grad_loss, tape=tape)
            )
        if not callable(loss) and tape is None:
            raise ValueError("loss must be a callable, or a tensor and the tape that recorded it")
        if callable(loss):
            tape = tape if tape is not None else tf.GradientTape()
            with tape:
                if not callable(var_list):
                    tape.watch(var_list)
                loss = loss()
                if grad_loss is not None:
                    # The gradient of sum(loss * grad_loss) is the one that starts from grad_loss.
                    loss = tf.reduce_sum(loss * tf.stop_gradient(grad_loss))
        elif grad_loss is not None:
            with tape:
                loss = tf.reduce_sum(loss * tf.stop_gradient(grad_loss))
        variables = var_list() if callable(var_list) else var_list
        return list(self._optimizer.compute_gradients(loss, tf.nest.flatten(variables), tape))

    def set(self, settings: Mapping[str, Any]) -> None:
        """Makes the settings that `check_settings` returned."""
        inner = self.innermost
        for key in CLIPPING:
            if key in settings:
                setattr(inner, key, settings[key])
        if "learning_rate" in settings:
            inner.learning_rate = settings["learning_rate"]
        if settings.get("decay"):
            inner.learning_rate = tf_keras.optimizers.schedules.InverseTimeDecay(
                float(tf.convert_to_tensor(inner.learning_rate)),
                decay_steps=1,
                decay_rate=float(settings["decay"]),
            )


def _inner_setting(name: str) -> Any:
    def get(self: Any) -> Any:
        inner = self.__dict__.get("_inner")
        return None if inner is None else getattr(inner.innermost, name)

    def set_(self: Any, value: Any) -> None:
        inner = self.__dict__.get("_inner")
        # Keras's own constructor sets its defaults before there is an inner optimizer.
        if inner is not None:
            setattr(inner.innermost, name, value)

    return property(get, set_, doc=f"The inner optimizer's `{name}`.")


class InnerSettings:
    """Members of the wrapper that only pass on to the inner optimizer."""

    _inner: Inner
    _optimizer: Any
    _steps_override: Any

    clipnorm = _inner_setting("clipnorm")
    clipvalue = _inner_setting("clipvalue")
    global_clipnorm = _inner_setting("global_clipnorm")
    learning_rate = _inner_setting("learning_rate")
    lr = _inner_setting("learning_rate")

    @property
    def inner_optimizer(self) -> Any:
        """The optimizer that was wrapped."""
        return self._optimizer

    @property
    def iterations(self) -> Any:
        """Steps that the inner optimizer completed; skipped ones do not count."""
        override = self.__dict__.get("_steps_override")
        return self._inner.iterations if override is None else override

    @iterations.setter
    def iterations(self, variable: Any) -> None:
        self._inner.innermost.iterations = variable

    def _compute_gradients(
        self, loss: Any, var_list: Any, grad_loss: Any = None, tape: Any = None
    ) -> list[tuple[Any, Any]]:
        return self._inner.compute_gradients(loss, var_list, grad_loss, tape)

    def get_gradients(self, loss: Any, params: Sequence[Any]) -> list[Any]:
        """Returns the gradients of `loss`, a callable or, in a graph, a tensor, by `params`."""
        if callable(loss):
            with tf.GradientTape() as tape:
                tape.watch(params)
                value = loss()
            gradients = tape.gradient(value, params)
        elif tf.executing_eagerly():
            raise AttributeError(
                "get_gradients takes a tensor in a graph only (tf.function). In eager code, pass a "
                "callable that returns the loss, or use tf.GradientTape"
            )
        else:
            gradients = tf.gradients(loss, list(params))
        for index, (gradient, variable) in enumerate(zip(gradients, params, strict=True)):
            if gradient is None:
                raise ValueError(
                    f"params[{index}], {variable.name!r}, has no gradient from the loss"
                )
        return list(gradients)

    def finalize_variable_values(self, var_list: Any) -> None:
        """Ends training as the inner optimizer does; the averages stay where they are."""
        if hasattr(self._optimizer, "finalize_variable_values"):
            self._optimizer.finalize_variable_values(var_list)
