"""`MovingAverage` against TFA's own formulas in plain TensorFlow: eager, tf.function and XLA."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")
import keras
import tensorflow as tf

from swa_fast.keras.optimizers import MovingAverage

MODES = ("eager", "function", "xla")


class Addons:
    """The average of `tfa.optimizers.MovingAverage`, as its documentation and formulas have it."""

    def __init__(self, value: Any, decay: float, updates: int | None, start: int, dynamic: bool):
        self.decay = tf.constant(decay, tf.float32)
        if updates is not None:
            number = tf.cast(updates, tf.float32)
            self.decay = tf.minimum(self.decay, (1.0 + number) / (10.0 + number))
        self.start, self.dynamic = start, dynamic
        self.average = tf.identity(value)

    def after(self, step: int, value: Any) -> None:
        decay = self.decay
        since = tf.cast(step, tf.float32) - self.start
        if step < self.start:
            decay = tf.constant(0.0, tf.float32)
        elif self.dynamic:
            decay = tf.minimum(decay, (1.0 + since) / (10.0 + since))
        momentum = tf.cast(decay, self.average.dtype)
        self.average = self.average - (self.average - value) * (1 - momentum)


CASES = [
    (0.99, None, 0, False),
    (0.5, None, 0, True),
    (0.999, None, 0, True),
    (0.9, 7, 0, False),
    (0.99, None, 4, False),
    (0.99, None, 4, True),
    (0.0, None, 0, False),
    (1.0, None, 0, False),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_reproduces_tfa_to_the_bit(case: Any, mode: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    variables = [tf.Variable(rng.standard_normal(shape), dtype=dtype) for shape in ((5, 3), ())]
    peers = [Addons(variable, *case) for variable in variables]
    optimizer = MovingAverage(keras.optimizers.SGD(0.1), *case)
    optimizer.build(variables)

    def step(*gradients: Any) -> None:
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    run = step if mode == "eager" else tf.function(step, jit_compile=mode == "xla")
    start = case[2]
    for number in range(12):
        run(*[tf.constant(rng.standard_normal(v.shape), dtype) for v in variables])
        for variable, peer in zip(variables, peers, strict=True):
            peer.after(number, variable.read_value())
            average = optimizer.get_slot(variable, "average").numpy()
            if number < start or case[0] == 0.0:
                # TFA subtracts the difference; here the average is the variable, to the bit.
                np.testing.assert_array_equal(average, variable.numpy())
                np.testing.assert_allclose(average, peer.average.numpy(), rtol=0, atol=1e-6)
                peer.average = tf.constant(average)
            else:
                np.testing.assert_array_equal(average, peer.average.numpy())


def test_decay_under_xla_rounds_the_product() -> None:
    """A fused multiply-add would round differently in one of many elements."""
    rng = np.random.default_rng(3)
    variable = tf.Variable(rng.standard_normal(1 << 16), dtype=tf.float32)
    optimizer = MovingAverage(keras.optimizers.SGD(1.0), 0.99)
    optimizer.build([variable])
    average = variable.numpy()
    gradient = tf.constant(rng.standard_normal(1 << 16), tf.float32)
    tf.function(lambda: optimizer.apply_gradients([(gradient, variable)]), jit_compile=True)()
    weight = np.float32(1) - np.float32(0.99)
    average = average - (average - variable.numpy()) * weight
    np.testing.assert_array_equal(optimizer.get_slot(variable, "average").numpy(), average)
