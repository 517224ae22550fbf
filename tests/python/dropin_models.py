"""Models to average, and runs that change them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Tied(nn.Module):
    """Convolution, batch normalization and a buffer of its own; channels-last weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)
        self.register_buffer("scale", torch.ones(3))
        self.register_buffer("unsaved", torch.ones(2), persistent=False)

    def forward(self, images: Any) -> Any:
        return self.head(self.norm(self.conv(images)).mean((2, 3)))


def model(seed: int = 0, dtype: Any = None) -> Tied:
    torch.manual_seed(seed)
    made: Tied = Tied().to(dtype)
    return made


def train(trained: Any, step: int) -> None:
    """Changes all parameters and buffers, the integer ones too."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for tensor in (*trained.parameters(), *trained.buffers()):
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.add_(noise.to(tensor.dtype), alpha=0.1)
            else:
                tensor.add_(1)


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Compares two state dicts to float32 rounding."""
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        torch.testing.assert_close(
            ours[name], tensor, rtol=2e-6, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
