"""What is refused on a real GPU, and how a fault of the device is named."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import swa_fast

torch: Any = pytest.importorskip("torch")

pytestmark = pytest.mark.gpu


def test_counters_of_the_wrong_kind_are_refused(gpu: str) -> None:
    average, value = torch.zeros(5, device=gpu), torch.ones(5, device=gpu)
    for count, words in (
        (torch.tensor(1, dtype=torch.int32, device=gpu), "count must be an int, or a CUDA tensor"),
        (torch.tensor([1], device=gpu), "count must be an int, or a CUDA tensor"),
    ):
        with pytest.raises(TypeError, match=words):
            swa_fast.running_mean_([average], [value], count)
    with pytest.raises(ValueError, match=r"averages\[0\] is on cpu, count is on cuda:0"):
        swa_fast.running_mean_([average.cpu()], [value.cpu()], torch.tensor(1, device=gpu))
    assert not average.any()
    swa_fast.running_mean_([average.cpu()], [value.cpu()], torch.tensor(1))  # the CPU's is read


def test_what_is_refused_is_not_written(gpu: str) -> None:
    good = torch.zeros(5, device=gpu), torch.ones(5, device=gpu)
    base = torch.zeros(10, device=gpu)
    for bad, error, words in (
        ((torch.zeros(5), torch.ones(5, device=gpu)), ValueError, r"is on cpu, .* is on cuda:0"),
        ((base[:4], base[2:6]), ValueError, "overlap in memory"),
        ((base[::2], torch.ones(5, device=gpu)), BufferError, "not contiguous"),
        ((torch.zeros(5, device=gpu), torch.ones(4, device=gpu)), ValueError, "shape"),
    ):
        with pytest.raises(error, match=words):
            swa_fast.running_mean_([good[0], bad[0]], [good[1], bad[1]], 1)
        assert not good[0].any()


class Lying:
    """Says that memory of the CPU is on cuda:0."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self.tensor.__dlpack__()


def test_memory_that_is_not_where_its_owner_says(gpu: str) -> None:
    average = torch.zeros(5, device=gpu)
    with pytest.raises(BufferError, match="says it is on cuda:0, and was exported on cpu"):
        swa_fast.running_mean_([average], [Lying(np.ones(5, np.float32))], 0)
    assert not average.any()


def test_a_fault_on_the_device_is_named(gpu: str) -> None:
    # A fault ends the process's use of the GPU, so it happens in a process of its own.
    code = """
import torch, swa_fast
a, b = torch.zeros(5, device="cuda"), torch.ones(5, device="cuda")
swa_fast.running_mean_([a], [b], 1)
torch.cuda._sleep(1000)
try:
    torch.zeros(4, device="cuda")[torch.tensor([10**6], device="cuda")]  # a device-side assertion
    torch.cuda.synchronize()
except Exception:
    pass
try:
    swa_fast.running_mean_([a], [b], 1)
except RuntimeError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "failed: cudaError" in done.stdout, done.stdout + done.stderr[-2000:]


def test_a_forked_child_is_told_what_to_do(gpu: str) -> None:
    code = """
import os, torch, swa_fast
a, b = torch.zeros(5, device="cuda"), torch.ones(5, device="cuda")
swa_fast.running_mean_([a], [b], 1)
child = os.fork()
if child == 0:
    try:
        swa_fast.running_mean_([a], [b], 1)
    except RuntimeError as error:
        print(error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "cudaError" in done.stdout, done.stdout + done.stderr[-2000:]
