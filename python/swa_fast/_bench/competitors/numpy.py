"""Averaging in pure NumPy, as it is written by hand."""

from __future__ import annotations

import numpy as np

from ..arena import Arena
from . import NUMPY, Competitor


def prepare(threads: int) -> str:
    """Return NumPy's version. Its element-wise loops run on one thread, whatever is asked."""
    return str(np.__version__)


def build(arena: Arena) -> list[Competitor]:
    """Return the in-place expression, array by array."""
    averages, values = arena.averages, arena.values

    def update(count: int) -> None:
        weight = np.float32(1 / (count + 1))
        for average, value in zip(averages, values, strict=True):
            average += (value - average) * weight

    return [Competitor(NUMPY, update, averages)]
