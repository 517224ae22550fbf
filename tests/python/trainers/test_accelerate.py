"""The recipe of docs/which_average.md for accelerate: averages in its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
accelerate = pytest.importorskip("accelerate")

from dropin_models import model, train  # noqa: E402
from swa_fast import Average  # noqa: E402
from swa_fast.torch import WeightAverager  # noqa: E402

AVERAGES = {"ema": Average(decay=0.9), "mean": Average(start=1)}


def prepared(seed: int) -> tuple[Any, Any, Any]:
    accelerator = accelerate.Accelerator(cpu=True)
    trained = accelerator.prepare(model(seed))
    averager = WeightAverager(trained, AVERAGES)
    accelerator.register_for_checkpointing(averager)
    return accelerator, trained, averager


def test_a_checkpoint_goes_on_bit_for_bit(tmp_path: Path) -> None:
    accelerator, trained, averager = prepared(0)
    for step in range(6):
        if step == 3:
            accelerator.save_state(str(tmp_path))
        train(trained, step)
        averager.update()
    accelerator, again, resumed = prepared(1)
    accelerator.load_state(str(tmp_path))
    assert resumed.step == 3
    for step in range(3, 6):
        train(again, step)
        resumed.update()
    assert resumed.counts == averager.counts == {"ema": 6, "mean": 5}
    for name in AVERAGES:
        assert all(map(torch.equal, resumed.averages(name), averager.averages(name)))
