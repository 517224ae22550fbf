"""A Keras 3 optimizer around another one, which averages the variables after each step."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping, Sequence
from typing import Any

try:
    import keras
except ImportError as error:
    raise ImportError('swa_fast.keras needs Keras 3: pip install "swa-fast[keras]"') from error

from .._keras.keeper import SnapshotKeeper
from .._keras.members import (
    AveragingOptimizer,
    device_and_dtype,
    inner_setting,
    takes_apply_state,
)
from .._keras.optimizer_arguments import (
    check_config,
    check_fused,
    check_variables,
    not_built_with,
    refuse_model,
    refuse_second_scaler,
)
from .._keras.rules import Rule
from . import legacy_api
from .averager import FusedAverages
from .runtime import AVERAGES, BACKEND, KerasAverages, read, read_steps

_HALF = ("float16", "bfloat16")


@keras.saving.register_keras_serializable(package="swa_fast")
class AveragedOptimizerWrapper(
    AveragingOptimizer,
    keras.optimizers.Optimizer,  # type: ignore[misc]
):
    """Base class of optimizers that keep an average of the variables that another one trains.

    A subclass gives `average_op`. The averages are optimizer variables, one for each floating-point
    variable trained, float32 where that is half precision; they start as zeros. The inner optimizer
    is a `keras.optimizers.Optimizer` or the name of one; see `__init__` for the arguments.

    Example:
        >>> class Last(AveragedOptimizerWrapper):
        ...     def average_op(self, var, average_var):
        ...         return average_var.assign(var)
        >>> optimizer = Last("sgd")
    """

    _keras = keras
    _kinds = (keras.optimizers.Optimizer,)
    _wanted = "a keras.optimizers.Optimizer"
    _scaler = keras.optimizers.LossScaleOptimizer

    gradient_accumulation_steps = inner_setting("gradient_accumulation_steps")

    apply_gradients = legacy_api.apply_gradients
    minimize = legacy_api.minimize
    get_gradients = legacy_api.get_gradients
    get_updates = legacy_api.get_updates
    get_slot_names = legacy_api.get_slot_names
    get_slot = legacy_api.get_slot
    add_slot = legacy_api.add_slot
    add_weight = legacy_api.add_weight
    get_weights = legacy_api.get_weights
    weights = property(legacy_api.weights)

    def _named(self, name: str) -> Any:
        return keras.optimizers.get(name)

    def _begin(self, optimizer: Any, name: str) -> None:
        keras.optimizers.Optimizer.__init__(self, learning_rate=0.0, name=name)
        self._optimizer = optimizer

    def _average_by(self, rule: Rule | None, skips: bool = False, fused: Any = False) -> None:
        """Says how to average; None for `average_op` of a subclass."""
        if check_fused(fused) and BACKEND != "tensorflow":
            raise ValueError(
                "fused=True is for the TensorFlow backend, whose variables native code may not "
                f"write to. The backend is {BACKEND}: leave fused out"
            )
        self._fused: bool = fused
        self._updates: KerasAverages = FusedAverages() if fused else AVERAGES
        self._keeper = SnapshotKeeper(self._updates, rule, skips, self.name, self._var_key)

    @property
    def optimizers(self) -> Any:
        """The optimizers inside a `MultiOptimizer` that was wrapped."""
        return self.innermost_optimizer.optimizers

    @property
    def _model_variables_moving_average(self) -> Any:
        """Where `SwapEMAWeights` looks for the exponential averages: the inner optimizer's."""
        return self.innermost_optimizer._model_variables_moving_average

    def build(self, variables: Sequence[Any]) -> None:
        """Creates the inner optimizer's state and one average for each floating-point variable."""
        if self.built:
            return
        variables = check_variables(variables, "build", takes_model=False, argument="variables")
        if not self._optimizer.built:
            self._optimizer.build(variables)
        keeper = self._keeper
        initial = int(keeper.initial)
        keeper.begin(
            self._add_counter("snapshots", initial),
            self._add_counter("skipped", 0) if keeper.skips else None,
        )
        for variable in variables:
            dtype = keras.backend.standardize_dtype(variable.dtype)
            average = None
            if "float" in dtype and not self._overwrite_variable_with_gradient(variable):
                average = self._make_average(variable, "float32" if dtype in _HALF else dtype)
            keeper.add(variable, average)
        # Keras would make a list of averages and accumulators for the settings that it sees here.
        self.__dict__["_is_building"] = True
        try:
            super().build(variables)
        finally:
            del self.__dict__["_is_building"]

        # `SwapEMAWeights` looks into the optimizer that was wrapped and no deeper.
        for name in ("optimizers", "_model_variables_moving_average"):
            if self._optimizer is not self.innermost_optimizer and hasattr(self, name):
                vars(self._optimizer)[name] = getattr(self, name)

    def _make_average(self, variable: Any, dtype: str) -> Any:
        initial: Any = "zeros"
        context: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if self._keeper.initial:
            initial, context = _value_of(variable), self._updates.making_initial()
        with context:
            return legacy_api.add_variable_like(
                self, variable, "average", initial, dtype=dtype, make=self._make_variable
            )

    def _add_counter(self, name: str, value: int) -> Any:
        return self._make_variable(
            shape=(),
            dtype="int",
            initializer="ones" if value else "zeros",
            aggregation="only_first_replica",
            name=name,
        )

    def _make_variable(self, **arguments: Any) -> Any:
        return self._updates.make_variable(self, arguments)

    @property
    def variables(self) -> list[Any]:
        """The inner optimizer's variables, then the snapshot count, the averages and added ones."""
        return list(self._optimizer.variables) + self.state_in_keras_file()

    def state_in_keras_file(self) -> list[Any]:
        """Returns what a ".keras" file holds for the wrapper itself, in its order."""
        return self._keeper.own_variables()

    def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> None:
        """Makes one step of the inner optimizer, then averages; without gradients, does nothing."""
        grads = list(grads)
        if not grads:
            return
        if trainable_variables is not None:
            refuse_model(trainable_variables, "apply", "trainable_variables")
            trainable_variables = list(trainable_variables)
        self._require_step(trainable_variables or (), "apply: trainable_variables")
        before = read_steps(self._optimizer)
        self._optimizer.apply(grads, trainable_variables)
        self._after_step(before, read_steps(self._optimizer))

    def _require_step(self, variables: Sequence[Any], called: str) -> None:
        """Raises ValueError where no step can be made on `variables`."""
        if self._fused:
            from ..tensorflow.fused import require_eager

            require_eager(type(self).__name__)
        if variables:
            self._require_built_with(variables, called)

    def _after_step(self, before: Any, after: Any) -> None:
        given = type(self).average_op
        average_op: Any = self.average_op
        if given is AveragingOptimizer.average_op and self._keeper.rule is not None:
            average_op = None
        elif takes_apply_state(given):
            average_op = self._average_op_with_state
        self._keeper.after_step(before, after, average_op)

    def _average_op_with_state(self, var: Any, average_var: Any) -> Any:
        key = device_and_dtype(var)
        apply_state: dict[Any, dict[str, Any]] = {key: {}}
        self._prepare_local(*key, apply_state)
        average_op: Any = self.average_op
        return average_op(var, average_var, apply_state[key])

    def _prepare_local(self, var_device: Any, var_dtype: Any, apply_state: Any) -> None:
        """What a subclass for TensorFlow Addons extends to put its numbers into `apply_state`."""
        apply_state[var_device, var_dtype]["lr_t"] = self.learning_rate

    def stateless_apply(
        self, optimizer_variables: Sequence[Any], grads: Sequence[Any], trainable_variables: Any
    ) -> tuple[list[Any], list[Any]]:
        """As `apply`, on values instead of variables (jax).

        Args:
            optimizer_variables: values of `variables`, in that order.
            grads: one gradient for each variable the optimizer was built with.
            trainable_variables: values of those variables.

        Returns:
            New values of the trainable variables and of the optimizer's.
        """
        self._keeper.require_built("stateless_apply")
        inner_variables, own_variables = list(self._optimizer.variables), self.state_in_keras_file()
        if len(optimizer_variables) != len(inner_variables) + len(own_variables):
            raise ValueError(
                f"optimizer_variables must hold one value for each of {self.name}.variables "
                f"({len(inner_variables) + len(own_variables)}). "
                f"Received: {len(optimizer_variables)}"
            )
        inner_values = list(optimizer_variables[: len(inner_variables)])
        own_values = list(optimizer_variables[len(inner_variables) :])
        scope = keras.StatelessScope(zip(inner_variables, inner_values, strict=True))
        with scope:
            before = read_steps(self._optimizer)
        trained, inner_values = self._optimizer.stateless_apply(
            inner_values, grads, trainable_variables
        )
        mapping = [
            *zip(self._trainable_variables, trained, strict=True),
            *zip(inner_variables, inner_values, strict=True),
            *zip(own_variables, own_values, strict=True),
        ]
        with keras.StatelessScope(mapping) as scope:
            self._after_step(before, read_steps(self._optimizer))
        return (
            [scope.get_current_value(variable) for variable in self._trainable_variables],
            [scope.get_current_value(variable) for variable in self.variables],
        )

    def _require_built_with(self, variables: Sequence[Any], called: str) -> None:
        if not self.built:
            self.build(variables)
        for index, variable in enumerate(variables):
            if self._var_key(variable) not in self._trainable_variables_indices:
                raise not_built_with(f"{called}[{index}]", self.name, variable)

    @property
    def iterations(self) -> Any:
        """Steps that the inner optimizer completed."""
        step = self._keeper.step
        return self._optimizer.iterations if step is None else step

    @iterations.setter
    def iterations(self, value: Any) -> None:
        raise AttributeError(
            "iterations is a variable of the inner optimizer: use optimizer.iterations.assign(n)"
        )

    @property
    def loss_scale_factor(self) -> Any:
        """The inner optimizer's loss scale, the initial one if it changes, or None."""
        inner = self.__dict__.get("_optimizer")
        if isinstance(inner, keras.optimizers.LossScaleOptimizer):
            # Not None, or else Keras would skip setting it to None, which is the sign of an outer
            # LossScaleOptimizer.
            return inner.initial_scale
        return None if inner is None else inner.loss_scale_factor

    @loss_scale_factor.setter
    def loss_scale_factor(self, value: Any) -> None:
        inner = self.__dict__.get("_optimizer")
        if inner is None:
            return
        if value is None and isinstance(inner, keras.optimizers.LossScaleOptimizer):
            # A LossScaleOptimizer put around this one does exactly this, and would scale the
            # gradients a second time (`model.compile` does it under "mixed_float16").
            refuse_second_scaler(self.name, self.built)
            self._optimizer = self.innermost_optimizer
            inner = self._optimizer
        inner.loss_scale_factor = value

    def scale_loss(self, loss: Any) -> Any:
        """Scales the loss as the inner optimizer does."""
        return self._optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list: Any) -> None:
        """Ends training as the inner optimizer does; the averages stay where they are."""
        self._optimizer.finalize_variable_values(var_list)
        self._keeper.say_what_the_model_holds()

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> Any:
        """Makes the inner optimizer's step on one variable, without averaging."""
        return self.innermost_optimizer.update_step(gradient, variable, learning_rate)

    def exclude_from_weight_decay(self, var_list: Any = None, var_names: Any = None) -> None:
        """Excludes variables from the inner optimizer's weight decay."""
        self.innermost_optimizer.exclude_from_weight_decay(var_list, var_names)

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> Any:
        """Makes an optimizer from what `get_config` returned."""
        arguments = check_config(config)
        inner = arguments.pop("optimizer")
        if isinstance(inner, Mapping):
            inner = keras.saving.deserialize_keras_object(
                copy.deepcopy(dict(inner)), custom_objects=custom_objects
            )
        return cls(inner, **arguments)

    def __dir__(self) -> list[str]:
        """Leaves `get_slot_names` out where TensorFlow would take it for a sign of its own."""
        # tf.train.Checkpoint takes whoever lists get_slot_names for an optimizer of TensorFlow 1 or
        # Keras 2, whose slots nobody else tracks; these are ordinary tracked variables.
        names: list[str] = super().__dir__()
        return [name for name in names if name != "get_slot_names"]


def _value_of(variable: Any) -> Any:
    return lambda shape, dtype=None: keras.ops.copy(keras.ops.cast(read(variable), dtype))
