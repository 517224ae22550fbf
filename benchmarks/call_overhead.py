"""What a call costs before it moves any byte: lists of one-element tensors, on one thread.

    python benchmarks/call_overhead.py [--seconds S] [--json FILE]

All lengths and callables take turns; a straight line through the time per call over the number of
pairs gives the fixed part and the part per pair.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import swa_fast
from budgets import Finding, Verdict, main
from swa_fast.bench.run import is_installed
from swa_fast.bench.timing import Comparison, compare
from swa_fast.bench.workloads import Workload

LENGTHS = (1, 10, 100, 1000)
"""Pairs per call."""

TORCH = "swa_fast, torch tensors"
FOREACH = "torch._foreach_lerp_"
NUMPY = "swa_fast, NumPy arrays"

FIXED_SECONDS = 2e-6
PER_PAIR_SECONDS = 100e-9
"""Most that a call, and each pair of one-element torch tensors in it, may cost."""


@dataclass(frozen=True)
class Overhead:
    """A straight line through the time per call over the number of pairs.

    Attributes:
        label: of the callable.
        fixed: seconds per call, whatever its length.
        per_pair: seconds for each pair more.
    """

    label: str
    fixed: float
    per_pair: float


def measure(workload: Workload | None, seconds: float) -> Iterator[Finding]:
    """Time the calls on one thread; the lists are no model's.

    The numbers of threads of swa_fast and torch are put back afterwards.
    """
    torch: Any = importlib.import_module("torch") if is_installed("torch") else None
    calls: dict[str, Callable[[int], Callable[[], object]]] = {}
    if torch is not None:
        calls[TORCH] = functools.partial(fused_call, lambda: torch.zeros(1))
        calls[FOREACH] = functools.partial(foreach_call, torch)
        torch_threads = torch.get_num_threads()
    calls[NUMPY] = functools.partial(fused_call, lambda: np.zeros(1, np.float32))
    threads = swa_fast.get_num_threads()
    swa_fast.set_num_threads(1)
    try:
        if torch is not None:
            torch.set_num_threads(1)
        found = compare(
            {name_of(label, n): make(n) for label, make in calls.items() for n in LENGTHS}, seconds
        )
    finally:
        swa_fast.set_num_threads(threads)
        if torch is not None:
            torch.set_num_threads(torch_threads)
    lines = [line(found, label) for label in calls]
    note = "\n".join(
        f"{one.label}: {1e6 * one.fixed:.2f} us, and {1e9 * one.per_pair:.0f} ns per pair"
        for one in lines
    )
    judged = verdicts(lines[0]) if torch is not None else []
    yield Finding("one-element tensors", "call overhead, one thread", found, judged, note)


def line(found: Comparison, label: str) -> Overhead:
    """Return the straight line of a callable."""
    return Overhead(label, *fit(LENGTHS, [found.median(name_of(label, n)) for n in LENGTHS]))


def fit(lengths: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """Fit `fixed + per_pair * length` by least squares of the relative error.

    Relative, because the time at 1000 pairs is hundreds of times that at 1: with absolute errors
    its noise alone would decide the fixed part.

    Returns:
        The fixed part and the part per pair, in seconds.
    """
    weights = 1 / np.asarray(seconds)
    slope, constant = np.polyfit(np.asarray(lengths), np.asarray(seconds), 1, w=weights)
    return float(constant), float(slope)


def verdicts(overhead: Overhead) -> list[Verdict]:
    """Judge what a call on torch tensors costs."""
    return [
        Verdict(
            what,
            "torch tensors",
            f"<= {target / unit:.0f} {name}",
            f"{seconds / unit:.1f} {name}",
            seconds <= target,
        )
        for what, seconds, target, unit, name in (
            ("fixed part of a call", overhead.fixed, FIXED_SECONDS, 1e-6, "us"),
            ("each pair in a call", overhead.per_pair, PER_PAIR_SECONDS, 1e-9, "ns"),
        )
    ]


def name_of(label: str, length: int) -> str:
    """Return what the comparison calls a callable on so many pairs."""
    return f"{label}, {length} pair{'s' * (length > 1)}"


def fused_call(tensor: Callable[[], Any], length: int) -> Callable[[], object]:
    """Return our call on so many pairs of tensors."""
    averages, values = ([tensor() for _ in range(length)] for _ in range(2))
    return functools.partial(swa_fast.running_mean_, averages, values, 9)


def foreach_call(torch: Any, length: int) -> Callable[[], object]:
    """Return torch's call on so many pairs of tensors."""
    averages, values = ([torch.zeros(1) for _ in range(length)] for _ in range(2))
    return functools.partial(torch._foreach_lerp_, averages, values, 0.1)


if __name__ == "__main__":
    main(__doc__, measure, models=None)
