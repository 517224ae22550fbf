"""keras-swa's two README examples and the digits example run, and compute what they say."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"
SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import make_blobs_constant, make_blobs_cyclic, digits_keras_callback

model, constant = make_blobs_constant.main(verbose=0)
model, cyclic = make_blobs_cyclic.main(verbose=0)
layer = model.layers[1]
result = {
    "constant": constant["lr"],
    "cyclic": cyclic["lr"],
    "losses": [constant["loss"][-1], cyclic["loss"][-1]],
    "momentum": layer.momentum,
    "mean": np.abs(np.asarray(layer.moving_mean)).max().item(),
    "digits": digits_keras_callback.main(seeds=1, epochs=6),
}
print("RESULT" + json.dumps(result))
"""


def test_the_examples() -> None:
    for package in ("keras", "tensorflow", "sklearn"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(EXAMPLES)],
        env={**os.environ, "KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    result = json.loads(run.stdout.split("RESULT")[1])
    constant, cyclic = result["constant"], result["cyclic"]
    assert len(constant) == 100
    assert constant[:38] == pytest.approx([0.1] * 38, rel=1e-6)
    assert constant[67:] == pytest.approx([0.01] * 33, rel=1e-6)
    assert len(cyclic) == 100 * 32
    assert cyclic[74 * 32 + 3 * 32 - 1] == pytest.approx(0.001)
    assert max(cyclic[74 * 32 :]) < 0.003
    assert cyclic[-32:] == [0] * 32
    assert all(0 < loss < 0.6 for loss in result["losses"])  # guessing: log 3 = 1.1
    assert result["momentum"] == 0.99
    assert result["mean"] > 0.1
    assert all(0.5 < accuracy <= 1 for pair in result["digits"] for accuracy in pair)
