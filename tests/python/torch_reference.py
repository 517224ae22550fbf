"""Models and oracles that the torch tests share."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn


def make_net(seed: int = 0) -> Any:
    """A small convnet with BatchNorm: float parameters, float buffers and integer buffers."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    )


def perturb(module: Any, generator: Any) -> None:
    """Moves every parameter and floating buffer at random, and every integer buffer by one."""
    with torch.no_grad():
        for tensor in itertools.chain(module.parameters(), module.buffers()):
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float32)
                tensor.add_(noise.to(tensor.dtype))
            else:
                tensor.add_(1)


def snapshots(module: Any, number: int, seed: int = 1) -> Iterable[int]:
    """Perturbs ``module`` ``number`` times and yields the index after each."""
    generator = torch.Generator().manual_seed(seed)
    for index in range(number):
        perturb(module, generator)
        yield index


def bits(tensor: Any) -> bytes:
    """The elements of a tensor as bytes: equal bits, not equal values."""
    flat = tensor.detach().contiguous().view(-1)
    return bytes(flat.view(torch.uint8).numpy().tobytes())


def all_bits(tensors: Iterable[Any]) -> list[bytes]:
    """``bits`` of each tensor."""
    return [bits(tensor) for tensor in tensors]


def contract_mean(values: Sequence[Any]) -> Any:
    """The running mean as the arithmetic contract has it: ``a + (v - a) * w`` in float32."""
    average = np.array(values[0], dtype=np.float32)
    for count, value in enumerate(values[1:], start=1):
        weight = np.float32(1 / (count + 1))
        average = average + (np.asarray(value, dtype=np.float32) - average) * weight
    return average


def contract_ema(values: Sequence[Any], decay: float) -> Any:
    """The exponential average as the arithmetic contract has it, in float32."""
    average = np.array(values[0], dtype=np.float32)
    for value in values[1:]:
        weight = np.float32(1.0 - decay)
        average = average + (np.asarray(value, dtype=np.float32) - average) * weight
    return average
