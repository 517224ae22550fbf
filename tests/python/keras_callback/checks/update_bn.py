"""`update_bn` outside of fit."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import TENSORFLOW, check
from .environment import Environment, array, assert_same_bits, raises, weights


def _perturbed(env: Any) -> Any:
    model = env.bn_model()
    env.fit(model, epochs=2)
    for layer in env.bn_layers(model):
        layer.moving_mean.assign(np.full(layer.moving_mean.shape, np.nan, np.float32))
        layer.moving_variance.assign(np.full(layer.moving_mean.shape, np.inf, np.float32))
    return model


@check()
def exact_whatever_the_statistics_held(env: Environment) -> None:
    model = _perturbed(env)
    before = env.trainable(model)
    rate, iterations = env.rate(model), int(array(model.optimizer.iterations))
    assert env.update_bn(model, env.x, batch_size=8) is None
    env.assert_exact_statistics(model)
    assert_same_bits(env.trainable(model), before)
    assert [layer.momentum for layer in env.bn_layers(model)] == [0.99, 0.99]
    assert env.rate(model) == rate
    assert int(array(model.optimizer.iterations)) == iterations
    env.update_bn(model, (env.x, env.y), batch_size=22)
    env.assert_exact_statistics(model, [env.x])
    env.update_bn(model, env.x, batch_size=8, steps=2)
    env.assert_exact_statistics(model, env.batches()[:2])
    env.fit(model, epochs=1)  # the momentum in the compiled function is the layer's own
    moving, now = env.expected_statistics(model, env.batches()), env.statistics(model)
    assert max(np.max(np.abs(a - b)) for a, b in zip(moving, now, strict=True)) > 1e-3


@check()
def every_kind_of_data(env: Environment) -> None:
    pairs = [(env.x[i : i + 8], env.y[i : i + 8]) for i in range(0, 22, 8)]
    base: Any = env.keras.utils.Sequence if env.legacy else env.keras.utils.PyDataset

    class Data(base):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: Any) -> Any:
            return pairs[index]

    def endless() -> Any:
        while True:
            yield from pairs

    kinds = [(iter(pairs), None), (endless(), 3), (Data(), None), (env.batches(), None)]
    kinds[3] = ((batch for batch in env.batches()), None)
    if env.target in TENSORFLOW:
        import tensorflow as tf

        data = tf.data.Dataset.from_tensor_slices((env.x, env.y)).batch(8)
        kinds += [(data, None), (data.repeat(), 3), (data.map(lambda x, y: x), None)]
    for kind, steps in kinds if env.target != "jax" else kinds[1:3]:
        model = _perturbed(env)
        env.update_bn(model, kind, steps=steps)
        env.assert_exact_statistics(model)


@check()
def several_inputs(env: Environment) -> None:
    keras, layers = env.keras, env.keras.layers
    inputs = [keras.Input((4,), name="one"), keras.Input((1,), name="two")]
    bn = layers.BatchNormalization()
    model = keras.Model(inputs, bn(layers.Concatenate()(inputs)))
    joined = np.concatenate([env.x, env.y], 1).astype(np.float64)
    want = np.mean([joined[i : i + 8].mean(0) for i in range(0, 22, 8)], 0)
    for data in ([env.x, env.y], {"one": env.x, "two": env.y}, ([env.x, env.y], env.y)):
        bn.moving_mean.assign(np.zeros(5, np.float32))
        env.update_bn(model, data, batch_size=8)
        np.testing.assert_allclose(array(bn.moving_mean), want, rtol=1e-5, atol=1e-6)


@check()
def frozen_layers_flags_and_seeds(env: Environment) -> None:
    keras, layers = env.keras, env.keras.layers
    keras.utils.set_random_seed(11)
    frozen, free = layers.BatchNormalization(), layers.BatchNormalization()
    model = env.sequential(frozen, layers.Dropout(0.5), free)
    frozen.trainable = False
    others = [v for v in model.variables if "moving" not in (getattr(v, "path", "") or v.name)]
    before = [array(v) for v in others]
    env.update_bn(model, env.x, batch_size=8, include_frozen=False)
    np.testing.assert_array_equal(array(frozen.moving_mean), np.zeros(4, np.float32))
    assert np.all(array(free.moving_mean) != 0)
    env.update_bn(model, env.x, batch_size=8)
    mean = np.mean([batch.mean(0, np.float64) for batch in env.batches()], 0)
    np.testing.assert_allclose(array(frozen.moving_mean), mean, rtol=1e-5)
    assert not frozen.trainable
    assert free.trainable
    assert len(model.trainable_variables) == 2
    assert_same_bits([array(v) for v in others], before)


@check()
def errors_change_nothing(env: Environment) -> None:
    model = _perturbed(env)
    before = weights(model)

    def broken() -> Any:
        yield env.x[:8]
        raise RuntimeError("the disk is gone")

    cases: list[tuple[Any, str, Any, dict[str, Any]]] = [
        (RuntimeError, "the disk is gone", broken(), {}),
        (ValueError, "at least one batch", env.x[:0], {}),
        (ValueError, "at least one batch", iter(()), {}),
        (ValueError, "must not be empty", (), {}),
        (TypeError, "data must be", None, {}),
        (TypeError, "data must be", 3, {}),
        (ValueError, "same number of samples", [env.x, env.y[:3]], {}),
        (ValueError, "batch_size must be >= 1", env.x, {"batch_size": 0}),
        (TypeError, "steps must be an int", env.x, {"steps": 1.5}),
        (Exception, "", np.ones((4, 9), np.float32), {}),
    ]
    for kind, message, data, arguments in cases:
        with raises(kind, message):
            env.update_bn(model, data, **arguments)
        assert_same_bits(weights(model), before)
        assert [layer.momentum for layer in env.bn_layers(model)] == [0.99, 0.99]
    plain = env.dense_model()
    before = weights(plain)
    env.update_bn(plain, env.x)  # nothing to do
    assert_same_bits(weights(plain), before)


@check()
def an_unbuilt_model(env: Environment) -> None:
    keras, layers = env.keras, env.keras.layers
    bn = layers.BatchNormalization()
    model = keras.Sequential([bn])
    env.update_bn(model, env.x, batch_size=8)
    mean = np.mean([batch.mean(0, np.float64) for batch in env.batches()], 0)
    np.testing.assert_allclose(array(bn.moving_mean), mean, rtol=1e-5)


@check("tensorflow", "torch")
def a_layer_that_is_not_reached_keeps_its_statistics(env: Environment) -> None:
    layers = env.keras.layers
    lonely, used = layers.BatchNormalization(), layers.BatchNormalization()

    class Partial(env.keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.lonely, self.used = lonely, used
            lonely.build((None, 4))

        def call(self, values: Any, training: Any = None) -> Any:
            return self.used(values, training=training)

    model = Partial()
    lonely.moving_mean.assign(np.full(4, 0.5, np.float32))
    env.update_bn(model, env.x)
    np.testing.assert_array_equal(array(lonely.moving_mean), np.full(4, 0.5, np.float32))
    assert np.any(array(used.moving_mean) != 0)


@check(*TENSORFLOW)
def lookup_tables_are_no_weights(env: Environment) -> None:
    """Legacy Keras lists the tables of adapted layers among a model's variables, without a type."""
    layers = env.keras.layers
    words = np.array([["a b"], ["b c"], ["c"], ["a"]] * 4, dtype=object)
    vectorize = layers.TextVectorization(max_tokens=8, output_sequence_length=2)
    vectorize.adapt(words[:, 0])
    text = env.keras.Input((1,), dtype="string")
    hidden = layers.Flatten()(layers.Embedding(8, 3)(vectorize(text)))
    bn = layers.BatchNormalization()
    model = env.keras.Model(text, layers.Dense(1)(bn(hidden)))
    model.compile(env.keras.optimizers.SGD(0.1), "mse")
    import tensorflow as tf

    words, targets = tf.constant(words.tolist()), np.ones((16, 1), np.float32)
    swa, ema = env.SWA(2), env.callbacks.EMA(0.5, apply_at_end=False)
    model.fit(words, targets, batch_size=8, epochs=4, verbose=0, callbacks=[swa, ema])
    assert swa.get_state()["count"] == 2
    assert ema.count == 8
    before = array(bn.moving_mean)
    env.update_bn(model, words, batch_size=8)
    np.testing.assert_allclose(array(bn.moving_mean), before, rtol=1e-5, atol=1e-6)
    assert np.abs(before).max() > 0
