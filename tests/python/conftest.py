"""Before any test."""

from __future__ import annotations

from typing import Any

import pytest

import preload  # noqa: F401


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Any:
    """For the benchmark, one model small enough to run in no time instead of the real ones."""
    from bench_tools import TINY
    from swa_fast._bench import workloads

    monkeypatch.setattr(workloads, "load", lambda: {"tiny": TINY})
    return TINY


@pytest.fixture
def made() -> Any:
    """The benchmark's memory of that model, filled."""
    from bench_tools import TINY, filled_arena

    return filled_arena(TINY)
