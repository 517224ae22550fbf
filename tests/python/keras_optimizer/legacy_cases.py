"""Legacy Keras (tf_keras); run in a process of its own by test_processes.py."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from optimizer_oracles import GOLDEN, due_steps, golden_arrays, mean_of, ulps
from swa_fast.tf_keras.optimizers import SWA, AveragedOptimizerWrapper

LEGACY, NEW = tf_keras.optimizers.legacy, tf_keras.optimizers
SCALER = tf_keras.mixed_precision.LossScaleOptimizer
KINDS = pytest.mark.parametrize("kind", [LEGACY, NEW], ids=["legacy", "new"])
MODES = pytest.mark.parametrize("mode", ["eager", "function", "xla"])
X = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)
Y = X[:, :1] * 2 + 1


def test_swa_of_tensorflow_is_this_one() -> None:
    import swa_fast.tensorflow

    assert tf.keras.Model is tf_keras.Model
    assert swa_fast.tensorflow.SWA is SWA
    assert swa_fast.tensorflow.AveragedOptimizerWrapper is AveragedOptimizerWrapper


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


INNER: dict[str, Any] = {
    "legacy_momentum": lambda: LEGACY.SGD(0.05, momentum=0.5),
    "legacy_nadam": lambda: LEGACY.Nadam(0.02),
    "new_nadam": lambda: NEW.Nadam(0.02),
    "new_adamw": lambda: NEW.AdamW(0.02, weight_decay=0.1),
    "legacy_loss_scale": lambda: SCALER(LEGACY.SGD(0.02), initial_scale=8.0),
    "new_loss_scale": lambda: SCALER(NEW.SGD(0.02), initial_scale=8.0),
}
FIT: dict[str, Any] = {
    "graph": {},
    "xla": {"jit_compile": True},
    "eager": {"run_eagerly": True},
}


@pytest.mark.parametrize("how", FIT)
@pytest.mark.parametrize("inner", INNER)
def test_fit(inner: str, how: str) -> None:
    model = build_model()
    swa = SWA(INNER[inner](), 3, 2)
    model.compile(swa, "mse", **FIT[how])
    taken = fit(model)
    check_averages(model, swa, [taken[step] for step in due_steps(16, 3, 2)])
    assert int(swa.iterations) == 16
    averages = [swa.get_slot(v, "average").numpy() for v in model.trainable_variables]
    moving = [v.numpy() for v in model.non_trainable_variables]
    swa.assign_average_vars(model.variables)
    for each, average in zip(model.trainable_variables, averages, strict=True):
        np.testing.assert_array_equal(each.numpy(), average)
    for each, value in zip(model.non_trainable_variables, moving, strict=True):
        np.testing.assert_array_equal(each.numpy(), value)


def test_steps_per_execution() -> None:
    plain, grouped = build_model(), build_model()
    for model, steps in ((plain, 1), (grouped, 4)):
        model.compile(SWA(LEGACY.SGD(0.05), 1, 3), "mse", steps_per_execution=steps)
        model.fit(X, Y, batch_size=8, epochs=2, verbose=0, shuffle=False)
    for a, b in zip(plain.trainable_variables, grouped.trainable_variables, strict=True):
        one = plain.optimizer.get_slot(a, "average").numpy()
        other = grouped.optimizer.get_slot(b, "average").numpy()
        np.testing.assert_array_equal(one, other)
        assert np.any(one)


@KINDS
@pytest.mark.parametrize("nesting", ["inside", "outside"])
def test_step_skipped_for_infinite_gradients_takes_no_snapshot(nesting: str, kind: Any) -> None:
    model = build_model()
    inner = kind.SGD(0.02)
    if nesting == "inside":
        swa = optimizer = SWA(SCALER(inner, initial_scale=2.0**127), 0, 1)
    else:
        swa = SWA(inner, 0, 1)
        optimizer = SCALER(swa, initial_scale=2.0**127)
    model.compile(optimizer, "mse")
    taken, made = fit_and_see_which_steps_were_made(model)
    assert 2 <= sum(made) < len(made)
    check_averages(model, swa, [each for each, real in zip(taken, made, strict=True) if real])


def fit_and_see_which_steps_were_made(model: Any) -> tuple[list[list[Any]], list[bool]]:
    start = [v.numpy() for v in model.trainable_variables]
    taken = fit(model)
    made = [
        any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
        for before, after in zip([start, *taken], taken, strict=False)
    ]
    return taken, made


@KINDS
def test_mixed_precision_policy(kind: Any) -> None:
    tf_keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = build_model()
        swa = SWA(kind.SGD(0.02), 0, 2)
        model.compile(swa, "mse")
        assert isinstance(model.optimizer, SCALER)
        taken, made = fit_and_see_which_steps_were_made(model)
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")
    # Legacy Keras counts the skipped steps: a snapshot that falls on one is not taken.
    due = [step for step in due_steps(16, 0, 2) if made[step]]
    check_averages(model, swa, [taken[step] for step in due])
    for each in model.trainable_variables:
        assert swa.get_slot(each, "average").dtype == tf.float32


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


def state(model: Any) -> list[Any]:
    optimizer = model.optimizer
    averages = [optimizer.get_slot(v, "average").numpy() for v in model.trainable_variables]
    return [optimizer.iterations.numpy(), *averages, *(v.numpy() for v in model.variables)]


@KINDS
@pytest.mark.parametrize("way", ["h5", "checkpoint", "weights_tf", "by_hand"])
def test_resumed_run_is_the_uninterrupted_one(way: str, kind: Any, tmp_path: pathlib.Path) -> None:
    def make() -> Any:
        model = build_model()
        model.compile(SWA(kind.Adam(0.02), 2, 3), "mse")
        return model

    model = make()
    fit(model)
    optimizer = model.optimizer
    halfway = optimizer.get_weights()
    assert int(halfway[0]) == 16
    if way == "h5":
        model.save(tmp_path / "m.h5")
    elif way == "checkpoint":
        path = tf.train.Checkpoint(model=model, optimizer=optimizer).save(str(tmp_path / "c"))
    elif way == "weights_tf":
        model.save_weights(str(tmp_path / "w"), save_format="tf")
    weights, config = model.get_weights(), optimizer.get_config()
    fit(model)
    expected = state(model)

    if way == "h5":
        resumed = tf_keras.models.load_model(tmp_path / "m.h5")
    else:
        resumed = make()
        if way == "checkpoint":
            tf.train.Checkpoint(model=resumed, optimizer=resumed.optimizer).restore(path)
        elif way == "weights_tf":
            resumed.load_weights(str(tmp_path / "w"))
        else:
            resumed.compile(SWA.from_config(config), "mse")
            resumed.set_weights(weights)
            resumed.optimizer.build(resumed.trainable_variables)
            resumed.optimizer.set_weights(halfway)
    assert type(resumed.optimizer) is SWA
    assert type(resumed.optimizer.inner_optimizer) is kind.Adam
    fit(resumed)
    actual = state(resumed)
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@KINDS
def test_config_round_trip(kind: Any) -> None:
    schedule = tf_keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.5)
    optimizer = SWA(kind.SGD(schedule, momentum=0.5), 7, 3, "mine", False, clipvalue=0.5)
    config = optimizer.get_config()
    assert config["start_averaging"] == 7
    assert config["average_period"] == 3
    assert config["name"] == "mine"
    assert config["sequential_update"] is False
    again = SWA.from_config(config)
    assert again.get_config() == config == optimizer.get_config()
    assert type(again.inner_optimizer) is kind.SGD
    assert again.clipvalue == 0.5
    serialized = tf_keras.optimizers.serialize(optimizer)
    assert tf_keras.optimizers.deserialize(serialized).get_config() == config


@KINDS
def test_members(kind: Any) -> None:
    variable = tf.Variable(np.full(2, 4.0, np.float32))
    optimizer = SWA(kind.SGD(0.5), 0, 1, clipvalue=1.0)
    assert optimizer.clipvalue == 1.0
    optimizer.minimize(lambda: tf.reduce_sum(10 * variable), [variable])
    np.testing.assert_array_equal(variable.numpy(), [3.5, 3.5])
    optimizer.minimize(lambda: tf.reduce_sum(10 * variable), lambda: [variable])
    with tf.GradientTape() as tape:
        loss = 0.1 * variable
    grad_loss = tf.constant([10.0, 0.0])
    optimizer.minimize(loss, [variable], grad_loss=grad_loss, tape=tape, name="again")
    np.testing.assert_allclose(variable.numpy(), [2.5, 3.0])
    assert int(optimizer.iterations) == 3
    np.testing.assert_allclose(
        optimizer.get_slot(variable, "average").numpy(), [3.0, (3.5 + 3 + 3) / 3]
    )
    assert optimizer.get_slot_names() == ["average"]
    slot = optimizer.add_slot(variable, "other", "ones")
    assert optimizer.add_slot(variable, "other") is slot is optimizer.get_slot(variable, "other")
    np.testing.assert_array_equal(slot.numpy(), np.ones(2))
    optimizer.add_weight("extra", shape=(3,))
    assert optimizer.weights[0] is optimizer.iterations
    assert len(optimizer.get_weights()) == len(optimizer.weights) == len(optimizer.variables())
    optimizer.lr = 0.25
    assert float(optimizer.learning_rate) == 0.25 == float(optimizer.lr)
    assert float(optimizer.inner_optimizer.learning_rate) == 0.25
    gradients = optimizer.get_gradients(lambda: tf.reduce_sum(variable**2), [variable])
    np.testing.assert_allclose(gradients[0], 2 * variable.numpy())

    @tf.function
    def update() -> None:
        loss = tf.reduce_sum(0.5 * variable)
        assert len(optimizer.get_updates(loss, [variable])) >= 1

    before = variable.numpy()
    update()
    np.testing.assert_allclose(variable.numpy(), before - 0.125)


@KINDS
def test_learning_rate_arguments(kind: Any) -> None:
    assert float(SWA(kind.SGD(0.5), lr=0.25).lr) == 0.25
    optimizer = SWA(kind.SGD(0.5), decay=1.0)
    variable = tf.Variable([1.0])
    for _ in range(2):
        optimizer.apply_gradients([(tf.ones(1), variable)])
    np.testing.assert_allclose(variable.numpy(), [1 - 0.5 - 0.25])


@KINDS
def test_bad_input(kind: Any) -> None:
    for arguments, error, message in (
        ({"average_period": 0}, ValueError, "average_period must be >= 1"),
        ({"start_averaging": -1}, ValueError, "start_averaging must be >= 0"),
        ({"average_period": 0.5}, TypeError, "average_period"),
        ({"start_averaging": "1"}, TypeError, "start_averaging"),
        ({"sequential_update": 42}, TypeError, "sequential_update"),
        ({"name": 3}, TypeError, "name"),
        ({"nesterov": True}, TypeError, "nesterov"),
        ({"clipnorm": -1.0}, ValueError, "clipnorm"),
        ({"clipnorm": 1.0, "clipvalue": 1.0}, ValueError, "only one of"),
    ):
        with pytest.raises(error, match=message):
            SWA(kind.SGD(0.5), **arguments)
    with pytest.raises(TypeError, match="optimizer must be"):
        SWA(3)
    optimizer = SWA(kind.SGD(0.5))
    variable = tf.Variable([1.0, 2.0])
    with pytest.raises(ValueError, match="built"):
        optimizer.assign_average_vars([variable])
    with pytest.raises(ValueError, match="built"):
        optimizer.set_weights([np.zeros(())])
    with pytest.raises(TypeError, match="index 0"):
        optimizer.apply_gradients([variable])
    with pytest.raises(TypeError, match="end in a variable"):
        optimizer.apply_gradients([(tf.ones(2), tf.ones(2))])
    with pytest.raises(ValueError, match="No gradients"):
        optimizer.apply_gradients([(None, variable)])
    optimizer.apply_gradients([(tf.ones(2), variable)])
    before = optimizer.get_weights()
    foreign = tf.Variable([5.0], name="foreign")
    with pytest.raises(ValueError, match="foreign"):
        optimizer.assign_average_vars([variable, foreign])
    with pytest.raises(KeyError, match="foreign"):
        optimizer.get_slot(foreign, "average")
    with pytest.raises(ValueError, match="must hold"):
        optimizer.set_weights(before[:-1])
    with pytest.raises(ValueError, match=r"weights\[0\]"):
        optimizer.set_weights([np.zeros(3), *before[1:]])
    for a, b in zip(optimizer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


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
