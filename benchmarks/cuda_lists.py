"""Lists of CUDA tensors: the whole call, calls in a queue, and the GPU's work alone.

    python benchmarks/cuda_lists.py [--model NAME] [--seconds S] [--json FILE]

A *whole* call begins and ends with an idle device: what a training step waits for. A *queued* one
is one of many behind each other: what host or device, whichever is slower, is busy for. *On the
GPU* the calls are replayed from a CUDA graph, without the host. The small models fit the
second-level cache, so a flat copy is no floor there.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple
from typing import Any

import swa_fast
from budgets import Finding, Verdict, at_least, main, many_small
from swa_fast.bench.timing import Comparison, Ratio, compare
from swa_fast.bench.workloads import Workload

MODELS = ("mobilenet_v3_large", "efficientnet_b0", "resnet50", "bert_base", "gpt2", "llama_1b")

QUEUED = 20
"""Calls behind each other in a queued measurement, and in a graph."""

COUNT = 9
"""Values already in the averages when an update is timed."""

FUSED = "swa_fast.running_mean_"
FOREACH = "torch._foreach_lerp_"
FLAT = "swa_fast, one flat buffer"
FLAT_LERP = "torch lerp_, one flat buffer"
COPY = "device-to-device copy"
AVERAGED_MODEL = "torch AveragedModel"
FUSED_HALF = "swa_fast, bfloat16 values"
FOREACH_HALF = "torch._foreach_lerp_ of .float() copies"

COPY_BYTES, LERP_BYTES = 8, 12
"""Bytes that each element needs to move, read and written."""

_LARGE = 100_000_000
"""Elements from which the shares of flat calls' bandwidth are budgets."""

SHARE_OF_COPY, SHARE_OF_LERP = 0.97, 0.995
"""Least bandwidth of a list on the GPU, of that of a copy and of torch's flat `lerp_`."""

OVER_FOREACH, OVER_AVERAGED_MODEL, OVER_FOREACH_HALF = 2.0, 5.0, 1.6
"""Least ratios: whole calls on many small tensors, and queued calls with bfloat16 values."""


def measure(workload: Workload, seconds: float, device: str = "cuda") -> Iterator[Finding]:
    """Compare whole calls, queued calls and, on a GPU, replayed calls."""
    torch: Any = importlib.import_module("torch")
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    updates = updates_of(torch, workload, device)
    name, share = workload.name, seconds / 3

    def run(update: Callable[[], object], times: int) -> None:
        for _ in range(times):
            update()
        wait()

    whole = compare({k: functools.partial(run, u, 1) for k, u in updates.items()}, share)
    queued = compare({k: functools.partial(run, u, QUEUED) for k, u in updates.items()}, share)
    queued = per_call(queued, QUEUED)
    judged = verdicts(workload, whole, queued)
    yield Finding(name, "whole calls", whole)
    yield Finding(name, "queued calls", queued, judged)
    if device == "cuda":
        del updates[AVERAGED_MODEL]  # it waits for the device, which a graph cannot
        replays = {k: replay(torch, u, wait) for k, u in updates.items()}
        replayed = per_call(compare(replays, share), QUEUED)
        yield Finding(name, "on the GPU", replayed, gpu_verdicts(workload, replayed))


def updates_of(torch: Any, workload: Workload, device: str) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name, on random tensors."""
    averages, values = (
        [torch.randn(shape, device=device) for shape in workload.shapes] for _ in range(2)
    )
    half = [value.to(torch.bfloat16) for value in values]
    target, source = (torch.randn(workload.elements, device=device) for _ in range(2))
    module = torch.nn.ParameterList([torch.nn.Parameter(value) for value in values])
    averaged = importlib.import_module("torch.optim.swa_utils").AveragedModel(module)
    averaged.update_parameters(module)  # the first call copies
    weight = 1 / (COUNT + 1)
    return {
        FUSED: lambda: swa_fast.running_mean_(averages, values, COUNT),
        FOREACH: lambda: torch._foreach_lerp_(averages, values, weight),
        AVERAGED_MODEL: lambda: averaged.update_parameters(module),
        FUSED_HALF: lambda: swa_fast.running_mean_(averages, half, COUNT),
        FOREACH_HALF: lambda: torch._foreach_lerp_(averages, [v.float() for v in half], weight),
        FLAT: lambda: swa_fast.running_mean_([target], [source], COUNT),
        FLAT_LERP: lambda: target.lerp_(source, weight),
        COPY: lambda: target.copy_(source),
    }


def replay(
    torch: Any, update: Callable[[], object], wait: Callable[[], object]
) -> Callable[[], None]:
    """Return the replay of a graph of QUEUED updates."""
    update()
    wait()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(QUEUED):
            update()

    def run() -> None:
        graph.replay()
        wait()

    return run


def per_call(found: Comparison, calls: int) -> Comparison:
    """Return a comparison of so many calls at a time as one of single calls."""

    def divided(seconds: Mapping[int, float]) -> dict[int, float]:
        return {number: value / calls for number, value in seconds.items()}

    return Comparison({name: divided(seconds) for name, seconds in found.seconds.items()})


def verdicts(workload: Workload, whole: Comparison, queued: Comparison) -> list[Verdict]:
    """Judge whole and queued calls."""
    half = queued.ratio(FOREACH_HALF, FUSED_HALF)
    what = "bfloat16 values against .float() copies"
    judged = [at_least(what, workload.name, half, OVER_FOREACH_HALF)]
    if many_small(workload):
        for what, name, target in (
            ("call against torch._foreach_lerp_", FOREACH, OVER_FOREACH),
            ("call against AveragedModel", AVERAGED_MODEL, OVER_AVERAGED_MODEL),
        ):
            judged.append(at_least(what, workload.name, whole.ratio(name), target))
    return judged


def gpu_verdicts(workload: Workload, replayed: Comparison) -> list[Verdict]:
    """Judge the GPU's work alone on a large model, by bandwidth."""
    if workload.elements < _LARGE:
        return []
    copy = replayed.ratio(COPY)
    per_byte = Ratio(*(LERP_BYTES / COPY_BYTES * each for each in astuple(copy)))
    lerp = replayed.ratio(FLAT_LERP)
    return [
        at_least(
            "bandwidth against a device-to-device copy", workload.name, per_byte, SHARE_OF_COPY
        ),
        at_least("bandwidth against torch's flat lerp_", workload.name, lerp, SHARE_OF_LERP),
    ]


if __name__ == "__main__":
    main(__doc__, measure, MODELS)
