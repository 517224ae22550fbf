"""Trainer in other processes: DDP and FSDP2 in two, by torchrun; and one that is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trainers.processes import HERE, environment, torchrun

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from swa_fast.transformers import AveragingCallback  # noqa: E402
from trainers.hf_models import AVERAGES, trainer, weight  # noqa: E402

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="torch was built without distributed gloo",
)


def test_trainer(tmp_path: Path) -> None:
    printed = torchrun("hf_worker.py", str(tmp_path), "ddp", "fsdp2")
    assert printed.count("ddp ok") == 2
    assert printed.count("fsdp2 ok") == 2


def test_a_killed_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    command = [sys.executable, str(HERE / "hf_worker.py"), str(tmp_path), "killed"]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == -9, done.stdout + done.stderr
    folder = tmp_path / "killed"
    assert not (folder / "checkpoint-6").exists()
    runs: dict[str, Any] = {}
    for name, where in {"whole": tmp_path / "whole", "resumed": folder}.items():
        callback = AveragingCallback(AVERAGES, eval_with="ema")
        made = trainer(where, [callback])
        made.train(resume_from_checkpoint=name == "resumed")
        runs[name] = callback.averager, weight(made.model)
    whole, resumed = runs["whole"], runs["resumed"]
    assert torch.equal(whole[1], resumed[1])
    assert whole[0].counts == resumed[0].counts == {"ema": 6, "mean": 4}
    for name in AVERAGES:
        pairs = zip(resumed[0].averages(name), whole[0].averages(name), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)
