"""Cases that need a process of their own: another backend, legacy Keras, two devices."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest

from optimizer_oracles import check_run, run_pytest


class Process(NamedTuple):
    """Which cases run with which environment, what they need, and how many there are at least."""

    files: str
    environment: dict[str, str]
    needs: tuple[str, ...]
    at_least: int


_LEGACY = {"TF_USE_LEGACY_KERAS": "1"}
PROCESSES = {
    "legacy": Process("legacy_*_cases.py", _LEGACY, ("tf_keras",), 145),
    **{
        backend: Process("backend_*_cases.py", {"KERAS_BACKEND": backend}, ("keras", backend), 70)
        for backend in ("tensorflow", "torch", "jax")
    },
    "graph of TensorFlow 1": Process("graph_cases.py", _LEGACY, ("tf_keras",), 4),
    "two replicas": Process(
        "distribution_cases.py", {"TF_USE_LEGACY_KERAS": "0"}, ("tensorflow",), 10
    ),
    "two replicas, legacy": Process("distribution_cases.py", _LEGACY, ("tf_keras",), 10),
}
_AT_ONCE = 2
"""Processes that run side by side: most of their time goes into tracing, on one core."""

_SECONDS = 1200
"""Most that a process may take; three minutes are usual."""

Running = dict[str, "Future[subprocess.CompletedProcess[str]]"]


def _missing(name: str) -> list[str]:
    return [one for one in PROCESSES[name].needs if importlib.util.find_spec(one) is None]


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    """The processes of the tests that this session runs, as they come in."""
    cases: list[Any] = [item for item in request.session.items if hasattr(item, "callspec")]
    asked = {
        case.callspec.params.get("name") for case in cases if case.originalname == "test_process"
    }
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield {
            name: pool.submit(run_pytest, process.files, process.environment, timeout=_SECONDS)
            for name, process in PROCESSES.items()
            if name in asked and not _missing(name)
        }


@pytest.mark.timeout(2 * _SECONDS + 60)
@pytest.mark.parametrize("name", PROCESSES)
def test_process(name: str, running: Running) -> None:
    if missing := _missing(name):
        pytest.skip(f"{', '.join(missing)} is not installed")
    check_run(running[name].result(), PROCESSES[name].at_least)
