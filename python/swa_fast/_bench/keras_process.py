"""The rows of Keras, measured in a process of their own.

A Keras user's process holds one framework and one model. In the benchmark's, with four lists of
every model and what TensorFlow left of the heap, the same snapshot of many small variables takes a
quarter longer, ours and theirs by different amounts.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .budgets import Verdict
from .workloads import Workload

_TIMEOUT = 900.0
"""Seconds."""


def judge(
    selected: Sequence[Workload], seconds: float, step_seconds: float, threads: int
) -> list[Verdict]:
    """Measure the budgets of the callback and of the optimizer wrapper.

    Args:
        selected: models whose snapshots are timed.
        seconds: for the snapshots of each model, see `keras_callback.judge`.
        step_seconds: see `keras_optimizer.judge`.
        threads: for swa_fast and TensorFlow.

    Returns:
        The verdicts; if the process fails, one that says so.
    """
    request = {
        "workloads": [dataclasses.asdict(workload) for workload in selected],
        "seconds": seconds,
        "step_seconds": step_seconds,
        "threads": threads,
    }
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "verdicts.json")
        command = [sys.executable, "-m", __spec__.name, json.dumps(request), str(answer)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT, check=False)
            reason = f"the process ended with {done.returncode}"
        except subprocess.TimeoutExpired:
            reason = f"no answer in {_TIMEOUT:.0f} s"
        if answer.exists():
            return [Verdict(**verdict) for verdict in json.loads(answer.read_text("utf-8"))]
    return [Verdict("Keras callback and optimizer", "all", "measured", reason, None)]


def main(request: dict[str, Any], answer: Path) -> None:
    """Measure what `judge` asks for, and write the verdicts."""
    import swa_fast

    from . import keras_callback, keras_optimizer
    from .competitors import tensorflow

    swa_fast.set_num_threads(request["threads"])
    tensorflow.prepare(request["threads"])
    selected = [
        Workload(one["name"], one["source"], tuple(tuple(shape) for shape in one["shapes"]))
        for one in request["workloads"]
    ]
    verdicts = [
        *keras_callback.judge(selected, request["seconds"]),
        keras_optimizer.judge(request["step_seconds"]),
    ]
    text = json.dumps([dataclasses.asdict(verdict) for verdict in verdicts])
    answer.write_text(text, "utf-8")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))
