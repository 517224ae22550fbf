"""The picture of docs/architecture.md: the layers as boxes. Nothing is measured here.

Run it with `python docs/plots/architecture.py`.
"""

from __future__ import annotations

from style import OURS, QUIET, TEXT, figure

LAYERS = (
    ("Frameworks", "swa_fast.torch, swa_fast.keras, swa_fast.tf_keras, swa_fast.tensorflow", 0),
    ("Averages", "average.py, decays.py: when a snapshot is due, with what weight; averager.py", 0),
    ("The calls", "running_mean_, lerp_, swap_, copy_, combine_ on lists; Prepared", 0),
    ("Binding", "python/{calls,prepared,walk}.cc: arguments in, exceptions out", 1),
    ("Importing", "python/import/*: Python objects to buffers", 1),
    ("Plan", "core/plan.*: validate once, verify at every run, choose the kernels", 2),
    ("Kernels", "cpu/*: baseline, AVX2, AVX-512; threads. cuda/*: one launch", 2),
)
"""Name, contents, and what the layer may know: 0 a framework, 1 Python's C API, 2 neither."""

KNOWS = ("Python", "C++ that knows Python", "C++ that knows only memory")
SHADES = ("#d7e8ef", "#a9cfdf", "#6fb1cb")


def main() -> None:
    """Draw the picture."""
    with figure("architecture", 7.2, 4.4) as ax:
        ax.set_axis_off()
        ax.set_xlim(0, 10)
        ax.set_ylim(-0.1, len(LAYERS) + 0.1)
        for row, (name, contents, knows) in enumerate(LAYERS):
            bottom = len(LAYERS) - 1 - row
            box = {"height": 0.78, "color": SHADES[knows], "edgecolor": OURS, "linewidth": 0.8}
            ax.barh(bottom + 0.5, 8.1, left=0, **box)
            ax.text(0.15, bottom + 0.63, name, va="center", fontweight="bold", color=TEXT)
            ax.text(0.15, bottom + 0.32, contents, va="center", fontsize=8, color=TEXT)
            if row:
                ax.annotate(
                    "",
                    xy=(4.05, bottom + 0.9),
                    xytext=(4.05, bottom + 1.11),
                    arrowprops={"arrowstyle": "-|>", "color": OURS, "linewidth": 1},
                )
        for knows, label in enumerate(KNOWS):
            rows = [row for row, layer in enumerate(LAYERS) if layer[2] == knows]
            top, low = len(LAYERS) - rows[0] - 0.1, len(LAYERS) - 1 - rows[-1] + 0.1
            ax.plot([8.3, 8.4, 8.4, 8.3], [top, top, low, low], color=QUIET, linewidth=0.9)
            words = label.replace(" that", "\nthat")
            ax.text(8.55, (top + low) / 2, words, va="center", fontsize=8, color=QUIET)


if __name__ == "__main__":
    main()
