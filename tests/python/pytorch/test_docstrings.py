"""The examples in the docstrings of swa_fast.torch run."""

from __future__ import annotations

import doctest
import importlib

import pytest

pytest.importorskip("torch")


@pytest.mark.parametrize(
    "module", ["averaged_model", "batch_norm", "multi_avg", "optimizer", "averager"]
)
def test_examples(module: str) -> None:
    failed, attempted = doctest.testmod(importlib.import_module(f"swa_fast.torch.{module}"))
    assert attempted > 0
    assert failed == 0
