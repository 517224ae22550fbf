"""The averager's script in benchmarks/: what it times is what it says."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

import lists
import prepared_updates
import several_averages
import torch_averagers
from bench_tools import as_float64, filled_arena
from swa_fast.bench.workloads import Workload

SHAPES = ((4, 3, 3, 3), (4,), (4,), (4,), (5, 4), (5,), (70_000,))


def test_the_averager_is_measured_on_every_budget() -> None:
    half, swaps = torch_averagers.measure(Workload("small", "made up", SHAPES), 0.05)
    verdicts = [*half.verdicts, *swaps.verdicts]
    assert [verdict.what for verdict in verdicts] == [
        "bf16 into float32, against lerp_(p.float())",
        "swap in and out, against clone and copies",
        "memory that swapping in and out adds",
    ]
    assert all(verdict.subject == "small" for verdict in verdicts)
    assert float(verdicts[0].measured.split("x")[0]) > 0


def test_swapping_leaves_the_parameters_alone() -> None:
    workload = Workload("small", "made up", SHAPES)
    values = [torch.from_numpy(array) for array in filled_arena(workload).values]
    before = [value.clone() for value in values]
    torch_averagers.swaps(workload, values, 0.01, prime=False)
    assert all(map(torch.equal, values, before))


def test_the_peak_is_seen() -> None:
    if torch_averagers.peak_of(lambda: None) is None:
        pytest.skip("the kernel does not let the peak be reset")
    extra = torch_averagers.peak_of(lambda: np.ones(1 << 23))  # 64 MiB, gone at once
    assert extra is not None
    assert 60 << 20 < extra < 80 << 20


def test_the_default_expression_is_the_mean() -> None:
    arena = filled_arena()
    before = [as_float64(array) for array in arena.averages]
    lists.default_expression(arena)(9)
    for old, value, new in zip(before, arena.values, arena.averages, strict=True):
        np.testing.assert_allclose(new, (old * 9 + value) / 10, rtol=1e-5, atol=1e-6)


def test_prepared_updates_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared_updates, "COUNTS", (10, 20))
    found = list(prepared_updates.measure(None, 0.05))
    assert [verdict.what for finding in found for verdict in finding.verdicts] == [
        "fixed part of a prepared update",
        "each pair in a prepared update",
        "WeightAverager, mean, against list(module.parameters())",
        "AveragedModel, against list(module.parameters())",
    ]
    assert found[1].title == "180 parameters in 241 modules"
    assert "load_state_dict" in found[2].note


def test_several_averages_in_one_pass_are_those_of_several_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(several_averages, "LARGE", 1000)
    two, three = several_averages.measure(Workload("small", "made up", SHAPES), 0.05)
    assert [v.what for v in (*two.verdicts, *three.verdicts)] == [
        "2 calls against one pass",
        "3 calls against one pass",
    ]
