"""Keras 3 as the callback sees it: what its three backends have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

try:
    import keras
except ImportError as error:
    raise ImportError(
        'swa_fast.keras needs Keras 3: pip install "swa-fast[keras]"', name="keras"
    ) from error

from swa_fast._callback.common_backend import CommonBackend, innermost
from swa_fast._callback.guard import Guard


class KerasBackend(CommonBackend):
    """Keras 3; subclasses know how their backend holds values and runs steps."""

    callback_list: type = keras.callbacks.CallbackList
    optimizer_type: tuple[type, ...] = (keras.optimizers.Optimizer,)
    update_methods: ClassVar[dict[str, Callable[..., Any]]] = {
        "apply": lambda optimizer, *args, **kwargs: None,
        "apply_gradients": lambda optimizer, *args, **kwargs: optimizer.iterations,
        "stateless_apply": lambda optimizer, state, gradients, weights: (weights, state),
    }

    def batch_norm_layers(self, model: Any) -> list[Any]:
        """Returns every BatchNormalization inside `model`."""
        return [
            layer
            for layer in self.layers(model)
            if isinstance(layer, keras.layers.BatchNormalization)
        ]

    def label(self, variable: Any) -> str:
        """Returns the variable's path."""
        return str(variable.path)

    def dtype(self, variable: Any) -> str:
        """Returns the storage type."""
        return str(keras.backend.standardize_dtype(variable.dtype))

    def assign(self, variables: Sequence[Any], values: Sequence[Any]) -> None:
        """Assigns each variable."""
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    def rate(self, optimizer: Any) -> float:
        """Returns the rate, of a schedule at its present step."""
        return float(keras.ops.convert_to_numpy(optimizer.learning_rate))

    def rate_is_driven(self, optimizer: Any) -> bool:
        """Asks the innermost optimizer of wrappers such as LossScaleOptimizer."""
        rate = getattr(innermost(optimizer), "_learning_rate", None)
        return not isinstance(rate, keras.Variable)

    def single_step_function(self, model: Any) -> Callable[..., Any]:
        """Has Keras itself make the function."""
        function = model.train_function
        try:
            with self.one_step_at_a_time(model):
                model.make_train_function(force=True)
            made: Callable[..., Any] = model.train_function
        finally:
            model.train_function = function
        return made

    def steps_per_execution(self, model: Any) -> int:
        """Returns the number that `compile` was given."""
        return int(model.steps_per_execution)

    def runs_in_full(self, names: dict[str, Any]) -> bool:
        """Keras 3 rounds a `steps_per_epoch` up to whole executions, if the data has so many."""
        if not names.get("steps_per_epoch") or "epoch_iterator" not in names:
            return False
        batches = names["epoch_iterator"].data_adapter.num_batches
        return batches is None or batches > names["steps_per_epoch"]

    @contextlib.contextmanager
    def one_step_at_a_time(self, model: Any) -> Iterator[int]:
        """Keras reads the number when a function is made or traced."""
        steps = self.steps_per_execution(model)
        model.steps_per_execution = 1
        try:
            yield steps
        finally:
            model.steps_per_execution = steps

    def stand_in(
        self,
        recorded: Callable[[Callable[..., Any]], Callable[..., Any]],
        original: Callable[..., Any],
    ) -> Callable[..., Any]:
        """Needs nothing else."""
        return recorded(original)

    def hold(self, variables: Sequence[Any]) -> list[Any]:
        """Copies to host memory."""
        return [np.array(keras.ops.convert_to_numpy(variable.value)) for variable in variables]

    def read(self, variables: Sequence[Any]) -> list[Any]:
        """Copies to host memory."""
        return self.hold(variables)

    def measured(self, variable: Any) -> Any:
        """Copies to host memory."""
        return np.asarray(keras.ops.convert_to_numpy(variable.value), np.float64)

    def watch(self, guard: Guard, model: Any, names: dict[str, Any]) -> None:
        """Watches steps, data, metrics and validation."""
        for name in ("train_function", "evaluate", "reset_metrics", "_get_metrics_result_or_logs"):
            guard.watch(model, name)
        if "epoch_iterator" in names:
            iterator = names["epoch_iterator"]
            guard.watch_context(iterator, "catch_stop_iteration")
            guard.watch_iteration(iterator)

    def run_epoch(self, model: Any, names: dict[str, Any]) -> bool:
        """Starts the epoch iterator anew."""
        if "epoch_iterator" not in names:
            return False
        epoch_iterator = names["epoch_iterator"]
        # A generator cannot start anew: it goes on, as in the next epoch. What its iterator has
        # fetched ahead would be lost with it.
        if "Generator" not in type(epoch_iterator.data_adapter).__name__:
            epoch_iterator.reset()
        with epoch_iterator.catch_stop_iteration():
            for *_, iterator in epoch_iterator:
                self._run_execution(model, iterator)
        return True

    def _run_execution(self, model: Any, iterator: Any) -> None:
        model.train_function(iterator)

    def forward(self, model: Any, inputs: Any) -> None:
        """Runs the model eagerly."""
        model(inputs, training=True)

    def build(self, model: Any, inputs: Any) -> None:
        """Runs the model once in inference mode."""
        model(inputs, training=False)


def name_of_backend() -> str:
    """Returns the name of the backend that Keras runs on in this process."""
    return str(keras.backend.backend())
