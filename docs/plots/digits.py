"""The trainings behind docs/averaging.md: the network of `examples/digits_numpy.py`, averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import swa_fast

Weights = list[Any]


@dataclass
class Average:
    """An average of weights that takes its snapshots itself.

    Attributes:
        start: first step of which it takes a snapshot, counted from 0.
        period: steps from one snapshot to the next.
        decay: of an exponential average; None for the mean.
    """

    start: int
    period: int
    decay: float | None = None
    weights: Weights | None = None
    count: int = 0

    def after_step(self, step: int, weights: Weights) -> None:
        """Take the snapshot if one is due after this step."""
        if step < self.start or (step - self.start) % self.period:
            return
        if self.weights is None:
            self.weights = [np.empty_like(weight) for weight in weights]
        if self.decay is None or self.count == 0:
            swa_fast.running_mean_(self.weights, weights, self.count)
        else:
            swa_fast.lerp_(self.weights, weights, 1 - self.decay)
        self.count += 1


def train(
    net: Any,
    seed: int,
    rates: Sequence[float],
    averages: Sequence[Average],
    on_epoch: Callable[[Weights, Any], None],
) -> None:
    """Train one network with SGD and momentum, one rate per epoch, the averages beside it."""
    (x, y), test = net.split(np.random.default_rng(seed))
    rng = np.random.default_rng([seed, 1])
    weights = net.initial_weights(rng, x.shape[1], classes=10)
    velocity = [np.zeros_like(weight) for weight in weights]
    step = 0
    for rate in rates:
        order = rng.permutation(len(x))
        for start in range(0, len(x), net.BATCH):
            batch = order[start : start + net.BATCH]
            net.step(weights, velocity, net.gradients(weights, x[batch], y[batch]), rate)
            for average in averages:
                average.after_step(step, weights)
            step += 1
        on_epoch(weights, test)


def error(net: Any, weights: Weights, test: Any) -> float:
    """Return the test error in percent."""
    return 100 * (1 - float(net.accuracy(weights, *test)))


def annealed(rate: float, epochs: int) -> list[float]:
    """Return a rate per epoch that falls to zero in a line."""
    return [rate * (1 - epoch / epochs) for epoch in range(epochs)]
