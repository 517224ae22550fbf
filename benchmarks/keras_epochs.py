"""What the Keras callback costs an epoch of `fit`: two fits that take turns, epoch by epoch.

    python benchmarks/keras_epochs.py [--seconds S] [--json FILE]

The digits example with a snapshot in each epoch, against the same without callback.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from budgets import Finding, Verdict, main
from keras_snapshots import import_keras

BUDGET = 1.01
"""Most that an epoch with the callback takes, in epochs without it."""

_WARM_UP = 2
"""Epochs of each fit that are not timed: the first one traces."""

_EPOCHS_PER_SECOND, _LEAST_EPOCHS = 8, 6
"""About as many epochs of both fits fit into a second."""

_HOOKS = ("on_epoch_begin", "on_epoch_end")
"""The hooks that the callback has here; it counts no batches."""


def measure(workload: None, seconds: float) -> Iterator[Finding]:
    """Time the two fits."""
    keras = import_keras()
    swa = importlib.import_module("swa_fast.keras.callbacks").SWA
    epochs = max(_LEAST_EPOCHS, round(seconds * _EPOCHS_PER_SECOND))
    found = fit_ratio(keras, swa, epochs)
    verdict = Verdict(
        "Keras callback, an epoch of fit with it against without",
        "digits",
        f"< {BUDGET:.2f}x",
        f"{found.median:.3f}x +- {found.error:.3f}, hooks {found.hooks:.2%}",
        found.verdict(),
    )
    yield Finding("digits", f"{epochs} epochs of fit", None, [verdict])


@dataclass(frozen=True)
class FitRatio:
    """A median of ratios.

    Attributes:
        median: of the ratios.
        error: half the width of its 95 % confidence interval, from the quartiles.
        hooks: share of an epoch that the callback's own hooks take, by the clock around them: exact
            where the ratio is lost in noise, but blind to what they cost others.
    """

    median: float
    error: float
    hooks: float = float("nan")

    @classmethod
    def of(cls, ratios: Any, hooks: float = float("nan")) -> FitRatio:
        """Returns the median of `ratios` and how far to trust it."""
        low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        # A median varies 1.25 times as much as a mean; 1.35 deviations lie between the quartiles.
        error = 1.96 * 1.253 / 1.349 * (high - low) / np.sqrt(len(ratios))
        return cls(float(median), float(error), hooks)

    def verdict(self) -> bool | None:
        """Returns whether the budget was kept, None if one cannot tell.

        Where the spread of the ratio leaves it open, the hooks decide, if they alone fit into it.
        """
        if abs(self.median - BUDGET) >= self.error:
            return self.median < BUDGET
        return True if self.hooks < BUDGET - 1 else None


class Turns:
    """Lets two threads run one at a time, each until it hands over or leaves."""

    def __init__(self) -> None:
        """Let the first thread run."""
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


def fit_ratio(keras: Any, swa: Callable[..., Any], epochs: int) -> FitRatio:
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

    class Timer(keras.callbacks.Callback):
        """Times each epoch from its beginning to the next one's, so all callbacks' ends count."""

        def __init__(self, which: int) -> None:
            super().__init__()
            self.which = which
            self.times: list[float] = []
            self.hooks: list[float] = []
            self.in_hooks = 0.0
            self.begun = 0.0

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch:
                self.times.append(time.perf_counter() - self.begun)
                self.hooks.append(self.in_hooks)
            self.in_hooks = 0.0
            turns.hand_over(self.which)
            turns.wait(self.which)
            self.begun = time.perf_counter()

        def watch(self, callback: Any) -> Any:
            """Adds up the time in the hooks of `callback`."""
            for name in _HOOKS:
                setattr(callback, name, self.timed(getattr(callback, name)))
            return callback

        def timed(self, hook: Callable[..., Any]) -> Callable[..., Any]:
            def run(*args: Any, **options: Any) -> Any:
                start = time.perf_counter()
                try:
                    return hook(*args, **options)
                finally:
                    self.in_hooks += time.perf_counter() - start

            return run

    models = [digits_model(keras), digits_model(keras)]

    def fit(which: int) -> Timer:
        turns.wait(which)
        timer = Timer(which)
        callbacks = [timer, *([timer.watch(swa(2, bn_data=x[:32]))] if which else [])]
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
        return timer

    with ThreadPoolExecutor(2) as threads:
        timers = list(threads.map(fit, (0, 1)))
    plain, averaged = (np.array(timer.times[_WARM_UP:]) for timer in timers)
    hooks = np.array(timers[1].hooks[_WARM_UP:])
    # The fit without begins: its epoch n + 1 follows epoch n of the other.
    around = (plain[:-1] + plain[1:]) / 2
    return FitRatio.of(averaged[: len(around)] / around, float(np.median(hooks / averaged)))


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


if __name__ == "__main__":
    main(__doc__, measure, models=None)
