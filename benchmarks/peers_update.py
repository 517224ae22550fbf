"""Host time of one update of each drop-in, beside the class whose place it takes.

    pip install --no-deps --group peers
    python benchmarks/peers_update.py

The models have the module trees of a MobileNetV3 and of a ViT, as far as their number of modules,
parameters and buffers goes, with one element in each tensor, so that nearly all of the time is the
host's. The two are timed in turn, in rounds; a row has the median of each and that of the ratios.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "python"))

import peers
from swa_fast.diffusers import EMAModel
from swa_fast.ema_pytorch import EMA
from swa_fast.timm import ModelEmaV3


def _step(ema: Any, model: Any) -> None:
    """Make one step of an EMAModel, given the parameters as its users do."""
    ema.step(model.parameters())


def mobilenet() -> Any:
    """Blocks of convolution, normalization and activation: 62 of each, and a classifier."""
    blocks = [
        nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1), nn.Hardswish())
        for _ in range(62)
    ]
    return nn.Sequential(*blocks, nn.Linear(1, 1))


def vit() -> Any:
    """Twelve blocks of attention and a perceptron, with their normalizations."""

    def block() -> Any:
        attention = nn.ModuleDict({"qkv": nn.Linear(1, 1), "proj": nn.Linear(1, 1)})
        perceptron = nn.Sequential(nn.Linear(1, 1), nn.GELU(), nn.Linear(1, 1))
        return nn.ModuleList([nn.LayerNorm(1), attention, nn.LayerNorm(1), perceptron])

    return nn.Sequential(*(block() for _ in range(12)), nn.LayerNorm(1), nn.Linear(1, 1))


def pairs(model: Any) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Returns (theirs, ours) for each row."""
    found: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {}
    theirs, ours = peers.timm_ema()(model), ModelEmaV3(model)
    found["timm ModelEmaV3"] = (lambda: theirs.update(model), lambda: ours.update(model))
    diffusers = peers.diffusers_ema()
    for foreach in (False, True):
        their_model = diffusers(model.parameters(), foreach=foreach)
        our_model = EMAModel(model.parameters(), foreach=foreach)
        name = "diffusers EMAModel" + (", foreach" if foreach else "")
        found[name] = (
            functools.partial(_step, their_model, model),
            functools.partial(_step, our_model, model),
        )
    settings: dict[str, Any] = {"update_after_step": 0, "update_every": 1}
    their_ema, our_ema = peers.ema_pytorch().EMA(model, **settings), EMA(model, **settings)
    found["ema-pytorch EMA"] = (their_ema.update, our_ema.update)
    return found


def microseconds(call: Callable[[], Any], repeats: int) -> float:
    """Returns the time of one call, of several in a row."""
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begin) / repeats * 1e6


def main() -> None:
    """Prints one row for each class and model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    print(f"{'model':<10} {'class':<30} {'theirs, us':>10} {'ours, us':>9} {'ratio':>7}")
    for make in (mobilenet, vit):
        for name, (theirs, ours) in pairs(make()).items():
            for call in (theirs, ours):
                microseconds(call, 3)
            rows = [
                (microseconds(theirs, arguments.repeats), microseconds(ours, arguments.repeats))
                for _ in range(arguments.rounds)
            ]
            ratio = statistics.median(a / b for a, b in rows)
            medians = [statistics.median(column) for column in zip(*rows, strict=True)]
            print(
                f"{make.__name__:<10} {name:<30} {medians[0]:>10.0f} {medians[1]:>9.0f} "
                f"{ratio:>6.1f}x"
            )


if __name__ == "__main__":
    main()
