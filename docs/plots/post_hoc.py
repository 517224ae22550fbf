"""The plots of docs/which_average.md: what snapshots make, and what it is worth on digits.

    python docs/plots/post_hoc.py

Takes about a minute. Needs matplotlib, torch, scikit-learn and swa-fast. Fills the table, too.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from style import DOCS, figure, fill, table

import swa_fast

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS, SNAPSHOTS = 2000, 32


def profiles() -> None:
    """Draw three widths, as 32 snapshots of two averages make them."""
    taken = [round(STEPS * (number + 1) / SNAPSHOTS) for number in range(SNAPSHOTS)]
    snapshots = [(step, width) for step in taken for width in (0.05, 0.1)]
    with figure("post-hoc-profiles", 7.2, 2.6, columns=3) as axes:
        for ax, width in zip(axes, (0.075, 0.15, 0.2), strict=True):
            swa_fast.plots.reconstruction(snapshots, width, ax=ax)
            ax.get_legend().remove()
            error = swa_fast.checkpoints.coefficients.power(snapshots, width).error
            ax.set_title(f"{width:g}: error {100 * error:.2f} %")
        axes[0].legend(["wanted", "made"], loc="upper left")
        for ax in axes[1:]:
            ax.set_ylabel("")


def example() -> Any:
    """Return `examples/digits_schedules.py` as a module."""
    name = "digits_schedules"
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def digits(seeds: int, epochs: int) -> None:
    """Train the digits, draw every seed, and fill the table."""
    module = example()
    outcomes = module.main(["--seeds", str(seeds), "--epochs", str(epochs)])
    with figure("post-hoc-digits", 6.4, 3.0) as ax:
        module.draw(outcomes, ax)
    names = list(outcomes[0].accuracy)
    rows = []
    for name in names:
        errors = [100 * (1 - outcome.accuracy[name]) for outcome in outcomes]
        last = [100 * (1 - outcome.accuracy[names[0]]) for outcome in outcomes]
        better = sum(one < other for one, other in zip(errors, last, strict=True))
        worse = sum(one > other for one, other in zip(errors, last, strict=True))
        rows.append(
            [
                name,
                f"{statistics.fmean(errors):.2f} ± {module.spread(errors):.2f}",
                f"{better} / {worse}" if name != names[0] else "",
            ]
        )
    headers = ["weights", f"test error, %, mean of {seeds} ± deviation", "better / worse than last"]
    text = [table(headers, rows), ""]
    for name, width in module.WIDTHS.items():
        distances = [outcome.distance[name] for outcome in outcomes]
        text.append(
            f"The average of width {width:g} that was made from the snapshots is "
            f"{min(distances):.0e} to {max(distances):.0e} (relative) from the one that was kept."
        )
    fill(DOCS / "which_average.md", "digits", "\n".join(text))


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the plots and fill the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args(argv)
    profiles()
    digits(options.seeds, options.epochs)


if __name__ == "__main__":
    main()
