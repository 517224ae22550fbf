"""A Keras 3 optimizer around another one, which averages the variables after each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

try:
    import keras
except ImportError as error:
    raise ImportError('swa_fast.keras needs Keras 3: pip install "swa-fast[keras]"') from error

from ._optimizer_api import TfaMembers
from ._optimizer_delegation import Delegation
from ._optimizer_framework import FRAMEWORK
from ._optimizer_steps import read_steps

_HALF = ("float16", "bfloat16")


@keras.saving.register_keras_serializable(package="swa_fast")
class AveragedOptimizerWrapper(Delegation, TfaMembers, keras.optimizers.Optimizer):  # type: ignore[misc]
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

    _framework = FRAMEWORK

    def _start_keras_optimizer(self, name: str) -> None:
        keras.optimizers.Optimizer.__init__(self, learning_rate=0.0, name=name)

    def _title(self) -> str:
        return str(self.name)

    def _key(self, variable: Any) -> Any:
        return self._var_key(variable)

    def build(self, variables: Sequence[Any]) -> None:
        """Creates the inner optimizer's state and one average for each floating-point variable."""
        if self.built:
            return
        variables = list(variables)
        if not self._optimizer.built:
            self._optimizer.build(variables)
        store = self._store
        store.snapshots = self.add_variable(
            shape=(), dtype="int", aggregation="only_first_replica", name="snapshots"
        )
        for variable in variables:
            store.seen.add(self._key(variable))
            dtype = keras.backend.standardize_dtype(variable.dtype)
            if "float" not in dtype or self._overwrite_variable_with_gradient(variable):
                continue
            average = self.add_variable_like(
                variable, "average", dtype="float32" if dtype in _HALF else dtype
            )
            store.add_pair(self._key(variable), variable, average)
        super().build(variables)

    @property
    def variables(self) -> list[Any]:
        """The inner optimizer's variables, then the snapshot count, the averages and added ones."""
        return list(self._optimizer.variables) + self._saved_variables()

    def _saved_variables(self) -> list[Any]:
        own: list[Any] = self._store.variables()
        return own

    def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> None:
        """Makes one step of the inner optimizer, then averages."""
        grads = list(grads)
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
            self._require_built_with(trainable_variables)
        before = read_steps(self._optimizer)
        self._optimizer.apply(grads, trainable_variables)
        self._after_step(before, read_steps(self._optimizer))

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
        self._require_built("stateless_apply")
        inner_variables, own_variables = list(self._optimizer.variables), self._saved_variables()
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

    def _require_built_with(self, variables: Sequence[Any]) -> None:
        if not self.built:
            self.build(variables)
        for variable in variables:
            if self._var_key(variable) not in self._trainable_variables_indices:
                raise ValueError(
                    f"{self.name} was not built with the variable {variable.name!r}. It can only "
                    "be called for the variables it was built with; make a new optimizer for others"
                )

    def __dir__(self) -> list[str]:
        # tf.train.Checkpoint takes whoever lists get_slot_names for an optimizer of TensorFlow 1 or
        # Keras 2, whose slots nobody else tracks; these are ordinary tracked variables.
        names: list[str] = super().__dir__()
        return [name for name in names if name != "get_slot_names"]
