"""Sharded tensors: every rank averages the shard that it holds."""

from __future__ import annotations

import sys
from typing import Any

import torch


def _dtensor_type() -> Any:
    # A DTensor can exist only if the module that defines it was imported; importing it is slow.
    for name in ("torch.distributed.tensor", "torch.distributed._tensor"):
        module = sys.modules.get(name)
        if module is not None and hasattr(module, "DTensor"):
            return module.DTensor
    return None


def is_sharded(tensor: Any) -> bool:
    """Tells whether ``tensor`` is a DTensor, whatever its placements are."""
    kind = _dtensor_type()
    return kind is not None and isinstance(tensor, kind)


def local(tensor: Any) -> Any:
    """Returns the shard of a DTensor that this rank holds (a view), any other tensor as it is."""
    if not is_sharded(tensor):
        return tensor
    with torch.no_grad():
        return tensor.to_local()


def local_all(tensors: list[Any]) -> list[Any]:
    """Returns ``local`` of each tensor; quick where none is sharded."""
    kind = _dtensor_type()
    if kind is None or not any(isinstance(tensor, kind) for tensor in tensors):
        return tensors
    return [local(tensor) for tensor in tensors]


def like_shard(part: Any, tensor: Any) -> Any:
    """Returns a DTensor placed as ``tensor``, whose local part on this rank is ``part``."""
    with torch.no_grad():
        return type(tensor).from_local(
            part,
            tensor.device_mesh,
            tensor.placements,
            run_check=False,
            shape=tensor.shape,
            stride=tensor.stride(),
        )


def reshard(module: Any) -> None:
    """Makes an FSDP2 model list its shards, and read them again at the next forward.

    After a forward without a backward the root module keeps whole parameters; they would hide a
    write to the shards.
    """
    for part in module.modules():
        if "FSDPModule" in {kind.__name__ for kind in type(part).__mro__}:
            part.reshard()


def agree(flag: bool, tensors: list[Any]) -> bool:
    """Returns whether ``flag`` is true on every rank that holds a part of ``tensors``.

    Without a DTensor in the list it is this process's own flag. With one it is a collective call.
    """
    sharded = next((tensor for tensor in tensors if is_sharded(tensor)), None)
    if sharded is None:
        return flag
    mesh = sharded.device_mesh
    votes = torch.tensor([int(flag)], device=sharded.device)
    for dimension in range(mesh.ndim):
        torch.distributed.all_reduce(
            votes, op=torch.distributed.ReduceOp.MIN, group=mesh.get_group(dimension)
        )
    return bool(votes.item())
