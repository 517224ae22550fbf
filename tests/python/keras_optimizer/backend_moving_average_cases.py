"""Every Keras backend: `MovingAverage` and the use of averages; run by test_processes.py."""

from __future__ import annotations

import logging
import pathlib
from typing import Any

import keras
import numpy as np
import pytest

from backend_models import BACKEND, X, Y, build_model, fit, numpy_of, variable
from optimizer_oracles import ulps
from swa_fast.keras.callbacks import AverageModelCheckpoint
from swa_fast.keras.optimizers import SWA, AveragedOptimizerWrapper, MovingAverage

F = np.float32


def decay_of_tfa(step: int, decay: float, start: int, dynamic: bool) -> Any:
    """TFA's `_get_decay`, each operation in float32."""
    if step < start:
        return F(0)
    since = F(step) - F(start)
    return min(F(decay), (F(1) + since) / (F(10) + since)) if dynamic else F(decay)


@pytest.mark.parametrize(("start", "dynamic"), [(0, False), (3, True)])
def test_fit_follows_the_formula_of_tfa(start: int, dynamic: bool) -> None:
    model = build_model()
    initial = [numpy_of(v) for v in model.trainable_variables]
    optimizer = MovingAverage(
        keras.optimizers.SGD(0.05), 0.9, start_step=start, dynamic_decay=dynamic
    )
    model.compile(optimizer, "mse")
    taken = fit(model)
    for index, each in enumerate(model.trainable_variables):
        average = initial[index]
        for step, values in enumerate(taken):
            decay = decay_of_tfa(step, 0.9, start, dynamic)
            average = average - (average - values[index]) * (F(1) - decay)
        scale = np.spacing(np.abs(average).max())
        difference = np.abs(numpy_of(optimizer.get_slot(each, "average")) - average).max()
        assert difference <= 4 * scale
    assert optimizer.snapshots == 1 + 16


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_by_hand_to_the_bit(dtype: str) -> None:
    each = variable(np.linspace(-2, 2, 9), dtype)
    optimizer = MovingAverage(keras.optimizers.SGD(0.125), 0.99)
    optimizer.build([each])
    average = numpy_of(keras.ops.cast(each, "float32"))
    np.testing.assert_array_equal(numpy_of(optimizer.get_slot(each, "average")), average)
    rng = np.random.default_rng(0)
    for _ in range(8):
        optimizer.apply([keras.ops.cast(rng.standard_normal(9), dtype)])
        value = numpy_of(keras.ops.cast(each, "float32"))
        average = average - (average - value) * (F(1) - F(0.99))
        np.testing.assert_array_equal(numpy_of(optimizer.get_slot(each, "average")), average)


def test_number_of_updates_bounds_the_decay() -> None:
    for updates in (4, keras.Variable(4, trainable=False, dtype="int32")):
        optimizer = MovingAverage("sgd", num_updates=updates)
        config = optimizer.get_config()
        assert config["num_updates"] == 4
        assert config["average_decay"] == 0.99
        each = variable([8.0])
        optimizer.build([each])
        each.assign([0.0])
        optimizer.apply([keras.ops.zeros(1)])
        expected = F(8) - F(8) * (F(1) - F(5) / F(14))
        assert numpy_of(optimizer.get_slot(each, "average")) == [expected]


def test_config() -> None:
    optimizer = MovingAverage("sgd", 0.5, None, 5, True, name="mine", nonfinite="skip")
    config = optimizer.get_config()
    assert [config[each] for each in ("average_decay", "num_updates", "start_step")] == [
        0.5,
        None,
        5,
    ]
    assert config["dynamic_decay"] is True
    assert MovingAverage.from_config(config).get_config() == config
    restored = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(restored) is MovingAverage
    assert restored.get_config() == config


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"average_decay": 1.5}, ValueError, "average_decay must be between 0 and 1"),
        ({"average_decay": "1"}, TypeError, "average_decay must be a number"),
        ({"num_updates": 1.0}, TypeError, "num_updates must be an int"),
        ({"num_updates": -1}, ValueError, "num_updates must be >= 0"),
        ({"start_step": 0.5}, TypeError, "start_step must be an int"),
        ({"dynamic_decay": 1}, TypeError, "dynamic_decay must be a bool"),
        ({"nonfinite": "drop"}, ValueError, "nonfinite must be one of"),
        ({"fused": 1}, TypeError, "fused must be True or False"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        MovingAverage("sgd", **arguments)


def test_shadow_copy() -> None:
    first, second = variable([1.0]), variable([2.0])
    optimizer = MovingAverage(keras.optimizers.SGD(1.0), 0.5)
    assert optimizer.has_shadow_copy is False
    optimizer.build([first, second])
    assert optimizer.has_shadow_copy is True
    optimizer.shadow_copy([first])
    optimizer.apply([keras.ops.ones(1), keras.ops.ones(1)])
    optimizer.swap_weights()
    assert numpy_of(first) == [0.5]
    assert numpy_of(second) == [1.0]  # it was not chosen
    with pytest.raises(TypeError, match="shadow_copy: model_weights must be a list"):
        optimizer.shadow_copy(build_model())


@pytest.mark.parametrize("make", [lambda: SWA("sgd", 0, 1), lambda: MovingAverage("sgd", 0.5)])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_swapping_twice_changes_no_bit(make: Any, dtype: str) -> None:
    each, optimizer = variable(np.linspace(1, 2, 50) / 3, dtype), make()
    optimizer.build([each])
    for scale in (0.3, 0.7):
        optimizer.apply([keras.ops.cast(np.linspace(-1, 1, 50) * scale, dtype)])
    slot = optimizer.get_slot(each, "average")
    value, average = numpy_of(keras.ops.cast(each, "float32")), numpy_of(slot)
    optimizer.swap_weights()
    np.testing.assert_array_equal(numpy_of(slot), value)
    held = numpy_of(keras.ops.cast(each, "float32"))
    np.testing.assert_array_equal(held, average.astype(dtype).astype("float32"))
    optimizer.swap_weights([each])
    np.testing.assert_array_equal(numpy_of(keras.ops.cast(each, "float32")), value)
    np.testing.assert_array_equal(numpy_of(slot), average)
    optimizer.swap_weights()
    each.assign(keras.ops.ones(50))  # the rounded average is no longer what the variable holds
    optimizer.swap_weights()
    np.testing.assert_array_equal(numpy_of(slot), np.ones(50))


class OwnError(Exception):
    """Of the test's own."""


def test_applied_gives_every_value_back() -> None:
    model = build_model()
    model.compile(SWA("sgd", 0, 1), "mse")
    fit(model)
    optimizer = model.optimizer
    before = [numpy_of(v) for v in model.variables]
    averages = [numpy_of(optimizer.get_slot(v, "average")) for v in model.trainable_variables]

    def use(given: Any) -> None:
        with optimizer.applied(given):
            for each, average in zip(model.trainable_variables, averages, strict=True):
                np.testing.assert_array_equal(numpy_of(each), average)
            raise OwnError

    for given in (model, model.variables):
        with pytest.raises(OwnError):
            use(given)
        for each, value in zip(model.variables, before, strict=True):
            np.testing.assert_array_equal(numpy_of(each), value)
    own = model.evaluate(X, Y, verbose=0)
    with optimizer.applied(model):
        averaged = model.evaluate(X, Y, verbose=0)
    assert own != averaged
    assert model.evaluate(X, Y, verbose=0) == own
    fit(model)  # goes on
    optimizer.assign_average_vars(model)


def test_nothing_is_handed_out_before_the_first_snapshot() -> None:
    each, optimizer = variable([1.0]), SWA("sgd", 5, 1)
    for use in ("swap_weights", "applied"):
        with pytest.raises(ValueError, match=f"{use} needs an optimizer that was built"):
            with_of(optimizer, use, each)
    optimizer.build([each])
    for use in ("swap_weights", "applied"):
        with pytest.warns(UserWarning, match=f"no snapshot yet: {use} leaves"):
            with_of(optimizer, use, each)
        assert numpy_of(each) == [1.0]


def with_of(optimizer: Any, use: str, each: Any) -> None:
    if use == "swap_weights":
        optimizer.swap_weights()
    else:
        with optimizer.applied([each]):
            pass


def test_said_once_that_the_model_holds_its_last_weights(caplog: Any) -> None:
    model = build_model()
    model.compile(SWA("sgd", 0, 1, name="mine"), "mse")
    with caplog.at_level(logging.INFO, logger="swa_fast"):
        model.fit(X, Y, batch_size=32, verbose=0)
        model.fit(X, Y, batch_size=32, verbose=0)
    messages = [record.getMessage() for record in caplog.records if record.name == "swa_fast"]
    assert len(messages) == 1
    assert messages[0].startswith(
        "mine has averages of 2 snapshots, and the model its last weights"
    )


@pytest.mark.parametrize("eagerly", [False, True])
def test_snapshots_that_are_not_finite_are_left_out(eagerly: bool) -> None:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.ones((1, 1))])
    optimizer = MovingAverage(keras.optimizers.SGD(0.5), 0.5, nonfinite="skip")
    compiles = not eagerly and BACKEND != "torch"  # which would take minutes
    model.compile(optimizer, "mse", run_eagerly=eagerly, jit_compile=compiles)
    data = np.array([[1.0], [1.0], [np.nan], [1.0]], "float32")
    model.fit(data, np.zeros((4, 1)), batch_size=1, verbose=0, shuffle=False)
    assert numpy_of(optimizer.get_slot(model.weights[0], "average")) == [[0.25]]
    assert (optimizer.snapshots, optimizer.skipped) == (3, 2)


@pytest.mark.parametrize(("nonfinite", "taken", "skipped"), [("skip", 2, 1), ("propagate", 3, 0)])
def test_not_finite_by_hand(nonfinite: str, taken: int, skipped: int) -> None:
    each = variable([1.0, 2.0])
    optimizer = SWA(keras.optimizers.SGD(0.0), 0, 1, nonfinite=nonfinite)
    optimizer.build([each])
    for value in ([1.0, 2.0], [np.inf, 2.0], [3.0, 6.0]):
        each.assign(value)
        optimizer.apply([keras.ops.zeros(2)])
    assert (optimizer.snapshots, optimizer.skipped) == (taken, skipped)
    average = numpy_of(optimizer.get_slot(each, "average"))
    assert list(average) == ([2.0, 4.0] if skipped else [np.inf, np.float32(10) / 3])


@pytest.mark.parametrize("update_weights", [False, True])
def test_average_model_checkpoint(update_weights: bool, tmp_path: pathlib.Path) -> None:
    model = build_model()
    scaled = keras.optimizers.LossScaleOptimizer(MovingAverage("sgd", 0.5), initial_scale=2.0)
    model.compile(scaled, "mse", run_eagerly=True)
    checkpoint = AverageModelCheckpoint(update_weights, str(tmp_path / "m.{epoch}.keras"))
    model.fit(X, Y, batch_size=16, epochs=2, verbose=0, callbacks=[checkpoint])
    optimizer = scaled.inner_optimizer
    saved = keras.models.load_model(tmp_path / "m.2.keras")
    for theirs, ours in zip(saved.trainable_variables, model.trainable_variables, strict=True):
        average = numpy_of(optimizer.get_slot(ours, "average"))
        np.testing.assert_array_equal(numpy_of(theirs), average)
        assert np.array_equal(numpy_of(ours), average) is update_weights
    model.compile("sgd", "mse")
    with pytest.raises(TypeError, match="AveragedOptimizerWrapper"):
        AverageModelCheckpoint(True, "never.keras").set_model(model)


def test_resumed_moving_average_is_the_uninterrupted_one(tmp_path: pathlib.Path) -> None:
    model = build_model()
    optimizer = MovingAverage(keras.optimizers.SGD(0.02), 0.9, nonfinite="skip")
    model.compile(optimizer, "mse", run_eagerly=True)
    fit(model, 1)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    for resumed in (model, loaded):
        fit(resumed, 1)
    for ours, theirs in zip(
        model.optimizer.get_weights(), loaded.optimizer.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


class AsInAddons(AveragedOptimizerWrapper):
    """Written for later versions of TensorFlow Addons."""

    def average_op(  # type: ignore[override]
        self, var: Any, average_var: Any, local_apply_state: Any
    ) -> Any:
        return average_var.assign(keras.ops.convert_to_tensor(var) * 2)


def test_subclass_as_written_for_addons() -> None:
    each = variable([4.0])
    name: Any = "mine"
    optimizer = AsInAddons(keras.optimizers.SGD(1.0), name)
    assert optimizer.name == "mine"
    optimizer.build([each])
    optimizer.apply([keras.ops.ones(1)])
    assert numpy_of(optimizer.get_slot(each, "average")) == [6.0]
    assert AsInAddons.from_config(optimizer.get_config()).name == "mine"


if BACKEND != "tensorflow":

    def test_fused_is_for_tensorflow() -> None:
        with pytest.raises(ValueError, match=f"The backend is {BACKEND}"):
            SWA("sgd", fused=True)


def test_native_in_place_is_the_expression_to_the_bit() -> None:
    """On torch, native code takes snapshots in place; a view with gaps goes the other way."""
    values = np.random.default_rng(1).standard_normal((6, 8)).astype("float32")
    each = variable(values)
    optimizer = SWA(keras.optimizers.SGD(0.25), 0, 1)
    optimizer.build([each])
    if BACKEND == "torch":
        import torch

        each._value.data = torch.tensor(values).repeat(1, 2)[:, ::2]
        each.assign(values)
    average = np.zeros_like(values)
    for count in range(3):
        optimizer.apply([keras.ops.ones((6, 8))])
        average = (average * F(count) + numpy_of(each)) / F(count + 1)
    assert ulps(numpy_of(optimizer.get_slot(each, "average")), average) == 0
