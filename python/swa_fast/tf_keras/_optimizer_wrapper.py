"""A legacy Keras optimizer around another one, which averages the variables after each step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

try:
    import tensorflow as tf
    import tf_keras
except ImportError as error:
    raise ImportError(
        'swa_fast.tf_keras needs tf_keras: pip install "swa-fast[tf_keras]"'
    ) from error

from .._wrapper_settings import check_settings
from ..tensorflow._assign import assign_averages
from ..tensorflow._averager import update_if
from ._optimizer_inner import (
    Inner,
    InnerSettings,
    SlotOwner,
    average_dtype,
    check_values,
    deserialize,
    true_dtype,
)

_Legacy = tf_keras.optimizers.legacy.Optimizer


@tf_keras.utils.register_keras_serializable(package="swa_fast")
class AveragedOptimizerWrapper(InnerSettings, _Legacy):  # type: ignore[misc,valid-type]
    """Base class of optimizers that keep an average of the variables that another one trains.

    A subclass gives `average_op`. The averages are the slot "average" of each floating-point
    variable, float32 where that is half precision.

    Args:
        optimizer: the inner optimizer that makes the steps: a `tf_keras.optimizers.Optimizer`, a
            `tf_keras.optimizers.legacy.Optimizer`, or the name of a legacy one.
        sequential_update: whether to average strictly after the step. Both settings give the same
            numbers here.
        name: name of the optimizer.
        **kwargs: `clipnorm`, `clipvalue`, `global_clipnorm`, `learning_rate` (or `lr`) and `decay`,
            all set on the inner optimizer. `decay` gives it the schedule
            `learning_rate / (1 + decay * iterations)`.

    Raises:
        TypeError: an argument is of the wrong type, or unknown.
        ValueError: the inner optimizer's name is unknown or a keyword argument contradicts it.
    """

    def __init__(
        self,
        optimizer: Any,
        sequential_update: bool = True,
        name: str = "AverageOptimizer",
        **kwargs: Any,
    ) -> None:
        """Wraps `optimizer`; see the class."""
        if isinstance(optimizer, str):
            optimizer = tf_keras.optimizers.get(optimizer, use_legacy_optimizer=True)
        if not isinstance(optimizer, (_Legacy, tf_keras.optimizers.Optimizer)):
            raise TypeError(
                "optimizer must be a tf_keras.optimizers.Optimizer, a "
                "tf_keras.optimizers.legacy.Optimizer or the name of one. "
                f"Received: {optimizer!r} of type {type(optimizer).__name__}"
            )
        if not isinstance(sequential_update, bool):
            raise TypeError(f"sequential_update must be a bool. Received: {sequential_update!r}")
        if not isinstance(name, str):
            raise TypeError(f"name must be a str. Received: {name!r}")
        inner = Inner(optimizer)
        settings = check_settings(inner.innermost, kwargs)
        super().__init__(name)
        self._optimizer = optimizer
        self._inner = inner
        self._track_trackable(optimizer, "inner_optimizer")
        self._sequential_update = sequential_update
        self._steps_override: Any = None
        self._snapshots: Any = None
        self._pairs: list[tuple[Any, Any]] = []
        self._known: set[Any] = set()
        self._averager: Any = None
        inner.set(settings)

    def build(self, var_list: Sequence[Any]) -> None:
        """Creates the inner optimizer's state and the averages."""
        with tf.init_scope():
            self._create_all_weights(list(var_list))

    def _create_all_weights(self, var_list: Sequence[Any]) -> None:
        self._inner.build(var_list)
        self._create_slots(var_list)

    def _create_slots(self, var_list: Sequence[Any]) -> None:
        if self._snapshots is None:
            with self._distribution_strategy_scope():
                self._snapshots = self.add_weight(
                    "snapshots",
                    shape=[],
                    dtype=tf.int64,
                    trainable=False,
                    initializer="zeros",
                    aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                )
            self._weights.append(self._snapshots)
        for variable in var_list:
            if variable.ref() in self._known:
                continue
            self._known.add(variable.ref())
            if not true_dtype(variable).is_floating:
                continue
            # A variable that joins late was constant until now, in the snapshots of the past too.
            late = int(self._inner.first_replica(self._snapshots)) > 0
            initializer = tf.cast(self._inner.first_replica(variable), average_dtype(variable))
            average = self.add_slot(variable, "average", initializer if late else "zeros")
            self._pairs.append((variable, average))
            self._averager = None

    def add_slot(
        self, var: Any, slot_name: str, initializer: Any = "zeros", shape: Any = None
    ) -> Any:
        """Returns the slot variable `slot_name` of `var`, made now if there is none yet.

        As in every legacy optimizer, but "average" is float32 where the variable is half precision.
        """
        if slot_name == "average" and average_dtype(var) != true_dtype(var):
            var = SlotOwner(var, average_dtype(var))
        return super().add_slot(var, slot_name, initializer, shape)

    def apply_gradients(
        self,
        grads_and_vars: Iterable[Any],
        name: str | None = None,
        experimental_aggregate_gradients: bool = True,
        skip_gradients_aggregation: bool = False,
    ) -> Any:
        """Makes one step of the inner optimizer from (gradient, variable) pairs, then averages.

        Args:
            grads_and_vars: pairs, as from `zip(gradients, variables)`; a gradient may be None.
            name: name of the operation.
            experimental_aggregate_gradients: whether to sum gradients over replicas.
            skip_gradients_aggregation: the same the other way round, as newer optimizers call it.

        Returns:
            An operation in a graph, else what the inner optimizer returns.

        Raises:
            TypeError: a pair is malformed.
            ValueError: no variable has a gradient.
        """
        pairs = list(grads_and_vars)
        for index, pair in enumerate(pairs):
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise TypeError(
                    "grads_and_vars must hold (gradient, variable) pairs. "
                    f"Received at index {index}: {pair!r}"
                )
            if not hasattr(pair[1], "assign"):
                raise TypeError(
                    f"grads_and_vars[{index}] must end in a variable. Received: "
                    f"{type(pair[1]).__name__}"
                )
        if all(gradient is None for gradient, _ in pairs):
            raise ValueError(
                f"No gradients provided for any variable. Received {len(pairs)} pairs, for "
                f"{[variable.name for _, variable in pairs][:10]}"
            )
        variables = [variable for _, variable in pairs]
        if not self._known.issuperset(variable.ref() for variable in variables):
            self.build(variables)
        before, scaling = self._inner.read_steps(), self._inner.read_scaling()
        aggregate = experimental_aggregate_gradients and not skip_gradients_aggregation
        result = self._inner.apply_gradients(pairs, name, aggregate)
        self._after_step(before, self._inner.steps_after(before, scaling))
        if tf.executing_eagerly():
            return result
        return tf.no_op() if result is None else tf.group(result)

    def _after_step(self, before: Any, after: Any) -> None:
        """Calls `average_op` for every variable, unless the step was skipped."""

        def average_op(variable: Any, average: Any) -> Any:
            self._steps_override = before
            try:
                return self.average_op(variable, average)
            finally:
                self._steps_override = None

        update_if(before, after, self._pairs, average_op, self._snapshots)

    def average_op(self, var: Any, average_var: Any) -> Any:
        """Updates one average after a step.

        While this runs, `self.iterations` is the number of steps completed before this one.

        Args:
            var: model variable, as it is after the inner optimizer's step and its constraint.
            average_var: its average.

        Returns:
            Whatever the assignment returned.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement average_op")

    def assign_average_vars(self, var_list: Iterable[Any]) -> Any:
        """Gives variables the values of their averages.

        Variables that are not trained (such as the moving statistics of BatchNormalization) have
        no average and are left alone. Before the first snapshot all are, with a warning.

        Args:
            var_list: model variables, for example `model.variables`.

        Returns:
            None in eager code, an operation in a graph.

        Raises:
            ValueError: the optimizer was not built, or a trainable variable has no average; nothing
                was assigned.
        """
        if self._snapshots is None:
            raise ValueError(
                "assign_average_vars needs an optimizer that was built: call "
                f"{self._name}.build(variables), or take a step, first"
            )
        averages = {variable.ref(): average for variable, average in self._pairs}
        pairs = []
        for index, variable in enumerate(var_list):
            average = averages.get(variable.ref())
            if average is not None:
                pairs.append((variable, average))
            elif variable.trainable:
                raise ValueError(
                    f"{self._name} was not built with var_list[{index}], {variable.name!r}, and "
                    "has no average for it"
                )
        return assign_averages(pairs, self._snapshots, self._name)

    def get_slot(self, var: Any, slot_name: str) -> Any:
        """Returns the slot variable of a model variable; "average" is its average.

        Raises:
            KeyError: there is no such slot, or it has none for `var`.
        """
        try:
            return super().get_slot(var, slot_name)
        except KeyError:
            raise KeyError(
                f"{self._name} has no {slot_name!r} for the variable {var.name!r}; it has the "
                f"slots {self.get_slot_names()}, for the variables it was built with"
            ) from None

    @property
    def weights(self) -> list[Any]:
        """All state variables: the iteration counter first, averages after the inner state."""
        counter = self._inner.iterations
        others = [each for each in self._inner.variables() if each is not counter]
        if self._snapshots is None:
            return [counter, *others, *self._weights]
        # Not in the order of their making, which differs where a checkpoint made them.
        averages = [average for _, average in self._pairs]
        first = {id(each) for each in (self._snapshots, *averages)}
        added = [each for each in self._weights if id(each) not in first]
        return [counter, *others, self._snapshots, *averages, *added]

    def variables(self) -> list[Any]:
        """Returns `weights`."""
        return self.weights

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Takes back what `get_weights` returned.

        Raises:
            ValueError: the optimizer is not built, or the list does not fit; nothing was assigned.
        """
        if self._snapshots is None:
            raise ValueError(
                "set_weights needs an optimizer that was built: call "
                f"{self._name}.build(variables), or take a step, first"
            )
        check_values(self.weights, weights, "weights", self._name)
        for variable, value in zip(self.weights, weights, strict=True):
            variable.assign(value)

    def save_own_variables(self, store: Any) -> None:
        """Writes all state, for the ".keras" format."""
        for index, value in enumerate(self.get_weights()):
            store[str(index)] = value

    def load_own_variables(self, store: Any) -> None:
        """Reads what `save_own_variables` wrote."""
        self.set_weights([store[str(index)] for index in range(len(store.keys()))])

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal optimizer, without its state."""
        return {
            "name": self._name,
            "optimizer": tf_keras.optimizers.serialize(self._optimizer),
            "sequential_update": self._sequential_update,
        }

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> Any:
        """Makes an optimizer from what `get_config` returned."""
        arguments = dict(config)
        arguments.pop("is_legacy_optimizer", None)
        inner = arguments.pop("optimizer")
        if isinstance(inner, Mapping):
            inner = deserialize(inner, custom_objects)
        return cls(inner, **arguments)
