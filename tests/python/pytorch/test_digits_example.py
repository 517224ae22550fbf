"""The torch example runs, and says what it computed."""

from __future__ import annotations

import pytest

from example_modules import load_example

pytest.importorskip("torch")
pytest.importorskip("sklearn")
import torch


def test_digits_prints_accuracies_and_times(capsys: pytest.CaptureFixture[str]) -> None:
    digits = load_example("digits_torch")
    threads = torch.get_num_threads()
    try:
        outcomes = digits.main(["--seeds", "2", "--epochs", "2"])
    finally:
        torch.set_num_threads(threads)
    out = capsys.readouterr().out
    for text in ("seed 1", "mean", "std deviation", "SWA: ", "EMA: ", "us per step"):
        assert text in out
    for outcome in outcomes:
        assert outcome.updates == {"SWA": 1, "EMA": outcome.steps}
        assert outcome.steps == 2 * 29  # 898 samples in batches of 32
        assert min(outcome.accuracy.values()) > 0.5  # guessing is right on a tenth
        assert min(outcome.update_seconds.values()) > 0
    with pytest.raises(SystemExit):
        digits.main(["--seeds", "0"])
