"""What the Keras SWA optimizer costs in a training step that takes no snapshot.

Run alone with `python -m swa_fast._bench.keras_optimizer [SECONDS]`.
"""

from __future__ import annotations

import importlib
import os
import statistics
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from .budgets import Verdict
from .quiet import quiet_stderr
from .timing import Task, interleave, ratios

STEP = 1.02
"""Most that a step takes, in steps of the inner optimizer alone."""

_NEVER = 10**9
"""A first snapshot that no run reaches."""

_SPREAD = 1.25 / 1.35
"""From a quartile distance to the standard error of the median, times the square root of n, for
a normal distribution."""

_INNER, _WRAPPED = "inner", "wrapped"


def judge(seconds: float) -> Verdict:
    """Measures the budget in the compiled function that `fit` calls for each batch.

    Args:
        seconds: for the timed rounds; building and tracing the two models comes on top.

    Returns:
        The verdict; where it cannot be measured, it says why.
    """
    measured = ""
    met: bool | None = None
    try:
        os.environ.setdefault("KERAS_BACKEND", "tensorflow")
        with quiet_stderr():
            keras = importlib.import_module("keras")
        if keras.backend.backend() != "tensorflow":
            measured = f"KERAS_BACKEND is {keras.backend.backend()}"
    except Exception as error:  # whatever Keras raises while it is imported is its own affair
        measured = f"{type(error).__name__} in importing keras"
    if not measured:
        ratio, spread = step_ratio(keras, seconds)
        measured, met = f"{ratio:.3f}x +- {spread:.3f}", ratio < STEP
    return Verdict(
        "Keras SWA optimizer, a step of fit without a snapshot",
        "CNN",
        f"< {STEP:.2f}x",
        measured,
        met,
    )


def step_ratio(keras: Any, seconds: float) -> tuple[float, float]:
    """Times steps of equal trainings with the wrapper and without, taking turns.

    Returns:
        The median over rounds of the time with it divided by that without, and its standard error.
    """
    swa = importlib.import_module("swa_fast.keras.optimizers").SWA
    inner = keras.optimizers.SGD
    with quiet_stderr():
        tasks = [
            Task(_INNER, _stepper(keras, inner(1e-3, momentum=0.9)), every_round=True),
            Task(
                _WRAPPED, _stepper(keras, swa(inner(1e-3, momentum=0.9), _NEVER)), every_round=True
            ),
        ]
        samples = interleave(tasks, seconds, prime=False)
    found = ratios(samples[_WRAPPED], samples[_INNER])
    low, median, high = statistics.quantiles(found, n=4)
    return median, _SPREAD * (high - low) / len(found) ** 0.5


def _stepper(keras: Any, optimizer: Any) -> Callable[[], object]:
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


def main(seconds: float) -> None:
    """Prints the row."""
    verdict = judge(seconds)
    print(f"{verdict.what} ({verdict.subject}): {verdict.measured}, budget {verdict.target}")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 20.0)
