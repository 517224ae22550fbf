"""The batch-normalization epoch: whose optimizers it stops, and what layers it can measure."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from . import check
from .environment import Environment, array, assert_same_bits


def _statistics(layer: Any) -> list[Any]:
    return [array(layer.moving_mean), array(layer.moving_variance)]


@check("tensorflow", "torch", "tf_keras")
def optimizers_that_a_model_keeps_for_its_own_train_step(env: Environment) -> None:
    """In a list, deep in containers of a layer, in the compiled model of a part."""
    keras, layers = env.keras, env.keras.layers

    class Kept(keras.Model):
        def __init__(self, place: str) -> None:
            super().__init__()
            optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
            self.part = env.sequential(layers.Dense(5), layers.BatchNormalization())
            self.last = layers.Dense(1)
            if place == "list":
                self.kept = [optimizer]
            elif place == "layer":
                self.last.kept = ({"a": [optimizer]},)
            else:
                self.part.compile(optimizer, "mse")
            self.step = lambda: optimizer

        def call(self, values: Any, training: Any = None) -> Any:
            return self.last(self.part(values, training=training))

        def train_step(self, data: Any) -> Any:
            x, y = data
            variables = self.trainable_variables
            if env.target == "torch":
                import torch

                self.zero_grad()
                loss = ((self(x, training=True) - y) ** 2).mean()
                loss.backward()
                with torch.no_grad():
                    self.step().apply([v.value.grad for v in variables], variables)
            else:
                import tensorflow as tf

                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean((self(x, training=True) - y) ** 2)
                gradients = tape.gradient(loss, variables)
                self.step().apply_gradients(zip(gradients, variables, strict=True))
            return {"loss": loss}

    for place in ("list", "layer", "part"):
        keras.utils.set_random_seed(9)
        model = Kept(place)
        model(env.x[:2])
        model.compile(keras.optimizers.SGD(0.1))
        env.fit(model, env.SWA(2), epochs=3)
        assert int(array(model.step().iterations)) == 6, place
        dense, bn = model.part.layers
        values = [batch @ array(dense.kernel) + array(dense.bias) for batch in env.batches()]
        expected = np.mean([value.mean(0) for value in values], 0)
        np.testing.assert_allclose(array(bn.moving_mean), expected, rtol=1e-5, atol=1e-5)


@check("tensorflow", "torch", "tf_keras")
def layers_in_inference_mode_need_no_second_pass(env: Environment) -> None:
    """There is nothing to measure, which is no fault of the data."""
    keras, layers = env.keras, env.keras.layers
    ran = [0]

    class Inference(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.bn, self.last = layers.BatchNormalization(), layers.Dense(1)

        def call(self, values: Any, training: Any = None) -> Any:
            return self.last(self.bn(values, training=False))

        def train_step(self, *arguments: Any) -> Any:
            ran[0] += 1
            return super().train_step(*arguments)

    def fit(*callbacks: Any) -> tuple[int, Any, list[str]]:
        keras.utils.set_random_seed(2)
        model, ran[0] = Inference(), 0
        model.compile("sgd", "mse", run_eagerly=True)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            env.fit(model, *callbacks, epochs=3)
        return ran[0], model, [str(warning.message) for warning in caught]

    batches, model, messages = fit(env.SWA(2))
    assert batches == 9
    assert not any("training stopped" in message for message in messages), messages
    assert any("no batch-normalization layer" in message for message in messages), messages
    assert_same_bits(_statistics(model.bn), [np.zeros(4, np.float32), np.ones(4, np.float32)])
    stop = env.callback(
        on_epoch_end=lambda this, epoch, logs=None: setattr(this.model, "stop_training", epoch == 1)
    )
    batches, _, messages = fit(env.SWA(2), stop)
    assert batches == 9  # whether a layer measures is seen in a pass only
    assert not any("could not be started anew" in message for message in messages), messages


@check("tf_keras")
def subclasses_with_a_call_of_their_own(env: Environment) -> None:
    """Legacy Keras passes `training` through **kwargs, and runs a subclass under autograph."""
    import tensorflow as tf

    base: Any = env.keras.layers.BatchNormalization

    class Keywords(base):
        def call(self, inputs: Any, **kwargs: Any) -> Any:
            return super().call(inputs, **kwargs)

    class Anything(base):
        def call(self, *args: Any, **kwargs: Any) -> Any:
            return super().call(*args, **kwargs)

    class Python(base):
        def call(self, inputs: Any, training: Any = None) -> Any:
            if tf.reduce_sum(inputs) > 1e9:
                inputs = inputs * 1.0
            return super().call(inputs, training=training)

    for kind in (Keywords, Anything, Python):
        env.keras.utils.set_random_seed(1)
        layer = kind()
        model = env.sequential(layer, env.keras.layers.Dense(1))
        model.compile("sgd", "mse")
        env.fit(model, env.SWA(2), epochs=3)
        expected = np.mean([batch.mean(0) for batch in env.batches()], 0)
        np.testing.assert_allclose(array(layer.moving_mean), expected, rtol=1e-5, atol=1e-5)
        layer.moving_mean.assign(np.zeros(4, np.float32))
        env.update_bn(model, env.x, batch_size=8)
        np.testing.assert_allclose(array(layer.moving_mean), expected, rtol=1e-5, atol=1e-5)
