"""Lightning with FSDP2: two processes on the CPU, by torchrun."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainers.processes import torchrun

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="torch was built without distributed gloo",
)


def test_lightning_shards(tmp_path: Path) -> None:
    printed = torchrun("lightning_worker.py", str(tmp_path))
    assert printed.count("lightning shards ok") == 2
    assert printed.count("lightning whole ok") == 2
