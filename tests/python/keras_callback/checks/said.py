"""What is said, snapshots that are not finite, and loops of one's own."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import TENSORFLOW, check
from .environment import (
    Array,
    Environment,
    assert_close,
    assert_same_bits,
    raises,
    running_mean,
    weights,
)


def told(function: Callable[[], Any]) -> list[str]:
    """The texts of the warnings that `function` gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    return [str(warning.message) for warning in caught]


def _some(texts: list[str], part: str) -> bool:
    return any(part in text for text in texts)


@check("tensorflow", "tf_keras")
def what_has_no_effect(env: Environment) -> None:
    model = env.dense_model()
    texts = told(lambda: env.fit(model, env.SWA(2, swa_lr=0.01), epochs=3))
    assert _some(texts, "swa_lr and swa_lr2 have no effect with lr_schedule='manual'")
    texts = told(lambda: env.fit(model, env.SWA(2, validate_with_average=True), epochs=3))
    assert _some(texts, "SWA got validate_with_average, and fit no validation_data")
    ema = env.callbacks.EMA(validate_with_average=True)
    assert _some(told(lambda: env.fit(model, ema, epochs=1)), "EMA got validate_with_average")
    split: Any = {"validation_split": 0.3}
    texts = told(lambda: env.fit(model, env.SWA(2, validate_with_average=True), **split))
    assert not _some(texts, "validate_with_average")
    stop = env.callback(
        on_epoch_end=lambda this, epoch, logs=None: setattr(this.model, "stop_training", True)
    )
    texts = told(lambda: env.fit(model, env.SWA(3), stop, epochs=5))
    assert _some(texts, "training stopped after epoch 1 before start_epoch=3: nothing was averaged")
    texts = told(lambda: env.fit(model, env.callbacks.EMA(start_step=50), epochs=1))
    assert _some(texts, "nothing was averaged")


@check()
def snapshots_that_are_not_finite_are_left_out(env: Environment) -> None:
    """The mean of the others is in the model after training that ended because of NaN."""

    def spoil(this: Any, epoch: int, logs: Any = None) -> None:
        if epoch == 4:
            variable = this.model.trainable_variables[0]
            variable.assign(np.full(tuple(variable.shape), np.nan, np.float32))

    def run(**arguments: Any) -> tuple[Any, Any, Any, list[str]]:
        model, recorder = env.dense_model(), env.recorder()
        swa = env.SWA(2, **arguments)
        ends = env.keras.callbacks.TerminateOnNaN()
        callbacks = (env.callback(on_epoch_begin=spoil), recorder, swa, ends)
        texts = told(lambda: env.fit(model, *callbacks, epochs=9))
        assert len(recorder.weights) == 5
        return model, swa, recorder, texts

    model, swa, recorder, texts = run(nonfinite="skip")
    assert_same_bits(weights(model), running_mean(recorder.weights[1:4]))
    assert swa.skipped == 1
    assert _some(texts, "not finite were left out: {'average': 1}")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "swa.npz"
        model, swa, recorder, texts = run(backup_path=path)
        assert np.isnan(weights(model)[0]).all()
        assert _some(texts, "nonfinite='skip' leaves such snapshots out; the backup")
        kept = env.SWA(2)
        kept.load_state(path)
        with raises(ValueError, "nonfinite must be one of"):
            env.SWA(2, nonfinite="drop")
        model = env.dense_model()
        env.fit(model, kept, epochs=5, initial_epoch=4)  # one more snapshot after the good three
        assert kept.get_state()["count"] == 4
        assert all(np.isfinite(value).all() for value in weights(model))


@check()
def an_ema_leaves_out_what_is_not_finite(env: Environment) -> None:
    taken: list[list[Array]] = []

    def spoil(this: Any, batch: int, logs: Any = None) -> None:
        variable = this.model.trainable_variables[0]
        if len(taken) == 3:
            variable.assign(np.full(tuple(variable.shape), np.inf, np.float32))
        taken.append(weights(this.model))

    def restore(this: Any, batch: int, logs: Any = None) -> None:
        this.model.set_weights(taken[0])

    model = env.dense_model(env.keras.optimizers.SGD(0.0))
    ema = env.callbacks.EMA(0.5, nonfinite="skip")
    spoiling, restoring = (env.callback(on_train_batch_end=hook) for hook in (spoil, restore))
    env.fit(model, spoiling, ema, restoring, epochs=2)
    assert (ema.count, ema.skipped) == (5, {"ema": 1})
    assert_close(weights(model), taken[0])


def _loop(env: Environment, model: Any, callbacks: list[Any], epochs: int) -> list[list[Array]]:
    """A loop of one's own with `train_on_batch`; returns the weights after each epoch."""
    run = env.keras.callbacks.CallbackList(callbacks, model=model, epochs=epochs, steps=3)
    seen = []
    run.on_train_begin()
    for epoch in range(epochs):
        run.on_epoch_begin(epoch)
        for number, first in enumerate(range(0, 22, 8)):
            run.on_train_batch_begin(number)
            batch = slice(first, first + 8)
            model.train_on_batch(env.x[batch], env.y[batch])
            run.on_train_batch_end(number)
        seen.append(weights(model))
        run.on_epoch_end(epoch)
    run.on_train_end()
    return seen


@check()
def a_loop_of_ones_own(env: Environment) -> None:
    model = env.dense_model()
    ema = env.callbacks.EMA(0.5, period=3, apply_at_end=False)
    seen = _loop(env, model, [env.SWA(3, "constant", 0.05), ema], 5)
    assert_same_bits(weights(model), running_mean(seen[2:]))
    assert ema.count == 5
    swa = env.SWA(2, "cyclic", 0.01, swa_freq=2, validate_with_average=True)
    texts = told(lambda: seen.extend(_loop(env, model, [swa], 5)))
    assert _some(texts, "evaluate inside of `with swa.applied():`")
    seen = seen[5:]
    after = weights(model)
    model.set_weights(seen[0])
    with swa.applied():
        assert_same_bits(weights(model), after)
    assert_same_bits(weights(model), seen[0])
    model.set_weights(after)
    assert_same_bits(weights(model), running_mean([seen[2], seen[4]]))
    env.fit(model, epochs=1)
    model = env.bn_model()  # has no train function yet
    seen = _loop(env, model, [env.SWA(3)], 5)
    trained = [index for index, _ in enumerate(model.weights)]
    means = running_mean(seen[2:4])
    own = {id(variable) for variable in model.trainable_variables}
    for index in trained:
        if id(model.weights[index]) in own:
            assert_same_bits([weights(model)[index]], [means[index]])
    env.assert_exact_statistics(model)
    before = weights(model)
    assert "train_step" not in vars(model)
    env.fit(model, epochs=1)  # and the model trains again
    assert not np.array_equal(before[0], weights(model)[0])


@check(*TENSORFLOW)
def a_loop_with_a_tape(env: Environment) -> None:
    """Nothing shows the batches to the last epoch's pass: it says so."""
    import tensorflow as tf

    def train(model: Any, epochs: int, swa: Any, optimizer: Any) -> list[list[Array]]:
        run = env.keras.callbacks.CallbackList([swa], model=model, epochs=epochs, steps=3)
        seen = []
        run.on_train_begin()
        for epoch in range(epochs):
            run.on_epoch_begin(epoch)
            for number, first in enumerate(range(0, 22, 8)):
                run.on_train_batch_begin(number)
                with tf.GradientTape() as tape:
                    errors = model(env.x[first : first + 8], training=True)
                    loss = tf.reduce_mean((errors - env.y[first : first + 8]) ** 2)
                gradients = tape.gradient(loss, model.trainable_variables)
                optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
                run.on_train_batch_end(number)
            seen.append(weights(model))
            run.on_epoch_end(epoch)
        run.on_train_end()
        return seen

    layers = env.keras.layers
    model = env.sequential(layers.Dense(3), layers.Dense(1))  # not compiled
    seen = train(model, 4, env.SWA(2), env.keras.optimizers.SGD(0.1))
    assert_same_bits(weights(model), running_mean(seen[1:]))
    model = env.bn_model(nested=False)
    found: list[Any] = []
    texts = told(lambda: found.append(train(model, 4, env.SWA(2), model.optimizer)))
    assert _some(texts, "the moving statistics are the average of the snapshots'")
    assert_close(weights(model), running_mean(found[-1][1:3]))
    assert all(layer.momentum == 0.99 for layer in env.bn_layers(model))
    with raises(ValueError, "must know the number of epochs"):
        env.keras.callbacks.CallbackList([env.SWA(2)], model=model).on_train_begin()
    with raises(ValueError, "a model that was not compiled with one"):
        model = env.sequential(layers.Dense(1))
        lists = env.keras.callbacks.CallbackList
        lists([env.SWA(2, "constant")], model=model, epochs=5).on_train_begin()


@check()
def a_loop_that_was_left_gives_back_what_it_took(env: Environment) -> None:
    """An error in the user's own code is seen by nobody; the list dies, or serves once more."""
    model, swa = env.bn_model(nested=False), env.SWA(2)
    env.fit(model, epochs=1)
    before = weights(model)
    rate = env.rate(model)

    def leave(run: Any) -> None:
        run.on_train_begin()
        for epoch in range(3):
            run.on_epoch_begin(epoch)  # the last is that of batch normalization
            assert ("call" in vars(env.bn_layers(model)[0])) == (epoch == 2)
            if epoch < 2:
                run.on_epoch_end(epoch)

    run = env.keras.callbacks.CallbackList([swa], model=model, epochs=3, steps=1)
    leave(run)
    leave(run)
    assert env.rate(model) == 0
    del run
    import gc

    gc.collect()
    assert "train_step" not in vars(model)
    assert "call" not in vars(env.bn_layers(model)[0])
    model.set_weights(before)
    assert rate > 0


@check()
def update_bn_in_the_wrong_order(env: Environment) -> None:
    model = env.bn_model()
    with raises(TypeError, "the model comes first. Received: model=ndarray, data=Sequential"):
        env.update_bn(env.x, model)
    with raises(TypeError, "model must be a model of "):
        env.update_bn([1, 2], env.x)


@check()
def the_rates_of_a_cycle_are_those_that_train(env: Environment) -> None:
    """JAX keeps the optimizer's variables elsewhere during an epoch."""
    model, swa = env.dense_model(), env.SWA(2, "cyclic", 0.001, 0.05, 2, decay=0.5)
    after: list[list[Array]] = []
    keep = env.callback(
        on_epoch_end=lambda this, epoch, logs=None: after.append(weights(this.model))
    )
    env.fit(model, swa, keep, epochs=3)
    rates = iter(swa.lr_record)

    def set_rate(this: Any, batch: int, logs: Any = None) -> None:
        this.model.optimizer.learning_rate = next(rates)  # `this.model` fetches JAX's variables

    other, got = env.dense_model(), after[:]
    after.clear()
    env.fit(other, env.callback(on_train_batch_begin=set_rate), keep, epochs=3)
    for left, right in zip(got, after, strict=True):
        assert_close(left, right)
