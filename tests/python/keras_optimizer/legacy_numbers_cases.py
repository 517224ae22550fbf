"""Legacy Keras: the average against TFA's runs and NumPy; run by test_processes.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from legacy_models import KINDS, LEGACY, MODES, compiled
from optimizer_oracles import GOLDEN, golden_arrays, mean_of, ulps
from swa_fast.tf_keras.optimizers import SWA, AveragedOptimizerWrapper


@KINDS
@pytest.mark.parametrize("mode", ["eager", "function"])
@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["key"])
def test_reproduces_tfa(case: dict[str, Any], mode: str, kind: Any) -> None:
    golden = golden_arrays()
    count = len(GOLDEN["shapes"])
    variables = [tf.Variable(golden[f"init/{i}"]) for i in range(count)]
    optimizer = SWA(kind.SGD(0.1), case["start_averaging"], case["average_period"])

    def step(*gradients: Any) -> None:
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    run = compiled(step, mode)
    compared = 0
    for number in range(GOLDEN["steps"]):
        run(*[tf.constant(golden[f"grad/{number}/{i}"]) for i in range(count)])
        for i, variable in enumerate(variables):
            key = f"{case['key']}/avg/{number}/{i}"
            if key in golden:
                average = optimizer.get_slot(variable, "average").numpy()
                assert ulps(average, golden[key]) <= 2
                assert ulps(variable.numpy(), golden[key.replace("/avg/", "/var/")]) <= 2
                compared += 1
    assert compared >= 5 * count


@KINDS
@MODES
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_dtypes(dtype: str, mode: str, kind: Any) -> None:
    variable = tf.Variable(tf.cast(np.linspace(-2, 2, 9), dtype))
    optimizer = SWA(kind.SGD(0.125), 0, 1)
    optimizer.build([variable])
    run = compiled(lambda g: optimizer.apply_gradients([(g, variable)]), mode)
    rng = np.random.default_rng(0)
    snapshots = []
    for _ in range(6):
        run(tf.cast(rng.standard_normal(9), dtype))
        snapshots.append(variable.numpy().astype(np.float64))
    averaged = "float64" if dtype == "float64" else "float32"
    average = optimizer.get_slot(variable, "average").numpy()
    assert average.dtype == averaged
    assert ulps(average, mean_of(snapshots, np.dtype(averaged).type)) <= 2
    optimizer.assign_average_vars([variable])
    np.testing.assert_array_equal(variable.numpy(), tf.cast(average, dtype).numpy())


@KINDS
@pytest.mark.parametrize("mode", ["eager", "function"])
def test_embedding_with_sparse_gradients(mode: str, kind: Any) -> None:
    table = tf.Variable(np.arange(12.0, dtype=np.float32).reshape(6, 2))
    optimizer = SWA(kind.SGD(0.5, momentum=0.5), 0, 2, sequential_update=False)
    optimizer.build([table])

    def step(indices: Any) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.gather(table, indices) ** 2)
        gradient = tape.gradient(loss, table)
        assert isinstance(gradient, tf.IndexedSlices)
        optimizer.apply_gradients([(gradient, table)])

    run = compiled(step, mode)
    snapshots = []
    for number in range(5):
        run(tf.constant([number, 3, 3]))
        if number % 2 == 0:
            snapshots.append(table.numpy().copy())
    assert ulps(optimizer.get_slot(table, "average").numpy(), mean_of(snapshots)) <= 2
    assert not np.array_equal(snapshots[0], snapshots[1])


def test_variable_that_joins_late_was_constant_before() -> None:
    first, late = tf.Variable([0.0]), tf.Variable([8.0])
    optimizer = SWA(LEGACY.SGD(1.0), 0, 1)
    for _ in range(3):
        optimizer.apply_gradients([(tf.ones(1), first)])
    optimizer.apply_gradients([(tf.ones(1), first), (4 * tf.ones(1), late)])
    np.testing.assert_array_equal(optimizer.get_slot(first, "average").numpy(), [-2.5])
    np.testing.assert_array_equal(optimizer.get_slot(late, "average").numpy(), [7.0])


@MODES
def test_assign_from_the_slot_then_more_training(mode: str) -> None:
    size = 1 << 16
    variable = tf.Variable(tf.fill([size], 8.0))
    optimizer = SWA(LEGACY.SGD(1.0), 0, 1)
    optimizer.build([variable])
    run = compiled(lambda: optimizer.apply_gradients([(tf.ones(size), variable)]), mode)
    run()
    run()
    run()
    average = optimizer.get_slot(variable, "average")
    variable.assign(average)
    kept, twin = average.read_value(), tf.Variable(average)
    run()
    for tensor, number in ((variable, 5), (average, 23 / 4), (kept, 6), (twin, 6)):
        np.testing.assert_array_equal(tensor.numpy(), np.full(size, number, np.float32))


@KINDS
@MODES
def test_subclass_average_op(mode: str, kind: Any) -> None:
    class Doubled(AveragedOptimizerWrapper):
        def average_op(self, var: Any, average_var: Any) -> Any:
            return average_var.assign(2 * var + tf.cast(self.iterations, tf.float32))

    variable = tf.Variable([3.0])
    optimizer = Doubled(kind.SGD(1.0))
    optimizer.build([variable])
    run = compiled(lambda: optimizer.apply_gradients([(tf.ones(1), variable)]), mode)
    run()
    run()
    np.testing.assert_array_equal(optimizer.get_slot(variable, "average").numpy(), [2 * 1 + 1])


@KINDS
@MODES
def test_a_subclass_with_its_own_average_op_counts_snapshots(mode: str, kind: Any) -> None:
    class Extended(SWA):
        def average_op(self, var: Any, average_var: Any) -> Any:
            return super().average_op(var, average_var)

    variable = tf.Variable([1.0, 2.0])
    optimizer = Extended(kind.SGD(1.0), 1, 2)
    optimizer.build([variable])
    run = compiled(lambda g: optimizer.apply_gradients([(g, variable)]), mode)
    run(tf.ones(2))
    with pytest.warns(UserWarning, match="no snapshot"):
        optimizer.assign_average_vars([variable])
    for _ in range(4):
        run(tf.ones(2))
    assert optimizer.snapshots == 2
    np.testing.assert_array_equal(optimizer.get_slot(variable, "average").numpy(), [-2.0, -1.0])
