"""What averages cost in a compiled TensorFlow step: as mere variables, not due, and due.

    python benchmarks/tf_variables_in_a_step.py [VARIABLES SIZE SECONDS]

Steps that update VARIABLES variables of SIZE x SIZE, compiled by XLA and called from a graph as
`fit` does, take turns: without averages, with as many more variables that are only read, with an
averager whose snapshot is not due (as it is, and under `tf.cond`), and with one in every step.
Prints microseconds per average. The numbers in docs/tensorflow_internals.md are from 122 x 32 and
5 x 2048.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf

from swa_fast._keras.rules import Mean
from swa_fast.bench.timing import compare
from swa_fast.tensorflow import averager as averagers

KINDS = ("none", "none again", "read", "not due", "not due, tf.cond", "every step")
NEVER = 10**9


def under_cond(due: Any, take: Callable[[], object]) -> None:
    """Runs `take` if due, as `run_if` does outside XLA."""

    def branch() -> Any:
        take()
        return tf.no_op()

    tf.cond(due, branch, tf.no_op)


def make_step(kind: str, count: int, size: int) -> Callable[[], object]:
    """Returns a function that makes one step and waits for it."""
    values = [tf.Variable(tf.random.normal((size, size))) for _ in range(count)]
    averages = [tf.Variable(tf.random.normal((size, size))) for _ in range(count)]
    taken, steps = tf.Variable(0, dtype=tf.int64), tf.Variable(0, dtype=tf.int64)
    start = 0 if kind == "every step" else NEVER
    pairs = list(zip(values, averages, strict=True))
    averager = averagers.TensorFlowAverager(pairs, taken, None, Mean(start, 1))

    @tf.function(jit_compile=True, autograph=False)
    def step() -> Any:
        before = steps.read_value()
        for value in values:
            value.assign_sub(0.1 * value)
        steps.assign_add(1)
        if kind == "read":
            taken.assign(tf.cast(tf.add_n([average[0, 0] for average in averages]), tf.int64))
        elif not kind.startswith("none"):
            averager.after_step(before, steps.read_value())
        return tf.constant(0)

    run_if = under_cond if kind.endswith("tf.cond") else averagers.run_if
    with mock.patch.object(averagers, "run_if", run_if):
        outer = tf.function(lambda: step(), autograph=False).get_concrete_function()
    return lambda: outer().numpy()


def main(count: int, size: int, seconds: float) -> None:
    """Measures and prints."""
    found = compare({kind: make_step(kind, count, size) for kind in KINDS}, seconds)
    bare = found.seconds["none"]
    for kind in KINDS:
        timed = found.seconds[kind]
        extra = statistics.median(timed[number] - bare[number] for number in timed) / count
        print(f"{kind:18} {1e3 * found.median(kind):8.3f} ms  {1e6 * extra:8.1f} us per average")


if __name__ == "__main__":
    given = sys.argv[1:] or ["122", "32", "10"]
    main(int(given[0]), int(given[1]), float(given[2]))
