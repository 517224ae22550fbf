"""Legacy Keras: what survives saving and loading; run by test_processes.py."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from legacy_models import KINDS, build_model, fit
from swa_fast.tf_keras.optimizers import SWA


def state(model: Any) -> list[Any]:
    optimizer = model.optimizer
    averages = [optimizer.get_slot(v, "average").numpy() for v in model.trainable_variables]
    return [optimizer.iterations.numpy(), *averages, *(v.numpy() for v in model.variables)]


@KINDS
@pytest.mark.parametrize("way", ["h5", "checkpoint", "weights_tf", "by_hand"])
def test_resumed_run_is_the_uninterrupted_one(way: str, kind: Any, tmp_path: pathlib.Path) -> None:
    def make() -> Any:
        model = build_model()
        model.compile(SWA(kind.Adam(0.02), 2, 3), "mse")
        return model

    model = make()
    fit(model)
    optimizer = model.optimizer
    halfway = optimizer.get_weights()
    assert int(halfway[0]) == 16
    if way == "h5":
        model.save(tmp_path / "m.h5")
    elif way == "checkpoint":
        path = tf.train.Checkpoint(model=model, optimizer=optimizer).save(str(tmp_path / "c"))
    elif way == "weights_tf":
        model.save_weights(str(tmp_path / "w"), save_format="tf")
    weights, config = model.get_weights(), optimizer.get_config()
    fit(model)
    expected = state(model)

    if way == "h5":
        resumed = tf_keras.models.load_model(tmp_path / "m.h5")
    else:
        resumed = make()
        if way == "checkpoint":
            tf.train.Checkpoint(model=resumed, optimizer=resumed.optimizer).restore(path)
        elif way == "weights_tf":
            resumed.load_weights(str(tmp_path / "w"))
        else:
            resumed.compile(SWA.from_config(config), "mse")
            resumed.set_weights(weights)
            resumed.optimizer.build(resumed.trainable_variables)
            resumed.optimizer.set_weights(halfway)
    assert type(resumed.optimizer) is SWA
    assert type(resumed.optimizer.inner_optimizer) is kind.Adam
    fit(resumed)
    actual = state(resumed)
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@KINDS
def test_config_round_trip(kind: Any) -> None:
    schedule = tf_keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.5)
    optimizer = SWA(kind.SGD(schedule, momentum=0.5), 7, 3, "mine", False, clipvalue=0.5)
    config = optimizer.get_config()
    assert config["start_averaging"] == 7
    assert config["average_period"] == 3
    assert config["name"] == "mine"
    assert config["sequential_update"] is False
    again = SWA.from_config(config)
    assert again.get_config() == config == optimizer.get_config()
    assert type(again.inner_optimizer) is kind.SGD
    assert again.clipvalue == 0.5
    serialized = tf_keras.optimizers.serialize(optimizer)
    assert tf_keras.optimizers.deserialize(serialized).get_config() == config
