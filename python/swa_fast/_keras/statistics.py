"""Exact moving statistics: the mean over batches of what each batch-normalization layer measures.

`Recorder` measures, in a pass of `fit` or in `update_bn`'s own. A layer updates its moving
statistics as `moving * momentum + batch * (1 - momentum)`. With moving statistics of zero and a
momentum of 0 that leaves exactly the batch's own statistics, which are read after every batch and
summed here in float64. A layer that is called k times in one batch runs with momentum j / (j + 1)
in its call j, so that it is left with the mean over its calls. `momentum` is a Python number that
compiled functions capture, so this works only in functions traced while the recorder is installed.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._checks import check_flag
from .data import input_batches
from .patches import Patches
from .runtime import Array, Runtime

_STATISTICS = ("moving_mean", "moving_variance")


class Recorder:
    """Collects the batch statistics of layers while it is installed.

    Args:
        layers: batch-normalization layers; one that runs in inference mode is left alone.
        stand_in: `Runtime.stand_in`.

    Attributes:
        layers: the same.
        batches: how many were collected.
    """

    def __init__(
        self,
        layers: Sequence[Any],
        stand_in: Callable[[Callable[..., Any], Any], Callable[..., Any]],
    ) -> None:
        """Notes the layers; replaces nothing yet."""
        self.layers = list(layers)
        self.batches = 0
        self._stand_in = stand_in
        self._sums: dict[int, tuple[int, list[Array]]] = {}
        self._calls: dict[tuple[int, int], int] = {}
        self._updated: set[int] = set()
        self._patches = Patches()
        self._momenta: list[tuple[Any, float]] = []

    def install(self) -> None:
        """Replaces `call` and `momentum` of the layers until `remove`."""
        self._momenta = [(layer, layer.momentum) for layer in self.layers]
        for index, layer in enumerate(self.layers):
            recorded = functools.partial(self._recorded, index, layer, _training_of(layer.call))
            self._patches.replace(layer, "call", self._stand_in(recorded, layer.call))

    def remove(self) -> None:
        """Gives the layers their own `call` and `momentum` back; does nothing the second time."""
        for layer, momentum in self._momenta:
            layer.momentum = momentum
        self._momenta = []
        self._patches.undo()

    def begin_batch(self) -> None:
        """Must be called before each forward pass, inside the function that is traced."""
        # Replicas of one step trace in threads of their own, at the same time.
        thread = threading.get_ident()
        for key in [key for key in self._calls if key[0] == thread]:
            del self._calls[key]

    def begin_eager_batch(self) -> None:
        """`begin_batch` for a pass that runs the layers' `call` each time: knows who was called."""
        self._updated.clear()
        self.begin_batch()

    def updated(self) -> list[tuple[int, Any]]:
        """Returns the layers that measured the batch, with their indices."""
        return [(index, self.layers[index]) for index in sorted(self._updated)]

    def collect(self, read: Callable[[Any], Array]) -> None:
        """Adds the statistics of the batch that has just run.

        Args:
            read: returns a variable's value as an array.
        """
        self.batches += 1
        for index, layer in self.updated():
            values = [np.asarray(read(v), np.float64) for v in statistics(layer)]
            count, sums = self._sums.get(index, (0, [np.zeros_like(value) for value in values]))
            for total, value in zip(sums, values, strict=True):
                total += value
            self._sums[index] = (count + 1, sums)

    def means(self) -> list[tuple[Any, Array]]:
        """Returns pairs of a moving-statistics variable and its mean over the batches, float64."""
        pairs: list[tuple[Any, Array]] = []
        for index, (count, sums) in sorted(self._sums.items()):
            layer = self.layers[index]
            means = [total / count for total in sums]
            pairs += zip(statistics(layer), means, strict=True)
            if getattr(layer, "moving_stddev", None) is not None:
                pairs.append((layer.moving_stddev, np.sqrt(means[1] + layer.epsilon)))
        return pairs

    def assign_means(self, runtime: Runtime) -> bool:
        """Writes the means into the layers; returns whether any layer measured anything."""
        pairs = self.means()
        runtime.assign([variable for variable, _ in pairs], [mean for _, mean in pairs])
        return bool(pairs)

    def _recorded(
        self,
        index: int,
        layer: Any,
        training_of: Callable[..., Any],
        original: Callable[..., Any],
    ) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if _is_true(training_of(*args, **kwargs)) and layer.trainable:
                key = (threading.get_ident(), index)
                calls = self._calls.get(key, 0)
                if calls == 0:
                    for variable in statistics(layer):
                        variable.assign(np.zeros(tuple(variable.shape), np.float32))
                    self._updated.add(index)
                self._calls[key] = calls + 1
                layer.momentum = calls / (calls + 1)
            return original(*args, **kwargs)

        return call


def statistics(layer: Any) -> list[Any]:
    """Returns the moving mean and variance of a layer; nothing if it is not built."""
    variables = [getattr(layer, name, None) for name in _STATISTICS]
    return [variable for variable in variables if variable is not None]


def _training_of(call: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that finds `training` in the arguments of `call`, None without it."""
    signature = inspect.signature(call)

    def training(*args: Any, **kwargs: Any) -> Any:
        if "training" in kwargs:  # a subclass may take it into its **kwargs
            return kwargs["training"]
        return signature.bind_partial(*args, **kwargs).arguments.get("training")

    return training


def _is_true(training: Any) -> bool:
    """A symbolic `training` counts as true: its layer updates if the graph says so."""
    return (
        training
        if isinstance(training, bool)
        else training is not None
        and (bool(training) if isinstance(training, int | np.bool_) else True)
    )


def update_bn(
    runtime: Runtime,
    model: Any,
    data: Any,
    batch_size: int,
    steps: int | None,
    include_frozen: bool,
) -> None:
    """See `swa_fast.keras.update_bn`."""
    _check_model(runtime, model, data)
    check_flag("update_bn: include_frozen", include_frozen)
    layers = runtime.batch_norm_layers(model)
    if not include_frozen:
        layers = [layer for layer in layers if layer.trainable]
    batches = input_batches(data, batch_size, steps, "update_bn: data")
    if not layers:
        return
    first = next(batches, None)
    if first is None:
        raise ValueError(
            "update_bn: data must have at least one batch to compute statistics from. Received: no "
            f"batch from {type(data).__name__}"
        )
    if not all(len(statistics(layer)) == 2 for layer in layers):
        runtime.forward(model, first, training=False)

    variables = runtime.state_variables(model)
    before = runtime.hold(variables)
    frozen = _unfreeze(layers)
    recorder = Recorder(layers, runtime.stand_in)
    recorder.install()
    try:
        for batch in itertools.chain([first], batches):
            recorder.begin_eager_batch()
            runtime.forward(model, batch, training=True)
            recorder.collect(runtime.measured)
    finally:
        recorder.remove()
        for layer, flags in frozen:
            layer.trainable = False
            for variable, flag in flags:
                variable.trainable = flag
        runtime.assign(variables, before)
    recorder.assign_means(runtime)


def _check_model(runtime: Runtime, model: Any, data: Any) -> None:
    kind = runtime.keras.layers.Layer
    if isinstance(model, kind):
        return
    order = "; the model comes first" if isinstance(data, kind) else ""
    raise TypeError(
        f"update_bn(model, data): model must be a model of {runtime.keras.__name__}{order}. "
        f"Received: model={type(model).__name__}, data={type(data).__name__}"
    )


def _unfreeze(layers: list[Any]) -> list[tuple[Any, list[tuple[Any, bool]]]]:
    """Makes frozen layers measure; returns each with its variables' own flags."""
    frozen = []
    for layer in layers:
        if not layer.trainable:
            flags = [
                (variable, variable.trainable)
                for variable in layer.weights
                if getattr(type(variable).trainable, "fset", None) is not None
            ]
            frozen.append((layer, flags))
            layer.trainable = True
    return frozen
