"""What the Keras callback costs an epoch of `fit`: two fits that take turns, epoch by epoch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

BUDGET = 1.01
"""Most that an epoch with the callback takes, in epochs without it."""

_WARM_UP = 2
"""Epochs of each fit that are not timed: the first one traces."""


@dataclass(frozen=True)
class Ratio:
    """A median of ratios.

    Attributes:
        median: of the ratios.
        error: half the width of its 95 % confidence interval, from the quartiles.
    """

    median: float
    error: float

    @classmethod
    def of(cls, ratios: Any) -> Ratio:
        """Returns the median of `ratios` and how far to trust it."""
        low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        # A median varies 1.25 times as much as a mean; 1.35 deviations lie between the quartiles.
        error = 1.96 * 1.253 / 1.349 * (high - low) / np.sqrt(len(ratios))
        return cls(float(median), float(error))

    def verdict(self) -> bool | None:
        """Returns whether the budget was kept, None if the spread does not let one tell."""
        return None if abs(self.median - BUDGET) < self.error else self.median < BUDGET


class Turns:
    """Lets two threads run one at a time, each until it hands over or leaves."""

    def __init__(self) -> None:
        self._may_run = [threading.Event(), threading.Event()]
        self._may_run[0].set()
        self._alone = False

    def wait(self, which: int) -> None:
        """Blocks until it is the turn of thread `which`."""
        self._may_run[which].wait()

    def hand_over(self, which: int) -> None:
        """Ends the turn of thread `which`, unless the other has left."""
        if not self._alone:
            self._may_run[which].clear()
            self._may_run[1 - which].set()

    def leave(self, which: int) -> None:
        """Lets the other thread run from now on without turns of this one."""
        self._alone = True
        self._may_run[1 - which].set()


def fit_ratio(keras: Any, swa: Callable[..., Any], epochs: int) -> Ratio:
    """Times epochs of the digits example with a snapshot each, against epochs without callback.

    A slow spell of the machine meets both: each epoch with the callback is compared with the mean
    of the two without that ran just before and after it.

    Args:
        keras: Keras 3.
        swa: makes the callback; takes `bn_data`, so that no epoch is one of batch normalization.
        epochs: in each of the two fits, >= 6.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    half = len(digits.target) // 2
    x = (digits.images[:half] / 16.0).astype("float32")[..., None]
    turns = Turns()

    class Timer(keras.callbacks.Callback):  # type: ignore[misc]
        """Times each epoch from its beginning to the next one's, so all callbacks' ends count."""

        def __init__(self, which: int) -> None:
            super().__init__()
            self.which = which
            self.times: list[float] = []
            self.begun = 0.0

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch:
                self.times.append(time.perf_counter() - self.begun)
            turns.hand_over(self.which)
            turns.wait(self.which)
            self.begun = time.perf_counter()

    models = [digits_model(keras), digits_model(keras)]

    def fit(which: int) -> list[float]:
        turns.wait(which)
        timer = Timer(which)
        callbacks = [timer, *([swa(2, bn_data=x[:32])] if which else [])]
        try:
            models[which].fit(
                x,
                digits.target[:half],
                batch_size=32,
                epochs=epochs,
                verbose=0,
                callbacks=callbacks,
            )
        finally:
            turns.leave(which)
        return timer.times

    with ThreadPoolExecutor(2) as threads:
        plain, averaged = (np.array(times[_WARM_UP:]) for times in threads.map(fit, (0, 1)))
    # The fit without begins: its epoch n + 1 follows epoch n of the other.
    around = (plain[:-1] + plain[1:]) / 2
    return Ratio.of(averaged[: len(around)] / around)


def digits_model(keras: Any) -> Any:
    """Returns the network of `examples/digits_keras_callback.py`."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same"),
            layers.BatchNormalization(),
            layers.Activation("relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss, metrics=["accuracy"])
    return model
