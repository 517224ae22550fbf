"""`swa_fast.torch.WeightAverager` against the lines that people write for what it does.

    python benchmarks/torch_averagers.py [--model NAME] [--seconds S] [--json FILE]

A float32 average of a bfloat16 model, and swapping the averages in and out: time, and memory.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import swa_fast
from budgets import NOT_MEASURED, Finding, Verdict, at_least, main
from swa_fast.bench.competitors import PRIME_BELOW, prepare
from swa_fast.bench.timing import compare
from swa_fast.bench.workloads import Arena, Workload

OVER_HALF = 1.5
"""Least ratio of `a.lerp_(p.float(), w)` per tensor to a float32 average of bfloat16 parameters."""

OVER_CLONE = 1.0
"""Least ratio of clone, copy and copy back to swapping in and out."""

_PEAK_SHARE, _PEAK_LEAST = 0.01, 4 << 20
"""Most that a swap may add to the process's peak, as a share of the parameters' bytes, and the
bytes that are always allowed: pages of the interpreter's own, no copy of any list."""

_WEIGHT = 0.1


def measure(workload: Workload, seconds: float) -> Iterator[Finding]:
    """Time the updates of a half-precision model, and swaps."""
    torch: Any = importlib.import_module("torch")
    prepare("torch", swa_fast.get_num_threads())
    arena = Arena(workload).fill(np.random.default_rng(0))
    values = [torch.from_numpy(array) for array in arena.values]
    prime = workload.elements < PRIME_BELOW
    with torch.no_grad():
        yield half(torch, workload.name, values, seconds / 2, prime)
        yield swaps(workload, values, seconds / 2, prime)


def half(torch: Any, model: str, values: list[Any], seconds: float, prime: bool) -> Finding:
    """Time the float32 average of a bfloat16 copy of `values`."""
    parameters = [value.to(torch.bfloat16) for value in values]
    averager = averager_of(parameters)
    averages = averager.averages()

    def by_hand() -> None:
        for average, parameter in zip(averages, parameters, strict=True):
            average.lerp_(parameter.float(), _WEIGHT)

    calls = {"swa_fast, WeightAverager": averager.update, "a.lerp_(p.float(), w)": by_hand}
    found = compare(calls, seconds, prime=prime)
    what = "bf16 into float32, against lerp_(p.float())"
    verdict = at_least(what, model, found.ratio("a.lerp_(p.float(), w)"), OVER_HALF)
    return Finding(model, "float32 average of a bfloat16 model", found, [verdict])


def swaps(workload: Workload, values: list[Any], seconds: float, prime: bool) -> Finding:
    """Time swapping in and out, and look at the memory that it takes."""
    averager = averager_of(values)
    averages = averager.averages()

    def in_and_out() -> None:
        averager.swap()
        averager.swap()

    def by_hand() -> None:
        kept = [value.clone() for value in values]
        for value, average in zip(values, averages, strict=True):
            value.copy_(average)
        for value, copy in zip(values, kept, strict=True):
            value.copy_(copy)

    in_and_out()
    extra = peak_of(in_and_out)
    allowed = max(_PEAK_SHARE * 4 * workload.elements, _PEAK_LEAST)
    peak = Verdict(
        what="memory that swapping in and out adds",
        subject=workload.name,
        target=f"<= {allowed / 1e6:.0f} MB",
        measured=NOT_MEASURED if extra is None else f"{extra / 1e6:.1f} MB",
        met=None if extra is None else extra <= allowed,
    )
    calls = {"swa_fast, swap twice": in_and_out, "clone, copy, copy back": by_hand}
    found = compare(calls, seconds, prime=prime)
    ratio = found.ratio("clone, copy, copy back")
    what = "swap in and out, against clone and copies"
    verdicts = [at_least(what, workload.name, ratio, OVER_CLONE), peak]
    return Finding(workload.name, "averages in, and out again", found, verdicts)


def averager_of(parameters: list[Any]) -> Any:
    """Return an averager that has taken its first snapshot."""
    averager = importlib.import_module("swa_fast.torch").WeightAverager(parameters)
    averager.update()
    return averager


def peak_of(run: Callable[[], object]) -> int | None:
    """Return by how many bytes `run` raises the resident memory, None where that is not told.

    The peak is that of the whole process, set back to the present by the Linux kernel first.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before = _status("VmRSS")
        run()
        return max(0, _status("VmHWM") - before)
    except (OSError, LookupError):
        return None


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(key)


if __name__ == "__main__":
    main(__doc__, measure)
