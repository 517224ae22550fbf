"""Memory that no file stands behind: how much this process has, and buffers that it uses again."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from .errors import CheckpointError

__all__ = ["Buffers", "anonymous_memory", "parse_bytes"]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def anonymous_memory() -> int:
    """Return the bytes of RssAnon, 0 where the system does not tell (it is Linux's)."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def parse_bytes(text: str) -> int:
    """Return the bytes that a text like "512MiB", "2GB" or "1000" stands for.

    Raises:
        CheckpointError: it stands for none.

    Example:
        >>> from swa_fast.checkpoints.memory import parse_bytes
        >>> parse_bytes("512MiB")
        536870912
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]i?)?b?\s*", text, re.IGNORECASE)
    if match is None:
        raise CheckpointError(f"a size must be like 512MiB or 2GB. Received: {text!r}")
    return int(float(match[1]) * _UNITS[(match[2] or "").lower()])


class Buffers:
    """Memory that is used again: the system clears new memory, which takes as long as reading."""

    def __init__(self) -> None:
        """Begin without any."""
        self._free: list[NDArray[np.uint8]] = []

    def take(self, size: int) -> NDArray[np.uint8]:
        """Return an array of at least so many bytes."""
        buffer = self._free.pop() if self._free else np.empty(size, np.uint8)
        return buffer if buffer.size >= size else np.empty(size, np.uint8)

    def give(self, buffer: NDArray[np.uint8]) -> None:
        """Take an array back."""
        self._free.append(buffer)
