"""Every Keras backend: the average against TFA's runs and NumPy; run by test_processes.py."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from backend_models import BACKEND, numpy_of, variable
from optimizer_oracles import GOLDEN, golden_arrays, mean_of, ulps
from swa_fast.keras.optimizers import SWA


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["key"])
def test_reproduces_tfa(case: dict[str, Any]) -> None:
    golden = golden_arrays()
    count = len(GOLDEN["shapes"])
    variables = [variable(golden[f"init/{i}"]) for i in range(count)]
    # Each backend's SGD rounds in its own way: the trajectory is TFA's, the average is ours.
    optimizer = SWA(keras.optimizers.SGD(0.0), case["start_averaging"], case["average_period"])
    optimizer.build(variables)
    trajectory = [golden[f"init/{i}"] for i in range(count)]
    compared = 0
    for number in range(GOLDEN["steps"]):
        for i, each in enumerate(variables):
            trajectory[i] = trajectory[i] - np.float32(0.1) * golden[f"grad/{number}/{i}"]
            each.assign(trajectory[i])
        optimizer.apply([keras.ops.zeros(each.shape) for each in variables])
        for i, each in enumerate(variables):
            key = f"{case['key']}/avg/{number}/{i}"
            if key in golden:
                assert ulps(numpy_of(each), golden[key.replace("/avg/", "/var/")]) == 0
                assert ulps(numpy_of(optimizer.get_slot(each, "average")), golden[key]) <= 2
                compared += 1
    assert compared >= 5 * count


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes(dtype: str) -> None:
    each = variable(np.linspace(-2, 2, 9), dtype)
    optimizer = SWA(keras.optimizers.SGD(0.1), 0, 1)
    optimizer.build([each])
    rng = np.random.default_rng(0)
    snapshots = []
    for _ in range(10):
        optimizer.apply([keras.ops.cast(rng.standard_normal(9), dtype)])
        snapshots.append(numpy_of(keras.ops.cast(each, "float32")))
    average = optimizer.get_slot(each, "average")
    assert keras.backend.standardize_dtype(average.dtype) == "float32"
    assert ulps(numpy_of(average), mean_of(snapshots)) <= 2
    optimizer.assign_average_vars([each])
    expected = keras.ops.cast(keras.ops.convert_to_tensor(numpy_of(average)), dtype)
    np.testing.assert_array_equal(
        numpy_of(keras.ops.cast(each, "float32")), numpy_of(keras.ops.cast(expected, "float32"))
    )


class Extended(SWA):
    """Extends `average_op`, and averages as before."""

    def average_op(self, var: Any, average_var: Any) -> Any:
        return super().average_op(var, average_var)


def test_a_subclass_with_its_own_average_op_counts_snapshots() -> None:
    def train(cls: Any, steps: int, start: int, period: int) -> tuple[Any, Any]:
        each, inner = variable(np.ones(2)), keras.optimizers.SGD(0.1)
        inner.build([each])
        for _ in range(3):  # before it is wrapped
            inner.apply([keras.ops.ones(2)])
        optimizer = cls(inner, start, period)
        optimizer.build([each])
        for _ in range(steps):
            optimizer.apply([keras.ops.ones(2)])
        return optimizer, each

    for steps, taken in ((0, 0), (1, 0), (2, 1), (7, 2), (8, 3)):
        plain, extended = (train(cls, steps, 1, 3) for cls in (SWA, Extended))
        for optimizer, each in (plain, extended):
            assert int(numpy_of(optimizer.weights[optimizer_count(optimizer)])) == taken
            if taken == 0:
                before = numpy_of(each)
                with pytest.warns(UserWarning, match="no snapshot"):
                    optimizer.assign_average_vars([each])
                np.testing.assert_array_equal(numpy_of(each), before)
        ours, theirs = (numpy_of(o.get_slot(v, "average")) for o, v in (extended, plain))
        np.testing.assert_array_equal(ours, theirs)


def optimizer_count(optimizer: Any) -> int:
    """Returns where the snapshot count is in `optimizer.weights`."""
    (index,) = [i for i, v in enumerate(optimizer.weights) if v.name == "snapshots"]
    return index


def test_numpy_numbers_are_numbers() -> None:
    optimizer = SWA("sgd", learning_rate=np.float32(0.5), clipnorm=np.int64(2))
    assert float(numpy_of(optimizer.learning_rate)) == 0.5
    assert optimizer.clipnorm == 2.0
    with pytest.raises(ValueError, match=r"give one of them. Received: lr=0.1, learning_rate=0.2"):
        SWA("sgd", lr=0.1, learning_rate=0.2)


def test_decay_of_a_callable_is_refused() -> None:
    with pytest.raises(ValueError, match="decay is for a learning rate that is a number"):
        SWA(keras.optimizers.SGD(lambda: 0.5), decay=0.1)


def test_variables_that_are_built_with_and_not_averaged_are_left_alone() -> None:
    trainable = BACKEND != "torch"  # which trains floating-point numbers only
    each, whole = variable(np.ones(2)), keras.Variable([3, 4], trainable=trainable, dtype="int32")
    optimizer = SWA(keras.optimizers.SGD(0.5), 0, 1)
    optimizer.build([each, whole])
    optimizer.apply([keras.ops.ones(2)], [each])
    each.assign(np.full(2, 9.0))
    optimizer.assign_average_vars([each, whole])
    np.testing.assert_array_equal(numpy_of(each), np.full(2, 0.5))
    np.testing.assert_array_equal(numpy_of(whole), [3, 4])


def test_assign_before_the_first_snapshot_warns_and_leaves_alone() -> None:
    each = variable(np.ones(3))
    optimizer = SWA(keras.optimizers.SGD(0.5), 5, 1)
    optimizer.build([each])
    with pytest.warns(UserWarning, match="no snapshot yet"):
        optimizer.assign_average_vars([each])
    np.testing.assert_array_equal(numpy_of(each), np.ones(3))


def test_stateless_apply() -> None:
    if BACKEND == "tensorflow":
        optimizer = SWA("sgd")
        optimizer.build([variable(np.ones(2))])
        with pytest.raises(ValueError, match="stateless_apply is not supported"):
            optimizer.stateless_apply(
                [keras.ops.convert_to_tensor(v) for v in optimizer.variables],
                [keras.ops.ones(2)],
                [keras.ops.ones(2)],
            )
        return
    each = variable(np.full(2, 4.0))
    optimizer = SWA(keras.optimizers.SGD(1.0), 0, 1)
    with pytest.raises(ValueError, match="built"):
        optimizer.stateless_apply([], [], [])
    optimizer.build([each])
    state = [v.value for v in optimizer.variables]
    trained = [each.value]
    for _ in range(2):
        trained, state = optimizer.stateless_apply(state, [keras.ops.ones(2)], trained)
    np.testing.assert_array_equal(numpy_of(trained[0]), np.full(2, 2.0))
    average = optimizer.get_slot(each, "average")
    position = next(i for i, v in enumerate(optimizer.variables) if v is average)
    np.testing.assert_array_equal(numpy_of(state[position]), np.full(2, 2.5))
    if BACKEND == "jax":
        np.testing.assert_array_equal(numpy_of(each), np.full(2, 4.0))  # nothing was assigned
    with pytest.raises(ValueError, match="one value for each"):
        optimizer.stateless_apply(state[1:], [keras.ops.ones(2)], trained)


def test_minimize_says_what_to_use_instead() -> None:
    if BACKEND == "tensorflow":
        return
    optimizer = SWA("sgd")
    with pytest.raises(AttributeError, match="stateless_apply"):
        optimizer.minimize(lambda: 0, [variable(np.ones(2))])
    with pytest.raises(AttributeError, match="TensorFlow"):
        optimizer.get_gradients(lambda: 0, [variable(np.ones(2))])
