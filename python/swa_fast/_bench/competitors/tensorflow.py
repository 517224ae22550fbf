"""Averaging in TensorFlow on the CPU, as TensorFlow Addons' SWA optimizer does it."""

from __future__ import annotations

import contextlib
import importlib
import os
from typing import Any

from ..arena import Arena
from ..quiet import quiet_stderr
from . import TF_EAGER, TF_FUNCTION, TF_XLA, Competitor

# Read by TensorFlow when it is imported: errors only.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with quiet_stderr():
    # Imported by name, so that the types here do not depend on what the type checker has installed.
    tf: Any = importlib.import_module("tensorflow")


def prepare(threads: int) -> str:
    """Give TensorFlow as many threads as swa_fast has, no GPU, and return its version.

    In a process in which TensorFlow has run before, it keeps the threads that it has.
    """
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        tf.config.set_visible_devices([], "GPU")
    return str(tf.__version__)


def build(arena: Arena) -> list[Competitor]:
    """Return the average over all variables, eagerly, as a graph and compiled by XLA.

    TF Addons also selects between the new and the old average with `tf.where`, on whether a
    snapshot is due; leaving that out is in TensorFlow's favour.
    """
    with quiet_stderr(), tf.device("/CPU:0"):
        averages = [tf.Variable(array) for array in arena.averages]
        values = [tf.Variable(array) for array in arena.values]
        smallest = min(averages, key=lambda average: int(tf.size(average)))

    def snapshot(n: Any) -> None:
        for average, value in zip(averages, values, strict=True):
            average.assign((average * n + value) / (n + 1.0))

    graph = tf.function(snapshot)
    compiled = tf.function(snapshot, jit_compile=True)

    def timed(function: Any, count: int) -> None:
        with tf.device("/CPU:0"):
            function(tf.constant(float(count)))
        # Reading one small result back waits for the update, should it still be under way.
        smallest.numpy()

    return [
        Competitor(TF_EAGER, lambda count: timed(snapshot, count), averages),
        Competitor(TF_FUNCTION, lambda count: timed(graph, count), averages),
        Competitor(TF_XLA, lambda count: timed(compiled, count), averages),
    ]
