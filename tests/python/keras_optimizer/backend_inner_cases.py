"""Every Keras backend: inner optimizers with averages of their own; run by test_processes.py."""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np
import pytest

from backend_models import BACKEND, X, Y, numpy_of, variable
from swa_fast.keras.optimizers import SWA, MovingAverage


def with_ema() -> Any:
    return keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.5)


def scaled(inner: Any) -> Any:
    return keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0)


def several(inner: Any) -> Any:
    return keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(inner))


NESTINGS: dict[str, Any] = {
    "alone": SWA,
    "scaled outside": lambda inner: scaled(SWA(inner)),
    "scaled inside": lambda inner: SWA(scaled(inner)),
    "among several": lambda inner: several(SWA(inner)),
    "around several": lambda inner: SWA(several(inner)),
}


def alone(inner: Any) -> Any:
    return inner


ALONE: dict[str, Any] = {
    "alone": alone,
    "scaled outside": scaled,
    "scaled inside": scaled,
    "among several": several,
    "around several": several,
}


def small_model() -> Any:
    keras.utils.set_random_seed(5)
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])


@functools.cache
def train_with_swapped_weights(make: Any) -> tuple[Any, list[Any], list[Any]]:
    """The history, the weights that a checkpoint saw after the last epoch, and the last ones."""
    model, seen = small_model(), []
    model.compile(make(with_ema()), "mse", run_eagerly=True)
    last = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append([numpy_of(v) for v in model.weights])
    )
    history = model.fit(
        X,
        Y,
        batch_size=16,
        epochs=2,
        verbose=0,
        shuffle=False,
        validation_data=(X, Y),
        callbacks=[keras.callbacks.SwapEMAWeights(swap_on_epoch=True), last],
    )
    return history.history["val_loss"], seen[-1], [numpy_of(v) for v in model.weights]


@pytest.mark.parametrize("nesting", NESTINGS)
def test_swapped_exponential_averages_are_those_of_the_inner_optimizer(nesting: str) -> None:
    plain = train_with_swapped_weights(ALONE[nesting])
    wrapped = train_with_swapped_weights(NESTINGS[nesting])
    np.testing.assert_allclose(wrapped[0], plain[0], rtol=1e-5)
    for ours, theirs in zip([*wrapped[1], *wrapped[2]], [*plain[1], *plain[2]], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert np.any(wrapped[1][0])


@pytest.mark.parametrize("make", [SWA, MovingAverage])
def test_nothing_is_made_twice_for_what_the_inner_optimizer_does(make: Any) -> None:
    each = variable(np.ones(3))
    inner = keras.optimizers.SGD(0.1, use_ema=True, gradient_accumulation_steps=2)
    optimizer = make(inner)
    optimizer.build([each])
    assert len(optimizer.variables) == len(inner.variables) + 2  # the count and the average
    assert optimizer.use_ema is True
    assert optimizer.gradient_accumulation_steps == 2


@pytest.mark.parametrize("callback", ["schedule", "plateau"])
def test_learning_rate_callbacks_reach_each_of_several_optimizers(callback: str) -> None:
    model, inner = small_model(), keras.optimizers.SGD(0.5, name="inner")
    model.compile(SWA(several(inner)), "mse", run_eagerly=True)
    chosen = {
        "schedule": keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2),
        "plateau": keras.callbacks.ReduceLROnPlateau("loss", 0.5, patience=1, min_delta=1e9),
    }[callback]
    history = model.fit(X, Y, batch_size=32, epochs=2, verbose=0, callbacks=[chosen])
    rates = {"schedule": [0.25, 0.125], "plateau": [0.5, 0.5]}[callback]
    assert history.history["learning_rate_inner"] == rates
    assert float(numpy_of(inner.learning_rate)) == {"schedule": 0.125, "plateau": 0.25}[callback]


if BACKEND == "tensorflow":

    def test_a_model_that_is_frozen_takes_no_step() -> None:
        optimizer = SWA("sgd", 0, 1)
        optimizer.build([])
        optimizer.apply([], [])
        assert int(optimizer.iterations) == 0
        assert optimizer.snapshots == 0
