"""What does not fit: a tensor that cannot be read, or that is unlike its average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .sharding import local


def why_unreadable(tensor: Any) -> str | None:
    """Returns how a tensor that has no memory of its own came to it, or None if it has some."""
    if tensor.layout != torch.strided:
        return f"has layout {tensor.layout}; only strided tensors can be averaged"
    if tensor.device.type == "meta":
        return "is on the meta device and has no values to average"
    return None


def describe_mismatch(
    labels: Sequence[str],
    averages: Sequence[Any],
    values: Sequence[Any],
    *,
    any_device: bool = False,
    same_dtype: bool = False,
) -> str | None:
    """Returns a sentence that names the first tensor that does not fit its average, or None.

    Args:
        labels: one for each average, "parameter '0.weight'".
        averages: what the averager holds.
        values: what was given to it.
        any_device: whether the two may lie on different devices.
        same_dtype: whether the two must have the same dtype.
    """
    for label, average, value in zip(labels, averages, values, strict=False):
        why = why_unreadable(local(value))
        if why is not None:
            return f"{label} {why}"
        for what, has, expected in (
            ("type", _sharding(value), _sharding(average)),
            ("shape", tuple(value.shape), tuple(average.shape)),
            ("local shape", local_shape(value), local_shape(average)),
            ("device", value.device, average.device),
            ("dtype", value.dtype, average.dtype),
        ):
            skipped = (what == "device" and any_device) or (what == "dtype" and not same_dtype)
            if has != expected and not skipped:
                return f"{label} has {what} {has}, its average has {what} {expected}"
    if len(values) > len(labels):
        last = f" ({labels[-1].split(' ', 1)[1]} is last)" if labels else ""
        return f"there are {len(values)} tensors for {len(labels)} averages{last}"
    if len(values) < len(labels):
        missing = labels[len(values)].split(" ", 1)[1]
        return f"there are {len(values)} tensors for {len(labels)} averages ({missing} is missing)"
    return None


def _sharding(tensor: Any) -> str:
    placements = getattr(tensor, "placements", None)
    return "plain tensor" if placements is None else f"DTensor {tuple(placements)}"


def local_shape(tensor: Any) -> tuple[int, ...]:
    """Returns the shape of what this process holds of ``tensor``."""
    return tuple(local(tensor).shape)
