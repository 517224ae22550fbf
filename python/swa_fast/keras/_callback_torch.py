"""Keras 3 on PyTorch as the callback sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ._callback_backend import KerasBackend


class TorchBackend(KerasBackend):
    """Keras 3 on PyTorch, whose values are torch tensors."""

    def hold(self, variables: Sequence[Any]) -> list[Any]:
        """Clones on the device."""
        return [variable.value.detach().clone() for variable in variables]

    def read(self, variables: Sequence[Any]) -> list[Any]:
        """Shares memory with the variables where they are on the CPU."""
        return [variable.value.detach().cpu().contiguous() for variable in variables]

    def forward(self, model: Any, inputs: Any) -> None:
        """Runs the model without a graph of gradients."""
        with torch.no_grad():
            model(inputs, training=True)

    def single_step_function(self, model: Any) -> Callable[..., Any]:
        """Leaves torch.compile out: the pass runs once, and the layers' hooks are plain Python."""
        compiled = model.jit_compile
        model.jit_compile = False
        try:
            return super().single_step_function(model)
        finally:
            model.jit_compile = compiled
