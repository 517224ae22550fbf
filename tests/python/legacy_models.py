"""Legacy Keras models and trainings for the tests of the SWA optimizer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from optimizer_oracles import mean_of, ulps

LEGACY, NEW = tf_keras.optimizers.legacy, tf_keras.optimizers
SCALER = tf_keras.mixed_precision.LossScaleOptimizer
KINDS = pytest.mark.parametrize("kind", [LEGACY, NEW], ids=["legacy", "new"])
MODES = pytest.mark.parametrize("mode", ["eager", "function", "xla"])
X = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)
Y = X[:, :1] * 2 + 1


def compiled(step: Any, mode: str) -> Any:
    def run(*arguments: Any) -> None:
        step(*arguments)  # a legacy optimizer returns an operation, a function cannot

    return run if mode == "eager" else tf.function(run, jit_compile=mode == "xla")


def build_model() -> Any:
    tf_keras.utils.set_random_seed(5)
    return tf_keras.Sequential(
        [
            tf_keras.Input((6,)),
            tf_keras.layers.Dense(8, activation="relu"),
            tf_keras.layers.BatchNormalization(),
            tf_keras.layers.Dense(1, dtype="float32"),
        ]
    )


def fit(model: Any, epochs: int = 2) -> list[list[Any]]:
    taken: list[list[Any]] = []

    class Record(tf_keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            taken.append([v.numpy().copy() for v in self.model.trainable_variables])

    model.fit(X, Y, batch_size=8, epochs=epochs, verbose=0, shuffle=False, callbacks=[Record()])
    return taken


def check_averages(model: Any, swa: Any, snapshots: list[list[Any]]) -> None:
    assert len(snapshots) >= 2
    for index, each in enumerate(model.trainable_variables):
        average = swa.get_slot(each, "average").numpy()
        assert ulps(average, mean_of([step[index] for step in snapshots])) <= 2
