"""The plot and the table of docs/averaging.md about batch normalisation, from real trainings.

The convolutional network of `examples/digits_torch.py` on scikit-learn's digits; the weights are
averaged once per epoch in the second half. The same averaged weights are then tested with several
statistics in the batch normalisation. No seed is left out.

    python docs/plots/batch_norm.py

Takes about a minute. Needs torch, scikit-learn, matplotlib and swa-fast.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import style
import torch
from averaging import mean_and_error, plus_minus
from example import load
from style import ACCENT, OURS, THEIRS, figure, fill, table

from swa_fast.torch import SWALR, AveragedModel, update_bn

NAMES = {
    "none": "no average: the last iterate",
    "copied": "average, statistics copied from the last iterate",
    "initial": "average, statistics as in a new layer",
    "updated": "average, after update_bn",
}


def one_seed(digits: Any, seed: int, epochs: int) -> dict[str, float]:
    """Return the test error in percent of one seed, for each of `NAMES`."""
    torch.manual_seed(seed)
    (x, y), test = digits.split(seed)
    net = digits.make_net()
    optimizer = torch.optim.SGD(
        net.parameters(), lr=digits.RATE, momentum=digits.MOMENTUM, weight_decay=digits.WEIGHT_DECAY
    )
    scheduler = SWALR(optimizer, swa_lr=digits.RATE, anneal_epochs=1)
    averaged = AveragedModel(net)
    for epoch in range(epochs):
        net.train()
        for batch in torch.randperm(len(x)).split(digits.BATCH):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
            optimizer.step()
        scheduler.step()
        if epoch >= epochs // 2:
            averaged.update_parameters(net)

    def error(model: Any) -> float:
        return 100 * (1 - float(digits.accuracy(model, test)))

    errors = {"none": error(net), "copied": error(averaged)}
    for module in averaged.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
    errors["initial"] = error(averaged)
    update_bn(digits.batches(x), averaged)
    return {**errors, "updated": error(averaged)}


def main(argv: Sequence[str] | None = None) -> None:
    """Train, draw, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=20, help="how many (default: 20)")
    parser.add_argument("--epochs", type=int, default=30, help="per training (default: 30)")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)  # layers this small only wait for a second thread
    digits = load("digits_torch")
    runs = [one_seed(digits, seed, options.epochs) for seed in range(options.seeds)]
    columns = {key: np.array([run[key] for run in runs]) for key in NAMES}
    with figure("averaging-batch-norm", 7, 2.4) as ax:
        colours = dict(zip(NAMES, (THEIRS, ACCENT, ACCENT, OURS), strict=True))
        for row, (key, numbers) in enumerate(columns.items()):
            ax.plot(
                numbers,
                np.full(len(numbers), row),
                "o",
                color=colours[key],
                alpha=0.35,
                ms=4,
                mew=0,
            )
            ax.plot(numbers.mean(), row, "|", color=colours[key], ms=22, mew=2)
        ax.set_yticks(range(len(NAMES)), list(NAMES.values()))
        ax.set_xscale("log")
        highest = max(float(numbers.max()) for numbers in columns.values())
        ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 90) if tick < 1.2 * highest]
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.minorticks_off()
        ax.set_ylim(len(NAMES) - 0.5, -0.5)
        ax.grid(axis="y", visible=False)
        ax.set_xlabel(f"test error, % ({len(runs)} seeds; bar: mean)")
    rows = [[NAMES[key], plus_minus(*mean_and_error(numbers))] for key, numbers in columns.items()]
    fill(style.DOCS / "averaging.md", "batch_norm", table(["", "test error, %"], rows))


if __name__ == "__main__":
    main()
