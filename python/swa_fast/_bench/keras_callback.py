"""The Keras callback against keras-swa's own way, on the TensorFlow backend.

Run alone with `python -m swa_fast._bench.keras_callback [MODEL ...]`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import workloads
from .budgets import Verdict
from .quiet import quiet_stderr

SNAPSHOT = 5.0
"""Least ratio of keras-swa's time for a snapshot to ours."""

FIT = 1.01
"""Most that an epoch of `fit` with the callback takes, in epochs without it."""

_LEAST_ROUNDS = 5

_MOST_ELEMENTS = 1 << 28
"""A larger model would need more memory than the run has asked for: five lists of its size."""


def judge(selected: Sequence[workloads.Workload], seconds: float) -> list[Verdict]:
    """Measures the budgets of the callback, in the time of `seconds` for each model.

    Returns:
        A verdict for each model, and that of `fit`; those that cannot be measured say why.
    """
    try:
        backend = _keras().backend.backend()
        reason = "" if backend == "tensorflow" else f"KERAS_BACKEND is {backend}"
    except Exception as error:  # whatever Keras raises while it is imported is its own affair
        reason = f"{type(error).__name__} in importing keras"
    verdicts = []
    for workload in selected:
        why = reason or ("too large" if workload.elements > _MOST_ELEMENTS else "")
        ratio = None if why else snapshot_ratio(workload.shapes, seconds)
        verdicts.append(
            Verdict(
                "Keras callback, a snapshot against get_weights()",
                workload.name,
                f">= {SNAPSHOT:.2f}x",
                why if ratio is None else f"{ratio:.2f}x",
                None if ratio is None else ratio >= SNAPSHOT,
            )
        )
    if not reason and importlib.util.find_spec("sklearn") is None:
        reason = "scikit-learn is not installed"
    fit = None if reason else fit_ratio(rounds=max(1, min(4, round(seconds * 4))))
    return [
        *verdicts,
        Verdict(
            "Keras callback, an epoch of fit with it against without",
            "digits",
            f"< {FIT:.2f}x",
            reason if fit is None else f"{fit:.3f}x",
            None if fit is None else fit < FIT,
        ),
    ]


def snapshot_ratio(shapes: Sequence[Sequence[int]], seconds: float) -> float:
    """Times one snapshot of a model with weights of these shapes, interleaved.

    Ours is everything the callback does for a snapshot by batch, reading the variables included
    (the function that reads them has been traced). Theirs is keras-swa's `get_weights()` and
    NumPy expression.

    Args:
        shapes: of the float32 weights.
        seconds: for the timed rounds.

    Returns:
        The median over rounds of keras-swa's time divided by ours.
    """
    keras = _keras()
    from swa_fast.keras.callbacks import SWA

    model = keras.Sequential([keras.Input((1,))])
    layer = keras.layers.Layer()
    for index, shape in enumerate(shapes):
        layer.add_weight(shape=tuple(shape), initializer="zeros", name=f"weight_{index}")
    layer.built = True
    model.add(layer)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(rng.random(tuple(variable.shape), np.float32))

    callback = SWA(2, every_n_steps=1)
    callback.set_model(model)
    callback._backend = callback._make_backend()
    callback._take_snapshot()
    averages, count = model.get_weights(), 1

    ratios: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(ratios) < _LEAST_ROUNDS:
        started = time.perf_counter()
        callback._take_snapshot()
        between = time.perf_counter()
        averages = [
            (average * count + weight) / (count + 1)
            for average, weight in zip(averages, model.get_weights(), strict=True)
        ]
        ended = time.perf_counter()
        count += 1
        ratios.append((ended - between) / (between - started))
    ours = callback.get_state()["averages"]
    for left, right in zip(ours, averages, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)
    return statistics.median(ratios)


def fit_ratio(rounds: int = 8) -> float:
    """Times epochs of `fit` on scikit-learn's digits with a snapshot each, and without.

    Returns:
        The median over rounds of the time with the callback divided by that without.
    """
    keras = _keras()
    from sklearn.datasets import load_digits

    from swa_fast.keras.callbacks import SWA

    digits = load_digits()
    images = (digits.images / 16.0).astype("float32")[..., None]

    class Timer(keras.callbacks.Callback):  # type: ignore[misc, name-defined]
        """Times each epoch from its beginning to the next one's, so all callbacks' ends count."""

        def on_train_begin(self, logs: Any = None) -> None:
            self.begins: list[float] = []

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.begins.append(time.perf_counter())

    def epoch_time(model: Any, *callbacks: Any) -> float:
        timer = Timer()
        model.fit(
            images,
            digits.target,
            epochs=12,
            batch_size=32,
            verbose=0,
            callbacks=[timer, *callbacks],
        )
        return float(np.median(np.diff(timer.begins)[2:]))

    plain, averaged = _digits_model(keras), _digits_model(keras)
    ratios = []
    for number in range(rounds + 1):
        times = {}
        for which in (0, 1) if number % 2 else (1, 0):
            swa = [SWA(2, bn_data=images[:32])] if which else []
            times[which] = epoch_time(averaged if which else plain, *swa)
        if number:  # the first round traces
            ratios.append(times[1] / times[0])
    return statistics.median(ratios)


def _digits_model(keras: Any) -> Any:
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same"),
            layers.BatchNormalization(),
            layers.Activation("relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
    return model


def _keras() -> Any:
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet_stderr():
        return importlib.import_module("keras")


def main(names: Sequence[str]) -> None:
    """Prints the row of each model, and that of `fit`."""
    for workload in workloads.select(names):
        ratio = snapshot_ratio(workload.shapes, 6.0)
        print(f"{workload.name:<20} snapshot {ratio:5.2f}x (budget >= {SNAPSHOT}x)", flush=True)
    print(f"{'digits':<20} epoch of fit {fit_ratio():.4f} (budget < {FIT})")


if __name__ == "__main__":
    main(sys.argv[1:])
