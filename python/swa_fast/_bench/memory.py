"""Will a workload fit? Asked before anything is allocated: a benchmark must never swap."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from .errors import UserError
from .workloads import BYTES_PER_ELEMENT, Workload

_PROCESS_BYTES = 10**9
"""What the interpreter and the frameworks take before any tensor of ours."""

_TENSORFLOW_LISTS = 3
"""TensorFlow keeps its own averages and values, and XLA writes the new averages beside the old."""

_TORCH_LISTS = 2
"""The averager's averages, and the copies that swapping by hand makes, after TensorFlow is done."""


def needed_bytes(workload: Workload, peers: Collection[str]) -> int:
    """Return an upper estimate of the process's peak memory for one workload.

    The check holds three lists (averages, values, expected); the timing holds two, what each
    framework keeps, and the temporaries of an expression on the largest tensor.
    """
    temporaries = 3 * max(workload.sizes) * BYTES_PER_ELEMENT
    extra = {"tensorflow": _TENSORFLOW_LISTS, "torch": _TORCH_LISTS}
    lists = 2 + max((extra.get(peer, 0) for peer in peers), default=0)
    return _PROCESS_BYTES + max(3, lists) * workload.nbytes + temporaries


def available_bytes() -> int | None:
    """Return the memory this process may still take, or None where that cannot be known.

    The smaller of what the machine has free and what the control group (a container) leaves.
    """
    found = [value for value in (_machine_available(), _cgroup_available()) if value is not None]
    return min(found, default=None)


def require(workload: Workload, peers: Collection[str]) -> None:
    """Refuse a workload that would not fit.

    Raises:
        UserError: less memory is available than the workload needs.
    """
    needed, available = needed_bytes(workload, peers), available_bytes()
    if available is not None and needed > available:
        advice = "choose a smaller --model"
        if "tensorflow" in peers:
            advice += " or leave tensorflow out of --peers"
        raise UserError(
            f"{workload.name} needs about {needed / 1e9:.1f} GB of memory and "
            f"{available / 1e9:.1f} GB are available; {advice}"
        )


def _machine_available() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _cgroup_available() -> int | None:
    root = Path("/sys/fs/cgroup")
    try:
        limit = (root / "memory.max").read_text(encoding="ascii").strip()
        if limit == "max":
            return None
        return max(0, int(limit) - int((root / "memory.current").read_text(encoding="ascii")))
    except (OSError, ValueError):
        return None
