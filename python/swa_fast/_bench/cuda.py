"""`swa-fast bench --device cuda`: the fused call on a GPU, against torch and a plain copy.

Two times are taken of everything. A *call* begins and ends with an idle device: what a training
step waits for. A *queued* call is one of many behind each other: what the device is busy for, once
the host is ahead. Both are wall-clock times around a synchronisation, taken in turns.
"""

from __future__ import annotations

import datetime
import functools
import importlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import swa_fast

from .budgets import Verdict
from .errors import CheckError, UserError
from .timing import Samples, Task, interleave, median_ratio
from .workloads import Workload

QUEUED = 20
"""Calls behind each other in a queued measurement."""

COUNT = 9
"""Values already in the averages when an update is timed."""

COPY = "device-to-device copy"
FUSED = "swa_fast.running_mean_"
FOREACH = "torch._foreach_lerp_"
AVERAGED_MODEL = "torch AveragedModel"
FUSED_HALF = "swa_fast, bfloat16 values"
FOREACH_HALF = "torch._foreach_lerp_ of .float() copies"

_BYTES = {COPY: 8, FUSED: 12, FOREACH: 12, AVERAGED_MODEL: 12, FUSED_HALF: 10, FOREACH_HALF: 10}
"""Bytes that each element needs to move, read and written; more is the competitor's own choice."""

_LARGE = 100_000_000
"""Elements from which the share of the copy's bandwidth is a budget."""

SHARE_OF_COPY, OVER_FOREACH, OVER_AVERAGED_MODEL, OVER_FOREACH_HALF = 0.92, 2.0, 5.0, 1.6


@dataclass(frozen=True)
class Row:
    """One competitor on one model; times are medians in seconds."""

    competitor: str
    call: float
    queued: float
    gigabytes_per_second: float
    fused_call_is_faster: float
    fused_queued_is_faster: float


@dataclass(frozen=True)
class CudaResult:
    """A whole run.

    Attributes:
        device: name of the GPU.
        models: rows by model.
        verdicts: the budgets.
    """

    date: str
    device: str
    build: dict[str, Any]
    torch: str
    models: dict[str, list[Row]]
    verdicts: list[Verdict]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        return asdict(self)


def run(workloads: Sequence[Workload], seconds: float) -> CudaResult:
    """Check, then time, then judge.

    Args:
        workloads: the models.
        seconds: budget of the timed rounds of one model.

    Raises:
        UserError: there is no usable GPU, or no torch that can use it.
        CheckError: the GPU's result has not the bits of the CPU's.
    """
    build = dict(swa_fast.build_info())
    cuda: Any = build["cuda"]
    if not cuda["available"]:
        raise UserError(f"--device cuda cannot run: {cuda['reason']}")
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError as error:
        raise UserError('--device cuda needs torch: pip install "swa-fast[torch]"') from error
    if not torch.cuda.is_available():
        raise UserError(
            f"--device cuda needs a torch with CUDA. Received: torch {torch.__version__}"
        )
    models = {}
    verdicts: list[Verdict] = []
    for workload in workloads:
        check(torch, workload, "cuda")
        models[workload.name] = measure(torch, workload, "cuda", torch.cuda.synchronize, seconds)
        verdicts += judge(workload, models[workload.name])
        torch.cuda.empty_cache()
    return CudaResult(
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        device=f"{torch.cuda.get_device_name()}, driver for CUDA {cuda['driver']}",
        build=build,
        torch=str(torch.__version__),
        models=models,
        verdicts=verdicts,
    )


def check(torch: Any, workload: Workload, device: str) -> None:
    """Compare updates on `device` with the CPU's, bit for bit.

    Raises:
        CheckError: an average differs.
    """
    rng = np.random.default_rng(0)
    for dtype in (torch.float32, torch.bfloat16):
        here = [torch.zeros(shape) for shape in workload.shapes]
        there = [torch.full(shape, torch.nan, device=device) for shape in workload.shapes]
        for count in range(3):
            values = [
                torch.from_numpy(rng.standard_normal(shape, np.float32)).to(dtype)
                for shape in workload.shapes
            ]
            swa_fast.running_mean_(here, values, count)
            swa_fast.running_mean_(there, [value.to(device) for value in values], count)
        for number, (a, b) in enumerate(zip(here, there, strict=True)):
            if not torch.equal(a.view(torch.int32), b.cpu().view(torch.int32)):
                raise CheckError(
                    f"the fused result of {workload.name} on {device}, averages[{number}] from "
                    f"{dtype} values, is not bit-identical to the CPU's"
                )


def measure(
    torch: Any,
    workload: Workload,
    device: str,
    synchronize: Callable[[], object],
    seconds: float,
) -> list[Row]:
    """Time every competitor on one model.

    Args:
        torch: the module.
        workload: the model.
        device: where its tensors are.
        synchronize: waits for the device.
        seconds: budget of the timed rounds.
    """
    updates = _updates(torch, workload, device)

    def call(update: Callable[[], object]) -> None:
        update()
        synchronize()

    def queued(update: Callable[[], object]) -> None:
        for _ in range(QUEUED):
            update()
        synchronize()

    tasks = []
    for name, update in updates.items():
        tasks.append(Task(f"call {name}", functools.partial(call, update), every_round=True))
        tasks.append(Task(f"queued {name}", functools.partial(queued, update), every_round=True))
    synchronize()
    samples = interleave(tasks, seconds, prime=False)
    return [_row(name, samples, workload) for name in updates]


def judge(workload: Workload, rows: Sequence[Row]) -> list[Verdict]:
    """Return the verdict on each budget that `workload` has."""
    by_name = {row.competitor: row for row in rows}
    verdicts = []

    def add(what: str, target: float, value: float) -> None:
        met = value >= target
        verdicts.append(Verdict(what, workload.name, f">= {target:.2f}x", f"{value:.2f}x", met))

    if workload.elements >= _LARGE:
        share = by_name[FUSED].gigabytes_per_second / by_name[COPY].gigabytes_per_second
        add("bandwidth against a device-to-device copy", SHARE_OF_COPY, share)
    if workload.many_small:
        foreach, averaged = by_name[FOREACH], by_name[AVERAGED_MODEL]
        add("call against torch._foreach_lerp_", OVER_FOREACH, foreach.fused_call_is_faster)
        add("call against AveragedModel", OVER_AVERAGED_MODEL, averaged.fused_call_is_faster)
    half = by_name[FOREACH_HALF].fused_queued_is_faster
    add("bfloat16 values against .float() copies", OVER_FOREACH_HALF, half)
    return verdicts


def _updates(torch: Any, workload: Workload, device: str) -> dict[str, Callable[[], object]]:
    values = [torch.randn(shape, device=device) for shape in workload.shapes]
    averages = [torch.randn(shape, device=device) for shape in workload.shapes]
    half = [value.to(torch.bfloat16) for value in values]
    flat_from, flat_to = (torch.randn(workload.elements, device=device) for _ in range(2))
    module = torch.nn.ParameterList([torch.nn.Parameter(value) for value in values])
    averaged = torch.optim.swa_utils.AveragedModel(module)
    averaged.update_parameters(module)  # the first call copies
    weight = 1 / (COUNT + 1)
    return {
        COPY: lambda: flat_to.copy_(flat_from),
        FUSED: lambda: swa_fast.running_mean_(averages, values, COUNT),
        FOREACH: lambda: torch._foreach_lerp_(averages, values, weight),
        AVERAGED_MODEL: lambda: averaged.update_parameters(module),
        FUSED_HALF: lambda: swa_fast.running_mean_(averages, half, COUNT),
        FOREACH_HALF: lambda: torch._foreach_lerp_(averages, [v.float() for v in half], weight),
    }


def _row(name: str, samples: dict[str, Samples], workload: Workload) -> Row:
    fused = FUSED_HALF if name in (FUSED_HALF, FOREACH_HALF) else FUSED
    queued = samples[f"queued {name}"]
    seconds = queued.median / QUEUED
    return Row(
        competitor=name,
        call=samples[f"call {name}"].median,
        queued=seconds,
        gigabytes_per_second=_BYTES[name] * workload.elements / seconds / 1e9,
        fused_call_is_faster=median_ratio(samples[f"call {name}"], samples[f"call {fused}"]),
        fused_queued_is_faster=median_ratio(queued, samples[f"queued {fused}"]),
    )
