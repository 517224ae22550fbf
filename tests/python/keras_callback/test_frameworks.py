"""Every check of `checks/`, on each Keras and backend, one process for each target."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import checks  # noqa: E402

checks.load()

NEEDS = {
    "tensorflow": ("keras", "tensorflow"),
    "torch": ("keras", "torch"),
    "jax": ("keras", "jax"),
    "tf_keras": ("tf_keras", "tensorflow"),
}
CASES = [
    pytest.param(target, name, id=f"{target}-{name}")
    for target in NEEDS
    for name, (targets, _) in checks.CHECKS.items()
    if target in targets
]
_AT_ONCE = 2
"""Processes that run side by side: most of their time goes into tracing, on one core."""

_SECONDS = 1200
"""Most that a process may take; two minutes are usual, a machine in use by others takes longer."""


def _run(target: str, directory: Path) -> dict[str, Any]:
    out = directory / f"{target}.json"
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    run = subprocess.run(
        [sys.executable, str(HERE / "checks" / "runner.py"), target, str(out)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        cwd=directory,
    )
    assert out.exists(), run.stdout[-3000:] + run.stderr[-5000:]
    return dict(json.loads(out.read_text()))


@pytest.fixture(scope="session")
def results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[dict[str, Any]]]]:
    """The outcomes of every check of each target that this session tests, as they come in."""
    cases: list[Any] = [item for item in request.session.items if hasattr(item, "callspec")]
    asked = {
        case.callspec.params.get("target") for case in cases if case.originalname == "test_check"
    }
    with ThreadPoolExecutor(_AT_ONCE) as processes:
        yield {
            target: processes.submit(_run, target, tmp_path_factory.mktemp(target))
            for target in NEEDS
            if target in asked and not _missing(target)
        }


def _missing(target: str, check: str = "") -> list[str]:
    needs: tuple[str, ...] = NEEDS[target]
    if check.startswith("examples."):
        needs = (*needs, "sklearn")
    return [name for name in needs if importlib.util.find_spec(name) is None]


@pytest.mark.timeout(2 * _SECONDS + 60)
@pytest.mark.parametrize(("target", "name"), CASES)
def test_check(target: str, name: str, results: dict[str, Future[dict[str, Any]]]) -> None:
    if missing := _missing(target, name):
        pytest.skip(f"{', '.join(missing)} is not installed")
    failure = results[target].result()[name]
    assert failure is None, failure
