"""A legacy Keras optimizer around another one, which averages the variables after each step."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

try:
    import tensorflow as tf
    import tf_keras
except ImportError as error:
    raise ImportError(
        'swa_fast.tf_keras needs tf_keras: pip install "swa-fast[tf-keras]"'
    ) from error

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
    check_loss,
    check_pairs,
    check_variables,
    refuse_second_scaler,
)
from .._keras.rules import Rule
from ..tensorflow.fused import require_eager
from . import legacy_api
from .inner import Inner, average_dtype, true_dtype, writes_keras_file
from .legacy_api import LEGACY
from .runtime import AVERAGES, FUSED, PrivateSlot


@tf_keras.utils.register_keras_serializable(package="swa_fast")
class AveragedOptimizerWrapper(
    AveragingOptimizer,
    LEGACY,  # type: ignore[misc]
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

    _keras = tf_keras
    _kinds = (tf_keras.optimizers.Optimizer, LEGACY)
    _wanted = "a tf_keras.optimizers.Optimizer, a tf_keras.optimizers.legacy.Optimizer"
    _scaler = tf_keras.mixed_precision.LossScaleOptimizer

    jit_compile = inner_setting("jit_compile")

    get_gradients = legacy_api.get_gradients
    get_slot = legacy_api.get_slot
    add_slot = legacy_api.add_slot
    add_variable = legacy_api.add_variable
    add_variable_from_reference = legacy_api.add_variable_from_reference
    compute_gradients = legacy_api.compute_gradients
    aggregate_gradients = legacy_api.aggregate_gradients
    exclude_from_weight_decay = legacy_api.exclude_from_weight_decay
    update_step = legacy_api.update_step
    variables = property(legacy_api.variables)

    def _named(self, name: str) -> Any:
        return tf_keras.optimizers.get(name, use_legacy_optimizer=True)

    def _begin(self, optimizer: Any, name: str) -> None:
        LEGACY.__init__(self, name)
        self._is_in_scaler = False
        self._wrap(optimizer)
        self._counters: Any = None
        self._apply_state: dict[Any, Any] = {}
        self._steps_before: Any = None

    def _wrap(self, optimizer: Any) -> None:
        self._optimizer, self._inner = optimizer, Inner(optimizer)
        self._track_trackable(optimizer, "inner_optimizer", overwrite=True)

    def _average_by(self, rule: Rule | None, skips: bool = False, fused: Any = False) -> None:
        """Says how to average; None for `average_op` of a subclass."""
        self._fused = check_fused(fused)
        averages = FUSED if self._fused else AVERAGES
        self._keeper = SnapshotKeeper(averages, rule, skips, self._name, lambda each: each.ref())

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets an attribute as a legacy optimizer does: nothing is tracked but what it says."""
        if name in self.__dict__.get("_hyper", {}):
            self._set_hyper(name, value)
        else:
            object.__setattr__(self, name, value)

    def is_fused(self) -> bool:
        """Returns whether the averages are in private memory."""
        return self._fused

    @property
    def name(self) -> str:
        """The optimizer's name."""
        return str(self._name)

    @property
    def _is_wrapped_by_loss_scale_optimizer(self) -> bool:
        """What a LossScaleOptimizer of legacy Keras sets on the optimizer that it is put around."""
        return self._is_in_scaler

    @_is_wrapped_by_loss_scale_optimizer.setter
    def _is_wrapped_by_loss_scale_optimizer(self, value: bool) -> None:
        if value and self._optimizer is not self.innermost_optimizer:
            # `model.compile` does it under "mixed_float16".
            refuse_second_scaler(self.name, self._keeper.taken is not None)
            inner = self.innermost_optimizer
            inner._is_wrapped_by_loss_scale_optimizer = False
            self._wrap(inner)
        self._is_in_scaler = value

    def build(self, var_list: Sequence[Any]) -> None:
        """Creates the inner optimizer's state and the averages.

        Raises:
            TypeError: `var_list` is a model, or holds something that is not a variable.
            ValueError: a newer inner optimizer was built, and not with one of the variables;
                nothing was created.
        """
        variables = check_variables(var_list, "build", takes_model=False)
        with tf.init_scope():
            self._create_all_weights(variables)

    def _require_built_with(self, variables: Sequence[Any], called: str) -> None:
        self._inner.require_built_with(variables, called)
        self.build(variables)

    def _create_all_weights(self, var_list: Sequence[Any]) -> None:
        self._inner.build(var_list)
        keeper = self._keeper
        if keeper.taken is None:
            keeper.begin(
                self._add_counter("snapshots", int(keeper.initial)),
                self._add_counter("skipped", 0) if keeper.skips else None,
            )
        self._create_slots(var_list)
        for variable in var_list:
            if not keeper.knows(variable):
                keeper.add(variable, _slot(self, variable))

    def _create_slots(self, var_list: Sequence[Any]) -> None:
        """Creates the averages. A subclass may make them otherwise, as TFA's do, by `add_slot`."""
        keeper = self._keeper
        for variable in var_list:
            if keeper.knows(variable) or not true_dtype(variable).is_floating:
                continue
            # A variable that joins late was constant until now, in the snapshots of the past too.
            late = bool(keeper.pairs) and keeper.averages.number(keeper.taken) != 0
            initial = _value_of(variable) if late or keeper.initial else "zeros"
            self.add_slot(variable, "average", initial)

    def _add_counter(self, name: str, value: int) -> Any:
        if self._fused:
            counter = PrivateSlot(value, tf.int64, name)
            self._track_trackable(counter, name)  # a checkpoint that waits for it is restored here
            self._handle_deferred_dependencies(name=name, trackable=counter)
            self._weights.append(counter)
            return counter
        with self._distribution_strategy_scope():
            counter = self.add_weight(
                name,
                shape=[],
                dtype=tf.int64,
                trainable=False,
                initializer="ones" if value else "zeros",
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )
        self._weights.append(counter)
        return counter

    def _create_hypers(self) -> None:
        if self._inner.is_legacy:
            self._optimizer._create_hypers()

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
                Without a pair, nothing is done.
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
        aggregate = experimental_aggregate_gradients and not skip_gradients_aggregation
        pairs = check_pairs(grads_and_vars, takes_none=True)
        if not pairs:
            return tf.no_op()
        if self._fused:
            require_eager(type(self).__name__)
        variables = [variable for _, variable in pairs]
        if not all(map(self._keeper.knows, variables)):
            self._require_built_with(variables, "apply_gradients: grads_and_vars")
        before, scaling = self._inner.read_steps(), self._inner.read_scaling()
        average_op = self._averaging(variables, before)
        if not tf.compat.v1.executing_eagerly_outside_functions():
            return self._step_in_graph_of_version_1(pairs, name, aggregate, before, average_op)
        result = self._inner.apply_gradients(pairs, name, aggregate)
        self._keeper.after_step(before, self._inner.steps_after(before, scaling), average_op)
        if tf.executing_eagerly():
            return result
        return tf.no_op() if result is None else tf.group(result)

    def _step_in_graph_of_version_1(
        self, pairs: list[Any], name: str | None, aggregate: bool, before: Any, average_op: Any
    ) -> Any:
        """Adds a step to a graph that runs only what it is told to, in the order it is told."""
        with tf.control_dependencies([before]):
            stepped = self._inner.apply_gradients(pairs, name, aggregate)
        with tf.control_dependencies([stepped]):
            # Runs the step as well, and is one operation for all replicas.
            return self._keeper.after_step(before, self._inner.read_steps(), average_op)

    def _averaging(self, variables: Sequence[Any], before: Any) -> Any:
        """Returns who averages a (variable, average); None for the rule's expression."""
        given = type(self).average_op
        if given is AveragingOptimizer.average_op and self._keeper.rule is not None:
            return None
        if not takes_apply_state(given):
            return self.average_op
        # A variable, because an `average_op` may be a `tf.function`, which remembers what it saw.
        if self._steps_before is None:
            with tf.init_scope(), self._distribution_strategy_scope():
                self._steps_before = tf.Variable(
                    0,
                    trainable=False,
                    dtype=tf.int64,
                    aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                )
        self._steps_before.assign(before)
        # Before the step, because this may look at the steps completed.
        self._apply_state = {}
        for key in {device_and_dtype(variable) for variable in variables}:
            self._apply_state[key] = {}
            self._prepare_local(*key, self._apply_state)
        return self._average_op_with_state

    def _average_op_with_state(self, var: Any, average_var: Any) -> Any:
        key = device_and_dtype(var)
        if key not in self._apply_state:
            self._apply_state[key] = {}
            self._prepare_local(*key, self._apply_state)
        self._keeper.step = self._steps_before
        average_op: Any = self.average_op
        return average_op(var, average_var, self._apply_state[key])

    def _prepare_local(self, var_device: Any, var_dtype: Any, apply_state: Any) -> Any:
        if self._inner.is_legacy:
            return self._optimizer._prepare_local(var_device, var_dtype, apply_state)
        apply_state[var_device, var_dtype]["lr_t"] = tf.cast(self.learning_rate, var_dtype)
        return None

    def _compute_gradients(
        self, loss: Any, var_list: Any, grad_loss: Any = None, tape: Any = None
    ) -> list[tuple[Any, Any]]:
        check_loss(loss, var_list, tape)  # Keras's own `minimize` calls this
        return self._inner.compute_gradients(loss, var_list, grad_loss, tape)

    def finalize_variable_values(self, var_list: Any) -> None:
        """Ends training as the inner optimizer does; the averages stay where they are."""
        if hasattr(self._optimizer, "finalize_variable_values"):
            self._optimizer.finalize_variable_values(var_list)
        self._keeper.say_what_the_model_holds()

    @property
    def iterations(self) -> Any:
        """Steps that the inner optimizer completed."""
        step = self._keeper.step
        return self._optimizer.iterations if step is None else step

    @iterations.setter
    def iterations(self, value: Any) -> None:
        self.innermost_optimizer.iterations = value

    @property
    def _learning_rate(self) -> Any:
        """Where legacy Keras's callbacks look for a schedule of a newer optimizer."""
        inner = self.innermost_optimizer
        return getattr(inner, "_learning_rate", inner.learning_rate)

    @property
    def weights(self) -> list[Any]:
        """All state variables: the iteration counter first, averages after the inner state."""
        counter = self._inner.iterations
        others = [each for each in self._inner.variables() if each is not counter]
        return [counter, *others, *self._own_variables()]

    def _own_variables(self) -> list[Any]:
        # Not in the order of their making, which differs where a checkpoint made them.
        first = self._keeper.own_variables()
        known = {id(each) for each in first}
        return [*first, *(each for each in self._weights if id(each) not in known)]

    def state_in_keras_file(self) -> list[Any]:
        """Returns what a ".keras" file holds for the wrapper itself, in its order."""
        if isinstance(self._optimizer, tf_keras.optimizers.Optimizer):
            return self._own_variables()  # legacy Keras saves the inner optimizer by itself
        return self.weights

    def _trackable_children(self, save_type: str = "checkpoint", **settings: Any) -> Any:
        children = tf.__internal__.tracking.Trackable._trackable_children(
            self, save_type, **settings
        )
        # What reads a SavedModel makes one of the newer optimizers: it has a counter under this
        # name, and no slots (see __dir__). Where the averages are not saved, their count is not.
        self._hides_slots = save_type == "savedmodel"
        if not self._hides_slots:
            # Where the two kinds of legacy Keras keep the step count, for those who look it up.
            counter = getattr(self.innermost_optimizer, "_iterations", None)
            if counter is not None:
                children = {**children, "iter" if self._inner.is_legacy else "_iterations": counter}
        else:
            counter = self._inner.iterations
            if self._counters is None:
                self._counters = tf.__internal__.tracking.wrap([counter])
            keeper = self._keeper
            counts = [each for each in (keeper.taken, keeper.skipped) if each is not None]
            children = {
                name: child
                for name, child in children.items()
                if not any(child is each for each in counts)
            }
            children.update(_iterations=counter, _variables=self._counters)
        return children

    def __dir__(self) -> list[str]:
        """Leaves `get_slot_names` out where TensorFlow would take it for a sign of its own."""
        # TensorFlow asks for children, then saves the slots of whoever lists get_slot_names.
        names: list[str] = super().__dir__()
        hidden = {"get_slot_names"} if self.__dict__.get("_hides_slots") else set()
        return [name for name in names if name not in hidden]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal optimizer, without its state."""
        taken = self._keeper.count() - int(self._keeper.initial)
        if self._is_in_scaler and taken > 0 and writes_keras_file():
            warnings.warn(
                f"model.save(...) to a .keras file drops the averages of {taken} snapshots of "
                f"{self.name}: legacy Keras leaves the state of a LossScaleOptimizer around it out "
                "of such a file. Save with tf.train.Checkpoint or "
                'save_weights(path, save_format="tf"), or as .h5, which keep the averages',
                stacklevel=2,
            )
        return super().get_config()

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> Any:
        """Makes an optimizer from what `get_config` returned."""
        arguments = check_config(config)
        arguments.pop("is_legacy_optimizer", None)  # legacy Keras adds it
        inner = arguments.pop("optimizer")
        if isinstance(inner, Mapping):
            inner = _deserialize(inner, custom_objects)
        return cls(inner, **arguments)


def _deserialize(config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None) -> Any:
    legacy = bool(config.get("config", {}).get("is_legacy_optimizer", False))
    optimizers = tf_keras.optimizers
    # Its own list leaves some of its optimizers out: Adafactor and Lion.
    newer = {"Adafactor": optimizers.Adafactor, "Lion": optimizers.Lion}
    with tf_keras.utils.custom_object_scope(newer):
        return optimizers.deserialize(
            copy.deepcopy(dict(config)), custom_objects=custom_objects, use_legacy_optimizer=legacy
        )


def _slot(optimizer: Any, variable: Any) -> Any:
    """Returns the average of a variable, None if it has none."""
    try:
        return LEGACY.get_slot(optimizer, variable, "average")
    except KeyError:
        return None


def _value_of(variable: Any) -> Any:
    """Returns what a variable holds, in the dtype of its average."""
    if tf.compat.v1.executing_eagerly_outside_functions():
        first = tf.distribute.get_strategy().experimental_local_results(variable)[0]
        return tf.cast(first.read_value(), average_dtype(variable))
    value = tf.cond(
        tf.compat.v1.is_variable_initialized(variable),
        variable.read_value,
        lambda: variable.initial_value,
    )
    return tf.cast(value, average_dtype(variable))
