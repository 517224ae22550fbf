"""The average against real TFA runs and against NumPy: eager, tf.function and XLA."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")
import keras
import tensorflow as tf

from optimizer_oracles import GOLDEN, due_steps, golden_arrays, mean_of, ulps
from swa_fast.keras.optimizers import SWA, AveragedOptimizerWrapper

MODES = ("eager", "function", "xla")


def compiled(step: Any, mode: str) -> Any:
    if mode == "eager":
        return step
    return tf.function(step, jit_compile=mode == "xla")


def stepper(optimizer: Any, variables: list[Any], mode: str) -> Any:
    optimizer.build(variables)

    def step(*gradients: Any) -> None:
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    return compiled(step, mode)


def float32(values: Any) -> Any:
    return keras.Variable(values, dtype="float32")


def numpy_of(variable: Any) -> Any:
    return variable.numpy().copy()


@pytest.mark.parametrize("kind", [keras.Variable, tf.Variable], ids=["keras", "tf"])
@pytest.mark.parametrize("mode", ["eager", "function"])
@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["key"])
def test_reproduces_tfa(case: dict[str, Any], mode: str, kind: Any) -> None:
    golden = golden_arrays()
    count = len(GOLDEN["shapes"])
    variables = [kind(golden[f"init/{i}"]) for i in range(count)]
    optimizer = SWA(
        keras.optimizers.SGD(0.1),
        start_averaging=case["start_averaging"],
        average_period=case["average_period"],
    )
    step = stepper(optimizer, variables, mode)
    compared = 0
    for number in range(GOLDEN["steps"]):
        step(*[tf.constant(golden[f"grad/{number}/{i}"]) for i in range(count)])
        for i, variable in enumerate(variables):
            key = f"{case['key']}/avg/{number}/{i}"
            if key in golden:
                average = optimizer.get_slot(variable, "average")
                assert ulps(numpy_of(average), golden[key]) <= 2
                assert ulps(numpy_of(variable), golden[key.replace("/avg/", "/var/")]) <= 2
                compared += 1
    assert compared >= 5 * count


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("start", "period"), [(0, 1), (0, 10), (3, 2), (7, 5), (100, 10)])
def test_every_step_against_numpy(start: int, period: int, mode: str) -> None:
    rng = np.random.default_rng(start)
    variables = [float32(rng.standard_normal(shape)) for shape in ((5, 3), (7,), (), (0, 2))]
    optimizer = SWA(keras.optimizers.Adam(0.1), start, period)
    step = stepper(optimizer, variables, mode)
    due = due_steps(18, start, period)
    snapshots: list[list[Any]] = [[] for _ in variables]
    for number in range(18):
        step(*[tf.constant(rng.standard_normal(v.shape), tf.float32) for v in variables])
        for variable, taken in zip(variables, snapshots, strict=True):
            average = numpy_of(optimizer.get_slot(variable, "average"))
            if number in due:
                taken.append(numpy_of(variable))
            expected = mean_of(taken) if taken else np.zeros_like(average)
            assert ulps(average, expected) <= 2, (number, mode)
    assert int(optimizer.iterations) == 18


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("dtype", "averaged"),
    [
        ("float16", "float32"),
        ("bfloat16", "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
    ],
)
def test_dtypes(dtype: str, averaged: str, mode: str) -> None:
    variable = tf.Variable(tf.cast(np.linspace(-2, 2, 33), dtype))
    optimizer = SWA(keras.optimizers.SGD(0.1), 0, 1)
    step = stepper(optimizer, [variable], mode)
    rng = np.random.default_rng(0)
    snapshots = []
    for _ in range(12):
        step(tf.cast(rng.standard_normal(33), dtype))
        snapshots.append(variable.numpy().astype(np.float64))
    average = optimizer.get_slot(variable, "average")
    assert average.dtype == averaged
    numpy_type = np.dtype(averaged).type
    assert ulps(numpy_of(average), mean_of(snapshots, numpy_type)) <= 2
    exact = np.mean(snapshots, axis=0)
    np.testing.assert_allclose(
        numpy_of(average), exact, rtol=0, atol=16 * np.finfo(averaged).eps * np.abs(snapshots).max()
    )
    before = variable.numpy()
    optimizer.assign_average_vars([variable])
    expected = tf.cast(numpy_of(average), dtype).numpy()
    assert not np.array_equal(before, expected)
    np.testing.assert_array_equal(variable.numpy(), expected)


@pytest.mark.parametrize("mode", MODES)
def test_sequential_update_off_gives_the_complete_average(mode: str) -> None:
    """On tensors large enough for an overlapping write to be seen half done."""
    size = 1 << 20
    variable = float32(np.zeros(size))
    optimizer = SWA(keras.optimizers.SGD(1.0), 1, 2, sequential_update=False)
    step = stepper(optimizer, [variable], mode)
    average = optimizer.get_slot(variable, "average")
    taken: list[float] = []
    for number in range(6):
        step(-tf.ones(size))
        if number in (1, 3, 5):
            taken.append(number + 1)
        expected = np.float32(sum(taken) / len(taken) if taken else 0)
        np.testing.assert_array_equal(numpy_of(average), np.full(size, expected))
    optimizer.assign_average_vars([variable])
    np.testing.assert_array_equal(numpy_of(variable), np.full(size, np.float32(4)))


@pytest.mark.parametrize("mode", MODES)
def test_first_snapshot_ignores_what_the_average_held(mode: str) -> None:
    variable = float32(np.ones(4))
    optimizer = SWA(keras.optimizers.SGD(0.5), 0, 2)
    step = stepper(optimizer, [variable], mode)
    optimizer.get_slot(variable, "average").assign(np.full(4, np.nan))
    step(tf.ones(4))
    np.testing.assert_array_equal(
        numpy_of(optimizer.get_slot(variable, "average")), np.full(4, 0.5)
    )


@pytest.mark.parametrize("mode", MODES)
def test_inner_optimizer_that_trained_before(mode: str) -> None:
    """The schedule says snapshot 11 is due, but there is none yet: no zeros are averaged in."""
    variable = float32(np.ones(3))
    inner = keras.optimizers.SGD(0.25)
    for _ in range(10):
        inner.apply_gradients([(tf.zeros(3), variable)])
    optimizer = SWA(inner, 0, 1)
    step = stepper(optimizer, [variable], mode)
    step(tf.ones(3))
    step(tf.ones(3))
    average = numpy_of(optimizer.get_slot(variable, "average"))
    np.testing.assert_array_equal(average, np.full(3, (0.75 + 0.5) / 2))


@pytest.mark.parametrize("mode", MODES)
def test_constraint_is_applied_before_the_snapshot(mode: str) -> None:
    layer = keras.layers.Dense(2, kernel_constraint=keras.constraints.NonNeg(), use_bias=False)
    layer.build((None, 3))
    optimizer = SWA(keras.optimizers.SGD(1.0), 0, 1)
    step = stepper(optimizer, [layer.kernel], mode)
    step(tf.fill((3, 2), 100.0))
    np.testing.assert_array_equal(numpy_of(layer.kernel), np.zeros((3, 2)))
    average = optimizer.get_slot(layer.kernel, "average")
    np.testing.assert_array_equal(numpy_of(average), np.zeros((3, 2)))


@pytest.mark.parametrize("mode", MODES)
def test_subclass_average_op(mode: str) -> None:
    class Exponential(AveragedOptimizerWrapper):
        def average_op(self, var: Any, average_var: Any) -> Any:
            fresh = tf.equal(tf.cast(self.iterations, tf.int32), 0)
            value = 0.5 * keras.ops.convert_to_tensor(average_var) + 0.5 * var
            return average_var.assign(tf.where(fresh, var, value))

    variable = float32(np.zeros(2))
    optimizer = Exponential(keras.optimizers.SGD(1.0))
    step = stepper(optimizer, [variable], mode)
    expected = np.zeros(2)
    for number in range(4):
        step(tf.constant([-1.0, -2.0]))
        value = (number + 1) * np.array([1.0, 2.0])
        expected = value if number == 0 else 0.5 * expected + 0.5 * value
    np.testing.assert_array_equal(numpy_of(optimizer.get_slot(variable, "average")), expected)


@pytest.mark.parametrize("mode", MODES)
def test_subclass_of_swa_that_extends_average_op(mode: str) -> None:
    class Logged(SWA):
        calls = 0

        def average_op(self, var: Any, average_var: Any) -> Any:
            type(self).calls += 1
            return super().average_op(var, average_var)

    variables = [float32(np.full(3, 2.0)), tf.Variable(np.full(2, 3.0))]
    optimizer = Logged(keras.optimizers.SGD(1.0), 1, 2)
    step = stepper(optimizer, variables, mode)
    for _ in range(4):
        step(tf.ones(3), tf.ones(2, tf.float64))
    assert Logged.calls >= 2
    average = numpy_of(optimizer.get_slot(variables[0], "average"))
    np.testing.assert_array_equal(average, np.full(3, ((2 - 2) + (2 - 4)) / 2))
    assert optimizer.snapshots == 2


def test_average_op_by_hand_follows_iterations() -> None:
    variable = float32(np.full(2, 5.0))
    optimizer = SWA("sgd", 4, 3)
    optimizer.build([variable])
    average = optimizer.get_slot(variable, "average")
    average.assign(np.full(2, 2.0))
    optimizer.iterations.assign(9)  # between snapshots
    optimizer.average_op(variable, average)
    np.testing.assert_array_equal(numpy_of(average), np.full(2, 2.0))
    optimizer.iterations.assign(10)  # the third: two values are in the average
    optimizer.average_op(variable, average)
    np.testing.assert_array_equal(numpy_of(average), np.full(2, 3.0))


def test_variable_without_gradient_is_averaged_too() -> None:
    variables = [float32(np.ones(2)), float32(np.full(2, 7.0))]
    optimizer = SWA(keras.optimizers.SGD(0.5), 0, 1)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply_gradients([(tf.ones(2), variables[0]), (None, variables[1])])
    average = numpy_of(optimizer.get_slot(variables[1], "average"))
    np.testing.assert_array_equal(average, np.full(2, 7.0))


@pytest.mark.parametrize("mode", MODES)
def test_embedding_with_sparse_gradients(mode: str) -> None:
    table = float32(np.arange(12.0).reshape(6, 2))
    optimizer = SWA(keras.optimizers.SGD(0.5, momentum=0.5), 0, 2)
    optimizer.build([table])

    def step(indices: Any) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.gather(table.value, indices) ** 2)
        gradient = tape.gradient(loss, table.value)
        assert isinstance(gradient, tf.IndexedSlices)
        optimizer.apply_gradients([(gradient, table)])

    run = compiled(step, mode)
    snapshots = []
    for number in range(5):
        run(tf.constant([number % 6, 3, 3]))
        if number % 2 == 0:
            snapshots.append(numpy_of(table))
    average = numpy_of(optimizer.get_slot(table, "average"))
    assert ulps(average, mean_of(snapshots)) <= 2
    assert not np.array_equal(snapshots[0], snapshots[1])
