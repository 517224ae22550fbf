"""The budgets of `swa-fast bench`: the least ratios that are wanted, and whether they are reached.

They are those of the CPU, where a call is bound by memory or, on models of many small tensors, by
what it costs to look at a tensor.
"""

from __future__ import annotations

from typing import Any

from .report import Row, rows
from .timing import Ratio, table

TARGETS = {
    "NumPy, a += (p - a) * w": (3.0, 3.0),
    "torch._foreach_lerp_": (1.0, 1.2),
    "torch AveragedModel": (3.0, 5.0),
    "torch AveragedModel, multi_avg_fn": (1.0, 1.3),
}
"""Label of a competitor: how many times as long as swa_fast it is to take at least, and on models
of many small tensors."""

_MANY_SMALL_MEAN = 2**16
"""Below this mean number of elements per tensor (256 KiB of float32, well inside one core's L2
cache) the cost of a call per tensor shows beside the cost of moving the bytes."""


def many_small(tensors: int, elements: int) -> bool:
    """Return whether this is a model of many small tensors, with budgets of its own."""
    return elements < _MANY_SMALL_MEAN * tensors


def target(label: str, tensors: int, elements: int) -> float | None:
    """Return the least ratio wanted of a competitor on a model; None if there is no budget."""
    if label not in TARGETS:
        return None
    return TARGETS[label][many_small(tensors, elements)]


def verdict(ratio: Ratio, least: float) -> str:
    """Return "met" or "missed", or "noisy" if the rounds' quartiles lie on both sides of it."""
    if ratio.is_noisy(least):
        return "noisy"
    return "met" if ratio.median >= least else "missed"


def render(record: dict[str, Any]) -> str:
    """Return the table of a record's budgets, and how many of them are met."""
    lines: list[list[str]] = []
    for model in record["models"]:
        for row in rows(model):
            least = target(row.label, model["tensors"], model["elements"])
            if least is not None and row.ratio is not None:
                lines.append(_line(row, row.ratio, least))
    if not lines:
        return "Budgets: nothing was compared that has one."
    words = [line[-1] for line in lines]
    counts = ", ".join(f"{words.count(word)} {word}" for word in ("met", "missed", "noisy"))
    body = table(lines, ["model", "against", "wanted", "measured (quartiles)", ""], 2)
    return f"Budgets, how many times as long the other takes: {counts}.\n\n{body}"


def _line(row: Row, ratio: Ratio, least: float) -> list[str]:
    measured = f"{ratio.median:.2f}x ({ratio.low:.2f} to {ratio.high:.2f})"
    return [row.model, row.label, f">= {least:.2f}x", measured, verdict(ratio, least)]
