"""A run: check against NumPy, time, and return it as a record.

A record is what `--json` writes: `schema`, `date`, `device`, `threads`, `seconds_per_model`,
`machine`, `swa_fast` (`build_info`), `frameworks` (versions), `left_out` (frameworks and why) and
`models`: for each its `model`, `tensors`, `elements`, `updates_checked`, and `groups`, each what
`Comparison.to_json` says of a `competitors.Group`.
"""

from __future__ import annotations

import datetime
import gc
import importlib.util
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import swa_fast

from . import CheckError, UserError, competitors
from .competitors import Group
from .workloads import Arena, Array, Workload, fill_random, require_memory

SCHEMA = 2
"""Raised when a reader of an older record would misread a newer one."""

COUNTS = (0, 1, 2, 3)
"""Updates that are checked: the exact copy, an exact weight (1/2), two rounded ones."""


def run(
    workloads: Sequence[Workload], peers: Sequence[str], seconds: float, device: str = "cpu"
) -> dict[str, Any]:
    """Run the benchmark with swa_fast's number of threads for all, and return the record.

    Args:
        workloads: the models.
        peers: the frameworks to compare with; those that are not installed are left out.
        seconds: for the timed rounds of one model.
        device: "cpu" or "cuda", where the tensors are torch's.

    Raises:
        UserError: it cannot be done on this machine; found before any work.
        CheckError: a fused result has not the bits of NumPy's.
    """
    present = [name for name in peers if is_installed(name)]
    for workload in workloads:
        require_memory(workload, present)
    if device == "cuda":
        _require_cuda()
    record = {
        "schema": SCHEMA,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "device": device,
        "threads": swa_fast.get_num_threads(),
        "seconds_per_model": seconds,
        "machine": machine(device),
        "swa_fast": dict(swa_fast.build_info()),
        "frameworks": {},
        "left_out": {name: "not installed" for name in peers if name not in present},
    }
    return {**record, "models": _measure(workloads, present, record)}


def is_installed(name: str) -> bool:
    """Return whether a package can be found; nothing is imported."""
    return importlib.util.find_spec(name) is not None


def machine(device: str = "cpu") -> dict[str, Any]:
    """Return what is measured on, as JSON types."""
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        names = [x for x in info.read_text("utf-8", "replace").splitlines() if "model name" in x]
        cpu = names[0].partition(": ")[2] if names else cpu
    found = {"cpu": cpu, "cores": os.cpu_count(), "os": platform.platform()}
    if hasattr(os, "sched_getaffinity"):
        found["cores"] = len(os.sched_getaffinity(0))
    if device == "cuda":
        found["gpu"] = swa_fast.build_info()["cuda"]["devices"][0]["name"]
    return {**found, "python": platform.python_version()}


def check(arena: Arena, groups: Sequence[Group], rng: np.random.Generator) -> int:
    """Compare fused updates with NumPy bit for bit, on fresh random values each.

    The first group makes one update for each of COUNTS; every other, which reaches the same kernels
    by another way, makes one more. The padding between the tensors is compared too.

    Returns:
        How many updates were compared.

    Raises:
        CheckError: an element differs; the message names the first.
    """
    expected = arena.averages_all.copy()
    plan = [(groups[0], count) for count in COUNTS]
    plan += [(group, len(COUNTS) + number) for number, group in enumerate(groups[1:])]
    for group, count in plan:
        label, update = next(iter(group.updates.items()))
        fill_random(arena.values_all, rng)
        weight = np.float32(1 / (count + 1))
        for average, value in zip(arena.split(expected), arena.values, strict=True):
            average[...] = value if count == 0 else average + (value - average) * weight
        group.load()
        update(count)
        group.store()
        if not np.array_equal(arena.averages_all.view(np.uint32), expected.view(np.uint32)):
            raise CheckError(
                f"the fused result of {arena.workload.name} ({label}, count={count}) is not "
                f"bit-identical to NumPy: {_first_difference(arena, expected)}"
            )
    return len(plan)


def _first_difference(arena: Arena, expected: Array) -> str:
    both = zip(arena.averages, arena.split(expected), strict=True)
    for number, (got, want) in enumerate(both):
        wrong = np.argwhere(got.view(np.uint32) != want.view(np.uint32))
        if len(wrong):
            at = tuple(map(int, wrong[0]))
            return (
                f"averages[{number}] of shape {got.shape} differs first at {at}, expected "
                f"{want[at]}, got {got[at]} ({len(wrong):,} of {got.size:,} elements differ)"
            )
    return "it wrote into the padding between two tensors"


def _require_cuda() -> None:
    cuda: Any = swa_fast.build_info()["cuda"]
    if not cuda["available"]:
        raise UserError(f"--device cuda cannot run: {cuda['reason']}")
    if not is_installed("torch") or not importlib.import_module("torch").cuda.is_available():
        raise UserError("--device cuda needs a torch that can use the GPU")


def _measure(
    workloads: Sequence[Workload], present: Sequence[str], record: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the `models` of a record, and enter into it which frameworks took part."""
    device, prepared, models = record["device"], [], []
    with tqdm(total=len(workloads), disable=None, leave=False) as bar:

        def imports(name: str) -> bool:
            if name in present and name not in {**record["frameworks"], **record["left_out"]}:
                bar.set_description(f"importing {name}")
                try:
                    version = competitors.prepare(name, record["threads"])
                    record["frameworks"][name] = version
                except Exception as error:  # a broken installation costs its rows, not the run
                    reason = f"{type(error).__name__}: {error}".splitlines()[0]
                    record["left_out"][name] = reason[:100]
            return name in record["frameworks"]

        # A tensor's Python object is small, and TensorFlow leaves a heap so full of gaps that
        # objects made after its import lie far apart: on models of many small tensors reading them
        # then costs more. So all lists are made before. Their memory is not touched yet.
        for workload in workloads:
            arena, groups = Arena(workload), list[Group]()
            if device == "cpu":
                groups.append(competitors.numpy_group(arena, imports("numpy")))
            if imports("torch"):
                groups += competitors.torch_groups(arena, device)
            prepared.append((arena, groups))
        while prepared:
            arena, groups = prepared.pop(0)
            bar.set_description(arena.workload.name)
            rng = np.random.default_rng(0)
            checked = check(arena.fill(rng), groups, rng)
            lingering: dict[str, competitors.Update] = {}
            if device == "cpu" and imports("tensorflow"):
                lingering = competitors.tensorflow_group(arena).updates
                groups[0].updates.update(lingering)
            share = record["seconds_per_model"] / len(groups)
            models.append(
                {
                    "model": arena.workload.name,
                    "tensors": len(arena.workload.shapes),
                    "elements": arena.workload.elements,
                    "updates_checked": checked,
                    "groups": [group.compare(share, lingering).to_json() for group in groups],
                }
            )
            del arena, groups, lingering  # before the next model takes its memory
            gc.collect()
            bar.update()
    return models
