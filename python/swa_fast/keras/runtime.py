"""Keras 3 on each of its backends: its models and variables, and averages in them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

try:
    import keras
except ImportError as error:
    raise ImportError(
        'swa_fast.keras needs Keras 3: pip install "swa-fast[keras]"', name="keras"
    ) from error

from .._keras import statistics as _shared
from .._keras.rules import Rule
from .._keras.runtime import Averager, Pair, Runtime, all_finite

BACKEND = keras.backend.backend()


def native(variable: Any) -> Any:
    """Returns the `tf.Variable` behind a Keras variable on TensorFlow, or one as it is."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def read(value: Any) -> Any:
    """Returns what a variable holds now, as a tensor; any other value as a tensor.

    On TensorFlow, `keras.ops.convert_to_tensor` hands a variable back as it is, to be read only
    where it is used.
    """
    value = native(value)
    if hasattr(value, "read_value"):
        return value.read_value()
    return keras.ops.convert_to_tensor(value)


def read_steps(optimizer: Any) -> Any:
    """Returns the completed steps: an int in eager code, a tensor in a graph or a trace."""
    steps = read(optimizer.iterations)
    return int(steps) if is_concrete(steps) else steps


def is_concrete(value: Any) -> bool:
    """Tells whether Python can look at `value` now: no graph is being built or traced."""
    if isinstance(value, (bool, int)):
        return True
    if BACKEND == "tensorflow":
        import tensorflow as tf

        # Of a replica's value, the strategy decides where it may be looked at.
        eager = bool(tf.executing_eagerly()) and not tf.distribute.has_strategy()
        return eager and hasattr(value, "numpy")
    if BACKEND == "jax":
        import jax

        return not isinstance(value, jax.core.Tracer)
    return True


class KerasRuntime(Runtime):
    """Keras 3; subclasses know how their backend holds values."""

    keras = keras
    batch_norm: type = keras.layers.BatchNormalization
    optimizers: tuple[type, ...] = (keras.optimizers.Optimizer,)

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

    def measured(self, variable: Any) -> Any:
        """Copies to host memory."""
        return np.asarray(keras.ops.convert_to_numpy(variable.value), np.float64)

    def rate(self, optimizer: Any) -> float:
        """Returns the rate, of a schedule at its present step."""
        return float(keras.ops.convert_to_numpy(optimizer.learning_rate))

    def rate_is_driven(self, optimizer: Any) -> bool:
        """Asks the innermost optimizer of wrappers such as LossScaleOptimizer."""
        rate = getattr(self.innermost(optimizer), "_learning_rate", None)
        return not isinstance(rate, keras.Variable)


class TensorFlowRuntime(KerasRuntime):
    """Keras 3 on TensorFlow, whose variables share buffers: they are only read."""

    name = "tensorflow"

    def __init__(self) -> None:
        """Starts without cached reads."""
        super().__init__()
        from ..tensorflow.variables import Reader

        self._reader = Reader()

    def views(self, variables: Sequence[Any]) -> list[Any]:
        """Shares memory with the variables where they are on the CPU."""
        return self._reader.read(self._native(variables))

    def hold(self, variables: Sequence[Any]) -> list[Any]:
        """Keeps the variables' tensors: an assign gives a variable a new buffer."""
        from ..tensorflow.variables import tensors

        return tensors(self._native(variables))

    def measured(self, variable: Any) -> Any:
        """Averages over the replicas of a strategy."""
        from ..tensorflow.variables import measured

        return measured(variable.value)

    @staticmethod
    def _native(variables: Sequence[Any]) -> list[Any]:
        """Returns the `tf.Variable`s; `Variable.value` takes 20 times as long as `_value`."""
        try:
            return [variable._value for variable in variables]
        except AttributeError:  # Keras's private name, so it may go
            return [variable.value for variable in variables]


class TorchRuntime(KerasRuntime):
    """Keras 3 on PyTorch, whose values are torch tensors."""

    name = "torch"

    def views(self, variables: Sequence[Any]) -> list[Any]:
        """Shares memory with the variables where they are on the CPU."""
        return [variable.value.detach().cpu().contiguous() for variable in variables]

    def hold(self, variables: Sequence[Any]) -> list[Any]:
        """Clones on the device."""
        return [variable.value.detach().clone() for variable in variables]

    def finite(self, values: Sequence[Any]) -> bool:
        """Widens bfloat16, which NumPy does not have."""
        import torch

        half = torch.bfloat16
        return all_finite([v.float() if v.dtype == half else v for v in values])

    def forward(self, model: Any, inputs: Any, *, training: bool) -> None:
        """Runs the model without a graph of gradients."""
        import torch

        with torch.no_grad():
            model(inputs, training=training)


class JaxRuntime(KerasRuntime):
    """Keras 3 on JAX, whose arrays never change."""

    name = "jax"

    def sync(self, model: Any) -> None:
        """Asks the model, unless it is a layer, which is not trained."""
        if hasattr(model, "jax_state_sync"):
            model.jax_state_sync()

    def views(self, variables: Sequence[Any]) -> list[Any]:
        """Shares memory with the arrays where they are on the CPU."""
        return [np.asarray(variable.value) for variable in variables]

    def hold(self, variables: Sequence[Any]) -> list[Any]:
        """Keeps the arrays."""
        return [variable.value for variable in variables]


class KerasAverages:
    """`swa_fast._keras.runtime.Averages` on jax, torch and NumPy, by operations of Keras."""

    ops = keras.ops

    def making_initial(self) -> contextlib.AbstractContextManager[Any]:
        """Returns the context in which a variable may be made from what another one holds."""
        return contextlib.nullcontext()

    def make_variable(self, owner: Any, arguments: dict[str, Any]) -> Any:
        """Makes a variable of the optimizer `owner`; the arguments are Keras's."""
        return owner.add_variable(**arguments)

    def read(self, value: Any) -> Any:
        """See `Averages`."""
        return read(value)

    def to_numpy(self, variable: Any) -> Any:
        """See `Averages`."""
        import numpy as np

        return np.array(keras.ops.convert_to_numpy(variable))

    def number(self, count: Any) -> int | None:
        """See `Averages`."""
        value = read(count)
        return int(value) if is_concrete(value) else None

    def mixed(self, rule: Rule, average: Any, value: Any, coefficient: Any) -> Any:
        """See `Averages`."""
        if BACKEND == "jax":
            return _as_one_program(rule.mixed)(average, value, coefficient)
        return rule.mixed(keras.ops, average, value, coefficient)

    def averager(
        self,
        pairs: Sequence[Pair],
        taken: Any,
        skipped: Any,
        rule: Rule,
        average_op: Callable[[Any, Any, Any], Any] | None,
    ) -> Averager:
        """See `Averages`."""
        from .averager import KerasAverager

        return KerasAverager(self, pairs, taken, skipped, rule, average_op)

    def assign_averages(self, pairs: Sequence[Pair], taken: Any, nothing_yet: str) -> Any:
        """See `Averages`."""
        taken = read(taken)
        for variable, average in pairs:
            # A copy: jax's trainer gives away the buffers of all variables, and each only once.
            value = keras.ops.copy(keras.ops.cast(read(average), variable.dtype))
            if not is_concrete(taken):
                value = keras.ops.where(taken > 0, value, read(variable))
            variable.assign(value)

    def keep(self, variable: Any) -> Any:
        """See `Averages`."""
        return keras.ops.copy(read(variable))

    def restore(self, variable: Any, kept: Any) -> None:
        """See `Averages`."""
        variable.assign(kept)

    def exchange(self, pair: Pair, average: Any) -> None:
        """See `Averages`."""
        variable, held = pair
        value, mean = keras.ops.copy(read(variable)), keras.ops.copy(read(held))
        held.assign(value if average is None else average)
        variable.assign(keras.ops.cast(mean, variable.dtype))


class TensorFlowAverages(KerasAverages):
    """The same on TensorFlow, by its own operations, which know graphs and replicas."""

    def making_initial(self) -> contextlib.AbstractContextManager[Any]:
        """See `KerasAverages`: outside of the function that `fit` may be tracing."""
        import tensorflow as tf

        return tf.init_scope()  # type: ignore[no-any-return]

    def number(self, count: Any) -> int | None:
        """See `Averages`."""
        from ..tensorflow.averager import number

        return number(native(count))

    def averager(
        self,
        pairs: Sequence[Pair],
        taken: Any,
        skipped: Any,
        rule: Rule,
        average_op: Callable[[Any, Any, Any], Any] | None,
    ) -> Averager:
        """See `Averages`."""
        from ..tensorflow.averager import TensorFlowAverager

        return TensorFlowAverager(
            _natives(pairs),
            native(taken),
            None if skipped is None else native(skipped),
            rule,
            average_op,
        )

    def assign_averages(self, pairs: Sequence[Pair], taken: Any, nothing_yet: str) -> Any:
        """See `Averages`."""
        from ..tensorflow.averager import assign_averages

        return assign_averages(_natives(pairs), native(taken), nothing_yet)

    def exchange(self, pair: Pair, average: Any) -> None:
        """See `Averages`."""
        from ..tensorflow.averager import exchange

        exchange(_natives([pair])[0], average)


def _natives(pairs: Sequence[Pair]) -> list[Pair]:
    return [(native(variable), native(average)) for variable, average in pairs]


AVERAGES = TensorFlowAverages() if BACKEND == "tensorflow" else KerasAverages()
"""Those of the active backend."""


@functools.cache
def _as_one_program(mixed: Callable[..., Any]) -> Any:
    # By itself, XLA would compile the division as a multiplication by a rounded reciprocal, and
    # errors would add up from snapshot to snapshot.
    import jax

    return jax.jit(functools.partial(mixed, keras.ops))


_CLASSES = {kind.name: kind for kind in (TensorFlowRuntime, TorchRuntime, JaxRuntime)}


def current() -> KerasRuntime:
    """Returns the runtime of the backend that Keras runs on in this process."""
    name = keras.backend.backend()
    if name not in _CLASSES:
        raise ImportError(
            f"swa_fast.keras works on Keras's backends {sorted(_CLASSES)}. Received: {name!r}"
        )
    return _CLASSES[name]()


def update_bn(
    model: Any,
    data: Any,
    *,
    batch_size: int = 32,
    steps: int | None = None,
    include_frozen: bool = True,
) -> None:
    """Recomputes the moving statistics of batch normalization in one pass over `data`.

    Afterwards the moving mean and variance of every BatchNormalization layer, in nested models and
    custom layers too, are exactly the mean over the batches of what the layer measured in each,
    every batch weighing the same. The batches run through `model(inputs, training=True)`, eagerly,
    whatever `compile` said. Everything else (other weights, momentum, trainable flags, seed
    generators, the statistics of layers that no batch reached) is as before. On an error, all of
    it is.

    Args:
        model: a Keras 3 model, on any backend.
        data: an array (or a list or dict of arrays, for a model with several inputs); a tuple
            `(x, y)` or `(x, y, sample_weight)` of these, of which x is used; or batches of the
            same: a `tf.data.Dataset`, a PyDataset, a torch DataLoader, a generator.
        batch_size: samples in a batch when `data` is arrays.
        steps: batches to take at most; needed where `data` never ends.
        include_frozen: also recompute layers with `trainable = False`, which otherwise keep the
            statistics they run with.

    Raises:
        TypeError: `data` is neither arrays nor iterable, or `model` is no model (the arguments in
            the wrong order).
        ValueError: `data` has no batch, or is a dataset that says that it never ends and `steps`
            is not given. An endless generator does not say so: without `steps` it is read forever.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization()])
        >>> update_bn(model, np.array([[1.0, 2.0], [3.0, 6.0]]))
        >>> np.asarray(model.layers[0].moving_mean)
        array([2., 4.], dtype=float32)
    """
    _shared.update_bn(current(), model, data, batch_size, steps, include_frozen)
