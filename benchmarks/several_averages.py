"""K averages of a model in one pass, against K passes.

    python benchmarks/several_averages.py [--model NAME] [--seconds S] [--json FILE]

The bytes say how much there is to gain: a float32 value and K float32 averages move 4 + 8 K bytes
per element in one pass and 12 K in K passes, 1.20 times as many for K = 2 and 1.29 for K = 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import swa_fast
from budgets import Finding, Verdict, at_least, main
from swa_fast.bench.competitors import PRIME_BELOW
from swa_fast.bench.timing import compare
from swa_fast.bench.workloads import Arena, Workload

LARGE = 20_000_000
"""Elements from which on memory binds, and the budgets hold."""

BUDGETS = {2: 1.10, 3: 1.20}
"""Least ratio of K calls to one pass, by K."""


def measure(workload: Workload, seconds: float) -> Iterator[Finding]:
    """Time exponential averages of NumPy arrays."""
    values = list(Arena(workload).fill(np.random.default_rng(0)).values)
    for k, budget in BUDGETS.items():
        described = {f"ema {i}": swa_fast.Average(decay=0.9 + 0.01 * i) for i in range(k)}
        averager = swa_fast.Averager(values, described)
        averager.update()
        apart = [[value.copy() for value in values] for _ in range(k)]

        def one_by_one(lists: list[list[Any]] = apart) -> None:
            for index, averages in enumerate(lists):
                swa_fast.lerp_(averages, values, 0.1 - 0.01 * index)

        one_pass, passes = f"{k} averages in one pass", f"{k} calls"
        calls: dict[str, Callable[[], object]] = {one_pass: averager.update, passes: one_by_one}
        found = compare(calls, seconds / len(BUDGETS), prime=workload.elements < PRIME_BELOW)
        verdicts: list[Verdict] = []
        if workload.elements >= LARGE:
            what = f"{passes} against one pass"
            verdicts = [at_least(what, workload.name, found.ratio(passes), budget)]
        yield Finding(workload.name, f"{k} averages at once", found, verdicts)


if __name__ == "__main__":
    main(__doc__, measure)
