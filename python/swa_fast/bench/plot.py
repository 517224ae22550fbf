"""A record as a chart: one panel of horizontal bars per model. Needs matplotlib."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from .report import Row, rows

_STYLE = {"font.size": 9, "svg.fonttype": "path", "svg.hashsalt": "swa-fast"}
_OURS, _THEIRS = "#0b6e99", "#b9c1c9"

_ROOM = 2.3
"""Width of a panel over its longest bar, so that the words beside that bar fit."""


def draw(record: dict[str, Any], path: Path) -> None:
    """Draw the throughput of every competitor on every model; the file's ending is the format."""
    # Imported by name, so that the types here do not depend on what the type checker has installed.
    matplotlib: Any = importlib.import_module("matplotlib")
    # A Figure of its own, not pyplot's: no window system is asked for, no global state left.
    figure_type: Any = importlib.import_module("matplotlib.figure").Figure
    models = record["models"]
    shown = [list(rows(model)) for model in models]
    columns = min(2, len(models))
    lines = -(-len(models) // columns)
    height = lines * (0.85 + 0.27 * max(map(len, shown))) + 0.9
    with matplotlib.rc_context(_STYLE):
        figure = figure_type(figsize=(6.4 * columns, height), layout="constrained")
        device = "a GPU" if record["device"] == "cuda" else "the CPU"
        figure.suptitle(f"Averaging a whole model on {device}, useful GB/s", weight="bold")
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
        panels = figure.subplots(lines, columns, squeeze=False).reshape(-1)
        for panel in panels[len(models) :]:
            panel.axis("off")
        for panel, model, bars in zip(panels, models, shown, strict=False):
            rates = [row.gigabytes_per_second for row in bars]
            ours = [row.label.startswith("swa_fast") for row in bars]
            colours = [_OURS if own else _THEIRS for own in ours]
            texts = [_beside(row, own) for row, own in zip(bars, ours, strict=True)]
            drawn = panel.barh([row.label for row in bars], rates, height=0.72, color=colours)
            panel.bar_label(drawn, texts, padding=4, fontsize=8)
            panel.invert_yaxis()
            panel.set_xlim(0, _ROOM * max(rates))
            size = f"{model['tensors']} tensors, {model['elements'] / 1e6:.1f} M"
            panel.set_title(f"{model['model']}, {size}", loc="left", weight="bold", fontsize=9.5)
            panel.spines[["top", "right", "bottom"]].set_visible(False)
        versions = ", ".join(f"{name} {version}" for name, version in record["frameworks"].items())
        machine, build = record["machine"], record["swa_fast"]
        figure.supxlabel(
            "The longer a bar, the better: 12 bytes per float32 element over the median time.\n"
            f"swa_fast {build['version']}, "
            f"{record['threads']} threads, {machine.get('gpu') or machine['cpu']}; {versions}; "
            f"{record['date'][:10]}",
            fontsize=8,
        )
        figure.savefig(path, dpi=150)


def _beside(row: Row, own: bool) -> str:
    """Return what stands beside a bar: its time and, if it is a competitor's, the comparison."""
    time = f"{row.milliseconds:.2f} ms"
    if own or row.ratio is None:
        return time
    return f"{time}, " + ("noisy" if row.ratio.is_noisy() else f"swa_fast is {row.ratio}")
