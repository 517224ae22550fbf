"""Legacy Keras: what users of TFA and tf_keras do with optimizers; run by test_processes.py."""

from __future__ import annotations

import inspect
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from legacy_models import KINDS, LEGACY, MODES, NEW, X, Y, build_model, compiled, fit
from swa_fast.tf_keras.callbacks import AverageModelCheckpoint
from swa_fast.tf_keras.optimizers import SWA, AveragedOptimizerWrapper, MovingAverage


def test_load_weights_from_a_savedmodel_restores_no_count_without_averages(
    tmp_path: pathlib.Path,
) -> None:
    model = build_model()
    model.compile(SWA(LEGACY.SGD(0.02), 0, 1), "mse")
    fit(model)
    assert model.optimizer.snapshots == 16
    model.save(tmp_path / "folder")
    loaded = tf_keras.models.load_model(tmp_path / "folder")
    loaded.optimizer.build(loaded.trainable_variables)
    loaded.load_weights(tmp_path / "folder").expect_partial()
    assert loaded.optimizer.snapshots == 0
    before = loaded.get_weights()
    with pytest.warns(UserWarning, match="no snapshot yet"):
        loaded.optimizer.assign_average_vars(loaded.variables)
    for a, b in zip(loaded.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


@KINDS
def test_the_step_count_of_a_checkpoint_is_where_legacy_keras_has_it(
    kind: Any, tmp_path: pathlib.Path
) -> None:
    name = "iter" if kind is LEGACY else "_iterations"
    for optimizer in (kind.SGD(0.5), SWA(kind.SGD(0.5), 0, 1)):
        variable = tf.Variable([1.0, 2.0])
        if hasattr(optimizer, "build"):  # an older one of Keras's own has no such method
            optimizer.build([variable])
        optimizer.iterations.assign(5)
        saved = tf.train.Checkpoint(optimizer=optimizer).save(str(tmp_path / "checkpoint"))
        count = tf.Variable(0, dtype=tf.int64)
        there = tf.train.Checkpoint(optimizer=tf.train.Checkpoint(**{name: count}))
        there.restore(saved).expect_partial()
        assert int(count) == 5
    fresh = SWA(kind.SGD(0.5), 0, 1)
    tf.train.Checkpoint(optimizer=fresh).restore(saved).expect_partial()
    fresh.build([tf.Variable([1.0, 2.0])])
    assert int(fresh.iterations) == 5


def public_members(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


def test_every_public_member_of_both_base_classes_is_the_inner_optimizers() -> None:
    """What the wrapper inherits from one of its bases must be right for a wrapper."""
    inherited = {
        name
        for name in public_members(LEGACY.Optimizer) | public_members(NEW.Optimizer)
        if inspect.getattr_static(AveragedOptimizerWrapper, name)
        in (
            inspect.getattr_static(LEGACY.Optimizer, name, None),
            inspect.getattr_static(NEW.Optimizer, name, None),
        )
    }
    # They use members that the wrapper has of its own, and nothing of the optimizer's state.
    assert inherited <= {
        "add_weight",
        "get_slot_names",
        "get_updates",
        "get_weights",
        "minimize",
        "with_name_scope",
    }


def test_members_of_the_newer_class() -> None:
    kernel, bias = tf.Variable([1.0], name="kernel"), tf.Variable([1.0], name="bias")
    optimizer = SWA(NEW.SGD(0.5, weight_decay=0.5, jit_compile=False), 0, 1)
    assert optimizer.weight_decay == 0.5
    assert optimizer.use_ema is False
    assert optimizer.jit_compile is False
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    pairs = [(tf.zeros(1), kernel), (tf.zeros(1), bias)]
    optimizer.apply_gradients(optimizer.aggregate_gradients(pairs))
    assert kernel.numpy() == [0.75]
    assert bias.numpy() == [1.0]
    added = optimizer.add_variable([2], tf.float32, "ones", "added")
    beside = optimizer.add_variable_from_reference(kernel, "beside", initial_value=[3.0])
    assert beside.numpy() == [3.0]
    assert optimizer.get_slot(kernel, "beside") is beside
    assert {id(added), id(beside)} <= {id(each) for each in optimizer.weights}
    optimizer.jit_compile = True
    assert optimizer.inner_optimizer.jit_compile is True
    gradients = optimizer.compute_gradients(lambda: 3 * kernel, [kernel])
    assert gradients[0][0].numpy() == [3.0]
    legacy = SWA(LEGACY.SGD(0.5))
    assert not hasattr(legacy, "weight_decay")
    with pytest.raises(AttributeError, match=r"exclude_from_weight_decay needs .* legacy SGD"):
        legacy.exclude_from_weight_decay(var_names=["bias"])


def test_models_with_tables_among_their_variables() -> None:
    words = tf_keras.layers.TextVectorization(max_tokens=9, output_sequence_length=2)
    words.adapt(["foo bar", "baz"])
    model = tf_keras.Sequential(
        [
            tf_keras.Input((1,), dtype=tf.string),
            words,
            tf_keras.layers.Embedding(9, 2),
            tf_keras.layers.BatchNormalization(),
            tf_keras.layers.Dense(1),
        ]
    )
    swa = SWA("sgd", 0, 1)
    model.compile(swa, "mse")
    text = tf.constant([["foo"], ["bar"], ["baz"]])
    model.fit(text, np.zeros((3, 2, 1)), verbose=0)
    assert not all(hasattr(each, "assign") for each in model.variables)
    swa.assign_average_vars(model.variables)
    with swa.applied(model):
        pass


@pytest.mark.parametrize("inner", ["Lion", "Adafactor"])
@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_optimizers_that_legacy_keras_does_not_find(
    inner: str, ending: str, tmp_path: pathlib.Path
) -> None:
    model = build_model()
    model.compile(SWA(getattr(NEW, inner)(0.01), 0, 1), "mse")
    model.fit(X, Y, batch_size=32, verbose=0)
    model.save(tmp_path / f"m.{ending}")
    loaded = tf_keras.models.load_model(tmp_path / f"m.{ending}")
    assert type(loaded.optimizer.inner_optimizer) is getattr(NEW, inner)
    for a, b in zip(loaded.optimizer.get_weights(), model.optimizer.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@KINDS
@pytest.mark.parametrize("make", [SWA, MovingAverage])
def test_steps_without_variables_do_nothing(make: Any, kind: Any) -> None:
    optimizer = make(kind.SGD(0.1))
    optimizer.apply_gradients([])
    optimizer.minimize(lambda: tf.constant(1.0), [])
    assert int(optimizer.iterations) == 0
    model = build_model()
    model.trainable = False
    model.compile(make(kind.SGD(0.1)), "mse")
    before = model.get_weights()
    model.fit(X, Y, batch_size=32, verbose=0)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


class AsInAddons(AveragedOptimizerWrapper):
    """A subclass as users write them for later versions of TensorFlow Addons."""

    def __init__(self, optimizer: Any, name: str = "AsInAddons", **settings: Any) -> None:
        super().__init__(optimizer, name, **settings)  # type: ignore[arg-type]
        self._set_hyper("share", 0.5)

    def _create_slots(self, var_list: Any) -> None:
        if hasattr(self._optimizer, "_create_slots"):
            self._optimizer._create_slots(var_list=var_list)
        for var in var_list:
            self.add_slot(var, "average", var.read_value())

    def _prepare_local(self, var_device: Any, var_dtype: Any, apply_state: Any) -> None:
        super()._prepare_local(var_device, var_dtype, apply_state)
        share = self._get_hyper("share", var_dtype)
        started = tf.cast(self._optimizer.iterations > 0, var_dtype)
        apply_state[(var_device, var_dtype)]["share"] = share * started

    @tf.function
    def average_op(self, var: Any, average_var: Any, local_apply_state: Any) -> Any:
        if self.iterations < 1:
            return average_var
        share = local_apply_state["share"]
        return average_var.assign(average_var + (var - average_var) * share)


@KINDS
@MODES
def test_subclass_as_written_for_addons(mode: str, kind: Any) -> None:
    if mode == "xla":
        mode = "function"  # a variable of steps is new to each trace
    variable = tf.Variable([8.0])
    optimizer = AsInAddons(kind.SGD(1.0))
    assert optimizer.get_config()["name"] == "AsInAddons"
    optimizer.build([variable])
    run = compiled(lambda: optimizer.apply_gradients([(tf.ones(1), variable)]), mode)
    expected = 8.0
    for step in range(3):
        run()
        expected = expected if step == 0 else expected + (7.0 - step - expected) * 0.5
        assert optimizer.get_slot(variable, "average").numpy() == [expected]
    again = AsInAddons.from_config(optimizer.get_config())
    assert again.get_config() == optimizer.get_config()


@pytest.mark.parametrize("update_weights", [False, True])
@pytest.mark.parametrize("make", [lambda: SWA("sgd", 0, 1), lambda: MovingAverage("sgd", 0.5)])
def test_average_model_checkpoint(make: Any, update_weights: bool, tmp_path: pathlib.Path) -> None:
    model = build_model()
    model.compile(make(), "mse")
    checkpoint = AverageModelCheckpoint(update_weights, str(tmp_path / "m.{epoch}.keras"))
    model.fit(X, Y, batch_size=16, epochs=2, verbose=0, callbacks=[checkpoint])
    averages = [model.optimizer.get_slot(v, "average").numpy() for v in model.trainable_variables]
    saved = tf_keras.models.load_model(tmp_path / "m.2.keras")
    for average, theirs, ours in zip(
        averages, saved.trainable_variables, model.trainable_variables, strict=True
    ):
        np.testing.assert_array_equal(theirs.numpy(), average)
        assert np.array_equal(ours.numpy(), average) is update_weights


def test_average_model_checkpoint_refuses_other_optimizers() -> None:
    model = build_model()
    model.compile("sgd", "mse")
    with pytest.raises(TypeError, match=r"only used when .*Received: SGD"):
        AverageModelCheckpoint(True, "never").set_model(model)
    with pytest.raises(TypeError, match="update_weights must be True or False"):
        AverageModelCheckpoint(1, "never")  # type: ignore[arg-type]
