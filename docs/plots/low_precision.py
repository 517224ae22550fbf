"""The plot and the table of docs/numerics.md about bfloat16, from a real training.

A network of one hidden layer learns scikit-learn's digits; after every step its weights, rounded to
bfloat16, are averaged in three ways: by torch's `AveragedModel`, which averages bfloat16 in
bfloat16, by `swa_fast.torch.AveragedModel`, which averages in float32, and in float64 by NumPy.

    python docs/plots/low_precision.py

Takes a quarter of a minute. Needs torch, scikit-learn, matplotlib and swa-fast.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import style
import torch
from example import load
from style import ACCENT, OURS, THEIRS, figure, fill, table

from swa_fast.torch import AveragedModel, WeightAverager

SHOWN = (10, 100, 300, 1000, 3000, 10000)
"""Updates after which the table shows the error."""


def norm(arrays: list[Any]) -> float:
    """Return the Euclidean norm of all numbers together."""
    return float(np.sqrt(sum(np.sum(np.square(array, dtype=np.float64)) for array in arrays)))


def doubles(tensors: Any) -> list[Any]:
    """Return copies of tensors as float64 arrays."""
    return [tensor.detach().double().numpy().copy() for tensor in tensors]


def run(steps: int) -> tuple[dict[str, list[float]], dict[str, list[float]], list[int]]:
    """Train, and average the weights of every step.

    Returns:
        For each way of averaging the relative error against float64, and the average of the weight
        that moved most; both at the returned numbers of updates.
    """
    net = load("digits_numpy")
    (x, y), _ = net.split(np.random.default_rng(0))
    rng = np.random.default_rng([0, 1])
    weights = net.initial_weights(rng, x.shape[1], classes=10)
    start = [weight.copy() for weight in weights]
    velocity = [np.zeros_like(weight) for weight in weights]
    model = torch.nn.ParameterList(
        [torch.nn.Parameter(torch.from_numpy(w).bfloat16()) for w in weights]
    )
    theirs = torch.optim.swa_utils.AveragedModel(model)
    ours = AveragedModel(model)
    float32 = WeightAverager(model)
    exact = [np.zeros(weight.shape) for weight in weights]
    spaced = {round(10**power) for power in np.linspace(0, np.log10(steps), 160)}
    marks = sorted(spaced | {updates for updates in SHOWN if updates <= steps})
    kept: list[list[Any]] = []
    names = ("torch", "rounded", "float32")
    errors: dict[str, list[float]] = {name: [] for name in names}
    order: list[int] = []
    for step in range(steps):
        if len(order) < net.BATCH:
            order += list(rng.permutation(len(x)))
        batch, order = order[: net.BATCH], order[net.BATCH :]
        net.step(weights, velocity, net.gradients(weights, x[batch], y[batch]), 0.02)
        with torch.no_grad():
            for parameter, weight in zip(model, weights, strict=True):
                parameter.copy_(torch.from_numpy(weight))  # rounds to bfloat16
        theirs.update_parameters(model)
        ours.update_parameters(model)
        float32.update()
        for mean, parameter in zip(exact, model, strict=True):
            mean += (parameter.detach().double().numpy() - mean) / (step + 1)
        if step + 1 in marks:
            averages = [
                doubles(theirs.module),
                doubles(ours.module),
                doubles(float32.averages()),
                [mean.copy() for mean in exact],
            ]
            size = norm(exact)
            for name, arrays in zip(names, averages, strict=False):
                gaps = [array - mean for array, mean in zip(arrays, exact, strict=True)]
                errors[name].append(norm(gaps) / size)
            kept.append([arrays[0] for arrays in averages] + [weights[0].copy()])
    place = np.unravel_index(np.abs(weights[0] - start[0]).argmax(), weights[0].shape)
    keys = (*names, "float64", "weight")
    paths = {
        key: [float(arrays[column][place]) for arrays in kept] for column, key in enumerate(keys)
    }
    return errors, paths, marks


def main(argv: Sequence[str] | None = None) -> None:
    """Train, draw, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=10000, help="how many (default: 10000)")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    errors, paths, marks = run(options.steps)
    with figure("bfloat16-stall", 7.6, 3.2, columns=2) as (left, right):
        left.plot(marks, paths["weight"], color="#d8dde2", linewidth=1, label="the weight itself")
        left.plot(marks, paths["float64"], color="black", linewidth=3, alpha=0.35, label="float64")
        left.plot(marks, paths["float32"], color=OURS, linewidth=1.4, label="swa_fast, float32")
        left.plot(marks, paths["torch"], color=ACCENT, linewidth=1.4, label="torch, bfloat16")
        left.set_title("The average of one weight")
        right.plot(marks, errors["torch"], color=ACCENT, label="torch, bfloat16")
        right.plot(
            marks,
            errors["rounded"],
            color=THEIRS,
            linestyle="--",
            label="swa_fast, rounded",
        )
        right.plot(marks, errors["float32"], color=OURS, label="swa_fast, float32")
        right.set_yscale("log")
        right.set_title("Relative error of all averages")
        right.set_xlim(10, 1.2 * options.steps)
        right.set_ylim(1e-8, 3)
        for ax in (left, right):
            ax.set_xscale("log")
            ax.set_xlabel("updates")
            ax.legend()
    rows = []
    for updates in SHOWN:
        if updates <= marks[-1]:
            place = marks.index(updates)
            numbers = (errors[name][place] for name in ("torch", "rounded", "float32"))
            rows.append([str(updates), *(f"{number:.1e}" for number in numbers)])
    headers = [
        "updates",
        "torch, bfloat16",
        "swa_fast, rounded into the bfloat16 model",
        "swa_fast, the float32 averages",
    ]
    fill(style.DOCS / "numerics.md", "bfloat16", table(headers, rows))


if __name__ == "__main__":
    main()
