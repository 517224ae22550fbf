"""Bad input to the SWA optimizer of Keras 3: an error that names it, and nothing is changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")
import keras
import tensorflow as tf

from backend_models import built, one
from swa_fast.keras.optimizers import SWA, AveragedOptimizerWrapper


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"average_period": 0}, ValueError, "average_period must be >= 1"),
        ({"start_averaging": -1}, ValueError, "start_averaging must be >= 0"),
        ({"average_period": 0.5}, TypeError, "average_period"),
        ({"average_period": True}, TypeError, "average_period"),
        ({"start_averaging": "1"}, TypeError, "start_averaging"),
        ({"sequential_update": 42}, TypeError, "sequential_update"),
        ({"name": 3}, TypeError, "name"),
        ({"weight_decay": 0.5}, TypeError, "weight_decay"),
        ({"clipnorm": -1.0}, ValueError, "clipnorm"),
        ({"clipnorm": "1"}, TypeError, "clipnorm"),
        ({"clipnorm": 1.0, "clipvalue": 1.0}, ValueError, "only one of"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SWA(keras.optimizers.SGD(0.5), **arguments)


def test_bad_inner_optimizer() -> None:
    with pytest.raises(TypeError, match="optimizer must be"):
        SWA(tf.Variable(1.0))
    with pytest.raises(TypeError, match="optimizer must be"):
        SWA(keras.optimizers.SGD)
    with pytest.raises(ValueError, match="nothing"):
        SWA("nothing")
    with pytest.raises(ValueError, match="only one of"):
        SWA(keras.optimizers.SGD(0.5, clipnorm=1.0), clipvalue=1.0)


def test_decay_of_a_schedule() -> None:
    schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.5)
    inner = keras.optimizers.SGD(schedule)
    with pytest.raises(ValueError, match="learning rate is a ExponentialDecay"):
        SWA(inner, decay=0.1, clipnorm=1.0)
    assert inner.clipnorm is None
    with pytest.raises(ValueError, match="learning rate is a ExponentialDecay"):
        SWA(keras.optimizers.SGD(0.5), lr=schedule, decay=0.1)


def test_unbuilt_optimizer() -> None:
    optimizer, variable = SWA("sgd"), one()
    with pytest.raises(ValueError, match=r"assign_average_vars needs .* built"):
        optimizer.assign_average_vars([variable])
    with pytest.raises(ValueError, match=r"set_weights needs .* built"):
        optimizer.set_weights([np.zeros(())])
    with pytest.raises(KeyError, match="not built"):
        optimizer.get_slot(variable, "average")


def test_bad_gradients_and_variables_leave_everything_as_it_was() -> None:
    optimizer, variable = built()
    optimizer.apply_gradients([(tf.ones(2), variable)])
    foreign = keras.Variable(np.ones(2, np.float32), name="foreign")
    before = [*optimizer.get_weights(), variable.numpy()]
    with pytest.raises(TypeError, match="index 1"):
        optimizer.apply_gradients([(tf.ones(2), variable), tf.ones(2)])
    with pytest.raises(TypeError, match="end in a variable"):
        optimizer.apply_gradients([(tf.ones(2), tf.ones(2))])
    with pytest.raises(ValueError, match="No gradients"):
        optimizer.apply_gradients([(None, variable)])
    with pytest.raises(ValueError, match="No gradients"):
        optimizer.apply_gradients([])
    with pytest.raises(ValueError, match="foreign"):
        optimizer.apply_gradients([(tf.ones(2), variable), (tf.ones(2), foreign)])
    with pytest.raises(ValueError, match=r"var_list\[1\], 'foreign'"):
        optimizer.assign_average_vars([variable, foreign])
    with pytest.raises(TypeError, match=r"var_list .* index 1: EagerTensor"):
        optimizer.assign_average_vars([variable, tf.ones(2)])
    with pytest.raises(KeyError, match="foreign"):
        optimizer.get_slot(foreign, "average")
    with pytest.raises(KeyError, match="momentum"):
        optimizer.get_slot(variable, "momentum")
    with pytest.raises(AttributeError, match="assign"):
        optimizer.iterations = 3
    values = optimizer.get_weights()
    with pytest.raises(ValueError, match="Received 3 arrays, but the optimizer was expecting 4"):
        optimizer.set_weights(values[:-1])
    with pytest.raises(ValueError, match=r"weights\[3\]"):
        optimizer.set_weights([values[0] + 1, *values[1:-1], np.zeros(3)])
    for a, b in zip([*optimizer.get_weights(), variable.numpy()], before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_abstract_average_op() -> None:
    variable = one()
    optimizer = AveragedOptimizerWrapper(keras.optimizers.SGD(0.5))
    with pytest.raises(NotImplementedError, match="average_op"):
        optimizer.apply_gradients([(tf.ones(2), variable)])


@pytest.mark.parametrize("member", ["build", "minimize", "get_gradients", "get_updates", "apply"])
def test_a_model_where_variables_are_wanted(member: str) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    arguments: dict[str, tuple[Any, ...]] = {"build": (), "apply": ([tf.ones((2, 1)), None],)}
    first = arguments.get(member, (lambda: 0.0,))
    optimizer = SWA("sgd", 0, 1)
    with pytest.raises(TypeError, match=f"^{member}: .* a list of variables.* model Sequential"):
        getattr(optimizer, member)(*first, model)
    assert not optimizer.built
