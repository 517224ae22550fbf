"""The table of docs/averaging.md about decays with and without a warm-up, from real trainings.

The convolutional network of `examples/digits_torch.py` on scikit-learn's digits, at its constant
rate. One `WeightAverager` keeps six exponential averages of the same training, all from the first
step on: three decays, each constant and each with `decays.warmup`. Each is tested at the end, after
`update_bn` on the training data. No seed is left out.

    python docs/plots/warm_up.py

Takes about two minutes on one core. Needs torch, scikit-learn, matplotlib and swa-fast.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from typing import Any

import style
import torch
from averaging import mean_and_error, plus_minus
from example import load
from style import fill, table

from swa_fast import Average, decays
from swa_fast.torch import WeightAverager, update_bn

DECAYS = (0.99, 0.999, 0.9999)
LAST = "last weights"


def averages() -> dict[str, Average]:
    """Return the averages that are compared, by name."""
    constant = {f"constant {decay}": Average(decay=decay) for decay in DECAYS}
    warm = {f"warm-up {decay}": Average(decay=decays.warmup(decay)) for decay in DECAYS}
    return constant | warm


def one_seed(digits: Any, seed: int, epochs: int) -> dict[str, float]:
    """Return the test accuracy in percent of one seed, of `LAST` and of each average."""
    torch.manual_seed(seed)
    (x, y), test = digits.split(seed)
    net = digits.make_net()
    optimizer = torch.optim.SGD(
        net.parameters(), lr=digits.RATE, momentum=digits.MOMENTUM, weight_decay=digits.WEIGHT_DECAY
    )
    averager = WeightAverager(net, averages(), use_buffers=False)
    for _ in range(epochs):
        net.train()
        for batch in torch.randperm(len(x)).split(digits.BATCH):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
            optimizer.step()
            averager.update()
    found = {LAST: 100 * digits.accuracy(net, test)}
    for name in averager.counts:
        with warnings.catch_warnings():
            # It is what the table shows.
            warnings.filterwarnings("ignore", ".* is read after .* snapshots")
            with averager.applied(name):
                update_bn(digits.batches(x), net)
                found[name] = 100 * digits.accuracy(net, test)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Train, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=10, help="how many (default: 10)")
    parser.add_argument("--epochs", type=int, default=30, help="per training (default: 30)")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)  # layers this small only wait for a second thread
    digits = load("digits_torch")
    runs = [one_seed(digits, seed, options.epochs) for seed in range(options.seeds)]
    steps = options.epochs * -(-len(digits.split(0)[0][0]) // digits.BATCH)

    def cell(name: str) -> str:
        return plus_minus(*mean_and_error([run[name] for run in runs]))

    rows = [["none: the last weights", "", cell(LAST), ""]]
    rows += [
        [
            f"{decay}",
            f"{decay ** (steps - 1):.1%}".replace("%", " %"),
            cell(f"constant {decay}"),
            cell(f"warm-up {decay}"),
        ]
        for decay in DECAYS
    ]
    headers = [
        "decay",
        f"the first snapshot's share after {steps} steps",
        "test accuracy, %, constant decay",
        "test accuracy, %, decays.warmup(decay)",
    ]
    fill(style.DOCS / "averaging.md", "warm_up", table(headers, rows))


if __name__ == "__main__":
    main()
