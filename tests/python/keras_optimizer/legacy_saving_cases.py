"""Legacy Keras: what survives saving and loading; run by test_processes.py."""

from __future__ import annotations

import pathlib
import warnings
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from legacy_models import KINDS, LEGACY, NEW, SCALER, build_model, fit
from swa_fast.tf_keras.optimizers import SWA


def state(model: Any) -> list[Any]:
    optimizer = model.optimizer
    averages = [optimizer.get_slot(v, "average").numpy() for v in model.trainable_variables]
    return [optimizer.iterations.numpy(), *averages, *(v.numpy() for v in model.variables)]


@KINDS
@pytest.mark.parametrize("way", ["keras", "h5", "checkpoint", "weights_tf", "by_hand"])
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
    if way in ("keras", "h5"):
        model.save(tmp_path / f"m.{way}")
    elif way == "checkpoint":
        path = tf.train.Checkpoint(model=model, optimizer=optimizer).save(str(tmp_path / "c"))
    elif way == "weights_tf":
        model.save_weights(str(tmp_path / "w"), save_format="tf")
    weights, config = model.get_weights(), optimizer.get_config()
    fit(model)
    expected = state(model)

    if way in ("keras", "h5"):
        resumed = tf_keras.models.load_model(tmp_path / f"m.{way}")
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
@pytest.mark.parametrize("nesting", ["inside", "added"])
def test_loss_scaled_run_resumed_from_a_file(
    nesting: str, kind: Any, tmp_path: pathlib.Path
) -> None:
    model = build_model()
    inner = SCALER(kind.SGD(0.02, momentum=0.5), initial_scale=4.0)
    model.compile(SWA(inner if nesting == "inside" else kind.SGD(0.02), 2, 3), "mse")
    extra = model.optimizer.add_weight("extra", shape=(2,), initializer="ones")
    model.optimizer._weights.append(extra)
    fit(model)
    extra.assign([3.0, 4.0])
    model.save(tmp_path / "m.keras")
    if nesting == "added":  # a file of more variables than the optimizer that reads it
        with pytest.warns(UserWarning, match="Skipping the averages of SWA"):
            resumed = tf_keras.models.load_model(tmp_path / "m.keras")
        assert not np.any(state(resumed)[1])
        return
    model.optimizer._weights.remove(extra)
    model.save(tmp_path / "m.keras")
    resumed = tf_keras.models.load_model(tmp_path / "m.keras")
    for one in (model, resumed):
        fit(one)
    for a, b in zip(state(model), state(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


@KINDS
@pytest.mark.parametrize("way", ["h5", "checkpoint"])
def test_loss_scaling_around_it_resumed(way: str, kind: Any, tmp_path: pathlib.Path) -> None:
    def make() -> Any:
        model = build_model()
        swa = SWA(kind.SGD(0.02, momentum=0.5), 2, 3)
        model.compile(SCALER(swa, initial_scale=4.0), "mse")
        return model

    model = make()
    fit(model)
    if way == "h5":
        model.save(tmp_path / "m.h5")
        # Legacy Keras looks an optimizer inside of this one up by its bare name.
        resumed = tf_keras.models.load_model(tmp_path / "m.h5", custom_objects={"SWA": SWA})
    else:
        saved = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
        path = saved.save(str(tmp_path / "c"))
        resumed = make()
        tf.train.Checkpoint(model=resumed, optimizer=resumed.optimizer).restore(path)
    for one in (model, resumed):
        fit(one)
    for a, b in zip(state(model), state(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    assert int(resumed.optimizer.iterations) == 32


@KINDS
def test_a_keras_file_without_the_averages_is_not_saved_in_silence(
    kind: Any, tmp_path: pathlib.Path
) -> None:
    """Legacy Keras leaves the state of a LossScaleOptimizer around it out of such a file."""
    swa = SWA(kind.SGD(0.02), 1, 1)
    tf_keras.mixed_precision.set_global_policy("mixed_float16")
    try:  # which makes `compile` put it into a LossScaleOptimizer
        model = build_model()
        model.compile(swa, "mse", run_eagerly=True)
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")
    assert isinstance(model.optimizer, SCALER)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # there is nothing to lose yet
        model.save(tmp_path / "m.keras")
    gradients = [tf.ones_like(v) for v in model.trainable_variables]
    for _ in range(2):
        swa.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    assert swa.snapshots == 1
    words = "to a .keras file drops the averages of 1 snapshots of SWA: .*LossScaleOptimizer"
    with pytest.warns(UserWarning, match=words):
        model.save(tmp_path / "m.keras")
    resumed = tf_keras.models.load_model(tmp_path / "m.keras")
    assert resumed.optimizer.snapshots == 0  # what was warned of; no scaler without the policy
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        swa.get_config()  # of no file
        model.save_weights(str(tmp_path / "w"), save_format="tf")  # keeps the averages
        alone = build_model()
        alone.compile(SWA(kind.SGD(0.02), 1, 1), "mse")
        alone.optimizer.build(alone.trainable_variables)
        alone.optimizer.set_weights(swa.get_weights())
        alone.save(tmp_path / "alone.keras")  # as does this file


@KINDS
def test_a_second_loss_scale_around_it_takes_over(kind: Any) -> None:
    """As in Keras 3; legacy Keras would scale the gradients twice, and skip the first steps."""
    inner = kind.SGD(0.5)
    swa = SWA(SCALER(inner, initial_scale=4.0), 0, 1)
    with pytest.warns(UserWarning, match="SWA is being wrapped in a LossScaleOptimizer"):
        outer = SCALER(swa, initial_scale=8.0)
    assert swa.inner_optimizer is inner
    variable = tf.Variable([2.0])
    outer.minimize(lambda: 3.0 * variable, [variable])
    np.testing.assert_array_equal(variable.numpy(), [0.5])
    np.testing.assert_array_equal(swa.get_slot(variable, "average").numpy(), [0.5])
    built = SWA(SCALER(kind.SGD(0.5), initial_scale=4.0), 0, 1)
    built.build([variable])
    with pytest.raises(ValueError, match="SWA was built around a LossScaleOptimizer"):
        SCALER(built)
    assert isinstance(built.inner_optimizer, SCALER)


def saved_and_loaded(optimizer: Any, path: pathlib.Path) -> tuple[int, int]:
    """The iterations before a model was saved, and those of the model that was loaded."""
    model = build_model()
    model.compile(optimizer, "mse")
    fit(model)
    model.save(path)
    return int(model.optimizer.iterations), int(
        tf_keras.models.load_model(path).optimizer.iterations
    )


@KINDS
def test_savedmodel_folder_drops_the_state_of_every_optimizer(
    kind: Any, tmp_path: pathlib.Path
) -> None:
    """Legacy Keras reads no slots from a SavedModel, its own optimizers' neither."""
    assert saved_and_loaded(kind.Adam(0.02), tmp_path / "peer") == (16, 0)
    assert saved_and_loaded(SWA(kind.Adam(0.02), 2, 3), tmp_path / "ours") == (16, 0)


def test_keras_file_drops_the_state_of_legacy_optimizers_but_keeps_ours(
    tmp_path: pathlib.Path,
) -> None:
    assert saved_and_loaded(LEGACY.Adam(0.02), tmp_path / "legacy.keras") == (16, 0)
    assert saved_and_loaded(NEW.Adam(0.02), tmp_path / "new.keras") == (16, 16)
    assert saved_and_loaded(SWA(LEGACY.Adam(0.02), 2, 3), tmp_path / "ours.keras") == (16, 16)


def test_exponential_average_inside_ends_fit_as_alone() -> None:
    """`fit` calls `finalize_variable_values` of newer optimizers."""
    plain, wrapped = build_model(), build_model()
    plain.compile(NEW.SGD(0.05, use_ema=True, ema_momentum=0.5), "mse")
    wrapped.compile(SWA(NEW.SGD(0.05, use_ema=True, ema_momentum=0.5), 2, 3), "mse")
    last, _ = fit(plain)[-1], fit(wrapped)
    for a, b, before in zip(
        plain.trainable_variables, wrapped.trainable_variables, last, strict=True
    ):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
        assert not np.array_equal(a.numpy(), before)


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
