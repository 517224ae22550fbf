"""A run as a chart: one panel of horizontal bars per model. Needs matplotlib."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

from .competitors import FLAT, FUSED_KEYS
from .results import ModelResult, Result, Row

_COLUMNS = 2
_OURS = "#0b6e99"
_THEIRS = "#b9c1c9"
_CEILING = "#d1495b"
_TEXT = "#22282e"
_QUIET = "#66707a"
_BAR_INCHES = 0.27
_PANEL_INCHES = 0.85
"""Height of a panel beside its bars: title, axis and the space to the next."""


def draw(result: Result, path: Path) -> None:
    """Draw the throughput of every competitor on every model into `path`.

    The flat buffer, the ceiling of the others, is a line across the panel and no bar. The format
    follows from the file's ending.
    """
    # Imported by name, so that the types here do not depend on what the type checker has installed.
    matplotlib: Any = importlib.import_module("matplotlib")
    figures: Any = importlib.import_module("matplotlib.figure")

    columns = min(_COLUMNS, len(result.models))
    rows = math.ceil(len(result.models) / columns)
    bars = max(len(model.rows) for model in result.models) - 1
    panel = _PANEL_INCHES + _BAR_INCHES * bars
    style = {
        "font.family": "sans-serif",
        "font.size": 9,
        "text.color": _TEXT,
        "axes.labelcolor": _QUIET,
        "xtick.color": _QUIET,
        "ytick.color": _TEXT,
        "svg.fonttype": "none",
        "svg.hashsalt": "swa-fast",
    }
    with matplotlib.rc_context(style):
        # A Figure of its own, not pyplot's: no window system is asked for, no global state left.
        figure = figures.Figure(figsize=(6.4 * columns, panel * rows + 0.9), layout="constrained")
        figure.get_layout_engine().set(h_pad=0.1, w_pad=0.1, hspace=0.02, wspace=0.04)
        figure.suptitle(
            "Averaging a whole model on the CPU, useful GB/s (higher is better)",
            fontsize=12,
            fontweight="bold",
        )
        axes = figure.subplots(rows, columns, squeeze=False).reshape(-1)
        for ax, model in zip(axes, result.models, strict=False):
            _panel(ax, model)
        for ax in axes[len(result.models) :]:
            ax.axis("off")
        figure.supxlabel(_caption(result), fontsize=8, color=_QUIET)
        figure.savefig(path, dpi=150)


def _panel(ax: Any, model: ModelResult) -> None:
    shown = [row for row in model.rows if row.key != FLAT]
    widths = [row.gigabytes_per_second or 0.0 for row in shown]
    colours = [_OURS if row.key in FUSED_KEYS else _THEIRS for row in shown]
    flat = model.row(FLAT)
    ceiling = (flat.gigabytes_per_second if flat else None) or 0.0
    positions = range(len(shown))
    ax.barh(positions, widths, height=0.72, color=colours, zorder=2)
    ax.axvline(ceiling, color=_CEILING, linewidth=1.2, linestyle=(0, (4, 2)), zorder=3)
    ax.set_yticks(positions, [row.label for row in shown])
    ax.invert_yaxis()
    limit = 1.38 * max(ceiling, *widths)
    ax.set_xlim(0, limit)
    for position, row, width in zip(positions, shown, widths, strict=True):
        ax.annotate(
            _bar_text(row),
            (max(width, ceiling) if ceiling < width * 1.45 < limit else width, position),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=_TEXT if row.key in FUSED_KEYS else _QUIET,
            zorder=4,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )
    workload = model.workload
    ax.set_title(
        f"{workload.name}   {workload.tensors} tensors, {workload.elements / 1e6:.1f} M elements",
        loc="left",
        fontsize=9.5,
        fontweight="bold",
    )
    ax.tick_params(axis="both", length=0)
    ax.grid(axis="x", color="#e7eaed", zorder=0)
    for side in ("top", "right", "bottom", "left"):
        ax.spines[side].set_visible(False)


def _bar_text(row: Row) -> str:
    if row.missing is not None or row.median is None:
        return row.missing or "not measured"
    text = f"{1e3 * row.median:.1f} ms"
    if row.fused_is_faster is not None:
        text += f"  ({row.fused_is_faster:.1f}x)"
    return text


def _caption(result: Result) -> str:
    build, machine = result.build, result.machine
    versions = ", ".join(f"{name} {what}" for name, what in result.frameworks.items())
    noise = result.noise()
    return (
        "12 bytes per float32 element over the median time. In brackets: how many times faster "
        "swa_fast is on the same tensors. Dashed: swa_fast on one flat buffer, the ceiling.\n"
        f"swa_fast {build.get('version', '?')} ({build.get('isa', '?')}), "
        f"{result.settings['threads']} threads, {machine['cpu']}; {versions}; {result.date[:10]}"
        + (f"\n{noise}" if noise else "")
    )
