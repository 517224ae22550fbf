"""The plots and the tables of docs/averaging.md, from real trainings.

A network of one hidden layer on scikit-learn's digits, as in `examples/digits_numpy.py`: 899
samples, 57 steps an epoch, 60 epochs, every average from the same runs. No seed is left out.

    python docs/plots/averaging.py

Takes about two minutes. Needs numpy, scikit-learn, matplotlib and swa-fast.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import style
from digits import Average, Weights, annealed, error, train
from example import load
from style import ACCENT, GOLD, OURS, QUIET, THEIRS, figure, fill, table

PERIODS = (1, 19, 57, 57 * 3, 57 * 10)
"""Steps from one snapshot to the next; an epoch has 57."""
DECAYS = (0.9, 0.97, 0.99, 0.997, 0.999, 0.9997)
RATES = (0.01, 0.03, 0.06, 0.1, 0.15)
STANDARD_RATE = 0.1
STANDARD_DECAY = 0.999
EPOCH_STEPS = 57


def one_seed(net: Any, seed: int, epochs: int) -> dict[str, Any]:
    """Return the errors that one seed gives: curves by epoch, and the end by period and decay."""
    half = epochs // 2
    steps = EPOCH_STEPS
    swa = Average(steps * (half + 1) - 1, steps)
    ema = Average(0, 1, STANDARD_DECAY)
    # The last step of an epoch is always among the snapshots, so that all end at the same step.
    last = steps * epochs - 1
    by_period = {
        period: Average(last - (steps * half - 1) // period * period, period) for period in PERIODS
    }
    by_decay = {decay: Average(0, 1, decay) for decay in DECAYS}
    curves: dict[str, list[float]] = {name: [] for name in ("last", "swa", "ema", "annealed")}
    tests: list[Any] = []

    def watch(weights: Weights, test: Any) -> None:
        tests.append(test)
        curves["last"].append(error(net, weights, test))
        curves["swa"].append(error(net, swa.weights, test) if swa.weights else float("nan"))
        curves["ema"].append(error(net, ema.weights or weights, test))

    averages = [swa, ema, *by_period.values(), *by_decay.values()]
    train(net, seed, [STANDARD_RATE] * epochs, averages, watch)
    train(
        net,
        seed,
        annealed(STANDARD_RATE, epochs),
        [],
        lambda weights, test: curves["annealed"].append(error(net, weights, test)),
    )
    return {
        "curves": curves,
        "period": [error(net, by_period[period].weights or [], tests[-1]) for period in PERIODS],
        "counts": [by_period[period].count for period in PERIODS],
        "decay": [error(net, by_decay[decay].weights or [], tests[-1]) for decay in DECAYS],
    }


def one_rate(net: Any, seed: int, rate: float, epochs: int) -> tuple[float, float, float]:
    """Return the final errors of the last iterate, of the average and of an annealed training."""
    swa = Average(EPOCH_STEPS * (epochs // 2 + 1) - 1, EPOCH_STEPS)
    ends: list[tuple[Weights, Any]] = []

    def keep(weights: Weights, test: Any) -> None:
        ends[:] = [(weights, test)]

    train(net, seed, [rate] * epochs, [swa], keep)
    weights, test = ends[0]
    last, average = error(net, weights, test), error(net, swa.weights or [], test)
    train(net, seed, annealed(rate, epochs), [], keep)
    return last, average, error(net, ends[0][0], test)


def mean_and_error(numbers: Any) -> tuple[Any, Any]:
    """Return mean and standard error over the first axis, the seeds."""
    array = np.asarray(numbers)
    spread = array.std(axis=0, ddof=1) if len(array) > 1 else np.zeros(array.shape[1:])
    return array.mean(axis=0), spread / np.sqrt(len(array))


def draw_curves(runs: list[dict[str, Any]]) -> None:
    """Draw the test error by epoch."""
    lines = (
        ("last", "last iterate, constant rate", THEIRS),
        ("annealed", "last iterate, rate falling to zero", GOLD),
        ("ema", f"EMA of every step, decay {STANDARD_DECAY}", ACCENT),
        ("swa", "SWA, a snapshot per epoch from the middle on", OURS),
    )
    with figure("averaging-curves", 7, 3.6) as ax:
        for key, label, colour in lines:
            mean, deviation = mean_and_error([run["curves"][key] for run in runs])
            epochs = np.arange(1, len(mean) + 1)
            ax.plot(epochs, mean, color=colour, label=label, linewidth=1.6)
            ax.fill_between(
                epochs, mean - deviation, mean + deviation, color=colour, alpha=0.2, linewidth=0
            )
        ax.set_ylim(2, 8)
        ax.set_xlabel("epoch")
        ax.set_ylabel("test error, %")
        ax.set_title(f"Digits, mean of {len(runs)} seeds (band: standard error)")
        ax.legend()


def draw_choices(runs: list[dict[str, Any]]) -> None:
    """Draw the final error by period of the mean, and by decay of the exponential average."""
    finals = {key: mean_and_error([r["curves"][key][-1] for r in runs]) for key in ("last", "swa")}
    with figure("averaging-choices", 7.6, 3.1, columns=2) as (left, right):
        mean, deviation = mean_and_error([run["period"] for run in runs])
        left.errorbar(
            PERIODS, mean, deviation, color=OURS, marker="o", markersize=4, label="mean (SWA)"
        )
        labels = [
            f"{period}\n({count})" for period, count in zip(PERIODS, runs[0]["counts"], strict=True)
        ]
        left.set_xscale("log")
        left.set_xticks(PERIODS, labels)
        left.minorticks_off()
        left.set_xlabel("steps from one snapshot to the next (snapshots taken)")
        left.set_ylabel("test error, %")
        left.set_title("Period of the mean")
        mean, deviation = mean_and_error([run["decay"] for run in runs])
        steps = [1 / (1 - decay) for decay in DECAYS]
        right.errorbar(
            steps, mean, deviation, color=ACCENT, marker="o", markersize=4, label="EMA, every step"
        )
        right.axhline(
            finals["swa"][0], color=OURS, linestyle="--", linewidth=1, label="SWA, once an epoch"
        )
        right.set_xscale("log")
        right.set_xticks(steps, [f"{decay:g}" for decay in DECAYS])
        right.minorticks_off()
        right.set_xlabel("decay of the exponential average")
        right.set_title("Decay of the exponential average")
        for ax in (left, right):
            ax.axhline(
                finals["last"][0], color=THEIRS, linestyle=":", linewidth=1.4, label="last iterate"
            )
            ax.set_ylim(2, 4)
            ax.legend(loc="upper center", ncols=3, fontsize=7, columnspacing=1)


def draw_rates(rates: dict[float, Any]) -> None:
    """Draw the final error by learning rate."""
    with figure("averaging-rates", 7, 3.1) as ax:
        for column, (label, colour) in enumerate(
            (
                ("last iterate, constant rate", THEIRS),
                ("SWA of the second half, constant rate", OURS),
                ("last iterate, rate falling to zero", GOLD),
            )
        ):
            means, errors = zip(*((m[column], e[column]) for m, e in rates.values()), strict=True)
            ax.errorbar(
                list(rates), means, errors, color=colour, marker="o", markersize=4, label=label
            )
        ax.set_xscale("log")
        ax.set_xticks(list(rates), [f"{rate:g}" for rate in rates])
        ax.minorticks_off()
        ax.set_xlabel("learning rate (where the falling rate begins)")
        ax.set_ylabel("test error, %")
        ax.set_title("The average wants a higher rate than the last iterate")
        ax.tick_params(axis="x", colors=QUIET)
        ax.legend()


def write_tables(runs: list[dict[str, Any]], rates: dict[float, Any], epochs: int) -> None:
    """Write the numbers behind the plots into docs/averaging.md."""
    page = style.DOCS / "averaging.md"
    finals = {
        key: [run["curves"][key][-1] for run in runs] for key in ("last", "annealed", "ema", "swa")
    }
    names = {
        "last": "last iterate, constant rate",
        "annealed": "last iterate, rate falling to zero",
        "ema": f"EMA of every step, decay {STANDARD_DECAY}",
        "swa": f"SWA, {epochs - epochs // 2} snapshots",
    }
    rows = []
    for key, numbers in finals.items():
        gain = np.asarray(finals["last"]) - np.asarray(numbers)
        compared = ["", ""]
        if key != "last":
            counts = f"{(gain > 0).sum()} better, {(gain < 0).sum()} worse, of {len(runs)}"
            compared = [plus_minus(*mean_and_error(gain)), counts]
        rows.append([names[key], plus_minus(*mean_and_error(numbers)), *compared])
    headers = ["", "test error, %", "lower than the last iterate's by", "seeds"]
    fill(page, "curves", table(headers, rows))
    headers = ["learning rate", "last iterate", "SWA", "falling rate"]
    rows = [
        [f"{rate:g}", *(plus_minus(*pair) for pair in zip(means, errors, strict=True))]
        for rate, (means, errors) in rates.items()
    ]
    fill(page, "rates", table(headers, rows))
    mean, deviation = mean_and_error([run["period"] for run in runs])
    rows = [
        [str(period), str(count), plus_minus(*pair)]
        for period, count, *pair in zip(PERIODS, runs[0]["counts"], mean, deviation, strict=True)
    ]
    fill(page, "periods", table(["steps between snapshots", "snapshots", "test error, %"], rows))
    mean, deviation = mean_and_error([run["decay"] for run in runs])
    rows = [
        [f"{decay:g}", f"{1 / (1 - decay):.0f}", plus_minus(*pair)]
        for decay, *pair in zip(DECAYS, mean, deviation, strict=True)
    ]
    fill(page, "decays", table(["decay", "1 / (1 - decay), steps", "test error, %"], rows))


def plus_minus(mean: float, deviation: float) -> str:
    """Return "mean +- standard error"."""
    return f"{mean:.2f} ± {deviation:.2f}"


def main(argv: Sequence[str] | None = None) -> None:
    """Train, draw, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=40, help="how many (default: 40)")
    parser.add_argument("--epochs", type=int, default=60, help="per training (default: 60)")
    options = parser.parse_args(argv)
    net = load("digits_numpy")
    runs = [one_seed(net, seed, options.epochs) for seed in range(options.seeds)]
    rates = {
        rate: mean_and_error(
            [one_rate(net, seed, rate, options.epochs) for seed in range(options.seeds)]
        )
        for rate in RATES
    }
    draw_curves(runs)
    draw_choices(runs)
    draw_rates(rates)
    write_tables(runs, rates, options.epochs)


if __name__ == "__main__":
    main()
