"""The examples in the drop-ins' texts run."""

from __future__ import annotations

import doctest
import importlib

import pytest

pytest.importorskip("torch")


@pytest.mark.parametrize("module", ["timm", "diffusers", "ema_pytorch"])
def test_examples(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"swa_fast.{module}"))
    assert result.attempted
    assert not result.failed
