"""Before any test."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

import pytest

# A torch with CUDA brings triton and imports it late, with torch's first optimizer. After
# TensorFlow 2.21 that is a segmentation fault, with or without swa_fast. This order works.
with contextlib.suppress(ImportError):
    importlib.import_module("triton._C.libtriton")


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
