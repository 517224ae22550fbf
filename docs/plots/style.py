"""What every plot and generated table of the documentation shares.

Run `python docs/plots/make.py` to draw everything again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

DOCS = Path(__file__).parents[1]
IMAGES = DOCS / "images"

OURS = "#0b6e99"
THEIRS = "#8a949e"
ACCENT = "#d1495b"
GOLD = "#c98a00"
TEXT = "#22282e"
QUIET = "#66707a"

_RC = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": "#b9c1c9",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": "#e7eaed",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "svg.fonttype": "none",
    # The same numbers give the same file.
    "svg.hashsalt": "swa-fast",
}


@contextmanager
def figure(name: str, width: float, height: float, columns: int = 1) -> Iterator[Any]:
    """Give the axes of a new figure and save it as `docs/images/NAME.svg` afterwards.

    Args:
        name: of the file, without its ending.
        width: inches.
        height: inches.
        columns: panels side by side.

    Yields:
        The axes: one, or an array of `columns`.
    """
    with matplotlib.rc_context(_RC):
        drawing = Figure(figsize=(width, height), layout="constrained")
        # White behind the letters: the page may be dark.
        drawing.patch.set_facecolor("white")
        yield drawing.subplots(1, columns)
        IMAGES.mkdir(exist_ok=True)
        path = IMAGES / f"{name}.svg"
        drawing.savefig(path, metadata={"Date": None})
        # matplotlib leaves spaces at the ends of lines.
        lines = path.read_text(encoding="utf-8").splitlines()
        path.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")
        print(f"wrote {path}")


def fill(page: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME: begin ... -->` and `<!-- NAME: end -->` in a page.

    Raises:
        ValueError: the page does not have the two marks, once each.
    """
    page.write_text(filled(page.read_text(encoding="utf-8"), name, text), encoding="utf-8")
    print(f"filled {name} in {page}")


def filled(page: str, name: str, text: str) -> str:
    """Return the text of a page with its part `name` replaced; see `fill`."""
    begin, end = f"<!-- {name}: begin", f"<!-- {name}: end -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise ValueError(f"the page must have {begin!r} and {end!r} once each")
    head, rest = page.split(begin)
    mark, rest = rest.split("-->\n", 1)
    return f"{head}{begin}{mark}-->\n\n{text.strip()}\n\n{end}{rest.split(end)[1]}"


def table(headers: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table: the first column left, the others right."""
    lines = ["| " + " | ".join(headers) + " |", "|---|" + "---:|" * (len(headers) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
