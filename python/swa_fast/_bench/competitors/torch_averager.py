"""What `swa_fast.torch.WeightAverager` promises, against the lines that people write for it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..arena import Arena
from ..budgets import Verdict
from ..timing import Task, interleave, median_ratio

torch: Any = importlib.import_module("torch")

OVER_HALF = 1.5
"""Least ratio of `a.lerp_(p.float(), w)` per tensor to a float32 average of bfloat16 parameters."""

OVER_CLONE = 1.0
"""Least ratio of clone, copy and copy back to swapping in and out."""

_PEAK_SHARE = 0.01
"""Most of the parameters' bytes that a swap may add to the process's peak: pages of the
interpreter's own, no copy of any list."""

_WEIGHT = 0.1


def judge(arena: Arena, seconds: float, prime: bool) -> tuple[Verdict, ...]:
    """Time the updates of a half-precision model, and swaps, on the arena's values.

    Args:
        arena: its values are the parameters; its averages are not touched.
        seconds: for both timings together.
        prime: see `timing.interleave`.
    """
    values = [torch.from_numpy(array) for array in arena.values]
    half = _half(values, arena.workload.name, seconds / 2, prime)
    return (half, *_swaps(values, arena, seconds / 2, prime))


def _averager(parameters: list[Any]) -> Any:
    averager = importlib.import_module("swa_fast.torch").WeightAverager(parameters)
    averager.update()
    return averager


def _half(values: list[Any], model: str, seconds: float, prime: bool) -> Verdict:
    parameters = [value.to(torch.bfloat16) for value in values]
    averager = _averager(parameters)
    averages = averager.averages()

    def by_hand() -> None:
        for average, parameter in zip(averages, parameters, strict=True):
            average.lerp_(parameter.float(), _WEIGHT)

    ratio = _ratio(averager.update, by_hand, seconds, prime)
    return _verdict("bf16 into float32, against lerp_(p.float())", model, ratio, OVER_HALF)


def _swaps(values: list[Any], arena: Arena, seconds: float, prime: bool) -> list[Verdict]:
    averager = _averager(values)
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

    model, nbytes = arena.workload.name, arena.workload.nbytes
    in_and_out()
    extra = peak_of(in_and_out)
    allowed = max(_PEAK_SHARE * nbytes, 4 << 20)
    peak = Verdict(
        what="memory that swapping in and out adds",
        subject=model,
        target=f"<= {allowed / 1e6:.0f} MB",
        measured="not measured" if extra is None else f"{extra / 1e6:.1f} MB",
        met=None if extra is None else extra <= allowed,
    )
    ratio = _ratio(in_and_out, by_hand, seconds, prime)
    return [
        _verdict("swap in and out, against clone and copies", model, ratio, OVER_CLONE),
        peak,
    ]


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


def _ratio(
    ours: Callable[[], object], theirs: Callable[[], object], seconds: float, prime: bool
) -> float:
    tasks = [Task("ours", ours, every_round=True), Task("theirs", theirs)]
    with torch.no_grad():
        samples = interleave(tasks, seconds, prime=prime)
    return median_ratio(samples["theirs"], samples["ours"])


def _verdict(what: str, model: str, ratio: float, target: float) -> Verdict:
    return Verdict(what, model, f">= {target:.2f}x", f"{ratio:.2f}x", ratio >= target)
