"""What the host does for a call on CUDA tensors, by the number of pairs.

    python benchmarks/cuda_host.py [--seconds S] [--json FILE]

Lists of four-element tensors, so that the host is the slower side: calls are timed behind each
other, and nobody waits for the device. The same call on CPU tensors stands beside it. The table of
pairs goes by value in a launch's arguments: up to 167 pairs in 4 KB of them, up to 1,361 in 32 KB.

Then the copies of averages in host memory, of one-element tensors: queued by native code, and by
torch one by one, as it was before. Both wait for their copies.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import swa_fast
from budgets import Finding, main
from swa_fast.bench.timing import compare
from swa_fast.torch.offload import CudaCopier

LENGTHS = (1, 10, 100, 167, 168, 400, 1361)
"""Pairs per call."""

COPIES = (152,)
"""Tensors that are copied to host memory: those of vit_base_patch16_224."""


def measure(workload: None, seconds: float, device: str = "cuda") -> Iterator[Finding]:
    """Time the calls for each of LENGTHS."""
    torch: Any = importlib.import_module("torch")
    for length in LENGTHS:
        averages, values = ([torch.zeros(4, device=device) for _ in range(length)] for _ in "av")
        host_averages, host_values = ([torch.zeros(4) for _ in range(length)] for _ in "av")
        calls: dict[str, Callable[[], object]] = {
            "swa_fast.lerp_": functools.partial(swa_fast.lerp_, averages, values, 0.5),
            "torch._foreach_lerp_": functools.partial(torch._foreach_lerp_, averages, values, 0.5),
            "swa_fast.lerp_ on the CPU": functools.partial(
                swa_fast.lerp_, host_averages, host_values, 0.5
            ),
            "increment_version": functools.partial(
                torch.autograd.graph.increment_version, averages
            ),
        }
        yield Finding(
            f"{length} pairs", "host time of a call", compare(calls, seconds / len(LENGTHS))
        )
    for length in COPIES:
        values = [torch.zeros(1, device=device) for _ in range(length)]
        copier = CudaCopier()
        calls = {
            "copies by native code": functools.partial(_copy, values, copier, copier.stage(values)),
            "copies by torch": functools.partial(_copy_one_by_one, torch, values, {}),
        }
        yield Finding(f"{length} tensors", "host time of copies", compare(calls, seconds))


def _copy(values: list[Any], copier: CudaCopier, staging: list[Any]) -> None:
    copies = copier.start(staging, values)
    assert copies is not None
    copies.wait()


def _copy_one_by_one(torch: Any, values: list[Any], places: dict[int, Any]) -> None:
    for index, value in enumerate(values):
        if index not in places:
            places[index] = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
        places[index].copy_(value.detach(), non_blocking=True)
    if values[0].is_cuda:
        torch.cuda.current_stream().synchronize()


if __name__ == "__main__":
    main(__doc__, measure, models=None)
