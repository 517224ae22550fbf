"""What the host does for a call on CUDA tensors, by the number of pairs.

    python benchmarks/cuda_host.py [--seconds S] [--json FILE]

Lists of four-element tensors, so that the host is the slower side: calls are timed behind each
other, and nobody waits for the device. The same call on CPU tensors stands beside it. The table of
pairs goes by value in a launch's arguments: up to 167 pairs in 4 KB of them, up to 1,361 in 32 KB.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import swa_fast
from budgets import Finding, main
from swa_fast.bench.timing import compare

LENGTHS = (1, 10, 100, 167, 168, 400, 1361)
"""Pairs per call."""


def measure(workload: None, seconds: float, device: str = "cuda") -> Iterator[Finding]:
    """Time the calls for each of LENGTHS."""
    torch: Any = importlib.import_module("torch")
    for length in LENGTHS:
        averages, values = ([torch.zeros(4, device=device) for _ in range(length)] for _ in "av")
        host_averages, host_values = ([torch.zeros(4) for _ in range(length)] for _ in "av")
        calls: dict[str, Callable[[], object]] = {
            "swa_fast.lerp_": functools.partial(swa_fast.lerp_, averages, values, 0.5),
            "torch._foreach_lerp_": functools.partial(torch._foreach_lerp_, averages, values, 0.5),
            "swa_fast.lerp_ on the CPU": functools.partial(
                swa_fast.lerp_, host_averages, host_values, 0.5
            ),
            "increment_version": functools.partial(
                torch.autograd.graph.increment_version, averages
            ),
        }
        yield Finding(
            f"{length} pairs", "host time of a call", compare(calls, seconds / len(LENGTHS))
        )


if __name__ == "__main__":
    main(__doc__, measure, models=None)
