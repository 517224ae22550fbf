"""Before any test."""

from __future__ import annotations

import os
from typing import Any

import pytest

import preload  # noqa: F401


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Any:
    """For the benchmark, one model small enough to run in no time instead of the real ones."""
    from bench_tools import TINY
    from swa_fast.bench import workloads

    monkeypatch.setattr(workloads, "load", lambda: {"tiny": TINY})
    return TINY


@pytest.fixture
def made() -> Any:
    """The benchmark's memory of that model, filled."""
    from bench_tools import TINY, filled_arena

    return filled_arena(TINY)


@pytest.fixture
def copier(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the copies of an offloaded averager when it is told to; on the CPU."""
    from offload_tools import SlowCopier
    from swa_fast.torch import snapshots

    monkeypatch.setattr(snapshots, "offloads", lambda device, values: device is not None)
    return SlowCopier()


@pytest.fixture
def device() -> str:
    """The device under test."""
    chosen = os.environ.get("SWA_FAST_TEST_DEVICE", "cuda")
    if chosen != "cpu":
        require_gpu()
    return chosen


@pytest.fixture
def gpu() -> str:
    """A real GPU, whatever the environment says."""
    require_gpu()
    return "cuda"


def require_gpu() -> None:
    import torch

    import swa_fast

    if not torch.cuda.is_available():
        pytest.skip("no GPU, or this torch cannot use one")
    info = swa_fast.build_info()["cuda"]
    assert info["available"], info["reason"]
