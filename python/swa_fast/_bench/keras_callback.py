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
from .keras_fit import BUDGET, Ratio, fit_ratio
from .quiet import quiet_stderr

SNAPSHOT = 5.0
"""Least ratio of keras-swa's time for a snapshot to ours."""

_FIT_EPOCHS = 40
"""Of each of the two fits: as many as fit into a tenth of the whole benchmark's time."""

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
    fit = None if reason else _fit_ratio(max(6, min(_FIT_EPOCHS, round(seconds * _FIT_EPOCHS))))
    return [
        *verdicts,
        Verdict(
            "Keras callback, an epoch of fit with it against without",
            "digits",
            f"< {BUDGET:.2f}x",
            reason if fit is None else _words(fit),
            None if fit is None else fit.verdict(),
        ),
    ]


def snapshot_ratio(shapes: Sequence[Sequence[int]], seconds: float) -> float:
    """Times one snapshot of a model with weights of these shapes, interleaved.

    Ours is everything the callback does for a snapshot, reading the variables included. Theirs is
    keras-swa's `get_weights()` and NumPy expression.

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

    callback = SWA(2)
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


def _words(fit: Ratio) -> str:
    return f"{fit.median:.3f}x +- {fit.error:.3f}, hooks {fit.hooks:.2%}"


def _fit_ratio(epochs: int) -> Ratio:
    keras = _keras()
    from swa_fast.keras.callbacks import SWA

    return fit_ratio(keras, SWA, epochs)


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
    fit = _fit_ratio(3 * _FIT_EPOCHS)
    print(f"{'digits':<20} epoch of fit {_words(fit)} (budget < {BUDGET}x)")


if __name__ == "__main__":
    main(sys.argv[1:])
