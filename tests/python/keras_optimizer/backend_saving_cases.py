"""Every Keras backend: what survives saving and loading; run by test_processes.py."""

from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest

from backend_models import build_model, fit, numpy_of
from swa_fast.keras.optimizers import SWA


def test_resumed_run_is_the_uninterrupted_one(tmp_path: pathlib.Path) -> None:
    model = build_model()
    model.compile(SWA(keras.optimizers.Adam(0.02), 2, 3), "mse")
    fit(model)
    model.save(tmp_path / "m.keras")
    halfway = model.optimizer.get_weights()
    weights, config = model.get_weights(), model.optimizer.get_config()
    fit(model)
    expected = [numpy_of(v) for v in [*model.variables, *model.optimizer.weights]]

    loaded = keras.models.load_model(tmp_path / "m.keras")
    by_hand = build_model()
    by_hand.set_weights(weights)
    by_hand.compile(SWA.from_config(config), "mse")
    by_hand.optimizer.build(by_hand.trainable_variables)
    by_hand.optimizer.set_weights(halfway)
    for resumed in (loaded, by_hand):
        for a, b in zip(resumed.optimizer.get_weights(), halfway, strict=True):
            np.testing.assert_array_equal(a, b)
        fit(resumed)
        actual = [numpy_of(v) for v in [*resumed.variables, *resumed.optimizer.weights]]
        assert len(actual) == len(expected)
        for a, b in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("nesting", ["inside", "outside"])
def test_loss_scaled_run_resumed_from_a_file(tmp_path: pathlib.Path, nesting: str) -> None:
    scaler, model = keras.optimizers.LossScaleOptimizer, build_model()
    if nesting == "inside":
        optimizer = SWA(scaler(keras.optimizers.SGD(0.02), initial_scale=2.0**127), 1, 2)
    else:
        optimizer = scaler(SWA(keras.optimizers.SGD(0.02), 1, 2), initial_scale=2.0**127)
    model.compile(optimizer, "mse")
    fit(model)
    model.save(tmp_path / "m.keras")
    halfway = [numpy_of(v) for v in [*model.variables, *model.optimizer.variables]]
    fit(model)
    expected = [numpy_of(v) for v in [*model.variables, *model.optimizer.variables]]
    loaded = keras.models.load_model(tmp_path / "m.keras")
    for state in (halfway, expected):
        actual = [numpy_of(v) for v in [*loaded.variables, *loaded.optimizer.variables]]
        assert len(actual) == len(state)
        for a, b in zip(actual, state, strict=True):
            np.testing.assert_array_equal(a, b)
        fit(loaded)
