"""What a call costs before it moves any byte: lists of one-element tensors, on one thread."""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .timing import Clock, Samples, Task, interleave

LENGTHS = (1, 10, 100, 1000)
"""Pairs per call."""

TORCH = "overhead_torch"
NUMPY = "overhead_numpy"
FOREACH = "overhead_foreach"

LABELS = {
    TORCH: "swa_fast, torch tensors",
    FOREACH: "torch._foreach_lerp_",
    NUMPY: "swa_fast, NumPy arrays",
}

_BATCH_SECONDS = 1e-3
"""Calls are timed in batches of about this length: far above the clock's own resolution."""


@dataclass(frozen=True)
class Overhead:
    """A straight line through the time per call over the number of pairs.

    Attributes:
        key: one of LABELS.
        seconds: median time per call for each of LENGTHS.
        fixed: seconds per call, whatever its length.
        per_pair: seconds for each pair more.
    """

    key: str
    seconds: tuple[float, ...]
    fixed: float
    per_pair: float


def measure(with_torch: bool, budget: float, *, clock: Clock = time.perf_counter) -> list[Overhead]:
    """Time the calls on one thread, all lengths and callables interleaved.

    The number of threads of swa_fast (and torch) is put back afterwards.

    Args:
        with_torch: torch takes part: our call on its tensors, and its own foreach call.
        budget: seconds.
        clock: returns seconds.

    Returns:
        One result per callable, in the order of LABELS.
    """
    import swa_fast

    calls: dict[str, Callable[[int], Callable[[], object]]] = {}
    threads = swa_fast.get_num_threads()
    torch: Any = None
    if with_torch:
        torch = importlib.import_module("torch")
        torch_threads = torch.get_num_threads()
        calls[TORCH] = functools.partial(_fused_call, lambda: torch.zeros(1))
        calls[FOREACH] = functools.partial(_foreach_call, torch)
    calls[NUMPY] = functools.partial(_fused_call, lambda: np.zeros(1, np.float32))

    swa_fast.set_num_threads(1)
    try:
        if torch is not None:
            torch.set_num_threads(1)
        return _measure(calls, budget, clock)
    finally:
        swa_fast.set_num_threads(threads)
        if torch is not None:
            torch.set_num_threads(torch_threads)


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


def _measure(
    calls: dict[str, Callable[[int], Callable[[], object]]], budget: float, clock: Clock
) -> list[Overhead]:
    tasks, per_batch = [], {}
    for key, make in calls.items():
        for length in LENGTHS:
            call = make(length)
            call()
            start = clock()
            for _ in range(10):
                call()
            once = max((clock() - start) / 10, 1e-9)
            count = max(1, round(_BATCH_SECONDS / once))
            name = f"{key}/{length}"
            per_batch[name] = count
            tasks.append(Task(name, functools.partial(_repeat, call, count), every_round=True))
    samples: dict[str, Samples] = interleave(tasks, budget, prime=False, clock=clock)
    results = []
    for key in calls:
        names = [f"{key}/{length}" for length in LENGTHS]
        seconds = tuple(samples[name].median / per_batch[name] for name in names)
        fixed, per_pair = fit(LENGTHS, seconds)
        results.append(Overhead(key, seconds, fixed, per_pair))
    return results


def _repeat(call: Callable[[], object], count: int) -> None:
    for _ in range(count):
        call()


def _fused_call(tensor: Callable[[], Any], length: int) -> Callable[[], object]:
    import swa_fast

    averages = [tensor() for _ in range(length)]
    values = [tensor() for _ in range(length)]
    return functools.partial(swa_fast.running_mean_, averages, values, 9)


def _foreach_call(torch: Any, length: int) -> Callable[[], object]:
    averages = [torch.zeros(1) for _ in range(length)]
    values = [torch.zeros(1) for _ in range(length)]
    return functools.partial(torch._foreach_lerp_, averages, values, 0.1)
