"""`fused=True` on TensorFlow: averages in private memory, and nothing of it shows through."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")
import keras
import tensorflow as tf

from swa_fast.keras.optimizers import SWA, MovingAverage

LARGE = 1 << 16  # elements; TensorFlow copies small tensors here and there, and shares large ones
MAKE: dict[str, Any] = {
    "mean": lambda **settings: SWA(keras.optimizers.SGD(1.0), 0, 2, **settings),
    "moving": lambda **settings: MovingAverage(keras.optimizers.SGD(1.0), 0.9, **settings),
}


@pytest.fixture(params=MAKE)
def make(request: pytest.FixtureRequest) -> Any:
    return MAKE[request.param]


@pytest.fixture(params=[keras.Variable, tf.Variable], ids=["keras", "tf"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def train(make: Any, steps: int = 5, kind: Any = tf.Variable, **settings: Any) -> tuple[Any, Any]:
    """An optimizer and its variables after some steps."""
    rng = np.random.default_rng(0)
    variables = [
        kind(rng.standard_normal(LARGE).astype("float32")),
        kind(rng.standard_normal((3, 4)), dtype="float64"),
        kind(tf.cast(rng.standard_normal(7), "bfloat16"), dtype="bfloat16"),
    ]
    optimizer = make(**settings)
    optimizer.build(variables)
    for _ in range(steps):
        step(optimizer, variables)
    return optimizer, variables


def step(optimizer: Any, variables: list[Any]) -> None:
    optimizer.apply([tf.cast(v * 0.1, v.dtype) for v in variables], variables)


def averages(optimizer: Any, variables: list[Any]) -> list[Any]:
    return [optimizer.get_slot(variable, "average").numpy() for variable in variables]


def test_same_bits_as_without(make: Any, kind: Any) -> None:
    ours, theirs = (train(make, kind=kind, fused=fused) for fused in (True, False))
    for a, b in zip(averages(*ours), averages(*theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    for a, b in zip(ours[0].get_weights(), theirs[0].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert ours[0].snapshots == theirs[0].snapshots
    assert ours[0].get_config()["fused"] is True
    assert type(ours[0]).from_config(ours[0].get_config()).get_config() == ours[0].get_config()


@pytest.mark.parametrize(
    "read", ["value", "numpy", "tensor", "array", "twin", "assigned", "get_weights"]
)
def test_what_was_read_stays(make: Any, kind: Any, read: str) -> None:
    optimizer, variables = train(make, kind=kind, fused=True)
    slot = optimizer.get_slot(variables[0], "average")
    kept: Any
    if read == "value":
        kept = slot.value
    elif read == "numpy":
        kept = slot.numpy()
    elif read == "tensor":
        kept = tf.convert_to_tensor(slot)
    elif read == "array":
        kept = np.asarray(slot)
    elif read == "twin":
        kept = tf.Variable(slot)
    elif read == "assigned":
        kept = kind(np.zeros(LARGE, np.float32))
        kept.assign(slot)
    else:
        kept = next(each for each in optimizer.get_weights() if np.shape(each) == (LARGE,))
    before = np.array(kept, copy=True)
    for _ in range(4):
        step(optimizer, variables)
    np.testing.assert_array_equal(np.asarray(kept), before)
    assert not np.array_equal(slot.numpy(), before)


def test_writing_to_what_was_read_changes_nothing(make: Any) -> None:
    optimizer, variables = train(make, fused=True)
    slot = optimizer.get_slot(variables[0], "average")
    before = slot.numpy()
    slot.numpy()[...] = 9
    twin = tf.Variable(slot.value)
    twin.assign_add(tf.ones(LARGE))
    variables[0].assign(slot.value)
    variables[0].assign_add(tf.ones(LARGE))
    np.testing.assert_array_equal(slot.numpy(), before)


@pytest.mark.parametrize("given", ["array", "tensor", "variable"])
def test_slot_assigned_keeps_no_memory_of_the_users(make: Any, given: str) -> None:
    optimizer, variables = train(make, fused=True)
    slot = optimizer.get_slot(variables[0], "average")
    mine: Any = np.full(LARGE, 3.0, np.float32)
    if given == "tensor":
        mine = tf.constant(mine)
    elif given == "variable":
        mine = tf.Variable(mine)
    slot.assign(mine)
    np.testing.assert_array_equal(slot.numpy(), np.full(LARGE, 3.0))
    step(optimizer, variables)
    step(optimizer, variables)
    np.testing.assert_array_equal(np.asarray(mine), np.full(LARGE, 3.0))
    assert not np.array_equal(slot.numpy(), np.full(LARGE, 3.0))
    with pytest.raises(ValueError, match="shape"):
        slot.assign(np.zeros(3, np.float32))


def test_handed_out_and_back(make: Any, kind: Any) -> None:
    optimizer, variables = train(make, kind=kind, fused=True)
    values = [np.array(v) for v in variables]
    means = averages(optimizer, variables)
    with optimizer.applied(variables):
        np.testing.assert_array_equal(np.array(variables[0]), means[0])
    optimizer.swap_weights()
    np.testing.assert_array_equal(optimizer.get_slot(variables[0], "average").numpy(), values[0])
    optimizer.swap_weights()
    for variable, value, mean in zip(variables, values, means, strict=True):
        np.testing.assert_array_equal(np.array(variable), value)
        np.testing.assert_array_equal(optimizer.get_slot(variable, "average").numpy(), mean)
    optimizer.assign_average_vars(variables)
    step(optimizer, variables)
    assert not np.array_equal(np.array(variables[0]), means[0])


@pytest.mark.parametrize("direction", [(True, False), (False, True), (True, True)], ids=str)
@pytest.mark.parametrize("built", [False, True])
def test_checkpoints_of_either_kind(
    make: Any, direction: tuple[bool, bool], built: bool, tmp_path: pathlib.Path
) -> None:
    optimizer, variables = train(make, fused=direction[0])
    path = tf.train.Checkpoint(optimizer=optimizer).save(str(tmp_path / "c"))
    expected, count = averages(optimizer, variables), optimizer.snapshots
    for _ in range(2):
        step(optimizer, variables)
    other = make(fused=direction[1])
    if built:
        other.build(variables)
    tf.train.Checkpoint(optimizer=other).restore(path)
    other.build(variables)
    assert other.snapshots == count
    for a, b in zip(averages(other, variables), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_fit_and_files(make: Any, tmp_path: pathlib.Path) -> None:
    x = np.random.default_rng(0).standard_normal((32, 3)).astype("float32")
    saved = []
    for fused in (True, False):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(make(fused=fused), "mse", run_eagerly=True)
        model.fit(x, x[:, :1], batch_size=8, verbose=0)
        model.save(tmp_path / "m.keras")
        loaded = keras.models.load_model(tmp_path / "m.keras")
        for a, b in zip(loaded.optimizer.get_weights(), model.optimizer.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        saved.append(model.optimizer.get_weights())
    for a, b in zip(*saved, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_step_in_a_graph_is_refused_and_changes_nothing(make: Any) -> None:
    optimizer, variables = train(make, fused=True)
    before = [*optimizer.get_weights(), np.array(variables[0])]
    with pytest.raises(ValueError, match=r"\(fused=True\) averages after eager steps"):
        tf.function(lambda: step(optimizer, variables))()
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(make(fused=True), "mse")
    with pytest.raises(ValueError, match="run_eagerly=True, or leave fused=True out"):
        model.fit(np.ones((2, 1)), np.ones((2, 1)), verbose=0)
    for a, b in zip([*optimizer.get_weights(), np.array(variables[0])], before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_snapshots_that_are_not_finite_are_left_out(make: Any) -> None:
    optimizer, variables = train(make, 1, fused=True, nonfinite="skip")
    means, count = averages(optimizer, variables), optimizer.snapshots
    variables[1].assign(np.full((3, 4), np.inf))
    step(optimizer, variables)
    step(optimizer, variables)
    assert optimizer.skipped >= 1
    assert optimizer.snapshots == count
    for a, b in zip(averages(optimizer, variables), means, strict=True):
        np.testing.assert_array_equal(a, b)
