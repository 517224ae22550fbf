"""Every member of the TFA API on Keras 3 with TensorFlow, and what bad input does."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")
import keras
import tensorflow as tf

from backend_models import built, one
from swa_fast.keras.optimizers import SWA, AveragedOptimizerWrapper


def test_swa_of_tensorflow_is_this_one() -> None:
    import swa_fast.tensorflow

    assert swa_fast.tensorflow.SWA is SWA
    assert swa_fast.tensorflow.AveragedOptimizerWrapper is AveragedOptimizerWrapper
    assert "SWA" in dir(swa_fast.tensorflow)


def test_arguments_are_those_of_tfa() -> None:
    parameters = inspect.signature(SWA).parameters.values()
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert [(each.name, each.default) for each in parameters if each.kind == positional] == [
        ("optimizer", inspect.Parameter.empty),
        ("start_averaging", 0),
        ("average_period", 10),
        ("name", "SWA"),
        ("sequential_update", True),
    ]


def test_is_a_keras_optimizer() -> None:
    optimizer = SWA("adam")
    assert isinstance(optimizer, keras.optimizers.Optimizer)
    assert isinstance(optimizer.inner_optimizer, keras.optimizers.Adam)
    assert optimizer.name == "SWA"


def test_apply_gradients_returns_iterations() -> None:
    optimizer, variable = built()
    assert optimizer.apply_gradients([(tf.ones(2), variable)]) is optimizer.iterations
    assert int(optimizer.iterations) == 1
    assert optimizer.iterations is optimizer.inner_optimizer.iterations


@pytest.mark.parametrize("var_list", ["list", "callable"])
def test_minimize(var_list: str) -> None:
    variable = one()
    optimizer = SWA(keras.optimizers.SGD(0.5), 0, 1)
    variables = [variable] if var_list == "list" else lambda: [variable]
    optimizer.minimize(lambda: tf.reduce_sum(variable * 2.0), variables, name="step")
    np.testing.assert_array_equal(variable.numpy(), [0, 1])
    np.testing.assert_array_equal(optimizer.get_slot(variable, "average").numpy(), [0, 1])


def test_minimize_with_tape_and_grad_loss() -> None:
    optimizer, variable = built()
    with tf.GradientTape() as tape:
        loss = 2.0 * variable
    optimizer.minimize(loss, [variable], grad_loss=tf.constant([1.0, 0.0]), tape=tape)
    np.testing.assert_array_equal(variable.numpy(), [0, 2])
    with pytest.raises(ValueError, match="tape"):
        optimizer.minimize(tf.constant(1.0), [variable])
    with pytest.raises(ValueError, match="var_list"):
        optimizer.minimize(lambda: tf.constant(1.0), None)
    with pytest.raises(TypeError, match="var_list"):
        optimizer.minimize(lambda: tf.constant(1.0), [tf.constant(1.0)])


def test_minimize_scales_the_loss_for_a_loss_scale_optimizer() -> None:
    variable = one()
    scaler = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5), initial_scale=8.0)
    SWA(scaler).minimize(lambda: tf.reduce_sum(variable * 2.0), [variable])
    np.testing.assert_array_equal(variable.numpy(), [0, 1])


def test_gradients_and_updates() -> None:
    optimizer, variable = built()
    gradients = optimizer.get_gradients(lambda: tf.reduce_sum(variable**2), [variable])
    np.testing.assert_array_equal(gradients[0], [2, 4])
    with pytest.raises(AttributeError, match="GradientTape"):
        optimizer.get_gradients(tf.constant(1.0), [variable])
    with pytest.raises(ValueError, match="no gradient"):
        optimizer.get_gradients(lambda: tf.constant(1.0), [variable])

    @tf.function
    def update() -> None:
        loss = tf.reduce_sum(variable * 2.0)
        assert len(optimizer.get_updates(loss, [variable])) == 1

    update()
    np.testing.assert_array_equal(variable.numpy(), [0, 1])
    assert int(optimizer.iterations) == 1


def test_assign_average_vars_skips_what_is_not_trained(recwarn: pytest.WarningsRecorder) -> None:
    layers = [keras.layers.Dense(3), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
    model = keras.Sequential([keras.Input((2,)), *layers])
    optimizer = SWA(keras.optimizers.SGD(0.5), 0, 1)
    optimizer.build(model.trainable_variables)
    for _ in range(2):
        gradients = [tf.ones(v.shape) for v in model.trainable_variables]
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    untouched = [v.numpy() for v in model.non_trainable_variables]
    kernel = model.layers[0].kernel.numpy()
    assert optimizer.assign_average_vars(model.variables) is None
    np.testing.assert_array_equal(model.layers[0].kernel.numpy(), kernel + 0.25)
    for variable, before in zip(model.non_trainable_variables, untouched, strict=True):
        np.testing.assert_array_equal(variable.numpy(), before)
    assert not [w for w in recwarn if "average" in str(w.message)]


@pytest.mark.parametrize("compiled", [None, False, True], ids=["eager", "function", "xla"])
def test_assign_average_vars_before_and_after_the_first_snapshot(
    compiled: bool | None, capfd: pytest.CaptureFixture[str]
) -> None:
    optimizer, variable = built(start_averaging=1, average_period=1)

    def assign() -> None:
        optimizer.assign_average_vars([variable])

    run = assign if compiled is None else tf.function(assign, jit_compile=compiled)
    optimizer.apply_gradients([(tf.ones(2), variable)])
    if compiled is None:
        with pytest.warns(UserWarning, match="SWA has taken no snapshot yet") as record:
            run()
        assert record[0].filename == __file__
    else:
        run()
        if not compiled:
            assert "no snapshot yet" in capfd.readouterr().err
    np.testing.assert_array_equal(variable.numpy(), [0.5, 1.5])
    optimizer.apply_gradients([(tf.ones(2), variable)])
    optimizer.apply_gradients([(tf.ones(2), variable)])
    np.testing.assert_array_equal(variable.numpy(), [-0.5, 0.5])
    run()
    np.testing.assert_array_equal(variable.numpy(), [-0.25, 0.75])


def test_slots_and_weights() -> None:
    optimizer, variable = built()
    assert optimizer.get_slot_names() == ["average"]
    slot = optimizer.add_slot(variable, "mine", "ones")
    assert optimizer.add_slot(variable, "mine") is slot is optimizer.get_slot(variable, "mine")
    assert optimizer.get_slot_names() == ["average", "mine"]
    np.testing.assert_array_equal(slot.numpy(), [1, 1])
    table = optimizer.add_slot(variable, "table", np.arange(6.0).reshape(2, 3), shape=(2, 3))
    np.testing.assert_array_equal(table.numpy(), np.arange(6).reshape(2, 3))
    extra = optimizer.add_weight("extra", shape=(3,), dtype="int32", initializer="ones")
    assert all(any(each is v for v in optimizer.variables) for each in (slot, table, extra))
    assert optimizer.weights[0] is optimizer.iterations
    values = optimizer.get_weights()
    assert len(values) == len(optimizer.weights) == len(optimizer.variables)
    extra.assign([5, 6, 7])
    optimizer.set_weights(values)
    np.testing.assert_array_equal(extra.numpy(), [1, 1, 1])


def test_get_weights_starts_with_iterations_whatever_is_inside() -> None:
    variable = one()
    optimizer = SWA(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.5)), 0, 1)
    optimizer.build([variable])
    for _ in range(3):
        optimizer.apply_gradients([(tf.ones(2), variable)])
    kept = optimizer.get_weights()
    assert int(kept[0]) == 3
    copies = [value.copy() for value in kept]
    optimizer.apply_gradients([(tf.ones(2), variable)])
    for value, before in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(value, before)
    optimizer.set_weights(kept)
    assert int(optimizer.iterations) == 3


def test_learning_rate() -> None:
    optimizer = SWA(keras.optimizers.SGD(0.5))
    assert float(optimizer.lr) == float(optimizer.learning_rate) == 0.5
    optimizer.lr = 0.25
    assert float(optimizer.inner_optimizer.learning_rate) == 0.25
    optimizer.learning_rate = 0.125
    assert float(optimizer.lr) == 0.125
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [1.0, 0.5])
    scheduled = SWA(keras.optimizers.SGD(schedule))
    variable = one()
    for _ in range(3):
        scheduled.apply_gradients([(tf.ones(2), variable)])
    np.testing.assert_array_equal(variable.numpy(), [1 - 2.5, 2 - 2.5])
    assert float(scheduled.lr) == 0.5
    optimizer.learning_rate = schedule
    assert float(optimizer.learning_rate) == 1.0


def test_keyword_arguments() -> None:
    assert float(SWA("sgd", lr=0.25).lr) == 0.25
    assert float(SWA("sgd", learning_rate=0.25).lr) == 0.25
    optimizer = SWA(keras.optimizers.SGD(0.5), decay=1.0)
    variable = one()
    for _ in range(2):
        optimizer.apply_gradients([(tf.ones(2), variable)])
    np.testing.assert_allclose(variable.numpy(), [1 - 0.75, 2 - 0.75])
    for name, expected in (
        ("clipnorm", [1 - 0.3, 2 - 0.4]),
        ("global_clipnorm", [1 - 0.3, 2 - 0.4]),
        ("clipvalue", [1 - 0.5, 2 - 0.5]),
    ):
        limit: dict[str, Any] = {name: 1.0}
        optimizer = SWA(keras.optimizers.SGD(0.5), **limit)
        assert getattr(optimizer, name) == 1.0 == getattr(optimizer.inner_optimizer, name)
        variable = one()
        optimizer.apply_gradients([(tf.constant([3.0, 4.0]), variable)])
        np.testing.assert_allclose(
            variable.numpy(),
            expected if name == "clipvalue" else [1 - 0.5 * 0.6, 2 - 0.5 * 0.8],
            rtol=1e-6,
        )


def test_config_round_trip() -> None:
    schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.5)
    inner = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(schedule, momentum=0.5))
    optimizer = SWA(inner, 7, 3, "mine", False, clipvalue=0.5)
    config = optimizer.get_config()
    again = SWA.from_config(config)
    assert again.get_config() == config == optimizer.get_config()
    assert (config["start_averaging"], config["average_period"]) == (7, 3)
    assert (config["name"], config["sequential_update"]) == ("mine", False)
    assert again.clipvalue == 0.5
    serialized = keras.optimizers.serialize(optimizer)
    restored = keras.optimizers.deserialize(serialized)
    assert type(restored) is SWA
    assert restored.get_config() == config


def test_config_with_custom_objects() -> None:
    class Mine(keras.optimizers.SGD):
        pass

    config = SWA(Mine(0.5)).get_config()
    assert type(SWA.from_config(config, {"Mine": Mine}).inner_optimizer) is Mine


def test_wrapped_in_a_second_loss_scale_optimizer_by_a_policy() -> None:
    inner = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5))
    swa = SWA(inner)
    with pytest.warns(UserWarning, match="takes over"):
        keras.optimizers.LossScaleOptimizer(swa)
    assert isinstance(swa.inner_optimizer, keras.optimizers.SGD)
