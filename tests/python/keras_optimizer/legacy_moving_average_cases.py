"""Legacy Keras: `MovingAverage`, what is done with averages, `fused`; run by test_processes.py."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from legacy_models import KINDS, LEGACY, MODES, NEW, build_model, compiled, fit
from swa_fast.tf_keras.optimizers import SWA, MovingAverage

F = np.float32
MAKE: dict[str, Any] = {
    "mean": lambda **settings: SWA(LEGACY.SGD(1.0), 0, 2, **settings),
    "moving": lambda **settings: MovingAverage(NEW.SGD(1.0), 0.9, **settings),
}


@KINDS
@MODES
@pytest.mark.parametrize("case", [(0.99, 0, False), (0.5, 2, True)], ids=str)
def test_formula_of_tfa(case: Any, mode: str, kind: Any) -> None:
    decay, start, dynamic = case
    variable = tf.Variable(np.linspace(-1, 1, 40, dtype="float32"))
    optimizer = MovingAverage(kind.SGD(0.5), decay, None, start, dynamic)
    optimizer.build([variable])
    average = variable.numpy()
    run = compiled(lambda g: optimizer.apply_gradients([(g, variable)]), mode)
    rng = np.random.default_rng(0)
    for step in range(6):
        run(tf.constant(rng.standard_normal(40), tf.float32))
        share = F(decay) if step >= start else F(0)
        if dynamic and step >= start:
            share = min(share, (F(1) + F(step - start)) / (F(10) + F(step - start)))
        value = variable.numpy()
        average = average - (average - value) * (F(1) - share) if share else value
        np.testing.assert_array_equal(optimizer.get_slot(variable, "average").numpy(), average)
    assert optimizer.snapshots == 7


@KINDS
def test_config_and_shadow_copy(kind: Any) -> None:
    optimizer = MovingAverage(kind.SGD(1.0), 0.5, 3, 2, True, "mine", nonfinite="skip")
    config = optimizer.get_config()
    assert MovingAverage.from_config(config).get_config() == config
    serialized = tf_keras.optimizers.serialize(optimizer)
    assert tf_keras.optimizers.deserialize(serialized).get_config() == config
    first, second = tf.Variable([1.0]), tf.Variable([2.0])
    assert optimizer.has_shadow_copy is False
    optimizer.shadow_copy([first])
    assert optimizer.has_shadow_copy is True
    first.assign([5.0])
    optimizer.swap_weights()
    assert first.numpy() == [1.0]
    if kind is LEGACY:  # a newer optimizer takes no variables later
        optimizer.build([second])
    for bad in (tf.Variable(1.0), 1.0, "a"):
        with pytest.raises(TypeError, match="num_updates"):
            MovingAverage("sgd", num_updates=bad)


@pytest.mark.parametrize("make", MAKE)
@pytest.mark.parametrize("fused", [False, True])
def test_handed_out_and_back(make: str, fused: bool) -> None:
    variables = [
        tf.Variable(np.linspace(0, 1, 9, dtype="float32")),
        tf.Variable(tf.ones(3, "half")),
    ]
    optimizer = MAKE[make](fused=fused)
    for _ in range(3):
        optimizer.apply_gradients([(tf.cast(v * 0.3, v.dtype), v) for v in variables])
    values = [v.numpy() for v in variables]
    means = [optimizer.get_slot(v, "average").numpy() for v in variables]
    assert [each.dtype for each in means] == ["float32", "float32"]
    with optimizer.applied(variables):
        np.testing.assert_array_equal(variables[0].numpy(), means[0])
    optimizer.swap_weights()
    np.testing.assert_array_equal(optimizer.get_slot(variables[0], "average").numpy(), values[0])
    optimizer.swap_weights()
    for variable, value, mean in zip(variables, values, means, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
        np.testing.assert_array_equal(optimizer.get_slot(variable, "average").numpy(), mean)


@pytest.mark.parametrize("make", MAKE)
def test_fused_gives_the_same_bits_and_keeps_its_memory(make: str) -> None:
    results = []
    for fused in (False, True):
        variable = tf.Variable(np.linspace(0, 1, 1 << 16, dtype="float32"))
        optimizer = MAKE[make](fused=fused)
        for _ in range(3):
            optimizer.apply_gradients([(variable * 0.1, variable)])
        slot = optimizer.get_slot(variable, "average")
        read = [slot.read_value(), slot.numpy(), tf.convert_to_tensor(slot), tf.Variable(slot)]
        kept = slot.numpy()
        for _ in range(2):
            optimizer.apply_gradients([(variable * 0.1, variable)])
        for each in read:
            np.testing.assert_array_equal(np.asarray(each), kept)
        mine = tf.ones(1 << 16)
        slot.assign(mine)
        for _ in range(2):
            optimizer.apply_gradients([(variable * 0.1, variable)])
        np.testing.assert_array_equal(mine.numpy(), np.ones(1 << 16))
        results.append([kept, slot.numpy(), *optimizer.get_weights()])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match=r"\(fused=True\) averages after eager steps"):
        tf.function(lambda: optimizer.apply_gradients([(variable, variable)]))()


@pytest.mark.parametrize("make", MAKE)
@pytest.mark.parametrize("way", ["keras", "h5", "checkpoint", "late checkpoint"])
def test_fused_averages_are_saved_and_restored(make: str, way: str, tmp_path: pathlib.Path) -> None:
    model = build_model()
    model.compile(MAKE[make](fused=True, learning_rate=0.01), "mse", run_eagerly=True)
    fit(model, epochs=1)
    saved = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    if "checkpoint" in way:
        path = saved.save(str(tmp_path / "c"))
        loaded = build_model()
        loaded.compile(MAKE[make](fused=way == "checkpoint", learning_rate=0.01), "mse")
        if way == "checkpoint":
            loaded.optimizer.build(loaded.trainable_variables)
        tf.train.Checkpoint(model=loaded, optimizer=loaded.optimizer).restore(path)
        loaded.optimizer.build(loaded.trainable_variables)
    else:
        model.save(tmp_path / f"m.{way}")
        loaded = tf_keras.models.load_model(tmp_path / f"m.{way}")
        loaded.compile(loaded.optimizer, "mse", run_eagerly=True)
    assert loaded.optimizer.snapshots == model.optimizer.snapshots > 1
    for a, b in zip(model.trainable_variables, loaded.trainable_variables, strict=True):
        ours, theirs = (
            each.optimizer.get_slot(variable, "average").numpy()
            for each, variable in ((model, a), (loaded, b))
        )
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("mode", ["eager", "function"])
def test_snapshots_that_are_not_finite_are_left_out(mode: str) -> None:
    variable = tf.Variable([1.0])
    optimizer = SWA(LEGACY.SGD(1.0), 0, 1, nonfinite="skip")
    optimizer.build([variable])
    run = compiled(lambda g: optimizer.apply_gradients([(g, variable)]), mode)
    for gradient in (1.0, float("nan"), 1.0):
        run(tf.constant([gradient]))
    assert optimizer.get_slot(variable, "average").numpy() == [0.0]
    assert (optimizer.snapshots, optimizer.skipped) == (1, 2)
