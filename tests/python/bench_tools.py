"""What the tests of the benchmark share: a tiny model and a clock that stands still."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from swa_fast.bench import run, timing, workloads

TINY = workloads.Workload("tiny", "made up", ((3, 5), (7,), (), (2, 0), (70_000,), (1,)))


def filled_arena(workload: workloads.Workload = TINY) -> workloads.Arena:
    return workloads.Arena(workload).fill(np.random.default_rng(7))


def hide(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let the benchmark find some frameworks no more."""
    genuine = run.is_installed
    monkeypatch.setattr(run, "is_installed", lambda name: name not in names and genuine(name))


class FakeClock:
    """Time passes only when a call says so, and in sleep."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.calls: list[str] = []
        self.rests: list[str] = []
        monkeypatch.setattr(timing, "perf_counter", lambda: self.now)
        monkeypatch.setattr(timing, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.rests.append(self.calls[-1])

    def call(self, key: str, cost: float | Callable[[], float]) -> Callable[[], None]:
        def work() -> None:
            self.calls.append(key)
            self.now += cost if isinstance(cost, float) else cost()

        return work


def as_float64(tensor: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return a copy of an array, a torch tensor or a TensorFlow variable."""
    array = tensor if isinstance(tensor, np.ndarray) else tensor.numpy()
    return np.array(array, np.float64)
