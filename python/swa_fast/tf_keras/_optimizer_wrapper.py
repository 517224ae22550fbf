"""A legacy Keras optimizer around another one, which averages the variables after each step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

try:
    import tensorflow as tf
    import tf_keras
except ImportError as error:
    raise ImportError(
        'swa_fast.tf_keras needs tf_keras: pip install "swa-fast[tf_keras]"'
    ) from error

from .._optimizer.checks import check_pairs
from .._optimizer.gradients import gradients_of
from .._optimizer.wrapper import Wrapper
from ._optimizer_framework import FRAMEWORK
from ._optimizer_inner import Inner, SlotOwner, average_dtype, true_dtype

_Legacy = tf_keras.optimizers.legacy.Optimizer


class _CallableList(list[Any]):
    def __call__(self) -> list[Any]:
        return self


@tf_keras.utils.register_keras_serializable(package="swa_fast")
class AveragedOptimizerWrapper(
    Wrapper,
    _Legacy,  # type: ignore[misc,valid-type]
    tf_keras.optimizers.Optimizer,  # type: ignore[misc]
):
    """Base class of optimizers that keep an average of the variables that another one trains.

    A subclass gives `average_op`. The averages are the slot "average" of each floating-point
    variable, float32 where that is half precision. The inner optimizer is a
    `tf_keras.optimizers.Optimizer`, a `tf_keras.optimizers.legacy.Optimizer`, or the name of a
    legacy one; see `__init__` for the arguments.

    This is a legacy optimizer throughout. It is one of the newer class, too, because that is what
    legacy Keras looks for before it writes an optimizer's state into a ".keras" file, builds the
    optimizer of a file it reads, and calls `finalize_variable_values` at the end of `fit`.
    """

    _framework = FRAMEWORK

    def _start_keras_optimizer(self, name: str) -> None:
        _Legacy.__init__(self, name)

    def _wrap(self, optimizer: Any) -> None:
        self._inner = Inner(optimizer)
        self._track_trackable(optimizer, "inner_optimizer")
        self._counters: Any = None

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets an attribute as a legacy optimizer does: nothing is tracked but what it says."""
        if name in self.__dict__.get("_hyper", {}):
            self._set_hyper(name, value)
        else:
            object.__setattr__(self, name, value)

    def _trackable_children(self, save_type: str = "checkpoint", **settings: Any) -> Any:
        children = tf.__internal__.tracking.Trackable._trackable_children(
            self, save_type, **settings
        )
        # What reads a SavedModel makes one of the newer optimizers: it has a counter under this
        # name, and no slots (see __dir__).
        self._hides_slots = save_type == "savedmodel"
        if self._hides_slots:
            counter = self._inner.iterations
            if self._counters is None:
                self._counters = tf.__internal__.tracking.wrap([counter])
            children = {**children, "_iterations": counter, "_variables": self._counters}
        return children

    def __dir__(self) -> list[str]:
        # TensorFlow asks for children, then saves the slots of whoever lists get_slot_names.
        names: list[str] = super().__dir__()
        hidden = {"get_slot_names"} if self.__dict__.get("_hides_slots") else set()
        return [name for name in names if name not in hidden]

    @property
    def _learning_rate(self) -> Any:
        """Where legacy Keras's callbacks look for a schedule of a newer optimizer."""
        inner = self._inner.innermost
        return getattr(inner, "_learning_rate", inner.learning_rate)

    def _title(self) -> str:
        return str(self._name)

    def _key(self, variable: Any) -> Any:
        return variable.ref()

    def _set_iterations(self, value: Any) -> None:
        self._inner.innermost.iterations = value

    def build(self, var_list: Sequence[Any]) -> None:
        """Creates the inner optimizer's state and the averages.

        Raises:
            ValueError: a newer inner optimizer was built, and not with one of the variables;
                nothing was created.
        """
        with tf.init_scope():
            self._create_all_weights(list(var_list))

    def _create_all_weights(self, var_list: Sequence[Any]) -> None:
        self._inner.build(var_list)
        self._create_slots(var_list)

    def _create_slots(self, var_list: Sequence[Any]) -> None:
        store = self._store
        if store.snapshots is None:
            with self._distribution_strategy_scope():
                store.snapshots = self.add_weight(
                    "snapshots",
                    shape=[],
                    dtype=tf.int64,
                    trainable=False,
                    initializer="zeros",
                    aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                )
            self._weights.append(store.snapshots)
        for variable in var_list:
            if self._key(variable) in store.seen:
                continue
            store.seen.add(self._key(variable))
            if not true_dtype(variable).is_floating:
                continue
            # A variable that joins late was constant until now, in the snapshots of the past too.
            late = FRAMEWORK.taken_now(store.snapshots) != 0
            value = tf.distribute.get_strategy().experimental_local_results(variable)[0]
            initial = tf.cast(value.read_value(), average_dtype(variable)) if late else "zeros"
            average = self.add_slot(variable, "average", initial)
            store.add_pair(self._key(variable), variable, average)

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
            ValueError: no variable has a gradient, or a newer inner optimizer was built without one
                of the variables.
        """
        pairs = check_pairs(grads_and_vars)
        variables = [variable for _, variable in pairs]
        if not self._store.seen.issuperset(self._key(variable) for variable in variables):
            self.build(variables)
        before, scaling = self._inner.read_steps(), self._inner.read_scaling()
        aggregate = experimental_aggregate_gradients and not skip_gradients_aggregation
        result = self._inner.apply_gradients(pairs, name, aggregate)
        self._after_step(before, self._inner.steps_after(before, scaling))
        if tf.executing_eagerly():
            return result
        return tf.no_op() if result is None else tf.group(result)

    def _compute_gradients(
        self, loss: Any, var_list: Any, grad_loss: Any = None, tape: Any = None
    ) -> list[tuple[Any, Any]]:
        return self._inner.compute_gradients(loss, var_list, grad_loss, tape)

    def get_gradients(self, loss: Any, params: Sequence[Any]) -> list[Any]:
        """Returns the gradients of `loss`, a callable or, in a graph, a tensor, by `params`."""
        return gradients_of(tf, loss, params, params)

    def finalize_variable_values(self, var_list: Any) -> None:
        """Ends training as the inner optimizer does; the averages stay where they are."""
        if hasattr(self._optimizer, "finalize_variable_values"):
            self._optimizer.finalize_variable_values(var_list)

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
        return [counter, *others, *self._own_variables()]

    def _own_variables(self) -> list[Any]:
        store = self._store
        if store.snapshots is None:
            return list(self._weights)
        # Not in the order of their making, which differs where a checkpoint made them.
        first = [store.snapshots, *(average for _, average in store.pairs)]
        known = {id(each) for each in first}
        return [*first, *(each for each in self._weights if id(each) not in known)]

    @property
    def variables(self) -> Any:
        """`weights`, as an attribute or, as on every legacy optimizer, as a call."""
        return _CallableList(self.weights)

    def _saved_variables(self) -> list[Any]:
        if isinstance(self._optimizer, tf_keras.optimizers.Optimizer):
            return self._own_variables()  # legacy Keras saves the inner optimizer by itself
        return self.weights
