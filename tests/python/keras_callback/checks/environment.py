"""One Keras on one backend, with the small models and data that the checks train."""

from __future__ import annotations

import contextlib
import importlib
import io
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Environment:
    """What a check works with."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.legacy = target == "tf_keras"
        if target in ("tensorflow", "tf_keras"):
            tf = importlib.import_module("tensorflow")
            device = tf.config.LogicalDeviceConfiguration()
            cpu = tf.config.list_physical_devices("CPU")[0]
            tf.config.set_logical_device_configuration(cpu, [device, device])
        self.keras: Any = importlib.import_module("tf_keras" if self.legacy else "keras")
        package = "swa_fast.tf_keras" if self.legacy else "swa_fast.keras"
        self.callbacks: Any = importlib.import_module(f"{package}.callbacks")
        self.runtime: Any = importlib.import_module(f"{package}.runtime")
        self.SWA: Any = self.callbacks.SWA
        self.update_bn: Any = importlib.import_module(package).update_bn
        self._starts: Any = weakref.WeakKeyDictionary()
        rng = np.random.default_rng(0)
        self.x = (rng.normal(size=(22, 4)) * 3 + 1).astype(np.float32)
        self.y = rng.normal(size=(22, 1)).astype(np.float32)

    def input(self, size: int = 4, **kwargs: Any) -> Any:
        layers = self.keras.layers
        return layers.InputLayer(input_shape=(size,)) if self.legacy else layers.Input((size,))

    def sequential(self, *layers: Any, size: int = 4) -> Any:
        return self.keras.Sequential([self.input(size), *layers])

    def dense_model(self, optimizer: Any = None, **compile_arguments: Any) -> Any:
        """Without batch normalization."""
        self.keras.utils.set_random_seed(3)
        dense = self.keras.layers.Dense
        model = self.sequential(dense(3, activation="tanh"), dense(1))
        model.compile(optimizer or self.keras.optimizers.SGD(0.1), "mse", **compile_arguments)
        if not callable(model.optimizer.learning_rate):
            self._starts[model] = (weights(model), self.rate(model))
        return model

    def bn_model(self, optimizer: Any = None, nested: bool = True, **compile_arguments: Any) -> Any:
        """Dense, BN, a nested model with BN, Dense; `statistics` knows its structure."""
        self.keras.utils.set_random_seed(4)
        layers = self.keras.layers
        inner = self.sequential(layers.BatchNormalization(), layers.Dense(3), size=5)
        model = self.sequential(
            layers.Dense(5),
            layers.BatchNormalization(),
            *([inner] if nested else []),
            layers.Dense(1),
        )
        model.compile(optimizer or self.keras.optimizers.SGD(0.1), "mse", **compile_arguments)
        if not callable(model.optimizer.learning_rate):
            self._starts[model] = (weights(model), self.rate(model))
        return model

    def anew(self, model: Any) -> Any:
        """The model as it was when `dense_model` or `bn_model` made it, with its traced functions.

        Tracing is most of the time of a fit here: a check that trains twice the same model need
        not trace it twice. The optimizer's variables must begin as zeros.
        """
        start, rate = self._starts[model]
        model.set_weights(start)
        variables = model.optimizer.variables
        for variable in variables() if callable(variables) else variables:
            variable.assign(np.zeros(variable.shape, array(variable).dtype))
        model.optimizer.learning_rate = rate
        model.stop_training = False
        return model

    def bn_layers(self, model: Any) -> list[Any]:
        kind = self.keras.layers.BatchNormalization
        return [layer for layer in model._flatten_layers() if isinstance(layer, kind)]

    def statistics(self, model: Any) -> list[Array]:
        """Moving mean and variance of every BN layer."""
        return [
            array(value)
            for layer in self.bn_layers(model)
            for value in (layer.moving_mean, layer.moving_variance)
        ]

    def expected_statistics(self, model: Any, batches: list[Array]) -> list[Array]:
        """Float64 oracle for `bn_model(nested=True)` from its present weights, in NumPy alone."""
        dense, first, inner = model.layers[:3]
        second = inner.layers[0]
        kernel, bias = (array(weight).astype(np.float64) for weight in dense.get_weights())
        sums: list[Any] = [0.0] * 4
        for batch in batches:
            values = batch.astype(np.float64) @ kernel + bias
            n = len(batch)
            # The fused kernel of Keras 2 keeps the unbiased variance, but only for images.
            mean, variance = values.mean(0), values.var(0)
            normal = (values - mean) / np.sqrt(variance + first.epsilon)
            normal = normal * array(first.gamma) + array(first.beta)
            stats = [mean, variance, normal.mean(0), normal.var(0)]
            sums = [total + stat for total, stat in zip(sums, stats, strict=True)]
            assert n > 1
        means = [total / len(batches) for total in sums]
        found = self.bn_layers(model)
        assert {id(layer) for layer in found} == {id(first), id(second)}
        return means if found[0] is first else means[2:] + means[:2]

    def batches(self, size: int = 8) -> list[Array]:
        return [self.x[i : i + size] for i in range(0, len(self.x), size)]

    def assert_exact_statistics(self, model: Any, batches: list[Array] | None = None) -> None:
        expected = self.expected_statistics(model, batches or self.batches())
        for got, want in zip(self.statistics(model), expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=3e-5, atol=3e-6)

    def fit(self, model: Any, *callbacks: Any, epochs: int = 5, **arguments: Any) -> Any:
        settings: dict[str, Any] = dict(batch_size=8, verbose=0, shuffle=False, epochs=epochs)
        settings.update(arguments)
        return model.fit(self.x, self.y, callbacks=list(callbacks), **settings)

    def callback(self, **hooks: Callable[..., Any]) -> Any:
        """A callback with these hooks, each called with the callback first."""
        return type("Hooks", (self.keras.callbacks.Callback,), hooks)()

    def recorder(self) -> Any:
        """A callback that keeps `weights` and `rates` of every epoch's end."""

        def on_epoch_end(this: Any, epoch: int, logs: Any = None) -> None:
            this.weights.append(weights(this.model))
            this.rates.append(self.rate(this.model))

        callback = self.callback(on_epoch_end=on_epoch_end)
        callback.weights, callback.rates = [], []
        return callback

    def rate(self, model: Any) -> float:
        return float(array(model.optimizer.learning_rate))

    def trainable(self, model: Any) -> list[Array]:
        return [array(variable) for variable in model.trainable_variables]


def array(variable: Any) -> Array:
    """A private copy of a variable's value."""
    value = variable.value if hasattr(variable, "path") else variable
    if hasattr(value, "read_value"):  # a strategy's variable has no array of its own
        value = value.read_value()
    return np.array(value.detach() if hasattr(value, "detach") else value)


def weights(model: Any) -> list[Array]:
    return [np.array(weight) for weight in model.get_weights()]


def assert_same_bits(got: list[Array], want: list[Array]) -> None:
    assert len(got) == len(want)
    for index, (left, right) in enumerate(zip(got, want, strict=True)):
        assert left.dtype == right.dtype
        assert left.shape == right.shape
        assert left.tobytes() == right.tobytes(), f"array {index}: {left} is not {right}"


def assert_close(got: list[Array], want: list[Array], rtol: float = 1e-6) -> None:
    for left, right in zip(got, want, strict=True):
        np.testing.assert_allclose(left, right, rtol=rtol, atol=1e-6)


def running_mean(snapshots: list[list[Array]]) -> list[Array]:
    """The contract's arithmetic, in NumPy: float32, `average + (value - average) * (1 / n)`."""
    averages = [array.astype(np.float32) for array in snapshots[0]]
    for count, snapshot in enumerate(snapshots[1:], 1):
        share = np.float32(1) / np.float32(count + 1)
        averages = [a + (v - a) * share for a, v in zip(averages, snapshot, strict=True)]
    return averages


@contextlib.contextmanager
def raises(kind: type[BaseException], text: str) -> Iterator[None]:
    """`pytest.raises` for processes without pytest."""
    try:
        yield
    except kind as error:
        assert text in str(error), f"{text!r} is not in {str(error)!r}"  # noqa: PT017
    else:
        raise AssertionError(f"{kind.__name__} was not raised")


def printed(function: Callable[[], Any]) -> str:
    """What `function` wrote to stdout."""
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream):
        function()
    return stream.getvalue()
