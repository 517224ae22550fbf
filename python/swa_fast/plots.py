"""Plots of averages. Needs matplotlib, and imports it when something is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .average import Average
from .decays import power

__all__ = ["profile", "reconstruction"]

_FEW = 40
"""Up to so many snapshots each has a marker: more would run into each other."""

_POINTS = 1000
"""A curve's, more than a picture has pixels."""

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


def reconstruction(
    snapshots: Sequence[tuple[float, float]],
    sigma_rel: float,
    *,
    step: float | None = None,
    ax: Any = None,
) -> Any:
    """Draws how well snapshots of power averages make the average of another width.

    The profile wanted, the one that ``checkpoints.coefficients.power`` makes of the snapshots, and
    in the legend the error between them, as a share of the wanted profile's norm.

    Args:
        snapshots: ``(step, sigma_rel)`` of each.
        sigma_rel: the width wanted, in (0, 1 / sqrt(12)].
        step: where the wanted average ends; the last snapshot's step if None.
        ax: matplotlib axes to draw into; new ones by default.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is not installed.
        CheckpointError: there is no snapshot, or a step or a width is out of range.

    Example:
        >>> import swa_fast
        >>> snapshots = [(t, width) for t in range(100, 1100, 100) for width in (0.05, 0.1)]
        >>> ax = swa_fast.plots.reconstruction(snapshots, 0.075)
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['wanted: sigma_rel 0.075', 'made of 20 snapshots: error 0.84 %']
    """
    from .checkpoints import coefficients

    found = coefficients.power(snapshots, sigma_rel, step)
    end = max(taken for taken, _ in snapshots) if step is None else step
    steps = np.linspace(0, end, _POINTS + 1)[1:]
    made = np.zeros(_POINTS)
    for (taken, width), coefficient in zip(snapshots, found.coefficients, strict=True):
        made += coefficient * _density(steps, taken, width)
    if ax is None:
        ax = _new_axes()
    wanted = f"wanted: sigma_rel {sigma_rel:g}"
    ax.plot(steps, 100 * _density(steps, end, sigma_rel), label=wanted, linewidth=2.5)
    label = f"made of {len(snapshots)} snapshots: error {100 * found.error:.2g} %"
    ax.plot(steps, 100 * made, label=label, linestyle="--")
    ax.set_xlim(0, end)
    ax.set_xlabel("step")
    ax.set_ylabel("share of the average, % a step")
    ax.legend()
    return ax


def _density(steps: Any, end: float, sigma_rel: float) -> Any:
    """Returns the share of each step in a power average that ends at ``end``."""
    gamma = power(sigma_rel=sigma_rel).gamma
    return np.where(steps <= end, (gamma + 1) / end * np.minimum(steps / end, 1) ** gamma, 0)


def _shares(average: Average, steps: int) -> tuple[Any, Any]:
    """Returns the numbers of the updates that took snapshots, and the share of each."""
    weights = average.profile(steps)
    updates = np.arange(average.start + 1, steps + 1, average.period)
    weights = weights[updates - 1]
    if average.initial:
        updates, weights = np.append(0, updates), np.append(1 - weights.sum(), weights)
    return updates, weights


def require_matplotlib() -> None:
    """Raises ImportError, which says what to install, where matplotlib is not."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "swa_fast.plots needs matplotlib, which is not installed: pip install 'swa-fast[plot]'"
        ) from error


def _new_axes() -> Any:
    require_matplotlib()
    from matplotlib import pyplot

    return pyplot.subplots()[1]
