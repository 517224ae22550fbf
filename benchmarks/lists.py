"""Lists of tensors: the fused call against one flat buffer of as many elements, and against others.

    python benchmarks/lists.py [--model NAME] [--seconds S] [--json FILE]

The ceiling of a list is the same kernel on one flat buffer: 12 bytes move per element, and no list
can save any of them. What `swa-fast bench` compares is compared here again, with the flat buffer
and with the tensor-by-tensor expression that torch's `AveragedModel` uses when it is given no
averaging function (without the module's own bookkeeping).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import swa_fast
from budgets import Finding, Verdict, at_least, main
from swa_fast.bench import competitors
from swa_fast.bench.budgets import target
from swa_fast.bench.run import is_installed
from swa_fast.bench.timing import Comparison
from swa_fast.bench.workloads import Arena, Workload

FLAT = "swa_fast, one flat buffer"
DEFAULT = "torch AveragedModel, default expression"

SHARE_OF_FLAT = 0.95
"""Least share of the flat buffer's throughput that a real model's list reaches."""

NAMES = {
    "NumPy, a += (p - a) * w": "against NumPy",
    "torch._foreach_lerp_": "against torch._foreach_lerp_",
    "torch AveragedModel": "AveragedModel against torch's",
    "torch AveragedModel, multi_avg_fn": "AveragedModel against multi_avg_fn",
}
"""Label of a competitor of `swa-fast bench`, and what its budget is called in the table."""


def measure(workload: Workload, seconds: float) -> Iterator[Finding]:
    """Compare all ways on the CPU, group by group."""
    arena = Arena(workload).fill(np.random.default_rng(0))
    groups = [("NumPy list", competitors.numpy_group(arena))]
    if is_installed("torch"):
        competitors.prepare("torch", swa_fast.get_num_threads())
        lists, modules = competitors.torch_groups(arena)
        lists.updates[DEFAULT] = default_expression(arena)
        groups += [("torch list", lists), ("AveragedModel", modules)]
    for name, group in groups:
        group.updates[FLAT] = flat(arena)
        found = group.compare(seconds / len(groups))
        yield Finding(workload.name, name, found, verdicts(workload, name, found))


def verdicts(workload: Workload, name: str, found: Comparison) -> list[Verdict]:
    """Judge a group: its share of the flat buffer, if it is a list, and its competitors."""
    judged = []
    if name != "AveragedModel":
        share = found.ratio(FLAT)
        judged.append(
            at_least(f"{name} against one flat buffer", workload.name, share, SHARE_OF_FLAT)
        )
    for label in found.seconds:
        least = target(label, len(workload.shapes), workload.elements)
        if least is not None:
            judged.append(at_least(NAMES[label], workload.name, found.ratio(label), least))
    return judged


def flat(arena: Arena) -> Callable[[int], object]:
    """Return the fused call on one flat buffer, in the memory of the lists."""
    elements = arena.workload.elements
    averages, values = [arena.averages_all[:elements]], [arena.values_all[:elements]]
    return lambda count: swa_fast.running_mean_(averages, values, count)


def default_expression(arena: Arena) -> Callable[[int], object]:
    """Return the update of `AveragedModel` with default arguments on the CPU, tensor by tensor."""
    torch: Any = importlib.import_module("torch")
    expression = importlib.import_module("torch.optim.swa_utils").get_swa_avg_fn()
    averages, values = ([torch.from_numpy(a) for a in x] for x in (arena.averages, arena.values))

    def update(count: int) -> None:
        averaged = torch.tensor(count)
        for average, value in zip(averages, values, strict=True):
            average.copy_(expression(average, value, averaged))

    return update


if __name__ == "__main__":
    main(__doc__, measure)
