"""Keras 3 as the callback sees it: what its three backends have in common."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

try:
    import keras
except ImportError as error:
    raise ImportError(
        'swa_fast.keras needs Keras 3: pip install "swa-fast[keras]"', name="keras"
    ) from error

from swa_fast._callback.batch_norm import Recorder
from swa_fast._callback.guard import Guard


class KerasBackend:
    """Keras 3; subclasses know how their backend holds values and runs steps."""

    _end_of_data: tuple[type[Exception], ...] = (StopIteration,)

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
            layer for layer in _layers(model) if isinstance(layer, keras.layers.BatchNormalization)
        ]

    def __init__(self) -> None:
        self._all_weights: list[Any] = []
        self._weights: list[Any] = []

    def weights(self, model: Any) -> list[Any]:
        """Returns the floating-point weights."""
        # Each step may ask, and a variable's type takes longer to find out than its identity.
        found = model.weights
        known = self._all_weights
        if len(found) != len(known) or not all(map(operator.is_, found, known)):
            self._all_weights = found
            self._weights = [
                variable
                for variable in found
                if "float" in keras.backend.standardize_dtype(variable.dtype)
            ]
        return list(self._weights)

    def state_variables(self, model: Any) -> list[Any]:
        """Returns weights, counters and seed generators alike."""
        return list(model.variables)

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

    def set_rate(self, optimizer: Any, rate: float) -> None:
        """Assigns the rate's variable."""
        optimizer.learning_rate = rate

    def rate_is_driven(self, optimizer: Any) -> bool:
        """Asks the innermost optimizer of wrappers such as LossScaleOptimizer."""
        while hasattr(optimizer, "inner_optimizer"):
            optimizer = optimizer.inner_optimizer
        rate = getattr(optimizer, "_learning_rate", None)
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

    @contextlib.contextmanager
    def one_step_at_a_time(self, model: Any) -> Iterator[int]:
        """Keras reads the number when a function is made or traced."""
        steps = model.steps_per_execution
        model.steps_per_execution = 1
        try:
            yield steps
        finally:
            model.steps_per_execution = steps

    def stand_in(
        self, call: Callable[..., Any], original: Callable[..., Any]
    ) -> Callable[..., Any]:
        """Needs nothing else."""
        return call

    def record_statistics(
        self, recorder: Recorder, step: Callable[..., Any], arguments: tuple[Any, ...], steps: int
    ) -> Any:
        """Runs the steps on variables that hold their values themselves."""
        result = None
        for done in range(steps):
            try:
                result = step(*arguments)
            except self._end_of_data:
                if done == 0:
                    raise
                break
            recorder.collect(self.measured)
        pairs = recorder.means()
        self.assign([variable for variable, _ in pairs], [mean for _, mean in pairs])
        return result

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


def _layers(model: Any) -> list[Any]:
    """Returns `model` and all layers below it, once each, those in custom layers included."""
    return list({id(layer): layer for layer in model._flatten_layers()}.values())


class TensorFlowBackend(KerasBackend):
    """Keras 3 on TensorFlow."""

    def __init__(self) -> None:
        import tensorflow as tf

        from swa_fast._callback.tensorflow_variables import Reader

        super().__init__()
        self._reader = Reader()
        self._end_of_data = (StopIteration, tf.errors.OutOfRangeError)

    def hold(self, variables: Sequence[Any]) -> list[Any]:
        """Keeps the variables' tensors: an assign gives a variable a new buffer."""
        from swa_fast._callback.tensorflow_variables import tensors

        return tensors([variable.value for variable in variables])

    def read(self, variables: Sequence[Any]) -> list[Any]:
        """Shares memory with the variables where they are on the CPU."""
        return self._reader.read(_values(variables))

    def measured(self, variable: Any) -> Any:
        """Averages over the replicas of a strategy."""
        from swa_fast._callback.tensorflow_variables import measured

        return measured(variable.value)


def _values(variables: Sequence[Any]) -> list[Any]:
    """Returns what holds the variables' values; `Variable.value` takes 20 times as long."""
    try:
        return [variable._value for variable in variables]
    except AttributeError:  # private, so it may go
        return [variable.value for variable in variables]


class TorchBackend(KerasBackend):
    """Keras 3 on PyTorch, whose values are torch tensors."""

    def hold(self, variables: Sequence[Any]) -> list[Any]:
        """Clones on the device."""
        return [variable.value.detach().clone() for variable in variables]

    def read(self, variables: Sequence[Any]) -> list[Any]:
        """Shares memory with the variables where they are on the CPU."""
        return [variable.value.detach().cpu().contiguous() for variable in variables]

    def forward(self, model: Any, inputs: Any) -> None:
        """Runs the model without a graph of gradients."""
        import torch

        with torch.no_grad():
            model(inputs, training=True)

    def single_step_function(self, model: Any) -> Callable[..., Any]:
        """Leaves torch.compile out: the pass runs once, and the layers' hooks are plain Python."""
        compiled = model.jit_compile
        model.jit_compile = False
        try:
            return super().single_step_function(model)
        finally:
            model.jit_compile = compiled


class JaxBackend(KerasBackend):
    """Keras 3 on JAX, whose train function passes the state through."""

    def hold(self, variables: Sequence[Any]) -> list[Any]:
        """Keeps the arrays, which never change."""
        return [variable.value for variable in variables]

    def read(self, variables: Sequence[Any]) -> list[Any]:
        """Shares memory with the arrays where they are on the CPU."""
        return [np.asarray(variable.value) for variable in variables]

    def record_statistics(
        self, recorder: Recorder, step: Callable[..., Any], arguments: tuple[Any, ...], steps: int
    ) -> Any:
        """Reads and writes the statistics in the state instead of the variables."""
        state, iterator = arguments
        logs = None
        for done in range(steps):
            try:
                logs, state = step(state, iterator)
            except StopIteration:
                if done == 0:
                    raise
                break
            values = dict(zip(self._keys, state[1], strict=True))
            recorder.collect(lambda variable, values=values: values[id(variable)])  # type: ignore[misc]
        means = {id(variable): (variable, mean) for variable, mean in recorder.means()}
        non_trainable = [
            keras.ops.convert_to_tensor(means[key][1], dtype=means[key][0].dtype)
            if key in means
            else value
            for key, value in zip(self._keys, state[1], strict=True)
        ]
        return logs, (state[0], non_trainable, *state[2:])

    def single_step_function(self, model: Any) -> Callable[..., Any]:
        """Notes the order of the state, too."""
        self._keys = [id(variable) for variable in model.non_trainable_variables]
        return super().single_step_function(model)

    def _run_execution(self, model: Any, iterator: Any) -> None:
        """Gives the function the variables' values, which it consumes, and takes its own."""
        kinds = ("trainable", "non_trainable", "optimizer", "metrics")
        names = [f"{kind}_variables" for kind in kinds]
        state = model._get_jax_state(**dict.fromkeys(names, True))
        _, state = model.train_function(state, iterator)
        model._jax_state = dict(zip(names, state, strict=True))
        model._jax_state_synced = False
        model.jax_state_sync()


def current() -> KerasBackend:
    """Returns the adapter of the backend that Keras runs on in this process."""
    backends = {"tensorflow": TensorFlowBackend, "torch": TorchBackend, "jax": JaxBackend}
    name = keras.backend.backend()
    if name not in backends:
        raise ImportError(
            f"swa_fast.keras works on Keras's backends {sorted(backends)}. Received: {name!r}"
        )
    return backends[name]()
