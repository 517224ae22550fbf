"""A running `fit` of legacy Keras."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import tensorflow as tf
import tf_keras

from .._keras.fit import RunningFit


class LegacyKerasFit(RunningFit):
    """`fit` of tf_keras."""

    container: type = tf_keras.callbacks.CallbackList
    model_methods = (
        "train_function",
        "evaluate",
        "reset_metrics",
        "_validate_and_get_metrics_result",
    )
    updates: ClassVar[dict[str, Callable[..., Any]]] = {
        "apply_gradients": lambda optimizer, *args, **kwargs: optimizer.iterations,
    }
    end_of_data = (StopIteration, tf.errors.OutOfRangeError)

    def steps_per_execution(self) -> int:
        """Returns the variable's number."""
        variable = self.model._steps_per_execution
        return 1 if variable is None else int(variable.numpy())

    def runs_in_full(self) -> bool:
        """Keras 2 shortens the last execution, and says so."""
        return False

    def run_epoch(self) -> bool:
        """Starts the data handler's dataset anew."""
        names = self.names()
        if "data_handler" not in names:
            return False
        handler = names["data_handler"]
        handler._insufficient_data = False
        # A generator cannot start anew: it goes on, as in the next epoch.
        if "Generator" in type(handler._adapter).__name__:
            iterator = names["iterator"]
        else:
            iterator = iter(handler._dataset)
        with handler.catch_stop_iteration():
            for _ in handler.steps():
                self.model.train_function(iterator)
        return True

    def _watch_data(self, names: dict[str, Any]) -> None:
        if "data_handler" in names:
            self._watch_context(names["data_handler"], "catch_stop_iteration")
            self._watch(names["data_handler"]._adapter, "on_epoch_end")

    def _single_step_function(self) -> Callable[..., Any]:
        model = self.model
        function, graph_function = model.train_function, vars(model).get("train_tf_function")
        try:
            with self._one_step_at_a_time():
                made: Callable[..., Any] = model.make_train_function(force=True)
        finally:
            model.train_function = function
            model.train_tf_function = graph_function
        return made

    @contextlib.contextmanager
    def _one_step_at_a_time(self) -> Iterator[int]:
        """Keras reads the number, a variable, when a function is made."""
        variable = self.model._steps_per_execution
        steps = self.steps_per_execution()
        if variable is not None:
            variable.assign(1)
        try:
            yield steps
        finally:
            if variable is not None:
                variable.assign(steps)
