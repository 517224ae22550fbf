"""A whole snapshot of `swa_fast`'s optimizers for TensorFlow, against TF Addons' expression.

    python benchmarks/tensorflow_snapshots.py [--model NAME] [--seconds S] [--json FILE]

In eager code, in a `tf.function` and compiled by XLA, reading the variables included; ours and
theirs run in the same way. And in eager code, `fused=True` against our own way through XLA.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import swa_fast
from budgets import Finding, Verdict, at_least, main, many_small
from swa_fast.bench.competitors import PRIME_BELOW, prepare, quiet_stderr
from swa_fast.bench.timing import Ratio, compare
from swa_fast.bench.workloads import Arena, Workload

MODELS = ("mobilenet_v3_large", "bert_base")
"""The targets speak of these, and compiling takes longer than timing."""

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

OVER_OWN_XLA_MANY_SMALL = 1.5
OVER_OWN_XLA = 0.95
"""Least ratio of an eager snapshot by XLA to one with `fused=True`; memory binds large models."""

FUSED, BY_XLA = "swa_fast, fused=True", "swa_fast, by XLA"

_COUNT = 9
"""Snapshots already in the averages; any count above 0 costs the same."""


def measure(workload: Workload, seconds: float) -> Iterator[Finding]:
    """Time one snapshot in each of the three modes."""
    prepare("tensorflow", swa_fast.get_num_threads())
    tf: Any = importlib.import_module("tensorflow")
    arena = Arena(workload).fill(np.random.default_rng(0))
    with quiet_stderr(), tf.device("/CPU:0"):
        snapshots, _ = build(arena)
        for mode, (ours, theirs) in snapshots.items():
            calls = {f"swa_fast, {mode}": ours, f"TF Addons expression, {mode}": theirs}
            prime = workload.elements < PRIME_BELOW
            found = compare(calls, seconds / len(snapshots), prime=prime)
            verdict = judge(workload, mode, found.ratio(f"TF Addons expression, {mode}"))
            yield Finding(workload.name, f"a snapshot in TensorFlow, {mode}", found, [verdict])
        found = compare(build_fused(arena), seconds / len(snapshots), prime=prime)
        target = OVER_OWN_XLA_MANY_SMALL if many_small(workload) else OVER_OWN_XLA
        what = "TF snapshot, eager, fused=True against XLA"
        verdict = at_least(what, workload.name, found.ratio(BY_XLA), target)
        yield Finding(workload.name, "a snapshot in TensorFlow, fused=True", found, [verdict])


def build_fused(arena: Arena) -> dict[str, Callable[[], None]]:
    """Return an eager snapshot by either way, each with averages of its own."""
    tf: Any = importlib.import_module("tensorflow")
    averagers = importlib.import_module("swa_fast.tensorflow.averager")
    fused = importlib.import_module("swa_fast.tensorflow.fused")
    rule = importlib.import_module("swa_fast._keras.rules").Mean(start=0, period=1)
    values = [tf.Variable(array) for array in arena.values]
    averages = [tf.Variable(array) for array in arena.averages]
    memory = [fused.PrivateArray(array, array.dtype) for array in arena.averages]
    taken = fused.PrivateArray(_COUNT, tf.int64)
    ours = fused.FusedAverager(list(zip(values, memory, strict=True)), taken, None, rule)
    pairs = list(zip(values, averages, strict=True))
    theirs = averagers.TensorFlowAverager(pairs, tf.Variable(_COUNT, dtype=tf.int64), None, rule)
    smallest = min(averages, key=lambda average: int(tf.size(average)))

    def by_xla() -> None:
        theirs.after_step(_COUNT, _COUNT + 1)
        smallest.numpy()  # waits for the update, should it still be under way

    return {FUSED: lambda: ours.after_step(_COUNT, _COUNT + 1), BY_XLA: by_xla}


def judge(workload: Workload, mode: str, ratio: Ratio) -> Verdict:
    """Judge how many times faster we were in one of the three modes."""
    eager = OVER_EAGER_MANY_SMALL if many_small(workload) else OVER_EAGER
    target = {EAGER: eager, FUNCTION: OVER_FUNCTION, XLA: OVER_XLA}[mode]
    what = f"TF snapshot, {mode}, against TFA's expression"
    return at_least(what, workload.name, ratio, target)


def build(arena: Arena) -> tuple[dict[str, Pair], list[Any]]:
    """Return our snapshot and theirs, by mode, and the averages that all of them update.

    Each returns when it is done.
    """
    tf: Any = importlib.import_module("tensorflow")
    averager_class = importlib.import_module("swa_fast.tensorflow.averager").TensorFlowAverager
    rules = importlib.import_module("swa_fast._keras.rules")
    averages = [tf.Variable(array) for array in arena.averages]
    values = [tf.Variable(array) for array in arena.values]
    taken = tf.Variable(_COUNT, dtype=tf.int64)
    pairs = list(zip(values, averages, strict=True))
    averager = averager_class(pairs, taken, None, rules.Mean(start=0, period=1))
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


if __name__ == "__main__":
    main(__doc__, measure, MODELS)
