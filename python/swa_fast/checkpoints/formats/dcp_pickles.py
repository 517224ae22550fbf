"""Reads the pickles of torch.distributed.checkpoint, and nothing in them that could run code."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

__all__ = ["MetadataReader", "OneTensorReader", "RefusedError"]


class RefusedError(Exception):
    """A pickle names what it may not."""


_METADATA_CLASSES = {
    "BytesStorageMetadata",
    "ChunkStorageMetadata",
    "Metadata",
    "MetadataIndex",
    "StorageMeta",
    "TensorProperties",
    "TensorStorageMetadata",
    "_MEM_FORMAT_ENCODING",
}


class MetadataReader(pickle.Unpickler):
    """Reads DCP's metadata, and nothing that could run code."""

    def __init__(self, torch: Any, data: bytes) -> None:
        """Read from these bytes."""
        super().__init__(io.BytesIO(data))
        self._torch = torch

    def find_class(self, module: str, name: str) -> Any:
        """Return what the pickle names, if it is a part of DCP's metadata."""
        from torch.distributed.checkpoint import filesystem, metadata

        if module == metadata.__name__ and name in _METADATA_CLASSES:
            return getattr(metadata, name)
        if (module, name) == (filesystem.__name__, "_StorageInfo"):
            return filesystem._StorageInfo
        if module == "torch":
            found = getattr(self._torch, name, None)
            if found is self._torch.Size or isinstance(found, self._torch.dtype):
                return found
        if (module, name) == ("torch.serialization", "_get_layout"):
            return self._torch.serialization._get_layout
        if module in ("pathlib", "pathlib._local") and name in ("PosixPath", "PurePosixPath"):
            return Path
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise RefusedError(f"{module}.{name}")


class OneTensorReader(pickle.Unpickler):
    """Reads a torch file of one tensor: its storage's name, and offset, sizes, strides."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a function or class of a tensor's pickle."""
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor_v3"):
            return lambda storage, offset, size, stride, *_: (storage, offset, size, stride)
        if module == "torch._utils" and name == "_rebuild_parameter":
            return lambda data, *_: data
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module in ("torch", "torch.storage"):
            return f"{module}.{name}"  # a storage's class or a dtype: the metadata says it too
        raise RefusedError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        """Return a storage's name."""
        return str(pid[2])
