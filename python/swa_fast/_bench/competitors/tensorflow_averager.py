"""A whole snapshot of `swa_fast`'s optimizers for TensorFlow, against TF Addons' expression."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from ..arena import Arena
from ..budgets import Verdict
from ..quiet import quiet_stderr
from ..timing import Task, interleave, median_ratio
from ..workloads import Workload

tf: Any = importlib.import_module("tensorflow")

EAGER = "eager"
FUNCTION = "tf.function"
XLA = "jit_compile=True"

Pair = tuple[Callable[[], object], Callable[[], object]]
"""Our snapshot and theirs."""

OVER_EAGER = 3.0
OVER_EAGER_MANY_SMALL = 8.0
"""Least ratio in eager code."""

OVER_FUNCTION = 1.3
"""Least ratio where both run in a `tf.function`."""

OVER_XLA = 0.95
"""Least ratio where both are compiled by XLA: no slower, up to how much a program's time differs
from its own in another run."""

_COUNT = 9
"""Snapshots already in the averages; any count above 0 costs the same."""


def judge(arena: Arena, seconds: float, prime: bool) -> tuple[Verdict, ...]:
    """Time one snapshot in eager code, in a graph and under XLA, reading the variables included.

    Args:
        arena: its arrays are copied into TensorFlow's variables and not touched.
        seconds: for all timings together.
        prime: see `timing.interleave`.
    """
    tasks = []
    with quiet_stderr(), tf.device("/CPU:0"):
        snapshots, _ = build(arena)
        for mode, (ours, theirs) in snapshots.items():
            tasks += [Task(f"{mode}, ours", ours, every_round=True), Task(mode, theirs)]
        samples = interleave(tasks, seconds, prime=prime)
    ratios = {mode: median_ratio(samples[mode], samples[f"{mode}, ours"]) for mode in snapshots}
    return verdicts(arena.workload, ratios)


def verdicts(workload: Workload, ratios: Mapping[str, float]) -> tuple[Verdict, ...]:
    """Judge how many times faster we were in each of the three modes."""
    eager = OVER_EAGER_MANY_SMALL if workload.many_small else OVER_EAGER
    return tuple(
        Verdict(
            what=f"TF snapshot, {mode}, against TFA's expression",
            subject=workload.name,
            target=f">= {target:.2f}x",
            measured=f"{ratios[mode]:.2f}x",
            met=ratios[mode] >= target,
        )
        for mode, target in ((EAGER, eager), (FUNCTION, OVER_FUNCTION), (XLA, OVER_XLA))
    )


def build(arena: Arena) -> tuple[dict[str, Pair], list[Any]]:
    """Return our snapshot and theirs, by mode, and the averages that all of them update.

    Each returns when it is done.
    """
    averager_class = importlib.import_module("swa_fast.tensorflow._averager").TensorFlowAverager
    averages = [tf.Variable(array) for array in arena.averages]
    values = [tf.Variable(array) for array in arena.values]
    taken = tf.Variable(_COUNT, dtype=tf.int64)
    averager = averager_class(averages, values, taken, start=0, period=1)
    smallest = min(averages, key=lambda average: int(tf.size(average)))
    step, count = tf.constant(_COUNT, tf.int64), tf.constant(float(_COUNT))

    def ours(step: Any) -> None:
        averager.after_step(step, step + 1)

    def theirs(count: Any) -> None:
        for average, value in zip(averages, values, strict=True):
            average.assign((average * count + value) / (count + 1.0))

    def timed(function: Callable[[Any], object], argument: Any) -> Callable[[], None]:
        def run() -> None:
            function(argument)
            smallest.numpy()  # waits for the update, should it still be under way

        return run

    built: dict[str, Pair] = {EAGER: (timed(ours, _COUNT), timed(theirs, count))}
    for mode, compiled in ((FUNCTION, None), (XLA, True)):
        built[mode] = (
            timed(tf.function(ours, jit_compile=compiled, autograph=False), step),
            timed(tf.function(theirs, jit_compile=compiled, autograph=False), count),
        )
    return built, averages
