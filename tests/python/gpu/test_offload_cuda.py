"""Averages in host memory of parameters on a real GPU. Run with `pytest -m gpu`."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
from swa_fast.torch import WeightAverager  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU, or torch cannot use one"),
]


def test_the_bits_of_averages_on_the_gpu_and_no_waiting() -> None:
    model = torch.nn.Sequential(*[torch.nn.Linear(1024, 1024) for _ in range(16)]).cuda()
    offloaded = WeightAverager(model, device="cpu")
    plain = WeightAverager(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(30):
        model(torch.randn(64, 1024, device="cuda")).square().mean().backward()
        optimizer.step()  # right behind an update that is still copying
        optimizer.zero_grad()
        plain.update()
        offloaded.update()
    for a, b in zip(offloaded.averages(), plain.averages(), strict=True):
        assert a.device.type == "cpu"
        assert torch.equal(a, b.cpu())


def test_update_returns_while_the_device_is_busy() -> None:
    model = torch.nn.Linear(2048, 2048).cuda()
    averager = WeightAverager(model, device="cpu")
    averager.update()
    averager.averages()  # pinned memory is there
    torch.cuda._sleep(2_000_000_000)  # about a second
    begin = time.perf_counter()
    averager.update()
    assert time.perf_counter() - begin < 0.2
    averager.averages()
    assert time.perf_counter() - begin > 0.2


def test_an_optimizer_step_does_not_overtake_the_copy() -> None:
    # 1 GiB takes tens of milliseconds over the bus; the step that follows, well under one.
    weight = torch.nn.Parameter(torch.full((1 << 28,), 4.0, device="cuda"))
    averager = WeightAverager([weight], device="cpu")
    optimizer = torch.optim.SGD([weight], lr=1.0)
    weight.grad = torch.full_like(weight, 100.0)
    averager.update()
    optimizer.step()
    assert (averager.averages()[0] == 4.0).all()
    assert (weight == -96.0).all()


def test_the_process_exits_with_an_update_in_flight() -> None:
    code = """
import torch
from swa_fast.torch import WeightAverager
averager = WeightAverager(torch.nn.Linear(4096, 4096).cuda(), device="cpu")
torch.cuda._sleep(1_000_000_000)
averager.update()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
