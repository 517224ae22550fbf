"""Five averages of one training, kept at once, and two of them made afterwards (post-hoc EMA).

The convnet of digits_torch.py learns scikit-learn's handwritten digits at a constant, high learning
rate. One `WeightAverager` keeps five averages, and two more of which snapshots are written; from
the snapshots `swa_fast.checkpoints.reconstruct` makes averages of widths that were kept, too, so
that both can be compared. The statistics of the batch normalisation are recomputed for each.

    python digits_schedules.py --seeds 10 --plot digits_schedules.svg

Needs torch, scikit-learn, tqdm and swa-fast, and matplotlib for the plot. Each seed draws its own
split, initial weights and order of the samples, and no seed is left out.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent))

from digits_torch import BATCH, MOMENTUM, WEIGHT_DECAY, accuracy, batches, make_net, split, spread

from swa_fast import Average, decays
from swa_fast.checkpoints import reconstruct
from swa_fast.torch import WeightAverager, update_bn

RATE = 0.2
"""Constant and high, so that the last weights are noisy and there is something to average."""
WIDTHS = {"power 0.075": 0.075, "power 0.15": 0.15}
"""Widths of the power averages that are kept, and made from the tracks."""
TRACKS = {"track 0.05": 0.05, "track 0.1": 0.1}
"""Widths of the power averages of which snapshots are written."""
SNAPSHOTS = 32


@dataclass(frozen=True)
class Outcome:
    """What one seed gave.

    Attributes:
        accuracy: on the test half, by the name of the weights.
        distance: of an average that was made afterwards from the one that was kept, relative.
    """

    accuracy: dict[str, float]
    distance: dict[str, float]


def schedules(steps: int) -> dict[str, Average]:
    """Return the five averages that are compared."""
    return {
        "mean": Average(start=steps // 2),
        "constant 0.99": Average(decay=0.99),
        "warm-up 0.999": Average(decay=decays.warmup(0.999)),
        **{name: Average(decay=decays.power(sigma_rel=width)) for name, width in WIDTHS.items()},
    }


def train(seed: int, epochs: int) -> Outcome:
    """Train one network with all averages beside it.

    Args:
        seed: of the split, the initial weights and the order of the samples.
        epochs: passes over the training half, at least 2.
    """
    torch.manual_seed(seed)
    (x, y), test = split(seed)
    net = make_net()
    optimizer = torch.optim.SGD(
        net.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    steps = epochs * -(-len(x) // BATCH)
    tracks = {name: Average(decay=decays.power(sigma_rel=TRACKS[name])) for name in TRACKS}
    averager = WeightAverager(net, schedules(steps), use_buffers=False)
    snapshots = WeightAverager(net, tracks, use_buffers=False)
    times = {round(steps * (number + 1) / SNAPSHOTS) for number in range(SNAPSHOTS)}
    with tempfile.TemporaryDirectory() as folder:
        step = 0
        for _ in range(epochs):
            for batch in torch.randperm(len(x)).split(BATCH):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
                optimizer.step()
                averager.update()
                snapshots.update()
                step += 1
                if step in times:
                    snapshots.write_snapshot(folder)
        snapshots.wait_for_snapshots()
        made = {
            name: afterwards(Path(folder), width, averager.names) for name, width in WIDTHS.items()
        }

    found = {"last iterate": accuracy(net, test)}
    for name in averager.counts:
        with averager.applied(name):
            found[name] = evaluated(net, x, test)
    kept = {
        name: [average.clone() for average in averager.averages(name)] for name in averager.counts
    }
    distance = {}
    for name, weights in made.items():
        for parameter, weight in zip(net.parameters(), weights, strict=True):
            parameter.data.copy_(weight)
        found[f"made {name}"] = evaluated(net, x, test)
        distance[name] = relative(weights, kept[name])
    return Outcome(found, distance)


def afterwards(folder: Path, width: float, names: Sequence[str]) -> list[Any]:
    """Return the average of this width that the snapshots make, in the order of the names."""
    file = folder / "made" / "model.npz"
    file.parent.mkdir(exist_ok=True)
    reconstruct(folder, width, file, overwrite=True)
    with np.load(file) as arrays:
        return [torch.from_numpy(arrays[name]) for name in names]


def evaluated(net: Any, x: Any, test: Any) -> float:
    """Return the test accuracy of the weights that `net` has, with statistics of their own."""
    update_bn(batches(x), net)
    return accuracy(net, test)


def relative(ones: Sequence[Any], others: Sequence[Any]) -> float:
    """Return the norm of the difference of two lists, as a share of that of the second."""
    square = sum(
        float((one - other).double().square().sum())
        for one, other in zip(ones, others, strict=True)
    )
    whole = sum(float(other.double().square().sum()) for other in others)
    return math.sqrt(square / whole)


def report(outcomes: Sequence[Outcome]) -> str:
    """Return the test accuracies of all seeds, and how near what was made afterwards is."""
    names = list(outcomes[0].accuracy)
    rows = [[100 * outcome.accuracy[name] for name in names] for outcome in outcomes]
    # A name takes two lines: its last word stands below the others.
    heads = [name.rpartition(" ") for name in names]
    lines = ["test accuracy, %"]
    for words in ([first for first, _, _ in heads], [last for _, _, last in heads]):
        lines.append(" " * 10 + "".join(f"{word:>11}" for word in words))
    lines += [
        f"seed {seed:<5}" + "".join(f"{value:>11.2f}" for value in row)
        for seed, row in enumerate(rows)
    ]
    columns = list(zip(*rows, strict=True))
    for label, summary in (("mean", statistics.fmean), ("deviation", spread)):
        lines.append(f"{label:<10}" + "".join(f"{summary(column):>11.2f}" for column in columns))
    for name in outcomes[0].distance:
        distances = [outcome.distance[name] for outcome in outcomes]
        lines.append(
            f"{name} made from snapshots is {min(distances):.1e} to {max(distances):.1e} "
            "(relative) from the one that was kept"
        )
    return "\n".join(lines)


def draw(outcomes: Sequence[Outcome], ax: Any) -> None:
    """Draw the test error of every seed, by the name of the weights, and the means."""
    names = list(outcomes[0].accuracy)
    for row, name in enumerate(names):
        errors = [100 * (1 - outcome.accuracy[name]) for outcome in outcomes]
        ax.plot(errors, [row] * len(errors), "o", color="#8a949e", markersize=4, alpha=0.7)
        ax.plot([statistics.fmean(errors)], [row], "|", color="#0b6e99", markersize=18)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlabel(f"test error of {len(outcomes)} seeds and their mean, %")


def main(argv: Sequence[str] | None = None) -> list[Outcome]:
    """Train as many networks as asked for, print the table, return the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="how many (default: 10)")
    parser.add_argument("--epochs", type=int, default=30, help="per seed (default: 30)")
    parser.add_argument("--plot", type=Path, help="a picture to write")
    options = parser.parse_args(argv)
    if options.seeds < 1 or options.epochs < 2:
        parser.error("--seeds must be >= 1 and --epochs >= 2")
    torch.set_num_threads(1)  # layers this small only wait for a second thread
    outcomes = [
        train(seed, options.epochs)
        for seed in tqdm(range(options.seeds), desc="seeds", disable=None, leave=False)
    ]
    print(report(outcomes))
    if options.plot is not None:
        from matplotlib.figure import Figure

        drawing = Figure(figsize=(6.4, 3.2), layout="constrained")
        draw(outcomes, drawing.subplots())
        drawing.savefig(options.plot)
    return outcomes


if __name__ == "__main__":
    main()
