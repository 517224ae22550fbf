"""What the Keras SWA optimizer costs in a training step of `fit` that takes no snapshot.

    python benchmarks/keras_steps.py [--seconds S] [--json FILE]

Two equal trainings of a small convolutional network, one with the wrapper, take turns step by step
in the compiled function that `fit` calls for each batch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from budgets import Finding, Verdict, main
from keras_snapshots import import_keras
from swa_fast.bench.competitors import quiet_stderr
from swa_fast.bench.timing import compare

STEP = 1.02
"""Most that a step takes, in steps of the inner optimizer alone."""

_NEVER = 10**9
"""A first snapshot that no run reaches."""

_SPREAD = 1.25 / 1.35
"""From a quartile distance to the standard error of the median, times the square root of n, for
a normal distribution."""

INNER, WRAPPED = "SGD", "swa_fast.keras.optimizers.SWA(SGD)"


def measure(workload: None, seconds: float) -> Iterator[Finding]:
    """Time steps of equal trainings with the wrapper and without."""
    keras = import_keras()
    swa = importlib.import_module("swa_fast.keras.optimizers").SWA
    inner = keras.optimizers.SGD
    with quiet_stderr():
        calls = {
            INNER: stepper(keras, inner(1e-3, momentum=0.9)),
            WRAPPED: stepper(keras, swa(inner(1e-3, momentum=0.9), _NEVER)),
        }
        found = compare(calls, seconds)
    ratio = found.ratio(WRAPPED)
    # The budget lies inside the quartiles always, so what decides is how far to trust the median.
    error = _SPREAD * (ratio.high - ratio.low) / len(found.seconds[WRAPPED]) ** 0.5
    verdict = Verdict(
        "Keras SWA optimizer, a step of fit without a snapshot",
        "CNN",
        f"< {STEP:.2f}x",
        f"{ratio.median:.3f}x +- {error:.3f}",
        None if abs(ratio.median - STEP) < error else ratio.median < STEP,
    )
    yield Finding("CNN", "a step of fit without a snapshot", found, [verdict])


def stepper(keras: Any, optimizer: Any) -> Callable[[], object]:
    """Returns a function that makes one step of a small convolutional network and waits for it."""
    layers = keras.layers
    blocks = []
    for width in (16, 32, 64):
        for _ in range(2):
            convolution = layers.Conv2D(width, 3, padding="same", use_bias=False)
            blocks += [convolution, layers.BatchNormalization(), layers.ReLU()]
        blocks.append(layers.MaxPooling2D())
    head = [layers.GlobalAveragePooling2D(), layers.Dense(10)]
    model = keras.Sequential([keras.Input((32, 32, 3)), *blocks, *head])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    rng = np.random.default_rng(0)
    images, labels = rng.random((32, 32, 32, 3), np.float32), rng.integers(0, 10, 32)
    dataset = importlib.import_module("tensorflow").data.Dataset
    batches = dataset.from_tensors((images, labels)).repeat()
    model.fit(batches.take(1), verbose=0, shuffle=False)  # builds and traces
    iterator = iter(batches)

    def step() -> None:
        logs = model.train_function(iterator)
        float(next(iter(logs.values())))

    return step


if __name__ == "__main__":
    main(__doc__, measure, models=None)
