"""Averaging in PyTorch on the CPU, on tensors that share the arena's memory."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

import swa_fast

from ..arena import Arena
from . import (
    FUSED_TORCH,
    MODEL_FUSED,
    MODEL_TORCH,
    MODEL_TORCH_MULTI,
    TORCH_DEFAULT,
    TORCH_FOREACH,
    Competitor,
)

# Imported by name, so that the types here do not depend on what the type checker has installed.
torch: Any = importlib.import_module("torch")


def prepare(threads: int) -> str:
    """Give torch as many threads as swa_fast has and return its version.

    A torch with CUDA imports triton when it first needs it; behind TensorFlow 2.21 that import ends
    the process. So it is made here, before TensorFlow comes.
    """
    with contextlib.suppress(ImportError):
        importlib.import_module("triton._C.libtriton")
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
        *_build_models(averages, values),
    ]


def module_of(tensors: list[Any]) -> Any:
    """Return a module whose parameters are `tensors`, in submodules as a real model has them.

    A tensor of two dimensions or more (a convolution, a matrix) starts a submodule, and no
    submodule has more than two parameters (weight and bias, scale and shift).
    """
    root = torch.nn.Module()
    part: Any = None
    held = 0
    for index, tensor in enumerate(tensors):
        if part is None or held == 2 or tensor.ndim > 1:
            part, held = torch.nn.Module(), 0
            root.add_module(f"part{index}", part)
        part.register_parameter(f"p{held}", torch.nn.Parameter(tensor))
        held += 1
    return root


def _build_models(averages: list[Any], values: list[Any]) -> list[Competitor]:
    """Return `AveragedModel.update_parameters` as a user calls it: ours, and torch's own two."""
    ours = importlib.import_module("swa_fast.torch")
    theirs = importlib.import_module("torch.optim.swa_utils")
    model = module_of(values)

    def competitor(key: str, make: Any, **options: Any) -> Competitor:
        averaged = make(model, **options)
        for parameter, average in zip(averaged.module.parameters(), averages, strict=True):
            parameter.data = average  # the memory that all competitors share

        def update(count: int) -> None:
            averaged.n_averaged.fill_(count)
            averaged.update_parameters(model)

        return Competitor(key, update, averages, MODEL_FUSED)

    multi = theirs.get_swa_multi_avg_fn()
    return [
        competitor(MODEL_FUSED, ours.AveragedModel),
        competitor(MODEL_TORCH, theirs.AveragedModel),
        competitor(MODEL_TORCH_MULTI, theirs.AveragedModel, multi_avg_fn=multi),
    ]
