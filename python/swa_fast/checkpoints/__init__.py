"""Averages of checkpoints on disk: any number of files, constant memory, rounded once.

``merge`` averages files and folders of the formats that trainers write; ``soup`` chooses which of
them to average by a score; ``reconstruct`` makes a power average of any width from snapshots of
others; ``coefficients`` has the schedules as pure functions. The same as commands: ``swa-fast
merge`` and ``swa-fast soup``. torch, h5py and Keras are needed for their own formats only.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import coefficients
    from .errors import CheckpointError
    from .merging import merge
    from .post_hoc import reconstruct
    from .report import InputReport, MergeReport
    from .soups import SoupReport, soup

__all__ = [
    "CheckpointError",
    "InputReport",
    "MergeReport",
    "SoupReport",
    "coefficients",
    "merge",
    "reconstruct",
    "soup",
]

_MODULES = {
    "CheckpointError": "errors",
    "InputReport": "report",
    "MergeReport": "report",
    "SoupReport": "soups",
    "merge": "merging",
    "reconstruct": "post_hoc",
    "soup": "soups",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: the command line must not wait for NumPy."""
    if name == "coefficients":
        return importlib.import_module(".coefficients", __name__)
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = found
    return found
