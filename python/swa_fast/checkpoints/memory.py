"""How much memory this process has that no file stands behind."""

from __future__ import annotations

import re

from .errors import CheckpointError

__all__ = ["anonymous_memory", "parse_bytes"]

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
