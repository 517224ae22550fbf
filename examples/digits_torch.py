"""Weight averaging in PyTorch: a convnet on handwritten digits, last iterate, SWA and EMA.

A small network with batch normalisation learns scikit-learn's handwritten digits (1,797 real scans
of 8 x 8 pixels) by SGD with momentum, at a rate that keeps the weights moving. In the second half
of the epochs `SWALR` holds the rate and `swa_fast.torch.AveragedModel` takes one snapshot per epoch
(SWA); a `WeightAverager`, which makes no copy of the model, keeps an exponential average of every
step (EMA). At the end `update_bn` recomputes the statistics of the batch normalisation for both,
from the training data.

    python digits_torch.py --seeds 10

Needs torch, scikit-learn, tqdm and swa-fast. Each seed draws its own split, initial weights and
order of the samples, and no seed is left out. `AveragedModel`, `SWALR` and `update_bn` are torch's
own too: change the import to `from torch.optim.swa_utils import ...`, and see the time per update
grow.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from tqdm import tqdm

from swa_fast.decays import warmup
from swa_fast.torch import SWALR, AveragedModel, WeightAverager, update_bn

BATCH = 32
RATE = 0.2
SWA_RATE = 0.2
"""Learning rate that SWALR goes to: high enough to keep the weights moving."""
ANNEAL_EPOCHS = 3
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-3
EMA_DECAY = 0.99
"""Per step, after a warm-up: an average over about the last hundred steps."""
SWA_SHARE = 0.5
"""Share of the epochs that SWA averages."""
TEST_SHARE = 0.5

Split = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Outcome:
    """What one seed gave.

    Attributes:
        accuracy: on the test half, for "last iterate", "SWA" and "EMA".
        update_seconds: median time of one update of the average, for "SWA" and "EMA".
        updates: how many there were.
        steps: optimizer steps of the whole training.
        step_seconds: median time of a step (forward, backward and SGD), without averaging.
    """

    accuracy: dict[str, float]
    update_seconds: dict[str, float]
    updates: dict[str, int]
    steps: int
    step_seconds: float


class Stopwatch:
    """Times the calls of a function."""

    def __init__(self) -> None:
        """Has no times yet."""
        self.seconds: list[float] = []

    def __call__(self, function: Callable[..., object], *arguments: object) -> None:
        """Calls and times `function`."""
        start = time.perf_counter()
        function(*arguments)
        self.seconds.append(time.perf_counter() - start)

    @property
    def median(self) -> float:
        """Median of the seconds."""
        return statistics.median(self.seconds)


def make_net() -> Any:
    """Return the network: two convolutions with batch normalisation, one linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )


def train(seed: int, epochs: int) -> Outcome:
    """Train one network with both averages beside it.

    Args:
        seed: of the split, the initial weights and the order of the samples.
        epochs: passes over the training half, at least 2.

    Returns:
        The accuracies on the test half and the times.
    """
    torch.manual_seed(seed)
    (x, y), test = split(seed)
    net = make_net()
    optimizer = torch.optim.SGD(
        net.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    scheduler = SWALR(optimizer, swa_lr=SWA_RATE, anneal_epochs=ANNEAL_EPOCHS)
    swa = AveragedModel(net)
    ema = WeightAverager(net, decay=warmup(EMA_DECAY), use_buffers=False)
    clocks = {name: Stopwatch() for name in ("step", "SWA", "EMA")}

    def step(batch: Any) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
        optimizer.step()

    swa_start = epochs - max(1, round(epochs * SWA_SHARE))
    for epoch in range(epochs):
        for batch in torch.randperm(len(x)).split(BATCH):
            clocks["step"](step, batch)
            clocks["EMA"](ema.update)
        if epoch >= swa_start:
            clocks["SWA"](swa.update_parameters, net)
            scheduler.step()

    update_bn(batches(x), swa)
    found = {"last iterate": accuracy(net, test), "SWA": accuracy(swa, test)}
    with ema.applied():  # the average stands in the network until the end of the block
        update_bn(batches(x), net)
        found["EMA"] = accuracy(net, test)
    return Outcome(
        accuracy=found,
        update_seconds={name: clocks[name].median for name in ("SWA", "EMA")},
        updates={name: len(clocks[name].seconds) for name in ("SWA", "EMA")},
        steps=len(clocks["step"].seconds),
        step_seconds=clocks["step"].median,
    )


def split(seed: int) -> tuple[Split, Split]:
    """Return a random training half and test half of the digits, pixels scaled to 0..1."""
    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.images))
    x = torch.tensor(data.images[order] / 16.0, dtype=torch.float32).unsqueeze(1)
    y = torch.tensor(data.target[order])
    tests = round(len(x) * TEST_SHARE)
    return (x[tests:], y[tests:]), (x[:tests], y[:tests])


def batches(x: Any) -> Iterator[Any]:
    """Yield the samples in batches, as a loader would."""
    yield from x.split(BATCH)


def accuracy(model: Any, test: Split) -> float:
    """Return the share of the test samples that are classified correctly."""
    model.eval()
    with torch.inference_mode():
        return float((model(test[0]).argmax(1) == test[1]).float().mean())


def report(outcomes: Sequence[Outcome]) -> str:
    """Return two tables: test accuracies with mean and spread, and the cost of averaging."""
    names = list(outcomes[0].accuracy)
    rows = [[100 * outcome.accuracy[name] for name in names] for outcome in outcomes]
    lines = [f"{'test accuracy, %':<16}" + "".join(f"{name:>14}" for name in names)]
    for seed, row in enumerate(rows):
        lines.append(f"seed {seed:<11}" + "".join(f"{value:>14.2f}" for value in row))
    columns = list(zip(*rows, strict=True))
    for label, summary in (("mean", statistics.fmean), ("std deviation", spread)):
        lines.append(f"{label:<16}" + "".join(f"{summary(column):>14.2f}" for column in columns))

    step = statistics.median(outcome.step_seconds for outcome in outcomes)
    lines.append(f"\none training step without averaging: {1e6 * step:.0f} us")
    for name in ("SWA", "EMA"):
        update = statistics.median(outcome.update_seconds[name] for outcome in outcomes)
        per_step = update * outcomes[0].updates[name] / outcomes[0].steps
        lines.append(
            f"{name}: {1e6 * update:.0f} us per update, {outcomes[0].updates[name]} updates in "
            f"{outcomes[0].steps} steps: {1e6 * per_step:.1f} us per step, "
            f"{100 * per_step / step:.2f} % of it"
        )
    return "\n".join(lines)


def spread(numbers: Sequence[float]) -> float:
    """Return the sample standard deviation, 0 for a single number."""
    return statistics.stdev(numbers) if len(numbers) > 1 else 0.0


def main(argv: Sequence[str] | None = None) -> list[Outcome]:
    """Train as many networks as asked for, print the tables, return the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="how many (default: 10)")
    parser.add_argument("--epochs", type=int, default=30, help="per seed (default: 30)")
    options = parser.parse_args(argv)
    if options.seeds < 1 or options.epochs < 2:
        parser.error("--seeds must be >= 1 and --epochs >= 2")
    torch.set_num_threads(1)  # layers this small only wait for a second thread
    outcomes = [
        train(seed, options.epochs)
        for seed in tqdm(range(options.seeds), desc="seeds", disable=None, leave=False)
    ]
    print(report(outcomes))
    return outcomes


if __name__ == "__main__":
    main()
