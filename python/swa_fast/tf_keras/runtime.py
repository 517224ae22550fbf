"""Legacy Keras (tf_keras, Keras 2) on TensorFlow: models, variables, and averages in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

try:
    import tensorflow as tf
    import tf_keras
except ImportError as error:
    raise ImportError(
        'swa_fast.tf_keras needs TensorFlow and tf_keras: pip install "swa-fast[tf-keras]"',
        name=error.name,
    ) from error

from .._keras import statistics as _shared
from .._keras.rules import Rule
from .._keras.runtime import Averager, Pair, Runtime
from ..tensorflow.averager import TensorFlowAverager, assign_averages, exchange, number
from ..tensorflow.fused import FusedAverager, PrivateArray
from ..tensorflow.variables import Reader, measured, tensors


class LegacyKerasRuntime(Runtime):
    """tf_keras on TensorFlow, whose variables share buffers: they are only read."""

    keras = tf_keras
    name = "tensorflow"
    # The base class of BatchNormalization is that of SyncBatchNormalization, too.
    batch_norm: type = tf_keras.layers.BatchNormalization.__base__
    optimizers: tuple[type, ...] = (
        tf_keras.optimizers.Optimizer,
        tf_keras.optimizers.legacy.Optimizer,
    )

    def __init__(self) -> None:
        """Starts without cached reads."""
        super().__init__()
        self._reader = Reader()

    def label(self, variable: Any) -> str:
        """Returns the variable's name."""
        return str(variable.name)

    def dtype(self, variable: Any) -> str:
        """Returns the storage type; "" for the tables of TextVectorization and StringLookup."""
        dtype = getattr(variable, "dtype", None)
        return "" if dtype is None else str(dtype.name)

    def views(self, variables: Sequence[Any]) -> list[Any]:
        """Shares memory with the variables where they are on the CPU."""
        return self._reader.read([_unwrapped(variable) for variable in variables])

    def hold(self, variables: Sequence[Any]) -> list[Any]:
        """Keeps the variables' tensors: an assign gives a variable a new buffer."""
        return tensors([_unwrapped(variable) for variable in variables])

    def assign(self, variables: Sequence[Any], values: Sequence[Any]) -> None:
        """Assigns each variable, in its own type."""
        for variable, value in zip(variables, values, strict=True):
            variable.assign(tf.cast(value, variable.dtype))

    def measured(self, variable: Any) -> Any:
        """Averages over the replicas of a strategy."""
        return measured(variable)

    def rate(self, optimizer: Any) -> float:
        """Returns the rate, of a schedule at its present step."""
        rate = optimizer.learning_rate
        return float(tf.convert_to_tensor(rate(optimizer.iterations) if callable(rate) else rate))

    def rate_is_driven(self, optimizer: Any) -> bool:
        """Asks the innermost optimizer of wrappers such as LossScaleOptimizer."""
        optimizer = self.innermost(optimizer)
        rate = getattr(optimizer, "_learning_rate", None)
        if rate is None:
            rate = optimizer._hyper["learning_rate"] if hasattr(optimizer, "_hyper") else None
        return callable(rate)

    def forward(self, model: Any, inputs: Any, *, training: bool) -> None:
        """Runs the model eagerly, on arrays cast as `fit` would cast them."""
        model(_tensors(inputs), training=training)

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


def _unwrapped(variable: Any) -> Any:
    """Returns the variable inside of the AutoCastVariable of mixed precision."""
    return getattr(variable, "_variable", variable)


def _tensors(inputs: Any) -> Any:
    floatx = tf_keras.backend.floatx()
    return tf.nest.map_structure(
        lambda value: (
            tf.cast(value, floatx)
            if isinstance(value, np.ndarray) and value.dtype.kind == "f"
            else tf.convert_to_tensor(value)
        ),
        inputs,
    )


class LegacyAverages:
    """`swa_fast._keras.runtime.Averages`."""

    ops = tf

    def read(self, value: Any) -> Any:
        """See `Averages`."""
        return value.read_value() if hasattr(value, "read_value") else tf.convert_to_tensor(value)

    def to_numpy(self, variable: Any) -> Any:
        """See `Averages`."""
        return np.array(variable.numpy())

    def number(self, count: Any) -> int | None:
        """See `Averages`."""
        return number(count)

    def mixed(self, rule: Rule, average: Any, value: Any, coefficient: Any) -> Any:
        """See `Averages`."""
        return rule.mixed(tf, average, value, coefficient)

    def averager(
        self,
        pairs: Sequence[Pair],
        taken: Any,
        skipped: Any,
        rule: Rule,
        average_op: Callable[[Any, Any, Any], Any] | None,
    ) -> Averager:
        """See `Averages`."""
        return TensorFlowAverager(pairs, taken, skipped, rule, average_op)

    def assign_averages(self, pairs: Sequence[Pair], taken: Any, nothing_yet: str) -> Any:
        """See `Averages`."""
        return assign_averages(pairs, taken, nothing_yet)

    def keep(self, variable: Any) -> Any:
        """See `Averages`."""
        return tf.identity(variable.read_value())

    def restore(self, variable: Any, kept: Any) -> None:
        """See `Averages`."""
        variable.assign(kept)

    def exchange(self, pair: Pair, average: Any) -> None:
        """See `Averages`."""
        exchange(pair, average)


AVERAGES = LegacyAverages()


class PrivateSlot(tf.__internal__.tracking.Trackable):  # type: ignore[misc]
    """What stands for a slot variable in private memory: whatever reads it gets a copy.

    It is saved and restored as a variable, by legacy Keras and by `tf.train.Checkpoint`.

    Attributes:
        memory: what it holds, for native calls only.
        name: as a variable's.
        dtype: as a variable's.
        shape: as a variable's.
        trainable: False.
    """

    trainable = False
    _distribute_strategy = None  # as of a variable that no strategy made

    def __init__(self, value: Any, dtype: Any, name: str) -> None:
        """Copies `value`."""
        self.memory = PrivateArray(value, dtype)
        self.name = f"{name}:0"
        self.dtype = tf.as_dtype(dtype)
        self.shape = tf.TensorShape(self.memory.shape)
        self.device = "/job:localhost/replica:0/task:0/device:CPU:0"

    def assign(self, value: Any, *_: Any, **__: Any) -> PrivateSlot:
        """Copies a value of the same shape.

        Raises:
            ValueError: the shape is another.
        """
        if tuple(np.shape(value)) != self.memory.shape:
            raise ValueError(
                f"{self.name} has shape {self.memory.shape}. Received shape: {np.shape(value)}"
            )
        self.memory.write(value)
        return self

    def assign_add(self, value: Any) -> PrivateSlot:
        """Adds a value of the same shape."""
        return self.assign(self.memory.array + np.asarray(value))

    def assign_sub(self, value: Any) -> PrivateSlot:
        """Subtracts a value of the same shape."""
        return self.assign(self.memory.array - np.asarray(value))

    def read_value(self) -> Any:
        """Returns a tensor with a copy."""
        return self.memory.read()

    value = read_value

    def numpy(self) -> Any:
        """Returns a copy."""
        return self.memory.array.copy()

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        """Returns a copy."""
        return np.array(self.memory.array, dtype)

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> Any:
        """Returns a tensor with a copy."""
        return tf.convert_to_tensor(self.memory.read(), dtype=dtype, name=name)

    def _serialize_to_tensors(self) -> Any:
        return {"VARIABLE_VALUE": self.read_value()}

    def _restore_from_tensors(self, restored_tensors: Any) -> Any:
        return self.assign(restored_tensors["VARIABLE_VALUE"])


class FusedLegacyAverages(LegacyAverages):
    """Averages in private memory, after eager steps."""

    def averager(
        self,
        pairs: Sequence[Pair],
        taken: Any,
        skipped: Any,
        rule: Rule,
        average_op: Callable[[Any, Any, Any], Any] | None,
    ) -> Averager:
        """See `Averages`."""
        if average_op is not None:
            return super().averager(pairs, taken, skipped, rule, average_op)
        return FusedAverager(
            [(variable, average.memory) for variable, average in pairs],
            taken.memory,
            None if skipped is None else skipped.memory,
            rule,
        )


FUSED = FusedLegacyAverages()


def current() -> LegacyKerasRuntime:
    """Returns the runtime of legacy Keras."""
    return LegacyKerasRuntime()


def update_bn(
    model: Any,
    data: Any,
    *,
    batch_size: int = 32,
    steps: int | None = None,
    include_frozen: bool = True,
) -> None:
    """Recomputes the moving statistics of batch normalization in one pass over `data`.

    As `swa_fast.keras.update_bn`, for models of `tf_keras`.

    Args:
        model: a tf_keras model.
        data: arrays, `(x, y)`, a `tf.data.Dataset`, a `Sequence` or a generator of batches.
        batch_size: samples in a batch when `data` is arrays.
        steps: batches to take at most; needed where `data` never ends.
        include_frozen: also recompute layers with `trainable = False`.

    Raises:
        TypeError: `data` is neither arrays nor iterable, or `model` is no model (the arguments in
            the wrong order).
        ValueError: `data` has no batch, or is a dataset that says that it never ends and `steps`
            is not given. An endless generator does not say so: without `steps` it is read forever.

    Example:
        >>> import tf_keras, numpy as np
        >>> model = tf_keras.Sequential([tf_keras.layers.BatchNormalization(input_shape=(2,))])
        >>> update_bn(model, np.array([[1.0, 2.0], [3.0, 6.0]], np.float32))
        >>> model.layers[0].moving_mean.numpy()
        array([2., 4.], dtype=float32)
    """
    _shared.update_bn(current(), model, data, batch_size, steps, include_frozen)
