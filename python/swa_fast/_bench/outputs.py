"""The files a run writes, looked at before the work and written after it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from .errors import UserError

PLOT_FORMATS = (".svg", ".png", ".pdf")


def require_writable(option: str, path: Path) -> None:
    """Make sure that `path` can be written, leaving no file behind that was not there.

    Raises:
        UserError: it cannot.
    """
    existed = path.exists()
    try:
        with path.open("a", encoding="utf-8"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise UserError(f"{option} cannot write {path}: {error.strerror or error}") from error


def require_plot(path: Path) -> None:
    """Make sure that a plot can be drawn into `path`.

    Raises:
        UserError: matplotlib is missing, or the ending names no format we draw.
    """
    if path.suffix.lower() not in PLOT_FORMATS:
        raise UserError(f"--plot must end in {', '.join(PLOT_FORMATS)}. Received: {path}")
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError('--plot needs matplotlib: pip install "swa-fast[plot]"')
    require_writable("--plot", path)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as JSON; a number that JSON does not have (NaN) is an error, not a token."""
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
