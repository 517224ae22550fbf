"""Whether a snapshot holds NaN or infinity."""

from __future__ import annotations

from typing import Any

import torch

_CHOICES = ("propagate", "skip")


def check_nonfinite(nonfinite: Any) -> str:
    """Returns the argument if it is one of the choices; raises ValueError if not."""
    if nonfinite not in _CHOICES:
        raise ValueError(f"nonfinite must be one of {_CHOICES}. Received: {nonfinite!r}")
    return str(nonfinite)


def all_finite(tensors: list[Any]) -> bool:
    """Tells whether every floating-point element of ``tensors`` is finite, in one pass.

    The largest magnitude is NaN or infinite exactly if an element is; unlike a sum it cannot
    overflow.
    """
    by_device: dict[Any, list[Any]] = {}
    for tensor in tensors:
        if tensor.numel() > 0 and (tensor.is_floating_point() or tensor.is_complex()):
            by_device.setdefault(tensor.device, []).append(
                torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
            )
    for group in by_device.values():
        norms = torch._foreach_norm(group, ord=float("inf"))
        largest = torch.stack([norm.to(torch.float64) for norm in norms])
        if not bool(torch.isfinite(largest).all()):
            return False
    return True
