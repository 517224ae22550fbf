"""Parameters that DeepSpeed's ZeRO-3 has sharded are refused by every drop-in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from swa_fast.diffusers import EMAModel  # noqa: E402
from swa_fast.ema_pytorch import EMA  # noqa: E402
from swa_fast.timm import ModelEmaV3  # noqa: E402

MAKERS: dict[str, Callable[[Any], Any]] = {
    "timm": ModelEmaV3,
    "diffusers": lambda model: EMAModel(model.parameters()),
    "ema_pytorch": EMA,
}


@pytest.mark.parametrize("maker", MAKERS)
def test_refused(maker: str) -> None:
    model = torch.nn.Linear(2, 2)
    model.bias.ds_id = 1  # as DeepSpeed marks it
    with pytest.raises(
        ValueError, match=r"(parameter 'bias'|parameters\[1\]) is sharded by DeepSpeed ZeRO-3"
    ):
        MAKERS[maker](model)
