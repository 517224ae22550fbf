"""What a list of torch tensors must cost at least: torch's own calls, hot and after a whole model.

    pip install "swa-fast[torch]" pybind11 && python benchmarks/torch_call_floor.py

The fused call needs from torch, per pair, two views (DLPack's exchange table) and one version
counter (so that autograd notices the write). Both are timed alone from C: "hot" back to back,
"cold" after a pass over the model's weights has pushed torch's objects out of the near caches, as
every training step does. "allowed" is what a pair may cost for the list to run at 0.95 of one flat
buffer.
"""

from __future__ import annotations

import gc
import importlib
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pybind11
import torch

import swa_fast
from swa_fast.bench import workloads

_ROUNDS = 150
_COLUMNS = ("floor, hot", "floor, cold", "ours, list - flat", "NumPy, list - flat", "allowed")


def _build(folder: str) -> Any:
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    includes = [f"-I{sysconfig.get_path('include')}", f"-I{pybind11.get_include()}"]
    source = Path(__file__).with_suffix(".cc")
    target = f"{folder}/torch_call_floor_core{suffix}"
    command = ["c++", "-O3", "-shared", "-fPIC", "-std=c++17", *includes, str(source), "-o", target]
    subprocess.run(command, check=True)
    sys.path.insert(0, folder)
    return importlib.import_module("torch_call_floor_core")


def _measure(core: Any, workload: workloads.Workload) -> list[float]:
    """Nanoseconds per pair, in the order of _COLUMNS."""
    arena = workloads.Arena(workload).fill(np.random.default_rng(0))
    flat_averages = [arena.averages_all[: workload.elements]]
    flat_values = [arena.values_all[: workload.elements]]
    averages = [torch.from_numpy(array) for array in arena.averages]
    values = [torch.from_numpy(array) for array in arena.values]
    capsule = torch.Tensor.__dlpack_c_exchange_api__

    def floor() -> None:
        core.views(capsule, averages, values)
        torch._C._increment_version(averages)

    def flat() -> None:
        swa_fast.running_mean_(flat_averages, flat_values, 9)

    def listed() -> None:
        swa_fast.running_mean_(averages, values, 9)

    def numpy() -> None:
        swa_fast.running_mean_(arena.averages, arena.values, 9)

    def nanoseconds(run: Callable[[], None], before: Callable[[], None]) -> float:
        before()
        start = time.perf_counter_ns()
        run()
        return time.perf_counter_ns() - start

    rounds = []
    for run in (floor, flat, listed, numpy):
        run()
    gc.collect()
    gc.disable()
    for _ in range(_ROUNDS):
        cold, hot = nanoseconds(floor, flat), nanoseconds(floor, floor)
        ceiling = nanoseconds(flat, flat)
        times = (hot, cold, nanoseconds(listed, listed) - ceiling)
        rounds.append((*times, nanoseconds(numpy, numpy) - ceiling, ceiling * (1 / 0.95 - 1)))
    gc.enable()
    return [statistics.median(column) / len(averages) for column in zip(*rounds, strict=True)]


def main() -> None:
    """Print the table."""
    torch.set_num_threads(swa_fast.get_num_threads())
    with tempfile.TemporaryDirectory() as folder:
        core = _build(folder)
        print("ns per pair".ljust(20), *(column.rjust(18) for column in _COLUMNS))
        for name in ("mobilenet_v3_large", "efficientnet_b0", "resnet50"):
            numbers = _measure(core, workloads.load()[name])
            print(name.ljust(20), *(f"{number:18.0f}" for number in numbers))


if __name__ == "__main__":
    main()
