"""Every check of `checks/`, on each Keras and backend, one process for each."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
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
_RESULTS: dict[str, dict[str, Any]] = {}


def _run(target: str, directory: Path) -> dict[str, Any]:
    out = directory / f"{target}.json"
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    run = subprocess.run(
        [sys.executable, str(HERE / "checks" / "runner.py"), target, str(out)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=550,
        cwd=directory,
    )
    assert out.exists(), run.stdout[-3000:] + run.stderr[-5000:]
    return dict(json.loads(out.read_text()))


@pytest.mark.parametrize(("target", "name"), CASES)
def test_check(target: str, name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    for package in NEEDS[target]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    if target not in _RESULTS:
        _RESULTS[target] = _run(target, tmp_path_factory.mktemp(target))
    failure = _RESULTS[target][name]
    assert failure is None, failure
