"""Cases for every Keras backend; test_processes.py runs them with KERAS_BACKEND set."""

from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np
import pytest

from optimizer_oracles import GOLDEN, due_steps, golden_arrays, mean_of, ulps
from swa_fast.keras.optimizers import SWA, AveragedOptimizerWrapper

BACKEND = keras.backend.backend()
X = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)
Y = X[:, :1] * 2 + 1


def numpy_of(variable: Any) -> Any:
    return np.array(keras.ops.convert_to_numpy(variable))


def variable(values: Any, dtype: str = "float32") -> Any:
    return keras.Variable(values, dtype=dtype)


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


INNER: dict[str, Any] = {
    "sgd": lambda: keras.optimizers.SGD(0.05, momentum=0.5),
    "nadam": lambda: keras.optimizers.Nadam(0.02),
    "adamw": lambda: keras.optimizers.AdamW(0.02, weight_decay=0.1),
    "loss_scale": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.02), initial_scale=8.0
    ),
}


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("eagerly", [False, True])
def test_fit(inner: str, eagerly: bool) -> None:
    model = build_model()
    swa = SWA(INNER[inner](), 3, 2)
    model.compile(swa, "mse", run_eagerly=eagerly)
    taken = fit(model)
    check_averages(model, swa, [taken[step] for step in due_steps(16, 3, 2)])
    assert int(swa.iterations) == 16
    before = [numpy_of(v) for v in model.non_trainable_variables]
    averages = [numpy_of(swa.get_slot(v, "average")) for v in model.trainable_variables]
    swa.assign_average_vars(model.variables)
    for each, average in zip(model.trainable_variables, averages, strict=True):
        np.testing.assert_array_equal(numpy_of(each), average)
    for each, value in zip(model.non_trainable_variables, before, strict=True):
        np.testing.assert_array_equal(numpy_of(each), value)


def test_same_weights_as_without_averaging() -> None:
    plain, averaged = build_model(), build_model()
    plain.compile(keras.optimizers.Adam(0.02), "mse")
    averaged.compile(SWA(keras.optimizers.Adam(0.02), 0, 1), "mse")
    for one, other in zip(fit(plain), fit(averaged), strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_wrapped_in_a_loss_scale_optimizer() -> None:
    model = build_model()
    swa = SWA(keras.optimizers.SGD(0.02), 1, 2)
    model.compile(keras.optimizers.LossScaleOptimizer(swa, initial_scale=8.0), "mse")
    taken = fit(model)
    check_averages(model, swa, [taken[step] for step in due_steps(16, 1, 2)])


@pytest.mark.parametrize("nesting", ["inside", "outside"])
def test_step_skipped_for_infinite_gradients_takes_no_snapshot(nesting: str) -> None:
    model = build_model()
    scaler = keras.optimizers.LossScaleOptimizer
    inner = keras.optimizers.SGD(0.02)
    if nesting == "inside":
        swa = optimizer = SWA(scaler(inner, initial_scale=2.0**127), 0, 1)
    else:
        swa = SWA(inner, 0, 1)
        optimizer = scaler(swa, initial_scale=2.0**127)
    model.compile(optimizer, "mse")
    start = [numpy_of(v) for v in model.trainable_variables]
    taken = fit(model)
    changed: list[list[Any]] = []
    for before, after in zip([start, *taken], taken, strict=False):
        if any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True)):
            changed.append(after)
    assert 2 <= len(changed) < len(taken)
    assert int(swa.iterations) == len(changed)
    check_averages(model, swa, changed)


def test_gradient_accumulation_counts_real_steps() -> None:
    model = build_model()
    swa = SWA(keras.optimizers.SGD(0.05, gradient_accumulation_steps=2), 1, 2)
    model.compile(swa, "mse")
    real = fit(model)[1::2]
    assert int(swa.iterations) == 8
    check_averages(model, swa, [real[step] for step in due_steps(8, 1, 2)])


def test_resumed_run_is_the_uninterrupted_one(tmp_path: pathlib.Path) -> None:
    model = build_model()
    model.compile(SWA(keras.optimizers.Adam(0.02), 2, 3), "mse")
    fit(model)
    model.save(tmp_path / "m.keras")
    halfway = model.optimizer.get_weights()
    weights, config = model.get_weights(), model.optimizer.get_config()
    fit(model)
    expected = [numpy_of(v) for v in [*model.variables, *model.optimizer.weights]]

    loaded = keras.models.load_model(tmp_path / "m.keras")
    by_hand = build_model()
    by_hand.set_weights(weights)
    by_hand.compile(SWA.from_config(config), "mse")
    by_hand.optimizer.build(by_hand.trainable_variables)
    by_hand.optimizer.set_weights(halfway)
    for resumed in (loaded, by_hand):
        for a, b in zip(resumed.optimizer.get_weights(), halfway, strict=True):
            np.testing.assert_array_equal(a, b)
        fit(resumed)
        actual = [numpy_of(v) for v in [*resumed.variables, *resumed.optimizer.weights]]
        assert len(actual) == len(expected)
        for a, b in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_assign_before_the_first_snapshot_warns_and_leaves_alone() -> None:
    each = variable(np.ones(3))
    optimizer = SWA(keras.optimizers.SGD(0.5), 5, 1)
    optimizer.build([each])
    with pytest.warns(UserWarning, match="no snapshot yet"):
        optimizer.assign_average_vars([each])
    np.testing.assert_array_equal(numpy_of(each), np.ones(3))


def test_subclass_average_op_in_fit() -> None:
    class Last(AveragedOptimizerWrapper):
        def average_op(self, var: Any, average_var: Any) -> Any:
            return average_var.assign(keras.ops.convert_to_tensor(var) * 2)

    model = build_model()
    model.compile(Last(keras.optimizers.SGD(0.05)), "mse")
    last = fit(model)[-1]
    for each, value in zip(model.trainable_variables, last, strict=True):
        average = numpy_of(model.optimizer.get_slot(each, "average"))
        np.testing.assert_array_equal(average, 2 * value)


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
