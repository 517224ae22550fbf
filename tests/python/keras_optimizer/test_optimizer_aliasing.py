"""TensorFlow shares buffers between variables and tensors: snapshots must never show through."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")
import keras
import tensorflow as tf

from swa_fast.keras.optimizers import SWA

MODES = ("eager", "function", "xla")
LARGE = 1 << 16  # elements; small tensors are copied here and there, large ones are shared


class Training:
    """One variable, its SWA optimizer and its average."""

    def __init__(self, mode: str, kind: Any) -> None:
        self.variable = kind(np.full(LARGE, 8.0, np.float32))
        self.optimizer = SWA(keras.optimizers.SGD(1.0), 0, 1)
        self.optimizer.build([self.variable])
        self.average = self.optimizer.get_slot(self.variable, "average")

        def step() -> None:
            self.optimizer.apply_gradients([(tf.ones(LARGE), self.variable)])

        self.step = step if mode == "eager" else tf.function(step, jit_compile=mode == "xla")

    def native(self, variable: Any) -> Any:
        return variable.value if isinstance(variable, keras.Variable) else variable


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[keras.Variable, tf.Variable], ids=["keras", "tf"])
def training(mode: str, request: pytest.FixtureRequest) -> Training:
    return Training(mode, request.param)


def same(values: Any, number: float) -> None:
    np.testing.assert_array_equal(np.asarray(values), np.full(LARGE, number, np.float32))


def test_model_variable_assigned_from_the_slot(training: Training) -> None:
    for _ in range(3):
        training.step()  # 7, 6, 5: mean 6
    training.variable.assign(training.average)
    same(training.variable.numpy(), 6)
    same(training.average.numpy(), 6)
    training.step()  # 5
    same(training.variable.numpy(), 5)
    same(training.average.numpy(), (7 + 6 + 5 + 5) / 4)
    training.step()  # 4
    same(training.variable.numpy(), 4)
    same(training.average.numpy(), (7 + 6 + 5 + 5 + 4) / 5)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("kind", [keras.Variable, tf.Variable], ids=["keras", "tf"])
def test_variable_that_no_step_writes_assigned_from_a_slot(mode: str, kind: Any) -> None:
    """A training step gives a variable that it writes a buffer of its own; this one keeps it."""
    trained, idle = (kind(np.full(LARGE, 8.0, np.float32)) for _ in range(2))
    optimizer = SWA(keras.optimizers.SGD(1.0), 0, 1)
    optimizer.build([trained, idle])

    def step() -> None:
        optimizer.apply_gradients([(tf.ones(LARGE), trained), (None, idle)])

    run = step if mode == "eager" else tf.function(step, jit_compile=mode == "xla")
    average = optimizer.get_slot(trained, "average")
    run()
    run()
    idle.assign(average)  # (7 + 6) / 2
    run()
    same(average.numpy(), 6)
    same(idle.numpy(), 6.5)
    same(optimizer.get_slot(idle, "average").numpy(), (8 + 8 + 6.5) / 3)


def test_assign_average_vars_then_more_training(training: Training) -> None:
    for _ in range(3):
        training.step()
    training.optimizer.assign_average_vars([training.variable])
    training.step()
    same(training.variable.numpy(), 5)
    same(training.average.numpy(), (7 + 6 + 5 + 5) / 4)


@pytest.mark.parametrize("read", ["read_value", "identity", "reshape", "numpy", "twin", "assigned"])
@pytest.mark.parametrize("source", ["average", "variable"])
def test_what_was_read_stays(training: Training, source: str, read: str) -> None:
    training.step()
    training.step()
    variable = training.native(getattr(training, source))
    kept: Any
    if read == "read_value":
        kept = variable.read_value()
    elif read == "identity":
        kept = tf.identity(variable)
    elif read == "reshape":
        kept = tf.reshape(variable, [-1])
    elif read == "numpy":
        kept = variable.numpy()
    elif read == "twin":
        kept = tf.Variable(variable)
    else:
        kept = tf.Variable(np.zeros(LARGE, np.float32))
        kept.assign(variable)
    before = np.array(tf.convert_to_tensor(kept).numpy(), copy=True)
    same(before, 6.5 if source == "average" else 6)
    for _ in range(3):
        training.step()
    np.testing.assert_array_equal(tf.convert_to_tensor(kept).numpy(), before)
    same(training.average.numpy(), (7 + 6 + 5 + 4 + 3) / 5)
    same(training.variable.numpy(), 3)


def test_writing_to_a_twin_of_the_average_leaves_it(training: Training) -> None:
    training.step()
    twin = tf.Variable(training.native(training.average))
    twin.assign_add(tf.ones(LARGE))
    same(training.average.numpy(), 7)
    training.step()
    same(training.average.numpy(), 6.5)
    same(twin.numpy(), 8)


def test_slot_assigned_by_the_user_between_snapshots(training: Training) -> None:
    training.step()
    mine = tf.fill([LARGE], 1.0)
    training.average.assign(mine)
    training.step()  # the second of two: (1 + 6) / 2
    same(training.average.numpy(), 3.5)
    same(mine.numpy(), 1)


def test_slot_assigned_from_the_model_variable(training: Training) -> None:
    training.step()
    training.average.assign(training.variable)
    training.step()
    same(training.average.numpy(), 6.5)
    same(training.variable.numpy(), 6)


def test_first_snapshot_does_not_tie_average_and_variable(training: Training) -> None:
    training.step()
    training.variable.assign_add(tf.ones(LARGE))
    same(training.average.numpy(), 7)
    training.average.assign_add(tf.ones(LARGE))
    same(training.variable.numpy(), 8)
