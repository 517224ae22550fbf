"""Legacy Keras: members, arguments and bad input; run by test_processes.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from legacy_models import KINDS, LEGACY, NEW
from swa_fast.tf_keras.optimizers import SWA, AveragedOptimizerWrapper


def test_swa_of_tensorflow_is_this_one() -> None:
    import swa_fast.tensorflow

    assert tf.keras.Model is tf_keras.Model
    assert swa_fast.tensorflow.SWA is SWA
    assert swa_fast.tensorflow.AveragedOptimizerWrapper is AveragedOptimizerWrapper


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
    schedule = tf_keras.optimizers.schedules.PiecewiseConstantDecay([1], [1.0, 0.5])
    scheduled = SWA(kind.SGD(schedule))
    each = tf.Variable([4.0])
    for _ in range(3):
        scheduled.apply_gradients([(tf.ones(1), each)])
    np.testing.assert_array_equal(each.numpy(), [4 - 2.5])
    changed = SWA(kind.SGD(0.25))
    changed.learning_rate = schedule
    changed.apply_gradients([(tf.ones(1), each)])
    np.testing.assert_array_equal(each.numpy(), [4 - 3.5])
    with pytest.raises(ValueError, match="learning rate is a PiecewiseConstantDecay"):
        SWA(kind.SGD(schedule), decay=0.1)
    optimizer = SWA(kind.SGD(0.5), decay=1.0)
    variable = tf.Variable([1.0])
    for _ in range(2):
        optimizer.apply_gradients([(tf.ones(1), variable)])
    np.testing.assert_allclose(variable.numpy(), [1 - 0.5 - 0.25])


@KINDS
@pytest.mark.parametrize(
    ("name", "expected"),
    [("clipnorm", [-0.3, -0.4]), ("global_clipnorm", [-0.3, -0.4]), ("clipvalue", [-0.5, -0.5])],
)
def test_clipping(name: str, expected: list[float], kind: Any) -> None:
    variable = tf.Variable(np.zeros(2, np.float32))
    limit: dict[str, Any] = {name: 1.0}
    optimizer = SWA(kind.SGD(0.5), **limit)
    assert getattr(optimizer, name) == 1.0 == getattr(optimizer.inner_optimizer, name)
    optimizer.apply_gradients([(tf.constant([3.0, 4.0]), variable)])
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-6)


@KINDS
def test_config_with_custom_objects(kind: Any) -> None:
    class Mine(kind.SGD):
        pass

    config = SWA(Mine(0.5)).get_config()
    assert type(SWA.from_config(config, {"Mine": Mine}).inner_optimizer) is Mine


@KINDS
def test_assign_average_vars_before_the_first_snapshot(kind: Any) -> None:
    variable = tf.Variable([1.0])
    optimizer = SWA(kind.SGD(0.5), 5, 1)
    optimizer.apply_gradients([(tf.ones(1), variable)])
    with pytest.warns(UserWarning, match="SWA has taken no snapshot yet") as record:
        optimizer.assign_average_vars([variable])
    assert record[0].filename == __file__
    np.testing.assert_array_equal(variable.numpy(), [0.5])
    with pytest.raises(TypeError, match=r"var_list .* index 0"):
        optimizer.assign_average_vars([tf.ones(1)])


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
        optimizer.set_weights([np.zeros(())] * 9)
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


def test_foreign_variable_of_a_built_newer_optimizer_changes_nothing() -> None:
    variable, foreign = tf.Variable([1.0, 2.0]), tf.Variable([5.0], name="foreign")
    for built_before in (False, True):
        inner = NEW.SGD(0.1, momentum=0.5)
        if built_before:
            inner.build([variable])
        optimizer = SWA(inner, 0, 1)
        optimizer.apply_gradients([(tf.ones(2), variable)])
        before = optimizer.get_weights()
        for call in (
            lambda o=optimizer: o.apply_gradients([(tf.ones(1), foreign)]),
            lambda o=optimizer: o.build([foreign]),
        ):
            with pytest.raises(ValueError, match="not built with the variable 'foreign:0'"):
                call()
            assert len(optimizer.get_weights()) == len(before)
        optimizer.set_weights(before)
        optimizer.apply_gradients([(tf.ones(2), variable)])


def test_decay_of_a_callable_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="decay is for a learning rate that is a number"):
        SWA(LEGACY.SGD(lambda: 0.5), decay=0.1)
    # A newer optimizer asks the callable once, for the number it starts from.
    for inner in (LEGACY.SGD(0.5), NEW.SGD(0.5), NEW.SGD(lambda: 0.5)):
        variable = tf.Variable([1.0])
        optimizer = SWA(inner, decay=1.0)
        for value in (0.5, 0.25):
            optimizer.apply_gradients([(tf.ones(1), variable)])
            assert variable.numpy() == [value]


@KINDS
@pytest.mark.parametrize("member", ["build", "minimize", "get_gradients", "compute_gradients"])
def test_a_model_where_variables_are_wanted(kind: Any, member: str) -> None:
    model = tf_keras.Sequential([tf_keras.Input((2,)), tf_keras.layers.Dense(1)])
    optimizer = SWA(kind.SGD(0.5), 0, 1)
    first = () if member == "build" else (lambda: 0.0,)
    with pytest.raises(TypeError, match=f"^{member}: .* a list of variables.* model Sequential"):
        getattr(optimizer, member)(*first, model)
    assert optimizer.get_slot_names() == []


@KINDS
def test_set_weights_before_the_optimizer_is_built(kind: Any) -> None:
    built = SWA(kind.Adam(), 0, 1)
    built.apply_gradients([(tf.ones(1), tf.Variable([1.0]))])
    optimizer = SWA(kind.Adam(), 0, 1)
    optimizer.set_weights([np.int64(7), *optimizer.get_weights()[1:]])  # as before any step
    assert int(optimizer.iterations) == 7
    with pytest.raises(ValueError, match=r"set_weights needs .* built"):
        optimizer.set_weights(built.get_weights())
    assert int(optimizer.iterations) == 7
