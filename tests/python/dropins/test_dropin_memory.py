"""Beside the averages the drop-ins keep no second copy of the model."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from swa_fast.diffusers import EMAModel  # noqa: E402
from swa_fast.ema_pytorch import EMA  # noqa: E402
from swa_fast.timm import ModelEmaV3  # noqa: E402


def timm(model: Any, shown: bool) -> Any:
    ema = ModelEmaV3(model)
    for _ in range(2):
        ema.update(model)
    return ema, ema.module if shown else None


def diffusers(model: Any, shown: bool) -> Any:
    ema = EMAModel(model.parameters())
    for _ in range(2):
        ema.step(model.parameters())
    return ema, ema.shadow_params if shown else None


def ema_pytorch(model: Any, shown: bool) -> Any:
    ema = EMA(model, update_after_step=0, update_every=1)
    for _ in range(2):
        ema.update()
    return ema, ema.ema_model if shown else None


def bytes_of_tensors() -> int:
    gc.collect()
    storages = {}
    for found in gc.get_objects():
        if issubclass(type(found), torch.Tensor):  # no look at what a proxy pretends to be
            storage = found.untyped_storage()
            with contextlib.suppress(RuntimeError):  # of a compiler's tensor without memory
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@pytest.mark.parametrize("shown", [False, True])
@pytest.mark.parametrize("run", [timm, diffusers, ema_pytorch])
def test_one_copy(run: Callable[[Any, bool], Any], shown: bool) -> None:
    model = torch.nn.Sequential(*(torch.nn.Linear(256, 256) for _ in range(8)))
    size = sum(tensor.nbytes for tensor in model.parameters())
    before = bytes_of_tensors()
    kept = run(model, shown)
    assert kept
    assert size <= bytes_of_tensors() - before <= 1.01 * size
