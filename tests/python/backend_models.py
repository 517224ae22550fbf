"""Keras 3 models and trainings, on any backend, for the tests of the SWA optimizer."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from optimizer_oracles import mean_of, ulps
from swa_fast.keras.optimizers import SWA

BACKEND = keras.backend.backend()
X = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)
Y = X[:, :1] * 2 + 1


def numpy_of(variable: Any) -> Any:
    return np.array(keras.ops.convert_to_numpy(variable))


def variable(values: Any, dtype: str = "float32") -> Any:
    return keras.Variable(values, dtype=dtype)


def one(values: Any = (1.0, 2.0)) -> Any:
    return keras.Variable(np.array(values, np.float32), dtype="float32", name="one")


def built(**arguments: Any) -> tuple[Any, Any]:
    variable = one()
    optimizer = SWA(keras.optimizers.SGD(0.5), **arguments)
    optimizer.build([variable])
    return optimizer, variable


def build_model() -> Any:
    keras.utils.set_random_seed(5)
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(1),
        ]
    )


class Record(keras.callbacks.Callback):
    """Keeps the trainable variables after each batch, and each optimizer step number."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[list[Any]] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if BACKEND == "jax":
            self.model.jax_state_sync()
        self.taken.append([numpy_of(v) for v in self.model.trainable_variables])


def fit(model: Any, epochs: int = 2) -> list[list[Any]]:
    record = Record()
    model.fit(X, Y, batch_size=8, epochs=epochs, verbose=0, shuffle=False, callbacks=[record])
    return record.taken


def check_averages(model: Any, swa: Any, snapshots: list[list[Any]]) -> None:
    assert len(snapshots) >= 2
    for index, each in enumerate(model.trainable_variables):
        average = numpy_of(swa.get_slot(each, "average"))
        assert ulps(average, mean_of([step[index] for step in snapshots])) <= 2
