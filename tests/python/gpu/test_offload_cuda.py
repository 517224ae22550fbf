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


def test_memory_that_is_given_back_is_not_reused_before_it_was_copied() -> None:
    weight = torch.nn.Parameter(torch.full((1 << 26,), 4.0, device="cuda"))
    averager = WeightAverager([weight], device="cpu")
    for number in range(5):
        weight.data = torch.full((1 << 26,), float(number), device="cuda")
        averager.update()
        weight.data = torch.zeros(1, device="cuda")  # gives it back while it is being copied
        for _ in range(4):
            torch.full((1 << 26,), -100.0, device="cuda")
        weight.data = torch.empty(1 << 26, device="cuda")
        averager._snapshots.settle()
    assert (averager.averages()[0] == 2.0).all()


def test_the_copies_lie_in_one_block_of_pinned_memory() -> None:
    model = torch.nn.Sequential(*[torch.nn.Linear(64, 64) for _ in range(4)]).cuda()
    averager = WeightAverager(model, device="cpu")
    averager.update()
    staging = averager._snapshots.offload._staging
    assert staging[0].is_pinned()
    assert len({place.untyped_storage().data_ptr() for place in staging}) == 1
    assert averager.count == 1


def test_tensors_with_gaps_and_on_the_cpu_beside_others() -> None:
    rows = torch.arange(12.0, device="cuda").reshape(3, 4)
    values = [rows[:, ::2], torch.ones(3), rows, torch.tensor([1 + 2j], device="cuda").conj()]
    averager = WeightAverager(values, device="cpu")
    for _ in range(3):
        averager.update()
    for average, value in zip(averager.averages(), values, strict=True):
        assert torch.equal(average, value.cpu())


def test_a_captured_stream_is_refused_and_nothing_is_lost() -> None:
    weight = torch.nn.Parameter(torch.full((1000,), 4.0, device="cuda"))
    averager = WeightAverager([weight], device="cpu")
    averager.update()
    averager._snapshots.settle()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        weight.detach().add_(0.0)
        with pytest.raises(RuntimeError, match="inside a CUDA graph: call update"):
            averager.update()
    graph.replay()
    averager.update()
    assert averager.count == 2
    assert (averager.averages()[0] == 4.0).all()


def test_the_copies_follow_the_stream_that_is_current() -> None:
    weight = torch.nn.Parameter(torch.zeros(1 << 22, device="cuda"))
    averager = WeightAverager([weight], device="cpu")
    averager.update()
    averager._snapshots.settle()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)
        with torch.no_grad():
            weight.fill_(6.0)
        averager.update()
    assert (averager.averages()[0] == 3.0).all()


def test_a_model_on_two_gpus() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    values = [torch.full((1000,), 2.0, device=f"cuda:{i % 2}") for i in range(6)]
    averager = WeightAverager(values, device="cpu")
    averager.update()
    assert all((average == 2.0).all() for average in averager.averages())
