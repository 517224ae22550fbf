"""Where averages live: in arenas, one block of memory for each dtype and device of an average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .sharding import is_sharded, like_shard, local

HALF_DTYPES = frozenset((torch.float16, torch.bfloat16))

# Averages begin at multiples of this many bytes: a cache line, and more than the widest access of a
# kernel.
_ALIGNMENT = 64


class Arena:
    """The tensors of one average, and the blocks of memory in which they lie.

    A block is never shared by two averages. One look at it, and one raise of its version, stand for
    all its tensors, which are views of it. A tensor that cannot be a view (empty, or of a kind of
    its own) is a block by itself.

    Args:
        values: what is averaged, one tensor for each average.
        dtype: of the averages of floating-point values; None for float32 or wider.
        device: where they are kept; None for that of each value.

    Attributes:
        tensors: one for each value, of its shape and, if possible, its strides; filled with it. Of
            a DTensor, one with its placements.
        blocks: the memory in which the local parts of ``tensors`` lie.
    """

    def __init__(self, values: Sequence[Any], dtype: Any, device: Any) -> None:
        """Allocates the averages and fills them, because they can be saved before an update."""
        slots: list[tuple[Any, int, tuple[int, ...]] | None] = []
        sizes: dict[Any, int] = {}  # elements
        for value in values:
            part = local(value)
            key = (average_dtype(part, dtype), part.device if device is None else device)
            if not _can_be_view(part):
                slots.append(None)
                continue
            strides = _like(part, key[0], "meta").stride()
            step = _ALIGNMENT // key[0].itemsize
            begin = sizes.get(key, 0)
            sizes[key] = begin + -(-part.numel() // step) * step
            slots.append((key, begin, strides))
        blocks = {
            key: torch.empty(size, dtype=key[0], device=key[1]) for key, size in sizes.items()
        }
        self.blocks = list(blocks.values())
        self.tensors: list[Any] = []
        with torch.no_grad():
            for value, slot in zip(values, slots, strict=True):
                part = local(value)
                if slot is None:
                    average = _like(part, average_dtype(part, dtype), device)
                    self.blocks.append(average)
                else:
                    average = blocks[slot[0]].as_strided(tuple(part.shape), slot[2], slot[1])
                average.copy_(part)
                self.tensors.append(like_shard(average, value) if is_sharded(value) else average)

    def pin_memory(self) -> None:
        """Moves what is in host memory into pinned memory; the tensors become others."""
        pinned = {
            block.untyped_storage().data_ptr(): block.pin_memory()
            for block in self.blocks
            if block.device.type == "cpu"
        }
        self.blocks = [
            pinned.get(block.untyped_storage().data_ptr(), block) for block in self.blocks
        ]
        for index, tensor in enumerate(self.tensors):
            part = local(tensor)
            block = pinned.get(part.untyped_storage().data_ptr())
            if block is None:
                continue
            moved = block.as_strided(part.shape, part.stride(), part.storage_offset())
            self.tensors[index] = like_shard(moved, tensor) if is_sharded(tensor) else moved


def average_dtype(value: Any, dtype: Any) -> Any:
    """Returns the dtype of the average of ``value``: an integer's own; None is float32 or wider."""
    if not value.is_floating_point():
        return value.dtype
    if dtype is not None:
        return dtype
    return torch.float32 if value.dtype in HALF_DTYPES else value.dtype


def standalone(tensor: Any) -> Any:
    """Returns the same memory as a tensor with a storage of its own.

    A view that is saved alone would write the whole of its arena.
    """
    part = local(tensor).detach()
    if part.numel() == 0 or part.untyped_storage().nbytes() == part.numel() * part.element_size():
        return tensor
    try:
        alone = torch.from_dlpack(part)
    except (BufferError, RuntimeError, TypeError):  # a dtype that DLPack has no code for
        return tensor
    return like_shard(alone, tensor) if is_sharded(tensor) else alone


def _can_be_view(value: Any) -> bool:
    plain = type(value) in (torch.Tensor, torch.nn.Parameter) and value.layout == torch.strided
    return bool(plain and value.numel() > 0 and not value.is_quantized)


def _like(value: Any, dtype: Any, device: Any) -> Any:
    return torch.empty_like(
        value.detach(),
        dtype=dtype,
        device=device,
        memory_format=torch.preserve_format,
        requires_grad=False,
    )
