"""What an optimizer around another one does beside the steps: keep averages and hand them out."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .checks import check_values, check_variables
from .delegation import InnerSettings
from .settings import apply_settings, check_arguments, check_settings
from .store import Store


class Wrapper(InnerSettings):
    """The part of an `AveragedOptimizerWrapper` that is the same in every Keras.

    A front end inherits from it before its Keras's optimizer, sets `_framework`, makes the averages
    when it is built, calls `_after_step` around the inner optimizer's steps, and has `weights`.
    """

    weights: Any
    _store: Store
    _steps_override: Any
    _sequential_update: bool

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
                same numbers here.
            name: name of the optimizer.
            **kwargs: `clipnorm`, `clipvalue`, `global_clipnorm`, `learning_rate` (or `lr`) and
                `decay`, all set on the inner optimizer. `decay` gives it the schedule
                `learning_rate / (1 + decay * iterations)`.

        Raises:
            TypeError: an argument is of the wrong type, or unknown.
            ValueError: the inner optimizer's name is unknown or a keyword argument contradicts it.
        """
        framework = self._framework
        if isinstance(optimizer, str):
            optimizer = framework.by_name(optimizer)
        check_arguments(framework, optimizer, sequential_update, name)
        settings = check_settings(framework.innermost(optimizer), kwargs)
        self._start_keras_optimizer(name)
        self._optimizer = optimizer
        self._sequential_update = sequential_update
        self._steps_override = None
        self._store = Store()
        self._wrap(optimizer)
        apply_settings(framework, optimizer, settings)

    def _start_keras_optimizer(self, name: str) -> None:
        """Calls the constructor of the Keras's own optimizer."""
        raise NotImplementedError

    def _wrap(self, optimizer: Any) -> None:
        """Sets up what else a front end needs around the inner optimizer."""

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

    def _after_step(self, before: Any, after: Any) -> None:
        """Calls `average_op` for every variable, unless the step was skipped."""

        def average_op(variable: Any, average: Any) -> Any:
            self._steps_override = before
            try:
                return self.average_op(variable, average)
            finally:
                self._steps_override = None

        store = self._store

        def count_after(taken: Any) -> Any:
            return self._count_after(before, taken)

        self._framework.update_if(
            before, after, store.pairs, average_op, store.snapshots, count_after
        )

    def _count_after(self, step: Any, taken: Any) -> Any:
        """Returns the snapshots in the averages once `average_op` ran for `step`.

        Args:
            step: steps completed before; an int or a tensor.
            taken: the snapshots before, a tensor.
        """
        return taken + 1

    def assign_average_vars(self, var_list: Iterable[Any]) -> Any:
        """Gives variables the values of their averages.

        Variables that are not trained (such as the moving statistics of BatchNormalization) or are
        no floating-point numbers have no average and are left alone. Before the first snapshot all
        are, with a warning.

        Args:
            var_list: model variables, for example `model.variables`.

        Returns:
            None in eager code, an operation in a TensorFlow graph.

        Raises:
            TypeError: `var_list` holds something that is not a variable.
            ValueError: the optimizer was not built, or not with a trainable variable; nothing was
                assigned.
        """
        self._require_built("assign_average_vars")
        averages = self._store.slots["average"]
        pairs = []
        for index, variable in enumerate(check_variables(var_list)):
            average = averages.get(self._key(variable))
            if average is not None:
                pairs.append((variable, average))
            elif variable.trainable and self._key(variable) not in self._store.seen:
                raise ValueError(
                    f"{self._title()} was not built with var_list[{index}], {variable.name!r}, and "
                    "has no average for it"
                )
        nothing_yet = (
            f"{self._title()} has taken no snapshot yet: assign_average_vars leaves the variables "
            "as they are"
        )
        if self._framework.taken_now(self._store.snapshots) == 0:
            warnings.warn(nothing_yet, stacklevel=2)
            return None
        return self._framework.assign_averages(pairs, self._store.snapshots, nothing_yet)

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Takes back what `get_weights` returned.

        Raises:
            ValueError: the optimizer is not built, or the list does not fit; nothing was assigned.
        """
        self._require_built("set_weights")
        variables, values = self.weights, list(weights)
        check_values(variables, values, "weights", self._title())
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    def _saved_variables(self) -> list[Any]:
        """Returns what a ".keras" file holds for the wrapper itself, in its order."""
        raise NotImplementedError

    def save_own_variables(self, store: Any) -> None:
        """Writes the snapshot count and averages; a Keras optimizer inside saves its own state."""
        for index, variable in enumerate(self._saved_variables()):
            store[str(index)] = self._framework.to_numpy(variable)

    def load_own_variables(self, store: Any) -> None:
        """Reads what `save_own_variables` wrote.

        As with every Keras optimizer, a store of another size is skipped with a warning: it belongs
        to another optimizer, or this one is not built yet.

        Raises:
            ValueError: a shape does not fit; nothing was assigned.
        """
        own = self._saved_variables()
        if len(store.keys()) != len(own):
            not_built = " because it is not built yet" if self._store.snapshots is None else ""
            warnings.warn(
                f"Skipping the averages of {self._title()}: it has {len(own)} variables of its own"
                f"{not_built}, the saved optimizer has {len(store.keys())}",
                stacklevel=2,
            )
            return
        values = [store[str(index)] for index in range(len(own))]
        check_values(own, values, "the saved averages", self._title())
        for variable, value in zip(own, values, strict=True):
            variable.assign(value)

    def _require_built(self, member: str) -> None:
        if self._store.snapshots is None:
            raise ValueError(
                f"{member} needs an optimizer that was built: call {self._title()}."
                "build(variables), or take a step, first"
            )

    def _title(self) -> str:
        """Returns the optimizer's name."""
        raise NotImplementedError

    def _key(self, variable: Any) -> Any:
        """Returns what stands for a model variable in a dict."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal optimizer, without its state."""
        return {
            "name": self._title(),
            "optimizer": self._framework.keras.optimizers.serialize(self._optimizer),
            "sequential_update": self._sequential_update,
        }

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> Any:
        """Makes an optimizer from what `get_config` returned."""
        arguments = dict(config)
        arguments.pop("is_legacy_optimizer", None)  # legacy Keras adds it
        inner = arguments.pop("optimizer")
        if isinstance(inner, Mapping):
            inner = cls._framework.deserialize(inner, custom_objects)
        return cls(inner, **arguments)
