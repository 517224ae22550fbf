"""Plots of averages. Needs matplotlib, and imports it when something is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .average import Average

__all__ = ["profile"]

_FEW = 40
"""Up to so many snapshots each has a marker: more would run into each other."""

_OUTSIZE = 2
"""A first snapshot that weighs so many times what any other does is written, not drawn."""


def profile(averages: Average | Mapping[str, Average], steps: int, *, ax: Any = None) -> Any:
    """Draws how much the values of each step weigh in an average, from its description alone.

    The numbers are those of ``Average.profile``. Where the first snapshot (or, with ``initial``,
    the values at construction) weighs far more than any other, as in an exponential average that is
    still short for its decay, its share is written into the legend, and the axis shows the others.

    Args:
        averages: one average, or several by name, to compare them.
        steps: updates so far, >= 1.
        ax: matplotlib axes to draw into; new ones by default.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: an argument has the wrong type.
        ValueError: there is nothing to draw: no average, or no snapshot in so many steps.

    Example:
        >>> import swa_fast
        >>> from swa_fast import Average, decays
        >>> ax = swa_fast.plots.profile(
        ...     {"decay 0.99": Average(decay=0.99), "warm-up": Average(decay=decays.warmup(0.99))},
        ...     steps=100,
        ... )
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['decay 0.99 (first snapshot: 37 %)', 'warm-up']
    """
    named = averages if isinstance(averages, Mapping) else {"": averages}
    if not named:
        raise ValueError("averages must hold one average at least. Received: {}")
    for name, average in named.items():
        if not isinstance(average, Average):
            where = f"averages[{name!r}]" if averages is named else "averages"
            raise TypeError(
                f"{where} must be a swa_fast.Average. Received: {type(average).__name__}"
            )
    shares = {name: _shares(average, steps) for name, average in named.items()}
    if ax is None:
        ax = _new_axes()
    for name, (updates, weights) in shares.items():
        label = name
        if len(weights) > 1 and weights[0] > _OUTSIZE * weights[1:].max():
            label = f"{name} (first snapshot: {100 * weights[0]:.0f} %)".strip()
            updates, weights = updates[1:], weights[1:]
        marker = "o" if len(weights) <= _FEW else None
        ax.plot(updates, 100 * weights, label=label, marker=marker, markersize=3)
    ax.set_xlim(0, steps)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("step")
    ax.set_ylabel("share of the average, %")
    if ax.get_legend_handles_labels()[1]:
        ax.legend()
    return ax


def _shares(average: Average, steps: int) -> tuple[Any, Any]:
    """Returns the numbers of the updates that took snapshots, and the share of each."""
    weights = average.profile(steps)
    updates = np.arange(average.start + 1, steps + 1, average.period)
    weights = weights[updates - 1]
    if average.initial:
        updates, weights = np.append(0, updates), np.append(1 - weights.sum(), weights)
    return updates, weights


def _new_axes() -> Any:
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(
            "swa_fast.plots needs matplotlib, which is not installed: pip install 'swa-fast[plot]'"
        ) from error
    return pyplot.subplots()[1]
