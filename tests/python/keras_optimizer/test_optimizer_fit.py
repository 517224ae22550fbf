"""`fit` on TensorFlow, however it is compiled: averages, mixed precision and checkpoints."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")
import keras
import tensorflow as tf

from optimizer_oracles import due_steps, mean_of, ulps
from swa_fast.keras.optimizers import SWA

X = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)
Y = X[:, :1] * 2 + 1
STEPS = 16  # two epochs of eight batches


@pytest.fixture
def policy(request: pytest.FixtureRequest) -> Iterator[str]:
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy(request.param)
    yield request.param
    keras.mixed_precision.set_dtype_policy(before)


def build_model(history: bool = False) -> Any:
    keras.utils.set_random_seed(5)
    layers = keras.layers
    model_class = WithHistory if history else keras.Sequential
    return model_class(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu"),
            layers.BatchNormalization(),
            layers.Dense(1, dtype="float32"),
        ]
    )


class WithHistory(keras.Sequential):
    """Writes the trainable variables down after every step, inside the compiled step itself.

    A callback sees the end of each execution only: of every third step, say.
    """

    def compile(self, *arguments: Any, **settings: Any) -> None:
        super().compile(*arguments, **settings)
        self.rows = [
            tf.Variable(tf.zeros((STEPS, *v.shape)), trainable=False)
            for v in self.trainable_variables
        ]
        self.row = tf.Variable(0, dtype=tf.int64, trainable=False)

    def train_step(self, data: Any) -> Any:
        logs = super().train_step(data)
        here = tf.one_hot(self.row, STEPS)
        for rows, variable in zip(self.rows, self.trainable_variables, strict=True):
            mask = tf.reshape(here, (STEPS, *[1] * len(variable.shape)))
            rows.assign(tf.where(mask > 0, tf.convert_to_tensor(variable.value)[None], rows))
        self.row.assign_add(1)
        return logs


def fit(model: Any, epochs: int = 2) -> None:
    model.fit(X, Y, batch_size=8, epochs=epochs, verbose=0, shuffle=False)


def numpy_of(variable: Any) -> Any:
    return variable.numpy().copy()


def averages(model: Any, swa: Any) -> list[Any]:
    return [numpy_of(swa.get_slot(v, "average")) for v in model.trainable_variables]


@pytest.mark.parametrize("steps_per_execution", [1, 3])
@pytest.mark.parametrize("jit_compile", [True, False, "auto"])
@pytest.mark.parametrize("schedule", [(0, 1), (3, 2)], ids=str)
def test_averages_are_those_of_the_variables_history(
    schedule: tuple[int, int], jit_compile: bool | str, steps_per_execution: int
) -> None:
    model = build_model(history=True)
    swa = SWA(keras.optimizers.Adam(0.05), *schedule)
    model.compile(swa, "mse", jit_compile=jit_compile, steps_per_execution=steps_per_execution)
    fit(model)
    assert int(model.row) == int(swa.iterations) == STEPS
    due = due_steps(STEPS, *schedule)
    for rows, variable, average in zip(
        model.rows, model.trainable_variables, averages(model, swa), strict=True
    ):
        history = rows.numpy()
        np.testing.assert_array_equal(history[-1], variable.numpy())
        assert len(np.unique(history.reshape(STEPS, -1), axis=0)) == STEPS
        assert ulps(average, mean_of([history[step] for step in due])) <= 2


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"], indirect=True)
@pytest.mark.parametrize("jit_compile", [True, False])
def test_mixed_precision_policy(policy: str, jit_compile: bool) -> None:
    model = build_model(history=True)
    swa = SWA(keras.optimizers.SGD(0.02, momentum=0.5), 1, 2)
    model.compile(swa, "mse", jit_compile=jit_compile)
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled is (policy == "mixed_float16")
    assert model.layers[0].compute_dtype == policy.removeprefix("mixed_")
    start = [numpy_of(v) for v in model.trainable_variables]
    fit(model)
    histories = [
        np.concatenate([first[None], rows.numpy()])
        for first, rows in zip(start, model.rows, strict=True)
    ]
    made = [  # the default loss scale is too much for float16: the first steps are skipped
        step
        for step in range(STEPS)
        if any(not np.array_equal(each[step + 1], each[step]) for each in histories)
    ]
    assert int(swa.iterations) == len(made)
    assert (len(made) < STEPS) is scaled
    due = [made[number] for number in due_steps(len(made), 1, 2)]
    assert len(due) >= 5
    for history, average in zip(histories, averages(model, swa), strict=True):
        assert average.dtype == np.float32
        assert ulps(average, mean_of([history[step + 1] for step in due])) <= 2


@pytest.mark.parametrize("jit_compile", [True, False])
@pytest.mark.parametrize("whole", ["model", "parts"])
def test_checkpoint_resumes_bit_for_bit(
    tmp_path: pathlib.Path, whole: str, jit_compile: bool
) -> None:
    def compiled_model() -> Any:
        model = build_model()
        model.compile(SWA(keras.optimizers.Adam(0.02), 2, 3), "mse", jit_compile=jit_compile)
        return model

    def checkpoint(model: Any) -> Any:
        if whole == "model":
            return tf.train.Checkpoint(model=model)
        return tf.train.Checkpoint(model=model, optimizer=model.optimizer)

    def state(model: Any) -> list[Any]:
        return [numpy_of(v) for v in [*model.variables, *model.optimizer.variables]]

    model = compiled_model()
    fit(model, epochs=1)
    halfway = state(model)
    path = checkpoint(model).save(str(tmp_path / "ckpt"))
    fit(model, epochs=1)
    expected = state(model)

    resumed = compiled_model()
    fit(resumed, epochs=2)  # elsewhere, and with an average of its own
    assert any(not np.array_equal(a, b) for a, b in zip(state(resumed), halfway, strict=True))
    checkpoint(resumed).restore(path).assert_existing_objects_matched()
    for a, b in zip(state(resumed), halfway, strict=True):
        np.testing.assert_array_equal(a, b)
    fit(resumed, epochs=1)
    assert int(resumed.optimizer.iterations) == STEPS
    for a, b in zip(state(resumed), expected, strict=True):
        np.testing.assert_array_equal(a, b)
