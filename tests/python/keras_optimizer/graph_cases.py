"""TensorFlow 1 graphs under legacy Keras; run in a process of its own by test_processes.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from optimizer_oracles import mean_of, ulps
from swa_fast.tf_keras.optimizers import SWA, MovingAverage

tf.compat.v1.disable_eager_execution()
X = np.random.default_rng(0).standard_normal((32, 3)).astype(np.float32)


def trained(optimizer: Any) -> tuple[Any, list[Any], list[Any]]:
    """A model after 8 steps, its kernels after each, and what the averages hold."""
    tf_keras.backend.clear_session()
    tf_keras.utils.set_random_seed(1)
    model = tf_keras.Sequential([tf_keras.layers.Dense(1, input_shape=(3,))])
    model.compile(optimizer, "mse")
    taken = [model.get_weights()[0]]
    for _ in range(8):
        model.train_on_batch(X, X[:, :1])
        taken.append(model.get_weights()[0])
    slot = optimizer.get_slot(model.trainable_variables[0], "average")
    return model, taken, [tf_keras.backend.get_value(slot)]


@pytest.mark.parametrize("kind", ["legacy", "momentum"])
def test_swa(kind: str) -> None:
    inner = {
        "legacy": lambda: tf_keras.optimizers.legacy.SGD(0.1),
        "momentum": lambda: tf_keras.optimizers.legacy.SGD(0.1, momentum=0.5),
    }[kind]()
    optimizer = SWA(inner, 2, 3)
    model, taken, averages = trained(optimizer)
    assert ulps(averages[0], mean_of([taken[3], taken[6]])) <= 2
    operation = optimizer.assign_average_vars(model.trainable_variables)
    tf.compat.v1.keras.backend.get_session().run(operation)
    np.testing.assert_array_equal(model.get_weights()[0], averages[0])


def test_moving_average() -> None:
    optimizer = MovingAverage(tf_keras.optimizers.legacy.SGD(0.1), 0.5)
    _, taken, averages = trained(optimizer)
    expected = taken[0]
    for value in taken[1:]:
        expected = expected - (expected - value) * np.float32(0.5)
    assert ulps(averages[0], expected) <= 2


def test_fit() -> None:
    model = tf_keras.Sequential([tf_keras.layers.Dense(1, input_shape=(3,))])
    model.compile(SWA("sgd", 0, 1), "mse")
    model.fit(X, X[:, :1], batch_size=8, verbose=0)
