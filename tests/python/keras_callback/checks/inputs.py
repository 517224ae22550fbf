"""Bad input: keras-swa's messages where it had them, and the model's weights unchanged."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import check
from .environment import Environment, assert_same_bits, raises, weights


@check()
def what_fit_refuses(env: Environment) -> None:
    optimizers = env.keras.optimizers
    schedule = optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    cases = [
        (None, [env.SWA(3)], 3, '"swa_start" attribute must be lower than "epochs".'),
        (None, [env.SWA(5)], 3, '"swa_start" attribute must be lower than "epochs".'),
        (None, [env.SWA(2, swa_lr=0.2)], 3, '"swa_lr" must be lower than rate set in optimizer.'),
        (None, [env.SWA(2), env.SWA(2)], 3, "only one SWA callback"),
        (schedule, [env.SWA(2, "constant")], 3, "must be a number"),
        (schedule, [env.SWA(2, "cyclic", swa_freq=2)], 3, "must be a number"),
    ]
    twice = env.SWA(2)
    cases.append((None, [twice, twice], 3, "only one SWA callback"))
    for rate, callbacks, epochs, message in cases:
        model = env.dense_model(optimizers.SGD(0.1 if rate is None else rate))
        before = weights(model)
        with raises(ValueError, message):
            env.fit(model, *callbacks, epochs=epochs)
        assert_same_bits(weights(model), before)
        assert "evaluate" not in vars(model)


@check()
def a_rate_equal_to_the_optimizers_is_accepted(env: Environment) -> None:
    model = env.dense_model(env.keras.optimizers.SGD(0.01))  # stored as 0.0099999998
    history = env.fit(model, env.SWA(2, "constant", swa_lr=0.01), epochs=3)
    np.testing.assert_allclose(history.history["lr"], 0.01, rtol=1e-6)


@check()
def a_schedule_object_under_manual(env: Environment) -> None:
    schedule = env.keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.5)
    optimizer = env.keras.optimizers.SGD(schedule)
    model, recorder = env.bn_model(optimizer), env.recorder()
    env.fit(model, recorder, env.SWA(2), epochs=4)
    first, second, third = recorder.rates[:3]  # Keras 2 shows the rate of the step before
    np.testing.assert_allclose([second / first, third / second], 0.5, rtol=1e-5)
    env.assert_exact_statistics(model)
    same = next(i for i, v in enumerate(model.weights) if tuple(v.shape) == (4, 5))
    mean = np.mean([w[same].astype(np.float64) for w in recorder.weights[1:3]], 0)
    np.testing.assert_allclose(weights(model)[same], mean, rtol=1e-6, atol=1e-7)


@check("tensorflow", "torch")
def a_model_that_changes_its_weights(env: Environment) -> None:
    layers = env.keras.layers
    model = env.dense_model()
    changed: list[list[np.ndarray]] = []

    def change(this: Any, epoch: Any, logs: Any = None) -> None:
        if epoch == 2:
            if grow:
                this.model.layers[0].add_weight(name="more", shape=(2,))
            else:
                this.model.layers[0].add_weight(name="more", shape=(2,))
                taken = this.model.layers[1]._trainable_variables
                taken.pop()
            changed.append(weights(this.model))

    del layers
    for grow in (True, False):  # noqa: B007 - change() reads it
        model = env.dense_model()
        # Keras locks what a built layer tracks; a user who changes it has unlocked it.
        for layer in model.layers:
            layer._tracker.unlock()
        with raises(ValueError, "weights must not change"):
            env.fit(model, env.callback(on_epoch_end=change), env.SWA(2), epochs=5)
        assert_same_bits(weights(model), changed[-1])


@check("tensorflow", "tf_keras")
def cyclic_with_data_of_unknown_length(env: Environment) -> None:
    import tensorflow as tf

    rates: list[float] = []

    def on_train_batch_end(this: Any, batch: Any, logs: Any = None) -> None:
        rates.append(env.rate(this.model))

    def generator() -> Any:
        for i in range(0, 22, 8):
            yield env.x[i : i + 8], env.y[i : i + 8]

    signature = (tf.TensorSpec((None, 4)), tf.TensorSpec((None, 1)))
    data = tf.data.Dataset.from_generator(generator, output_signature=signature)
    model = env.dense_model()
    swa = env.SWA(2, "cyclic", swa_lr=0.01, swa_lr2=0.07, swa_freq=2)
    probe = env.callback(on_train_batch_end=on_train_batch_end)
    model.fit(data, epochs=3, verbose=0, callbacks=[swa, probe])
    expected = [0.1] * 3 + [0.06, 0.05, 0.04, 0.03, 0.02, 0.01]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    with raises(ValueError, "number of batches"):
        model.optimizer.learning_rate = 0.1
        model.fit(data, epochs=3, initial_epoch=1, verbose=0, callbacks=[swa])
