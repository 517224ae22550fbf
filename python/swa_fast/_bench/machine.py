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


class Neighbours:
    """How busy the rest of the machine is while we measure: a number for the reader's trust."""

    def __init__(self) -> None:
        """Start watching."""
        self._busy, self._total = _machine_seconds()
        self._own = _own_seconds()

    def share(self) -> float | None:
        """Return the share of the machine's CPU time, 0 to 1, that others used since the start.

        Time that a hypervisor took away (steal) counts as used by others. None where the system
        does not tell.
        """
        busy, total = _machine_seconds()
        elapsed = total - self._total
        if elapsed <= 0:
            return None
        others = (busy - self._busy) - (_own_seconds() - self._own)
        return min(1.0, max(0.0, others / elapsed))


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


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system


def _machine_seconds() -> tuple[float, float]:
    """CPU seconds since boot over all cores: those in use (steal included), and all."""
    try:
        with open("/proc/stat", encoding="ascii") as lines:
            # cpu user nice system idle iowait irq softirq steal ...; guest time is inside user.
            ticks = [int(word) for word in lines.readline().split()[1:9]]
        per_second = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return 0.0, 0.0
    idle = ticks[3] + ticks[4]
    return (sum(ticks) - idle) / per_second, sum(ticks) / per_second
