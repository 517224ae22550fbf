"""Marks for tests that need something of the build."""

from __future__ import annotations

import pytest

import swa_fast

needs_openmp = pytest.mark.skipif(
    swa_fast.build_info()["openmp"] == "none", reason="built without OpenMP: one thread"
)
