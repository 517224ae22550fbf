"""Whether a snapshot holds NaN or infinity: found on the host, or on the GPU without a wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from swa_fast import _core
from swa_fast.average import Average

# Averages whose counts the device can keep; native code has the same number.
_MOST_GATED = 64

_CHOICES = ("propagate", "skip")


def check_nonfinite(nonfinite: Any) -> str:
    """Returns the argument if it is one of the choices; raises ValueError if not."""
    if nonfinite not in _CHOICES:
        raise ValueError(f"nonfinite must be one of {_CHOICES}. Received: {nonfinite!r}")
    return str(nonfinite)


def all_finite(tensors: list[Any]) -> bool:
    """Tells whether every floating-point element of ``tensors`` is finite, in one pass.

    By native code on the CPU. By torch elsewhere, and of tensors that native code cannot read: the
    largest magnitude is NaN or infinite exactly if an element is; unlike a sum it cannot overflow.
    """
    by_device: dict[Any, list[Any]] = {}
    for tensor in tensors:
        if tensor.numel() > 0 and (tensor.is_floating_point() or tensor.is_complex()):
            by_device.setdefault(tensor.device, []).append(
                torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
            )
    for device, group in by_device.items():
        if device.type == "cpu":
            try:
                if _core.all_finite(group):
                    continue
                return False
            except (BufferError, TypeError):  # with gaps, or of a kind that is not dense
                pass
        norms = torch._foreach_norm(group, ord=float("inf"))
        largest = torch.stack([norm.to(torch.float64) for norm in norms])
        if not bool(torch.isfinite(largest).all()):
            return False
    return True


class Gate:
    """Counts of averages on a GPU, which leaves out snapshots and counts them by itself.

    Args:
        counts: the snapshots in each average so far.
        skipped: for each average, the snapshots left out.
        device: the GPU of the values and the averages.

    Attributes:
        words: what native code takes: int64 on the device; 0, the counts, and the numbers left out.
        is_ahead: whether something was queued since ``read``.
    """

    def __init__(self, counts: Sequence[int], skipped: Sequence[int], device: Any) -> None:
        """Copies the numbers to the device."""
        self.words = torch.tensor([0, *counts, *skipped], dtype=torch.int64, device=device)
        self.is_ahead = False

    def read(self) -> tuple[list[int], list[int]]:
        """Waits for the device, whatever its streams; returns the counts and those left out."""
        if self.words.is_cuda:
            torch.cuda.synchronize(self.words.device)
        numbers = self.words.tolist()[1:]
        self.is_ahead = False
        half = len(numbers) // 2
        return numbers[:half], numbers[half:]


def can_be_gated(averages: Sequence[Average]) -> bool:
    """Tells whether a device can take snapshots by itself: of means and of constant decays.

    Other schedules need the number of snapshots on the host. A decay of 1 keeps the first snapshot
    for ever; it is left to the host too.
    """
    return len(averages) <= _MOST_GATED and all(
        average.decay is None or (isinstance(average.decay, float) and average.decay < 1.0)
        for average in averages
    )


def gate_device(values: Sequence[Any]) -> Any:
    """Returns the one GPU that all the values are on, or None; none holds nothing at all."""
    devices = {value.device for value in values}
    device = devices.pop()
    is_one = device.type == "cuda" and not devices and any(value.numel() for value in values)
    return device if is_one else None
