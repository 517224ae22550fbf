"""How busy the rest of the machine is while something is measured."""

from __future__ import annotations

import os


class Neighbours:
    """Watches the machine: a number for the reader's trust."""

    def __init__(self) -> None:
        """Start watching."""
        self._busy, self._total = machine_seconds()
        self._own = own_seconds()

    def share(self) -> float | None:
        """Return the share of the machine's CPU time, 0 to 1, that others used since the start.

        Time that a hypervisor took away (steal) counts as used by others. None where the system
        does not tell.
        """
        busy, total = machine_seconds()
        elapsed = total - self._total
        if elapsed <= 0:
            return None
        others = (busy - self._busy) - (own_seconds() - self._own)
        return min(1.0, max(0.0, others / elapsed))


def own_seconds() -> float:
    """Return the CPU seconds of this process and of its children that ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def machine_seconds() -> tuple[float, float]:
    """Return CPU seconds since boot over all cores: those in use (steal included), and all."""
    try:
        with open("/proc/stat", encoding="ascii") as lines:
            # cpu user nice system idle iowait irq softirq steal ...; guest time is inside user.
            ticks = [int(word) for word in lines.readline().split()[1:9]]
        per_second = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return 0.0, 0.0
    idle = ticks[3] + ticks[4]
    return (sum(ticks) - idle) / per_second, sum(ticks) / per_second
