"""Tensors for the tests on a GPU, and their bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
SIZES = [0, 1, 3, 4, 5, 255, 1023, 1024, 1025, 4096, 4099, 70001]


def random_tensors(sizes: list[int], dtype: Any, seed: int) -> list[Any]:
    """Ordinary numbers, and in every tensor some that rounding can trip over."""
    generator = torch.Generator().manual_seed(seed)
    tensors = []
    for size in sizes:
        x = torch.randn(size, generator=generator, dtype=torch.float64)
        scale = torch.randint(-30, 16, (size,), generator=generator).double()
        x = x * torch.exp2(scale)
        odd = torch.tensor([0.0, -0.0, np.inf, -np.inf, np.nan, 65504.0, 65520.0, 6e-8, 1e-300])
        where = torch.rand(size, generator=generator) < 0.1
        x[where] = odd.double()[torch.randint(0, 9, (int(where.sum()),), generator=generator)]
        tensors.append(x.to(dtype))
    return tensors


def bits(tensor: Any) -> bytes:
    """The contents, with every NaN made the same: which NaN arithmetic makes differs by device."""
    host = tensor.detach().cpu().clone()
    if host.is_floating_point():
        host[torch.isnan(host)] = torch.nan
    return bytes(host.reshape(-1).view(torch.uint8).numpy().tobytes())


def assert_same_bits(got: list[Any], expected: list[Any]) -> None:
    for i, (g, e) in enumerate(zip(got, expected, strict=True)):
        assert g.dtype == e.dtype
        assert bits(g) == bits(e), f"tensor {i} of {tuple(e.shape)} differs"
