"""Where it runs: compiled or not, several steps per execution, precisions, replicas."""

from __future__ import annotations

import contextlib
import functools
from typing import Any
from unittest import mock

import numpy as np

from . import TENSORFLOW, check
from .environment import Environment, array, assert_same_bits, raises, running_mean, weights


def _assert_whole_run(env: Environment, model: Any) -> None:
    recorder = env.recorder()
    env.fit(model, recorder, env.SWA(2, "constant"), epochs=4)
    index = {id(v): i for i, v in enumerate(model.weights)}
    means = running_mean(recorder.weights[1:3])
    assert_same_bits(env.trainable(model), [means[index[id(v)]] for v in model.trainable_variables])
    env.assert_exact_statistics(model)


@check()
def compiled_or_not(env: Environment) -> None:
    if env.target == "torch":
        # Keras uses `torch.compile`: what that traces is of interest, not what it compiles.
        import torch

        patch: Any = mock.patch("torch.compile", functools.partial(torch.compile, backend="eager"))
    else:
        patch = contextlib.nullcontext()
    for setting in ({"run_eagerly": True}, {"jit_compile": True}, {"jit_compile": False}):
        with patch:
            _assert_whole_run(env, env.bn_model(**setting))


@check("tensorflow", "tf_keras", "jax")
def several_steps_per_execution(env: Environment) -> None:
    for steps in (2, 7):  # that end with an epoch's three batches never, and beyond them
        _assert_whole_run(env, env.bn_model(steps_per_execution=steps))


@check(*TENSORFLOW)
def two_replicas(env: Environment) -> None:
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        model = env.bn_model(env.keras.optimizers.SGD(0.05, momentum=0.9))
    recorder = env.recorder()
    x, y = env.x[:16], env.y[:16]
    swa = env.SWA(2, "constant", validate_with_average=True)
    history = model.fit(
        x,
        y,
        batch_size=8,
        epochs=4,
        shuffle=False,
        verbose=0,
        callbacks=[recorder, swa],
        validation_data=(x, y),
    )
    index = {id(v): i for i, v in enumerate(model.weights)}
    means = running_mean(recorder.weights[1:3])
    expected = [means[index[id(v)]] for v in model.trainable_variables]
    assert_same_bits([weights(model)[index[id(v)]] for v in model.trainable_variables], expected)
    for variable, want in zip(model.trainable_variables, expected, strict=True):
        value = variable.value if hasattr(variable, "path") else variable
        replicas = value.values if hasattr(value, "values") else [value]
        assert len(replicas) == 2
        for replica in replicas:
            assert replica.numpy().tobytes() == want.tobytes()
    # Each replica normalizes its own half of each batch of 8.
    halves = [x[i : i + 4] for i in range(0, 16, 4)]
    env.assert_exact_statistics(model, halves)
    assert len(history.history["val_loss"]) == 4


@check()
def mixed_precision(env: Environment) -> None:
    mixed = env.keras.mixed_precision
    policy = mixed.global_policy() if env.legacy else mixed.dtype_policy()
    name = "mixed_bfloat16"
    set_policy = mixed.set_global_policy if env.legacy else mixed.set_dtype_policy
    set_policy(name)
    try:
        model = env.bn_model()
    finally:
        set_policy(policy)
    recorder = env.recorder()
    env.fit(model, recorder, env.SWA(2), epochs=4)
    index = {id(v): i for i, v in enumerate(model.weights)}
    means = running_mean(recorder.weights[1:3])
    expected = [means[index[id(v)]] for v in model.trainable_variables]
    assert_same_bits([weights(model)[index[id(v)]] for v in model.trainable_variables], expected)
    assert all(value.dtype == np.float32 for value in weights(model))


@check("tensorflow", "torch", "jax")
def half_precision_weights_are_averaged_in_float32(env: Environment) -> None:
    for dtype in ("float16", "bfloat16"):
        env.keras.utils.set_random_seed(12)
        layers = env.keras.layers
        dense = layers.Dense(3, dtype=dtype)
        model = env.sequential(dense, layers.Dense(1))
        model.compile(env.keras.optimizers.SGD(0.01), "mse")
        kept: list[np.ndarray] = []

        def keep(
            this: Any, epoch: Any, logs: Any = None, dense: Any = dense, kept: Any = kept
        ) -> None:
            kept.append(np.asarray(env.keras.ops.convert_to_numpy(dense.kernel)).astype(np.float32))

        swa = env.SWA(2)
        env.fit(model, env.callback(on_epoch_end=keep), swa, epochs=6)
        state = swa.get_state()
        assert all(average.dtype == np.float32 for average in state["averages"])
        mean = running_mean([[value] for value in kept[1:]])[0]
        index = next(i for i, v in enumerate(model.weights) if v is dense.kernel)
        assert_same_bits([state["averages"][index]], [mean])
        got = np.asarray(env.keras.ops.convert_to_numpy(dense.kernel))
        assert str(got.dtype) == dtype
        np.testing.assert_allclose(got.astype(np.float32), mean, rtol=4e-3)
        assert np.array_equal(got.astype(np.float32), mean.astype(got.dtype).astype(np.float32))


@check("tensorflow", "tf_keras")
def float64_weights_are_averaged_in_float64(env: Environment) -> None:
    layers = env.keras.layers
    model = env.sequential(layers.Dense(1, dtype="float64"))
    model.compile(env.keras.optimizers.SGD(0.01), "mse")
    recorder, swa = env.recorder(), env.SWA(2)
    env.fit(model, recorder, swa, epochs=4)
    kernel = weights(model)[0]
    assert kernel.dtype == np.float64
    average = recorder.weights[1][0]
    for count, value in enumerate([recorder.weights[2][0], recorder.weights[3][0]], 1):
        average = average + (value - average) * (1.0 / (count + 1))
    assert_same_bits([kernel], [average])


@check("tensorflow", "torch", "jax")
def loss_scaling(env: Environment) -> None:
    optimizers = env.keras.optimizers
    optimizer = optimizers.LossScaleOptimizer(optimizers.AdamW(0.05, weight_decay=0.3))
    model, recorder = env.bn_model(optimizer), env.recorder()
    history = env.fit(model, recorder, env.SWA(2, "constant", swa_lr=0.01), epochs=4)
    np.testing.assert_allclose(history.history["lr"], [0.05, 0.01, 0.01, 0], rtol=1e-6)
    index = {id(v): i for i, v in enumerate(model.weights)}
    means = running_mean(recorder.weights[1:3])
    expected = [means[index[id(v)]] for v in model.trainable_variables]
    assert_same_bits(env.trainable(model), expected)
    env.assert_exact_statistics(model)


@check("tf_keras")
def legacy_optimizers(env: Environment) -> None:
    optimizers = env.keras.optimizers
    model = env.bn_model(optimizers.legacy.SGD(0.1, momentum=0.9))
    _assert_whole_run(env, model)
    schedule = optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    model = env.bn_model(optimizers.legacy.SGD(schedule))
    with raises(ValueError, "must be a number"):
        env.fit(model, env.SWA(2, "constant"), epochs=4)
    assert int(array(model.optimizer.iterations)) == 0


@check(*TENSORFLOW)
def tf_data_and_generators(env: Environment) -> None:
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((env.x, env.y)).batch(8)

    def endless() -> Any:
        while True:
            for i in range(0, 22, 8):
                yield env.x[i : i + 8], env.y[i : i + 8]

    model = env.bn_model()
    for source, arguments in (
        (data, {}),
        (data.repeat(), {"steps_per_epoch": 3}),
        (endless(), {"steps_per_epoch": 3}),
    ):
        for stop_at in (3, 1) if source is not data else (1,):
            recorder = env.recorder()

            def stop(this: Any, epoch: Any, logs: Any = None, stop_at: Any = stop_at) -> None:
                this.model.stop_training = epoch == stop_at

            stopping = env.callback(on_epoch_end=stop)
            env.anew(model).fit(
                source,
                epochs=4 if stop_at == 3 else 9,
                verbose=0,
                callbacks=[recorder, env.SWA(2), stopping],
                **arguments,
            )
            env.assert_exact_statistics(model)
