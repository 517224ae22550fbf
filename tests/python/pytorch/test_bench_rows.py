"""The torch rows of `swa-fast bench`: what they time is what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

from swa_fast._bench import arena as arenas
from swa_fast._bench import competitors, workloads
from swa_fast._bench.competitors import torch as torch_rows
from swa_fast._bench.competitors import torch_averager

SHAPES = ((4, 3, 3, 3), (4,), (4,), (4,), (5, 4), (5,), (70_000,))


@pytest.fixture
def arena() -> Any:
    made = arenas.allocate(workloads.Workload("small", "made up", SHAPES))
    for buffer in (made.averages_all, made.values_all):
        arenas.fill_random(buffer, np.random.default_rng(0))
    return made


def test_the_module_has_the_tensors_in_order_and_in_submodules() -> None:
    tensors = [torch.randn(shape) for shape in SHAPES]
    module = torch_rows.module_of(tensors)
    listed = [parameter.data_ptr() for parameter in module.parameters()]
    assert listed == [tensor.data_ptr() for tensor in tensors]
    assert [len(list(part.parameters())) for part in module.children()] == [2, 2, 2, 1]


@pytest.mark.parametrize(
    "key", [competitors.MODEL_FUSED, competitors.MODEL_TORCH, competitors.MODEL_TORCH_MULTI]
)
def test_averaged_models_update_the_memory_of_the_arena(arena: Any, key: str) -> None:
    entry = next(entry for entry in torch_rows.build(arena) if entry.key == key)
    before = arena.averages_flat.copy()
    entry.update(4)
    expected = before + (arena.values_flat - before) / 5
    np.testing.assert_allclose(arena.averages_flat, expected, rtol=1e-5, atol=1e-6)
    assert entry.against == competitors.MODEL_FUSED


def test_the_promises_are_measured_and_leave_the_parameters_alone(arena: Any) -> None:
    values = arena.values_all.copy()
    verdicts = torch_averager.judge(arena, 0.05, prime=False)
    assert len(verdicts) == 3
    assert all(verdict.subject == "small" for verdict in verdicts)
    assert float(verdicts[0].measured.rstrip("x")) > 0
    assert np.array_equal(arena.values_all, values)


def test_the_peak_is_seen() -> None:
    if torch_averager.peak_of(lambda: None) is None:
        pytest.skip("the kernel does not let the peak be reset")
    extra = torch_averager.peak_of(lambda: np.ones(1 << 23))  # 64 MiB, gone at once
    assert extra is not None
    assert 60 << 20 < extra < 80 << 20


def test_a_verdict_is_missed_below_its_target() -> None:
    assert torch_averager._verdict("x", "m", 1.49, 1.5).met is False
    assert torch_averager._verdict("x", "m", 1.5, 1.5).met is True
