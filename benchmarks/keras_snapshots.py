"""A snapshot of the Keras callback against keras-swa's own way, on the TensorFlow backend.

    python benchmarks/keras_snapshots.py [--model NAME] [--seconds S] [--json FILE]

Ours is everything that the callback does at the end of an epoch with a snapshot, reading the
variables included. Theirs is keras-swa's `get_weights()` and NumPy expression. To be run in a
process of its own, as a Keras user's is: with four lists of every model and what TensorFlow leaves
of the heap, the same snapshot of many small variables takes a quarter longer, ours and theirs by
different amounts.
"""

from __future__ import annotations

import importlib
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import swa_fast
from budgets import Finding, at_least, main
from swa_fast.bench.competitors import prepare, quiet_stderr
from swa_fast.bench.timing import compare
from swa_fast.bench.workloads import Workload

MODELS = ("mobilenet_v3_large", "bert_base")

SNAPSHOT = 5.0
"""Least ratio of keras-swa's time for a snapshot to ours."""

OURS, THEIRS = "swa_fast, the callback", "keras-swa, get_weights()"


def measure(workload: Workload, seconds: float) -> Iterator[Finding]:
    """Time a snapshot of a model with weights of these shapes."""
    keras = import_keras()
    model = model_of(keras, workload.shapes)
    callback = importlib.import_module("swa_fast.keras.callbacks").SWA(2)
    callback.set_model(model)
    callback.set_params({"epochs": 10**9, "steps": 1, "verbose": 0})
    callback.on_train_begin()
    epochs = itertools.count(1)
    averages: list[Any] = []
    taken = {OURS: 0, THEIRS: 0}

    def ours() -> None:
        epoch = next(epochs)
        callback.on_epoch_begin(epoch)
        callback.on_epoch_end(epoch)
        taken[OURS] += 1

    def theirs() -> None:
        count = taken[THEIRS]
        weights = model.get_weights()
        averages[:] = [
            (average * count + weight) / (count + 1)
            for average, weight in zip(averages or weights, weights, strict=True)
        ]
        taken[THEIRS] += 1

    found = compare({OURS: ours, THEIRS: theirs}, seconds)
    for left, right in zip(callback.get_state()["averages"], averages, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)
    what = "Keras callback, a snapshot against get_weights()"
    verdict = at_least(what, workload.name, found.ratio(THEIRS), SNAPSHOT)
    yield Finding(workload.name, "a snapshot in Keras", found, [verdict])


def model_of(keras: Any, shapes: Sequence[Sequence[int]]) -> Any:
    """Return a compiled model whose weights have these shapes, filled with random numbers."""
    model = keras.Sequential([keras.Input((1,))])
    layer = keras.layers.Layer()
    for index, shape in enumerate(shapes):
        layer.add_weight(shape=tuple(shape), initializer="zeros", name=f"weight_{index}")
    layer.built = True
    model.add(layer)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(rng.random(tuple(variable.shape), np.float32))
    return model


def import_keras() -> Any:
    """Import Keras on TensorFlow with swa_fast's number of threads.

    Raises:
        RuntimeError: the environment chooses another backend.
    """
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    prepare("tensorflow", swa_fast.get_num_threads())
    with quiet_stderr():
        keras: Any = importlib.import_module("keras")
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise RuntimeError(f"KERAS_BACKEND must be tensorflow. Received: {backend!r}")
    return keras


if __name__ == "__main__":
    main(__doc__, measure, MODELS)
