"""The batch-normalization epoch: averaged weights untouched, statistics exact."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import TENSORFLOW, check
from .environment import (
    Environment,
    array,
    assert_close,
    assert_same_bits,
    running_mean,
    weights,
)


def _mean_of_trainable(env: Any, model: Any, recorder: Any, epochs: Any) -> Any:
    """Running mean of the recorded weights, of the trainable ones."""
    snapshots = [recorder.weights[epoch] for epoch in epochs]
    index = {id(variable): i for i, variable in enumerate(model.weights)}
    means = running_mean(snapshots)
    return [means[index[id(variable)]] for variable in model.trainable_variables]


@check()
def averaged_weights_stay_and_statistics_are_exact(env: Environment) -> None:
    optimizers = env.keras.optimizers
    for schedule, optimizer in (
        ("manual", optimizers.AdamW(0.05, weight_decay=0.3)),
        ("constant", optimizers.SGD(0.1, momentum=0.9, nesterov=True)),
        ("cyclic", optimizers.AdamW(0.05, weight_decay=0.3)),
    ):
        model, recorder = env.bn_model(optimizer), env.recorder()
        rates: list[float] = []

        def on_train_batch_end(this: Any, batch: Any, logs: Any = None, rates: Any = rates) -> None:
            rates.append(env.rate(this.model))

        swa = env.SWA(2, schedule, swa_freq=2 if schedule == "cyclic" else 1)
        probe = env.callback(on_train_batch_end=on_train_batch_end)
        history = env.fit(model, recorder, swa, probe, epochs=5)
        # Epochs 2 to 4 train, epoch 5 is the pass; a cycle is epochs 2 and 3.
        epochs = [2] if schedule == "cyclic" else [1, 2, 3]
        expected = _mean_of_trainable(env, model, recorder, epochs)
        assert_same_bits(env.trainable(model), expected)
        env.assert_exact_statistics(model)
        assert rates[-3:] == [0, 0, 0]
        assert min(rates[:-3]) > 0
        assert recorder.rates[-1] == 0
        if schedule != "manual":
            zeros = 3 if schedule == "cyclic" else 1
            assert history.history["lr"][-zeros:] == [0] * zeros
            assert min(history.history["lr"][:-zeros]) > 0
        else:
            assert "lr" not in history.history
        assert env.rate(model) > 0  # given back
        assert [layer.momentum for layer in env.bn_layers(model)] == [0.99, 0.99]
        assert int(array(model.optimizer.iterations)) == 4 * 3
        trained = weights(model)
        env.fit(model, epochs=1)
        assert any(np.any(a != b) for a, b in zip(trained, weights(model), strict=True))


@check()
def validation_of_the_last_epoch_sees_averages_with_exact_statistics(env: Environment) -> None:
    model = env.bn_model()
    history = env.fit(model, env.SWA(2), epochs=4, validation_data=(env.x, env.y))
    after = model.evaluate(env.x, env.y, verbose=0)
    np.testing.assert_allclose(history.history["val_loss"][-1], after, rtol=1e-5)


@check()
def shared_frozen_inference_and_deep_layers(env: Environment) -> None:
    keras, layers = env.keras, env.keras.layers
    keras.utils.set_random_seed(5)

    class Block(layers.Layer):
        """Holds a BN layer that is nobody's entry in `layers`."""

        def __init__(self) -> None:
            super().__init__()
            self.bn = layers.BatchNormalization(momentum=0.7)

        def call(self, values: Any, training: Any = None) -> Any:
            return self.bn(values, training=training)

    class Inference(Block):
        """Runs its layer in inference mode, as a pretrained part of a model does."""

        def call(self, values: Any, training: Any = None) -> Any:
            return self.bn(values, training=False)

    block, shared = Block(), layers.BatchNormalization(momentum=0.8)
    frozen, inference = layers.BatchNormalization(), Inference()
    frozen.trainable = False
    start = keras.Input((4,))
    values = block(start)
    values = shared(values * 2.0 + 1.0) + shared(values * 3.0 - 1.0)
    values = inference(frozen(values))
    model = keras.Model(start, layers.Dense(1)(values))
    frozen.moving_mean.assign(np.full(4, 0.25, np.float32))
    inference.bn.moving_variance.assign(np.full(4, 2.5, np.float32))
    model.compile(keras.optimizers.SGD(0.05), "mse")
    env.fit(model, env.SWA(2), epochs=4)

    means: list[list[np.ndarray]] = []
    for batch in env.batches():
        x = batch.astype(np.float64)
        normal = (x - x.mean(0)) / np.sqrt(x.var(0) + block.bn.epsilon)
        normal = normal * array(block.bn.gamma) + array(block.bn.beta)
        calls = [normal * 2 + 1, normal * 3 - 1]
        means.append(
            [
                x.mean(0),
                x.var(0),
                np.mean([call.mean(0) for call in calls], 0),
                np.mean([call.var(0) for call in calls], 0),
            ]
        )
    expected = [np.mean(column, 0) for column in zip(*means, strict=True)]
    got = [array(s) for bn in (block.bn, shared) for s in (bn.moving_mean, bn.moving_variance)]
    for left, right in zip(got, expected, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(array(frozen.moving_mean), np.full(4, 0.25, np.float32))
    np.testing.assert_array_equal(array(frozen.moving_variance), np.ones(4, np.float32))
    np.testing.assert_array_equal(array(inference.bn.moving_variance), np.full(4, 2.5, np.float32))
    assert [bn.momentum for bn in (block.bn, shared)] == [0.7, 0.8]


@check()
def non_float_state_is_left_alone(env: Environment) -> None:
    keras, layers = env.keras, env.keras.layers

    class Counter(layers.Layer):
        def build(self, shape: Any) -> None:
            self.calls = self.add_weight(
                name="calls", shape=(), dtype="int32", initializer="zeros", trainable=False
            )

        def call(self, values: Any, training: Any = None) -> Any:
            if training:
                self.calls.assign(self.calls + 1)
            return values

    def model() -> Any:
        keras.utils.set_random_seed(6)
        counter = Counter()
        made = env.sequential(layers.Dense(3), counter, layers.Dropout(0.5), layers.Dense(1))
        made.compile(keras.optimizers.SGD(0.01), "mse")
        return made, counter

    (plain, plain_counter), (averaged, counter) = model(), model()
    env.fit(plain, epochs=4)
    recorder = env.recorder()
    env.fit(averaged, recorder, env.SWA(2), epochs=4)
    assert int(array(counter.calls)) == int(array(plain_counter.calls)) == 12
    assert array(counter.calls).dtype == np.int32
    if not env.legacy:  # Keras 2 keeps its seeds outside of variables
        seeds = [
            [array(v) for v in m.variables if "seed_generator" in v.path] for m in (plain, averaged)
        ]
        assert seeds[0]
        assert_same_bits(seeds[1], seeds[0])
    kernel = next(i for i, v in enumerate(averaged.weights) if v.shape == (4, 3))
    mean = np.mean([w[kernel].astype(np.float64) for w in recorder.weights[1:]], 0)
    assert_close([weights(averaged)[kernel]], [mean])


@check("tensorflow", "torch", "jax")
def an_optimizers_own_average_does_not_overwrite_ours(env: Environment) -> None:
    optimizer = env.keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)
    model, recorder = env.bn_model(optimizer), env.recorder()
    env.fit(model, recorder, env.SWA(2), epochs=4)
    assert_same_bits(env.trainable(model), _mean_of_trainable(env, model, recorder, [1, 2]))
    env.assert_exact_statistics(model)


@check()
def a_custom_train_step_with_its_own_optimizer(env: Environment) -> None:
    keras, layers = env.keras, env.keras.layers
    seen: list[str] = []

    class Custom(keras.Model):
        """A subclassed model that is not built when `fit` begins."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.bn, self.last = (
                layers.Dense(5),
                layers.BatchNormalization(),
                layers.Dense(1),
            )

        def call(self, values: Any, training: Any = None) -> Any:
            return self.last(self.bn(self.first(values), training=training))

        def train_step(self, *arguments: Any) -> Any:
            seen.append("traced")
            return super().train_step(*arguments)

    keras.utils.set_random_seed(7)
    model = Custom()
    model.compile(keras.optimizers.AdamW(0.05, weight_decay=0.2), "mse")
    recorder = env.recorder()
    env.fit(model, recorder, env.SWA(2), epochs=4)
    assert seen
    assert_same_bits(env.trainable(model), _mean_of_trainable(env, model, recorder, [1, 2]))
    kernel, bias = (array(w).astype(np.float64) for w in (model.first.kernel, model.first.bias))
    values = [batch.astype(np.float64) @ kernel + bias for batch in env.batches()]
    np.testing.assert_allclose(
        array(model.bn.moving_mean), np.mean([v.mean(0) for v in values], 0), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        array(model.bn.moving_variance), np.mean([v.var(0) for v in values], 0), rtol=1e-5
    )


@check(*TENSORFLOW)
def images_and_renormalization(env: Environment) -> None:
    keras, layers = env.keras, env.keras.layers
    keras.utils.set_random_seed(8)
    images = np.random.default_rng(1).normal(size=(10, 4, 4, 3)).astype(np.float32) * 2 + 1
    bn = layers.BatchNormalization()
    try:
        renorm = layers.BatchNormalization(renorm=True)
    except ValueError:  # Keras 3.12, the last for Python 3.10, has none
        renorm = layers.BatchNormalization()
    start = keras.Input((4, 4, 3))
    model = keras.Model(start, layers.Dense(1)(layers.Flatten()(bn(start) + renorm(start * 2.0))))
    model.compile(keras.optimizers.SGD(0.001), "mse")
    model.fit(
        images, env.y[:10], batch_size=4, epochs=3, shuffle=False, verbose=0, callbacks=[env.SWA(2)]
    )
    batches = [images[i : i + 4].astype(np.float64) for i in (0, 4, 8)]
    # Keras 2's fused kernel for images measures the unbiased variance.
    sizes = [batch.size // 3 for batch in batches]
    unbiased = [n / (n - 1) if env.legacy else 1.0 for n in sizes]
    mean = np.mean([b.mean((0, 1, 2)) for b in batches], 0)
    variance = [b.var((0, 1, 2)) for b in batches]
    np.testing.assert_allclose(array(bn.moving_mean), mean, rtol=1e-5)
    np.testing.assert_allclose(
        array(bn.moving_variance),
        np.mean([v * u for v, u in zip(variance, unbiased, strict=True)], 0),
        rtol=1e-5,
    )
    np.testing.assert_allclose(array(renorm.moving_mean), 2 * mean, rtol=1e-5)
    np.testing.assert_allclose(array(renorm.moving_variance), 4 * np.mean(variance, 0), rtol=1e-4)


@check(*TENSORFLOW)
def two_optimizers(env: Environment) -> None:
    """A second optimizer, that the model keeps for itself, does not move weights either."""
    import tensorflow as tf

    keras, layers = env.keras, env.keras.layers

    class Two(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.bn, self.dense = layers.BatchNormalization(), layers.Dense(1)
            self.second = keras.optimizers.SGD(0.1)

        def call(self, values: Any, training: Any = None) -> Any:
            return self.dense(self.bn(values, training=training))

        def train_step(self, data: Any) -> Any:
            x, y = data
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self(x, training=True) - y) ** 2)
            variables = self.trainable_variables
            gradients = tape.gradient(loss, variables)
            self.second.apply_gradients(zip(gradients, variables, strict=True))
            return {"loss": loss}

    keras.utils.set_random_seed(9)
    model = Two()
    model.compile(keras.optimizers.SGD(0.1))
    recorder = env.recorder()
    env.fit(model, recorder, env.SWA(2), epochs=3)
    assert np.any(recorder.weights[0][0] != recorder.weights[1][0])
    expected = _mean_of_trainable(env, model, recorder, [1])
    assert_same_bits(env.trainable(model), expected)
    assert_same_bits([recorder.weights[2][0]], [recorder.weights[1][0]])
