"""How far tensors are from others, each pair by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from swa_fast import _core

from .sharding import local


def distances(averages: Sequence[Any], values: Sequence[Any]) -> list[float]:
    """Returns the norm of ``averages[i] - values[i]`` divided by that of ``values[i]``, for each i.

    Both norms are Euclidean and computed in float64: in CPU memory in one fused pass over all
    pairs, elsewhere by torch.

    Args:
        averages: floating-point or complex tensors; of shards, the local parts are taken.
        values: as many tensors of the same shapes.
    """
    pairs = [(local(a).detach(), local(v).detach()) for a, v in zip(averages, values, strict=True)]
    try:
        squares = _core.squared_distances([a for a, _ in pairs], [v for _, v in pairs])
    except (BufferError, TypeError, ValueError):  # another device, layout or type
        squares = [_squares(average, value) for average, value in pairs]
    return [_root_of_ratio(difference, value) for difference, value in squares]


def _squares(average: Any, value: Any) -> tuple[float, float]:
    wide = torch.complex128 if value.is_complex() else torch.float64
    there = value.to(wide)
    difference = average.to(there.device, wide) - there
    norms = torch.stack([torch.linalg.vector_norm(x) for x in (difference, there)]).tolist()
    return norms[0] ** 2, norms[1] ** 2


def _root_of_ratio(one: float, other: float) -> float:
    if other == 0.0:
        return float("nan") if one == 0.0 else float("inf")
    return float((one / other) ** 0.5)
