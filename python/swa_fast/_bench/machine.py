"""What the numbers were measured on."""

from __future__ import annotations

import os
import platform
from typing import Any

from .memory import available_bytes


def describe() -> dict[str, Any]:
    """Return the machine and the interpreter, for the raw results and the report's first line."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "cores_usable": usable_cores(),
        "memory_available_bytes": available_bytes(),
        "os": platform.platform(),
        "arch": platform.machine(),
        "python": platform.python_version(),
    }


def cpu_model() -> str:
    """Return the processor's name, or its architecture where the system does not tell."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if key.strip() == "model name":
                    return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
