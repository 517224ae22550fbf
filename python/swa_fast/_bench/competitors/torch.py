"""Averaging in PyTorch on the CPU, on tensors that share the arena's memory."""

from __future__ import annotations

import importlib
from typing import Any

import swa_fast

from ..arena import Arena
from . import FUSED_TORCH, TORCH_DEFAULT, TORCH_FOREACH, Competitor

# Imported by name, so that the types here do not depend on what the type checker has installed.
torch: Any = importlib.import_module("torch")


def prepare(threads: int) -> str:
    """Give torch as many threads as swa_fast has and return its version."""
    torch.set_num_threads(threads)
    return str(torch.__version__)


def build(arena: Arena) -> list[Competitor]:
    """Return the fused call on torch tensors, the foreach call, and AveragedModel's default.

    `AveragedModel.update_parameters` on the CPU, with no averaging function given, goes tensor by
    tensor through the function that `get_swa_avg_fn` returns and copies the result back; that is
    what is timed, without the module's own bookkeeping.
    """
    fused = swa_fast.running_mean_
    averages = [torch.from_numpy(array) for array in arena.averages]
    values = [torch.from_numpy(array) for array in arena.values]
    expression = importlib.import_module("torch.optim.swa_utils").get_swa_avg_fn()

    def foreach(count: int) -> None:
        torch._foreach_lerp_(averages, values, 1 / (count + 1))

    def default(count: int) -> None:
        averaged = torch.tensor(count)
        for average, value in zip(averages, values, strict=True):
            average.copy_(expression(average, value, averaged))

    return [
        Competitor(
            FUSED_TORCH, lambda count: fused(averages, values, count), averages, FUSED_TORCH
        ),
        Competitor(TORCH_FOREACH, foreach, averages, FUSED_TORCH),
        Competitor(TORCH_DEFAULT, default, averages, FUSED_TORCH),
    ]
