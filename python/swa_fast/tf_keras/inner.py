"""One face for the two kinds of optimizer that legacy Keras has, for the wrapper around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from .._keras.optimizer_arguments import not_built_with


def innermost(optimizer: Any) -> Any:
    """Returns the optimizer that makes the steps, inside any number of LossScaleOptimizers."""
    while isinstance(optimizer, tf_keras.mixed_precision.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    return optimizer


def true_dtype(variable: Any) -> Any:
    """Returns the dtype a variable is stored in; under mixed precision it reports another one."""
    return tf.as_dtype(getattr(variable, "true_dtype", None) or variable.dtype)


def average_dtype(variable: Any) -> Any:
    """Returns the dtype of a variable's average: float32 where the variable is half precision."""
    dtype = true_dtype(variable)
    return tf.float32 if dtype in (tf.float16, tf.bfloat16) else dtype


def writes_keras_file() -> bool:
    """Tells whether legacy Keras writes or reads a ".keras" file now."""
    try:
        from tf_keras.src.saving.serialization_lib import SHARED_OBJECTS
    except ImportError:  # a private name, so it may go
        return False
    return bool(getattr(SHARED_OBJECTS, "enabled", False))


_GROWTH = 2.0
"""Factor by which legacy Keras raises a dynamic loss scale."""


class SlotOwner:
    """A variable that reports another dtype, which its slot then gets."""

    def __init__(self, variable: Any, dtype: Any) -> None:
        """Stands for `variable`."""
        self._variable = variable
        self.true_dtype = dtype

    def __getattr__(self, name: str) -> Any:
        """Everything else is the variable's."""
        return getattr(self._variable, name)


class Inner:
    """The inner optimizer, legacy or not, inside a LossScaleOptimizer or not.

    Attributes:
        is_legacy: whether it is a `tf_keras.optimizers.legacy.Optimizer`.
    """

    def __init__(self, optimizer: Any) -> None:
        """Speaks for `optimizer`."""
        self._optimizer = optimizer
        self.is_legacy = isinstance(optimizer, tf_keras.optimizers.legacy.Optimizer)
        self._built = False

    @property
    def innermost(self) -> Any:
        """The optimizer that makes the steps."""
        return innermost(self._optimizer)

    @property
    def iterations(self) -> Any:
        """The variable that counts completed steps."""
        return self._optimizer.iterations

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
        # The largest scale cannot grow, nor the smallest, 1, shrink.
        grown = (new_scale > scale) | ((new_scale == scale) & tf.math.is_inf(scale * _GROWTH))
        skipped = (new_counter == 0) & ~(growth & grown)
        if isinstance(after, int):
            return before if bool(skipped) else after
        return tf.where(skipped, before, after)

    def build(self, var_list: Sequence[Any]) -> None:
        """Creates the inner state for variables.

        Raises:
            ValueError: it exists already, and a newer optimizer makes none for other variables.
        """
        self.require_built_with(var_list, "build: var_list")
        if self.is_legacy:
            self._optimizer._create_all_weights(var_list)
        elif not self._is_built():
            self._optimizer.build(var_list)
        self._built = True

    def _is_built(self) -> bool:
        return self._built or getattr(self.innermost, "_built", False)

    def require_built_with(self, var_list: Sequence[Any], called: str) -> None:
        """Raises ValueError if the inner state exists, and cannot be made for a variable.

        Args:
            var_list: the variables.
            called: the method that the user called and its argument, for the error.
        """
        if self.is_legacy or not self._is_built():
            return
        inner = self.innermost
        for index, variable in enumerate(var_list):
            if inner._var_key(variable) not in inner._index_dict:
                raise not_built_with(f"{called}[{index}]", inner.name, variable)

    def variables(self) -> list[Any]:
        """Returns the inner state."""
        return list(self._optimizer.weights if self.is_legacy else self._optimizer.variables)

    def apply_gradients(self, pairs: list[Any], name: str | None, aggregate: bool) -> Any:
        """Makes a step."""
        if self.is_legacy:
            return self._optimizer.apply_gradients(
                pairs, name=name, experimental_aggregate_gradients=aggregate
            )
        return self._optimizer.apply_gradients(
            pairs, name=name, skip_gradients_aggregation=not aggregate
        )

    def aggregate_gradients(self, pairs: list[Any]) -> list[Any]:
        """Returns (gradient, variable) pairs with the gradients' sums over replicas."""
        if self.is_legacy:
            sums = self._optimizer._aggregate_gradients(pairs)
            return [(total, variable) for total, (_, variable) in zip(sums, pairs, strict=True)]
        return list(self._optimizer.aggregate_gradients(pairs))

    def compute_gradients(
        self, loss: Any, var_list: Any, grad_loss: Any, tape: Any
    ) -> list[tuple[Any, Any]]:
        """Returns (gradient, variable) pairs, unscaled where the loss was scaled."""
        if self.is_legacy:
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
