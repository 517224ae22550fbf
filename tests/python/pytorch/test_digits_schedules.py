"""The example of several averages and post-hoc EMA runs, and what it makes is what it kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from example_modules import load_example

pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
import torch


def test_it_compares_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = load_example("digits_schedules")
    threads = torch.get_num_threads()
    try:
        (outcome,) = example.main(
            ["--seeds", "1", "--epochs", "3", "--plot", str(tmp_path / "plot.svg")]
        )
    finally:
        torch.set_num_threads(threads)
    assert list(outcome.accuracy) == [
        "last iterate",
        "mean",
        "constant 0.99",
        "warm-up 0.999",
        "power 0.075",
        "power 0.15",
        "made power 0.075",
        "made power 0.15",
    ]
    assert min(outcome.accuracy.values()) > 0.5  # guessing is right on a tenth
    # The profile's errors bound the distances: the weights move slowly.
    assert outcome.distance["power 0.075"] < 9e-4
    assert outcome.distance["power 0.15"] < 2.3e-3
    for width in example.WIDTHS:
        made = outcome.accuracy[f"made {width}"]
        assert made == pytest.approx(outcome.accuracy[width], abs=2 / 898)
    assert "deviation" in capsys.readouterr().out
    assert "</svg>" in (tmp_path / "plot.svg").read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        example.main(["--epochs", "1"])
