"""Post-hoc EMA against averages that were kept: the error is the one that the theory predicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from checkpoint_tools import read_safetensors  # noqa: E402
from swa_fast import Average, decays  # noqa: E402
from swa_fast.checkpoints import CheckpointError, coefficients, reconstruct  # noqa: E402
from swa_fast.torch import WeightAverager  # noqa: E402

STEPS, SNAPSHOTS, SIZE = 2000, 32, 20_000
WIDTHS = (0.05, 0.06, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25)
TRACKS = (0.05, 0.1)
TAKEN = [round(STEPS * (k + 1) / SNAPSHOTS) for k in range(SNAPSHOTS)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[float, Any]]:
    """A folder of snapshots, and the true averages of every width, in float64 by their weights.

    The weights of each step are independent noise, in which the error of an average is the error
    of its profile: nothing of it cancels, as it would in weights that move slowly.
    """
    folder = tmp_path_factory.mktemp("post_hoc") / "snapshots"
    weights = torch.nn.Parameter(torch.zeros(SIZE))
    tracks = {f"{width}": Average(decay=decays.power(sigma_rel=width)) for width in TRACKS}
    averager = WeightAverager([("w", weights)], tracks)
    shares = {width: _shares(width) for width in WIDTHS}
    true = {width: np.zeros(SIZE) for width in WIDTHS}
    generator = torch.Generator().manual_seed(0)
    for step in range(1, STEPS + 1):
        with torch.no_grad():
            weights.normal_(generator=generator)
        averager.update()
        value = weights.detach().numpy().astype(np.float64)
        for width in WIDTHS:
            if shares[width][step - 1] > 1e-12:  # less than float64 keeps of the whole
                true[width] += shares[width][step - 1] * value
        if step in TAKEN:
            averager.write_snapshot(folder)
    averager.wait_for_snapshots()
    return folder, true


def _shares(width: float) -> Any:
    """The share of each step: (t / T) ** (gamma + 1) from one step to the next."""
    gamma = decays.power(sigma_rel=width).gamma
    return np.diff((np.arange(STEPS + 1) / STEPS) ** (gamma + 1))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_error_is_that_of_the_profile(
    run: tuple[Path, dict[float, Any]], tmp_path: Path, width: float
) -> None:
    folder, true = run
    assert len(list(folder.iterdir())) == SNAPSHOTS * len(TRACKS)
    reconstruct(folder, width, tmp_path / "made.safetensors")
    made = read_safetensors(tmp_path / "made.safetensors")[0]["w"].astype(np.float64)
    error = float(np.linalg.norm(made - true[width]) / np.linalg.norm(true[width]))
    theory = coefficients.power([(t, s) for t in TAKEN for s in TRACKS], width).error
    # Independent noise shows the profile's error to one part in sqrt(2 * SIZE), 0.5 %; the averages
    # of the tracks are float32.
    assert error == pytest.approx(theory, rel=0.03, abs=1e-6)
    limits = {0.05: 1e-6, 0.1: 1e-6, 0.06: 1e-3, 0.075: 1e-3, 0.125: 1.2e-3, 0.15: 2.5e-3}
    assert theory <= limits.get(width, {0.2: 6.5e-3, 0.25: 3.5e-2}.get(width, 0.0))


def test_the_run_may_be_cut_off(run: tuple[Path, dict[float, Any]], tmp_path: Path) -> None:
    folder, _ = run
    report = reconstruct(folder, 0.075, tmp_path / "made.safetensors", step=STEPS // 2)
    assert len(report.inputs) == SNAPSHOTS
    assert sum(item.coefficient for item in report.inputs) == pytest.approx(1)


def test_the_plot(run: tuple[Path, dict[float, Any]], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder, _ = run
    reconstruct(folder, 0.15, tmp_path / "made.safetensors", plot=tmp_path / "made.svg")
    assert "</svg>" in (tmp_path / "made.svg").read_text(encoding="utf-8")


def test_the_snapshots_say_what_they_are(run: tuple[Path, dict[float, Any]]) -> None:
    for file in run[0].iterdir():
        metadata = read_safetensors(file)[1]
        assert float(metadata["sigma_rel"]) in TRACKS
        assert int(metadata["step"]) in TAKEN
        assert json.loads(metadata["average"])["decay"]


@pytest.mark.parametrize("width", [0.0, -0.1, 0.3, float("nan")])
def test_a_width_out_of_range_writes_nothing(
    run: tuple[Path, dict[float, Any]], tmp_path: Path, width: float
) -> None:
    with pytest.raises(CheckpointError, match="sigma_rel must be > 0 and <= 1 / sqrt"):
        reconstruct(run[0], width, tmp_path / "made.safetensors", plot=tmp_path / "made.svg")
    assert not list(tmp_path.iterdir())
