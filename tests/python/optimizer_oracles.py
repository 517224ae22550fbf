"""Oracles and small models shared by the tests of the SWA optimizers (framework passed in)."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np

HERE = pathlib.Path(__file__).parent
DATA = HERE.parent / "data"
GOLDEN = json.loads((DATA / "tfa_swa.json").read_text())


def golden_arrays() -> Any:
    return np.load(DATA / "tfa_swa.npz")


def ulps(a: Any, b: Any) -> int:
    """Largest distance between two float32 or float64 arrays, in units in the last place."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.dtype == b.dtype, (a.dtype, b.dtype)
    assert a.shape == b.shape, (a.shape, b.shape)
    assert np.isfinite(a).all()
    assert np.isfinite(b).all()
    if a.size == 0:
        return 0
    integer: Any = np.int32 if a.dtype == np.float32 else np.int64
    sign = np.iinfo(integer).min
    ordered = [
        np.where(bits < 0, sign - bits, bits).astype(object)
        for bits in (np.ascontiguousarray(x).reshape(-1).view(integer) for x in (a, b))
    ]
    return int(np.max(np.abs(ordered[0] - ordered[1])))


def due_steps(steps: int, start: int, period: int) -> list[int]:
    return [step for step in range(steps) if step >= start and (step - start) % period == 0]


def mean_of(snapshots: list[Any], dtype: Any = np.float32) -> Any:
    """The mean of snapshots as TFA's formula gives it, in NumPy; exact in float64 to a few ulp."""
    average = np.zeros_like(np.asarray(snapshots[0]), dtype)
    for n, snapshot in enumerate(snapshots):
        value = np.asarray(snapshot).astype(dtype)
        average = (average * dtype(n) + value) / dtype(n + 1) if n else value
    return average


def run_pytest(
    files: str, env: dict[str, str], *arguments: str, timeout: float = 500
) -> subprocess.CompletedProcess[str]:
    """Runs files of cases, given by a pattern, in a process of its own, with its environment."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--no-header"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "2", **env}
    return subprocess.run(
        [*command, *map(str, sorted((HERE / "keras_optimizer").glob(files))), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def check_run(result: subprocess.CompletedProcess[str], at_least: int) -> None:
    """Asserts that the cases ran, that enough of them did, and that all passed."""
    report = (result.stdout + result.stderr)[-6000:]
    assert result.returncode == 0, report
    last = result.stdout.strip().splitlines()[-1]
    assert "passed" in last, report
    assert "skipped" not in last, report
    assert int(last.split(" passed")[0].split()[-1]) >= at_least, report
