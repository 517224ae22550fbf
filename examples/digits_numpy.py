"""Stochastic weight averaging in plain NumPy: handwritten digits, last iterate against average.

A network of one hidden layer learns scikit-learn's handwritten digits (1,797 real scans of 8 x 8
pixels) by stochastic gradient descent with momentum. The learning rate stays high to the end, so
that the weights wander around a minimum instead of settling in it; after every epoch of the
second half, the tail, `swa_fast.running_mean_` takes them into their average (Izmailov et al.
2018, arXiv 1803.05407). The model has no batch normalisation, so the averaged weights need no
further pass over the data.

    python digits_numpy.py --seeds 10

Needs numpy, scikit-learn, tqdm and swa-fast. Each seed draws its own split, initial weights and
order of the samples, and no seed is left out. The table also shows the usual cure for a noisy
end, the same training with a rate that falls to zero: averaging is to be measured against that,
too. The constants below were chosen on seeds 100 to 109; the table starts at seed 0.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits
from tqdm import tqdm

import swa_fast

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

HIDDEN = 64
BATCH = 16
MOMENTUM = 0.9
RATE = 0.1
"""Learning rate: constant and high, or where the annealed training starts."""
WEIGHT_DECAY = 1e-3
"""Keeps the gradients alive after every training sample is classified correctly."""
TAIL_SHARE = 0.5
"""Share of the epochs whose last iterates are averaged."""
TEST_SHARE = 0.5


@dataclass(frozen=True)
class Outcome:
    """What one seed gave.

    Attributes:
        last: test accuracy of the last iterate at the constant rate.
        average: test accuracy of the average of the tail's iterates.
        annealed: test accuracy of the last iterate when the rate falls to zero.
        averages: the averaged weights.
        snapshots: how many iterates are in them.
    """

    last: float
    average: float
    annealed: float
    averages: list[Array]
    snapshots: int


def train(
    seed: int, epochs: int, on_snapshot: Callable[[list[Array]], None] = lambda weights: None
) -> Outcome:
    """Train one network and average its tail; train it again with a falling rate.

    Args:
        seed: of the split, the initial weights and the order of the samples.
        epochs: passes over the training half, at least 2.
        on_snapshot: shown the weights of every iterate that enters the average.

    Returns:
        The accuracies on the test half, and the average.
    """
    (x, y), (x_test, y_test) = split(np.random.default_rng(seed))
    tail_start = epochs - max(1, round(epochs * TAIL_SHARE))
    averages: list[Array] = []
    count = 0
    for epoch, weights in enumerate(descend(seed, x, y, [RATE] * epochs)):
        if epoch == tail_start:
            averages = [np.empty_like(weight) for weight in weights]
        if epoch >= tail_start:
            swa_fast.running_mean_(averages, weights, count)
            count += 1
            on_snapshot(weights)
    falling = [RATE * (1 - epoch / epochs) for epoch in range(epochs)]
    *_, annealed = descend(seed, x, y, falling)
    return Outcome(
        last=accuracy(weights, x_test, y_test),
        average=accuracy(averages, x_test, y_test),
        annealed=accuracy(annealed, x_test, y_test),
        averages=averages,
        snapshots=count,
    )


def descend(seed: int, x: Array, y: Labels, rates: Sequence[float]) -> Iterator[list[Array]]:
    """Train a new network for one epoch per rate and yield its weights after each.

    The same list is updated in place all along, and the same seed gives the same initial weights
    and the same order of the samples whatever the rates are.
    """
    rng = np.random.default_rng([seed, 1])
    weights = initial_weights(rng, x.shape[1], classes=10)
    velocity = [np.zeros_like(weight) for weight in weights]
    for rate in rates:
        order = rng.permutation(len(x))
        for start in range(0, len(x), BATCH):
            batch = order[start : start + BATCH]
            step(weights, velocity, gradients(weights, x[batch], y[batch]), rate)
        yield weights


def split(rng: np.random.Generator) -> tuple[tuple[Array, Labels], tuple[Array, Labels]]:
    """Return a random training half and test half of the digits, pixels scaled to 0..1."""
    data = load_digits()
    pixels = (data.data / 16.0).astype(np.float32)
    order = rng.permutation(len(pixels))
    test, rest = np.split(order, [round(len(order) * TEST_SHARE)])
    return (pixels[rest], data.target[rest]), (pixels[test], data.target[test])


def initial_weights(rng: np.random.Generator, inputs: int, classes: int) -> list[Array]:
    """Return [W1, b1, W2, b2] with He's initialisation."""

    def layer(rows: int, columns: int) -> list[Array]:
        scale = np.float32(np.sqrt(2.0 / rows))
        weight = rng.standard_normal((rows, columns), dtype=np.float32) * scale
        return [weight, np.zeros(columns, np.float32)]

    return layer(inputs, HIDDEN) + layer(HIDDEN, classes)


def forward(weights: list[Array], x: Array) -> tuple[Array, Array]:
    """Return the hidden activations and the logits."""
    w1, b1, w2, b2 = weights
    hidden = np.maximum(x @ w1 + b1, 0)
    return hidden, hidden @ w2 + b2


def gradients(weights: list[Array], x: Array, y: Labels) -> list[Array]:
    """Return the gradients of the mean cross-entropy and the weight decay, per weight."""
    hidden, logits = forward(weights, x)
    error = np.exp(logits - logits.max(axis=1, keepdims=True))
    error /= error.sum(axis=1, keepdims=True)
    error[np.arange(len(y)), y] -= 1
    error /= len(y)
    back = (error @ weights[2].T) * (hidden > 0)
    slopes = [x.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0)]
    return [
        slope + np.float32(WEIGHT_DECAY) * weight
        for slope, weight in zip(slopes, weights, strict=True)
    ]


def step(weights: list[Array], velocity: list[Array], gradient: list[Array], rate: float) -> None:
    """Take one step of gradient descent with momentum, in place."""
    for weight, moving, slope in zip(weights, velocity, gradient, strict=True):
        moving *= MOMENTUM
        moving -= rate * slope
        weight += moving


def accuracy(weights: list[Array], x: Array, y: Labels) -> float:
    """Return the share of the samples that are classified correctly."""
    return float(np.mean(forward(weights, x)[1].argmax(axis=1) == y))


def report(outcomes: Sequence[Outcome]) -> str:
    """Return the table: each seed, then mean and spread, then the paired differences."""
    last, average, annealed = (
        np.array([100 * value for value in column])
        for column in zip(*((o.last, o.average, o.annealed) for o in outcomes), strict=True)
    )
    lines = [f"{'test accuracy, %':<16} {'last':>8} {'average':>8} {'annealed':>9}"]
    for seed, row in enumerate(zip(last, average, annealed, strict=True)):
        lines.append("seed {:<11} {:>8.2f} {:>8.2f} {:>9.2f}".format(seed, *row))
    for name, summary in (("mean", np.mean), ("std deviation", spread)):
        summaries = [float(summary(column)) for column in (last, average, annealed)]
        lines.append("{:<16} {:>8.2f} {:>8.2f} {:>9.2f}".format(name, *summaries))
    lines.append(f"\nThe average of {outcomes[0].snapshots} snapshots, seed by seed,")
    for name, other in (("the last iterate", last), ("the annealed training", annealed)):
        gain = average - other
        better, worse = int(np.sum(gain > 0)), int(np.sum(gain < 0))
        error = spread(gain) / np.sqrt(len(gain))
        lines.append(
            f"  against {name + ':':<22} better on {better}, worse on {worse}, "
            f"equal on {len(gain) - better - worse}; "
            f"mean {gain.mean():+.2f} +- {error:.2f} points (standard error)"
        )
    return "\n".join(lines)


def spread(numbers: npt.NDArray[np.float64]) -> float:
    """Return the sample standard deviation, 0 for a single number."""
    return float(np.std(numbers, ddof=1)) if len(numbers) > 1 else 0.0


def main(argv: Sequence[str] | None = None) -> list[Outcome]:
    """Train as many networks as asked for, print the table, return the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="how many (default: 10)")
    parser.add_argument("--epochs", type=int, default=60, help="per seed (default: 60)")
    options = parser.parse_args(argv)
    if options.seeds < 1 or options.epochs < 2:
        parser.error("--seeds must be >= 1 and --epochs >= 2")
    outcomes = [
        train(seed, options.epochs)
        for seed in tqdm(range(options.seeds), desc="seeds", disable=None, leave=False)
    ]
    print(report(outcomes))
    return outcomes


if __name__ == "__main__":
    main()
