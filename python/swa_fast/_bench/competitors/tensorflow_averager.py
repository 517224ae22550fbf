"""A whole snapshot of `swa_fast`'s optimizers for TensorFlow, against TF Addons' expression."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from ..arena import Arena
from ..budgets import Verdict
from ..quiet import quiet_stderr
from ..timing import Task, interleave, median_ratio

tf: Any = importlib.import_module("tensorflow")

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
    with quiet_stderr(), tf.device("/CPU:0"):
        pairs = {key: Pair(*snapshots) for key, snapshots in build(arena).items()}
        tasks = [
            task
            for key, pair in pairs.items()
            for task in (Task(f"{key} ours", pair.ours, every_round=True), Task(key, pair.theirs))
        ]
        samples = interleave(tasks, seconds, prime=prime)
    small = arena.workload.many_small
    targets = {
        "eager": OVER_EAGER_MANY_SMALL if small else OVER_EAGER,
        "tf.function": OVER_FUNCTION,
        "jit_compile=True": OVER_XLA,
    }
    verdicts = []
    for key, target in targets.items():
        ratio = median_ratio(samples[key], samples[f"{key} ours"])
        verdicts.append(
            Verdict(
                what=f"TF snapshot, {key}, against TFA's expression",
                subject=arena.workload.name,
                target=f">= {target:.2f}x",
                measured=f"{ratio:.2f}x",
                met=ratio >= target,
            )
        )
    return tuple(verdicts)


class Pair:
    """Two ways to take the same snapshot: ours and TF Addons'."""

    def __init__(self, ours: Callable[[], object], theirs: Callable[[], object]) -> None:
        self.ours = ours
        self.theirs = theirs


def build(arena: Arena) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Return our snapshot and theirs, by how they are run; all update the same averages.

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

    built = {"eager": (timed(ours, _COUNT), timed(theirs, count))}
    for key, compiled in (("tf.function", None), ("jit_compile=True", True)):
        built[key] = (
            timed(tf.function(ours, jit_compile=compiled, autograph=False), step),
            timed(tf.function(theirs, jit_compile=compiled, autograph=False), count),
        )
    return built
