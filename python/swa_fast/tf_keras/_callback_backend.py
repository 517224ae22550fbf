"""Legacy Keras (tf_keras, Keras 2) as the callback sees it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

try:
    import tensorflow as tf
    import tf_keras
except ImportError as error:
    raise ImportError(
        'swa_fast.tf_keras needs TensorFlow and tf_keras: pip install "swa-fast[tf_keras]"',
        name=error.name,
    ) from error

from swa_fast._callback.common_backend import CommonBackend, innermost
from swa_fast._callback.guard import Guard
from swa_fast.tensorflow.variables import Reader, measured, tensors


class LegacyKerasBackend(CommonBackend):
    """tf_keras on TensorFlow."""

    callback_list: type = tf_keras.callbacks.CallbackList
    optimizer_type: tuple[type, ...] = (
        tf_keras.optimizers.Optimizer,
        tf_keras.optimizers.legacy.Optimizer,
    )
    update_methods: ClassVar[dict[str, Callable[..., Any]]] = {
        "apply_gradients": lambda optimizer, *args, **kwargs: optimizer.iterations,
    }

    _end_of_data = (StopIteration, tf.errors.OutOfRangeError)

    def __init__(self) -> None:
        super().__init__()
        self._reader = Reader()

    def batch_norm_layers(self, model: Any) -> list[Any]:
        """Returns every BatchNormalization inside `model`, SyncBatchNormalization included."""
        # The base class of BatchNormalization is that of SyncBatchNormalization, too.
        kind = tf_keras.layers.BatchNormalization.__base__
        return [layer for layer in self.layers(model) if isinstance(layer, kind)]

    def label(self, variable: Any) -> str:
        """Returns the variable's name."""
        return str(variable.name)

    def dtype(self, variable: Any) -> str:
        """Returns the storage type."""
        return str(variable.dtype.name)

    def hold(self, variables: Sequence[Any]) -> list[Any]:
        """Keeps the variables' tensors: an assign gives a variable a new buffer."""
        return tensors([getattr(variable, "_variable", variable) for variable in variables])

    def read(self, variables: Sequence[Any]) -> list[Any]:
        """Shares memory with the variables where they are on the CPU."""
        return self._reader.read(
            [getattr(variable, "_variable", variable) for variable in variables]
        )

    def assign(self, variables: Sequence[Any], values: Sequence[Any]) -> None:
        """Assigns each variable, in its own type."""
        for variable, value in zip(variables, values, strict=True):
            variable.assign(tf.cast(value, variable.dtype))

    def rate(self, optimizer: Any) -> float:
        """Returns the rate, of a schedule at its present step."""
        rate = optimizer.learning_rate
        return float(tf.convert_to_tensor(rate(optimizer.iterations) if callable(rate) else rate))

    def rate_is_driven(self, optimizer: Any) -> bool:
        """Asks the innermost optimizer of wrappers such as LossScaleOptimizer."""
        optimizer = innermost(optimizer)
        rate = getattr(optimizer, "_learning_rate", None)
        if rate is None:
            rate = optimizer._hyper["learning_rate"] if hasattr(optimizer, "_hyper") else None
        return callable(rate)

    def single_step_function(self, model: Any) -> Callable[..., Any]:
        """Has Keras itself make the function."""
        function, graph_function = model.train_function, vars(model).get("train_tf_function")
        try:
            with self.one_step_at_a_time(model):
                made: Callable[..., Any] = model.make_train_function(force=True)
        finally:
            model.train_function = function
            model.train_tf_function = graph_function
        return made

    def steps_per_execution(self, model: Any) -> int:
        """Returns the variable's number."""
        variable = model._steps_per_execution
        return 1 if variable is None else int(variable.numpy())

    def runs_in_full(self, names: dict[str, Any]) -> bool:
        """Keras 2 shortens the last execution, and says so."""
        return False

    @contextlib.contextmanager
    def one_step_at_a_time(self, model: Any) -> Iterator[int]:
        """Keras reads the number, a variable, when a function is made."""
        variable = model._steps_per_execution
        steps = self.steps_per_execution(model)
        if variable is not None:
            variable.assign(1)
        try:
            yield steps
        finally:
            if variable is not None:
                variable.assign(steps)

    def stand_in(
        self,
        recorded: Callable[[Callable[..., Any]], Callable[..., Any]],
        original: Callable[..., Any],
    ) -> Callable[..., Any]:
        """Keeps autograph out, and the recorder out of calls that only infer shapes."""
        # In a graph Keras itself has autograph convert the `call` of classes that are not its own.
        in_graph = original
        if not getattr(original, "__module__", "").startswith("tf_keras."):
            autograph = tf.__internal__.autograph
            in_graph = autograph.tf_convert(original, autograph.control_status_ctx())
        recorded_in_graph, recorded_eagerly = recorded(in_graph), recorded(original)

        def chosen(*args: Any, **kwargs: Any) -> Any:
            if tf.executing_eagerly():
                return recorded_eagerly(*args, **kwargs)
            name = getattr(tf.compat.v1.get_default_graph(), "name", "")
            infers = name.endswith("_scratch_graph")
            return (in_graph if infers else recorded_in_graph)(*args, **kwargs)

        return tf.autograph.experimental.do_not_convert(chosen)  # type: ignore[no-any-return]

    def measured(self, variable: Any) -> Any:
        """Averages over the replicas of a strategy."""
        return measured(variable)

    def watch(self, guard: Guard, model: Any, names: dict[str, Any]) -> None:
        """Watches steps, data, metrics and validation."""
        methods = (
            "train_function",
            "evaluate",
            "reset_metrics",
            "_validate_and_get_metrics_result",
        )
        for name in methods:
            guard.watch(model, name)
        if "data_handler" in names:
            handler = names["data_handler"]
            guard.watch_context(handler, "catch_stop_iteration")
            guard.watch(handler._adapter, "on_epoch_end")

    def run_epoch(self, model: Any, names: dict[str, Any]) -> bool:
        """Starts the data handler's dataset anew."""
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
                model.train_function(iterator)
        return True

    def forward(self, model: Any, inputs: Any) -> None:
        """Runs the model eagerly."""
        model(_tensors(inputs), training=True)

    def build(self, model: Any, inputs: Any) -> None:
        """Runs the model once in inference mode."""
        model(_tensors(inputs), training=False)


def _tensors(inputs: Any) -> Any:
    """Keras 2 takes float64 arrays as they are; `fit` would have cast them."""
    floatx = tf_keras.backend.floatx()
    return tf.nest.map_structure(
        lambda value: (
            tf.cast(value, floatx)
            if isinstance(value, np.ndarray) and value.dtype.kind == "f"
            else tf.convert_to_tensor(value)
        ),
        inputs,
    )
