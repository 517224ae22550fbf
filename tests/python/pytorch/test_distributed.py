"""DDP, FSDP2 and torch.distributed.checkpoint: two processes on the CPU, started by torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
import torch

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="torch was built without distributed gloo",
)

WORKER = Path(__file__).with_name("distributed_worker.py")


def torchrun(processes: int, *arguments: str) -> str:
    """Runs the worker under torchrun and returns what it printed; fails with its output."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={processes}", str(WORKER), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "USE_LIBUV": "0"}
    search = [str(Path(__file__).parent.parent), *sys.path]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in search if path)
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What two ranks printed, and the checkpoint that they left."""
    path = tmp_path_factory.mktemp("checkpoints") / "two"
    return torchrun(2, "train", str(path)), path


@pytest.mark.parametrize(
    "check", ["ddp", "fsdp2", "half", "skip", "swap", "optimizer", "checkpoint", "save"]
)
def test_two_processes(first_run: tuple[str, Path], check: str) -> None:
    assert first_run[0].count(f"{check} ok") == 2


def test_a_state_goes_from_two_ranks_to_one_and_back(
    first_run: tuple[str, Path], tmp_path: Path
) -> None:
    one = torchrun(1, "load", str(first_run[1]), str(tmp_path / "one"))
    assert one.count("load ok") == 1
    two = torchrun(2, "load", str(tmp_path / "one"), str(tmp_path / "again"))
    assert two.count("load ok") == 2
