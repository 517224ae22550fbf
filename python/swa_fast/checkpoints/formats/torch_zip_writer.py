"""Writes torch's files: a zip archive of a pickle and of one member for each storage.

``torch.save`` needs all tensors at once. Here the pickle is made from the last input's object, with
other storages, and then the storages follow one by one.
"""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..dtypes import DType
from ..files import InputFile
from ..tensors import Bytes, Checkpoint
from ..zip_files import ZipWriter, overhead
from .torch_zip import Content, Place, View, import_torch
from .writer import PROVENANCE, Job, Scratch

__all__ = ["TorchWriter"]

_ARCHIVE = "archive"
"""The folder in the archive in which all members are."""


class TorchWriter:
    """Writes a torch file in one pass; see ``Writer``."""

    def __init__(self, job: Job) -> None:
        """See the class."""
        self._torch = import_torch(job.template.path)
        self._job = job
        content: Content = job.template.extra
        self._storages: list[_Storage] = []
        self._of_name: dict[str, _Storage] = {}
        outputs = {**job.tensors, **job.carried}
        groups: dict[int, list[str]] = {}
        for name in outputs:
            groups.setdefault(content.views[name].storage, []).append(name)
        for names in groups.values():
            views = {name: content.views[name] for name in names}
            shared = len(names) == 1 or _is_shared_everywhere(views, job.inputs[:-1])
            for members in [names] if shared else [[name] for name in names]:
                self._add({name: views[name] for name in members}, outputs[members[0]].dtype)
        self.order = [name for storage in self._storages for name in storage.order]
        self._pickle = self._pickled(content)
        members = [storage.member for storage in self._storages]
        scratch = max(
            (storage.nbytes for storage in self._storages if not storage.is_plain), default=0
        )
        self.size = (
            sum(storage.nbytes for storage in self._storages)
            + scratch
            + len(self._pickle)
            + len(job.provenance)
            + overhead([*members, *["archive/version"] * 4])
        )
        self._zip: ZipWriter | None = None
        self._current: _Storage | None = None
        self._scratch: Scratch | None = None
        self._written = 0

    def write(self, name: str, data: Bytes) -> None:
        """See ``Writer``."""
        storage = self._of_name[name]
        if storage is not self._current:
            self._end_storage()
            self._begin_storage(storage)
        if self._scratch is None:
            self._archive().write(data)
            return
        if storage.at != name:
            storage.at, self._written = name, 0
        view = storage.views[name]
        itemsize = storage.dtype.itemsize
        strides = tuple(stride * itemsize for stride in view.stride)
        target = self._scratch.view(view.offset * itemsize, view.shape, strides, itemsize)
        items = data.view(target.dtype)
        target.flat[self._written : self._written + len(items)] = items
        self._written += len(items)

    def finish(self, *, durable: bool) -> None:
        """See ``Writer``."""
        self._end_storage()
        archive = self._archive()
        archive.add(f"{_ARCHIVE}/version", b"3\n")
        archive.add(f"{_ARCHIVE}/{PROVENANCE}.json", self._job.provenance.encode())
        archive.finish(durable=durable)

    def abandon(self) -> None:
        """See ``Writer``."""
        if self._scratch is not None:
            self._scratch.close()
        if self._zip is not None:
            self._zip.abandon()

    def _add(self, views: dict[str, View], dtype: DType) -> None:
        distinct: dict[tuple[Any, ...], str] = {}
        for name, view in views.items():
            distinct.setdefault(view.geometry, name)
        first = next(iter(views.values()))
        if len(distinct) == 1 and first.is_plain:
            plain = {name: replace(view, offset=0) for name, view in views.items()}
            storage = _Storage(len(self._storages), dtype, math.prod(first.shape), plain, True, [])
        else:
            elements = first.tensor.untyped_storage().nbytes() // first.dtype.itemsize
            storage = _Storage(len(self._storages), dtype, elements, views, False, [])
        storage.order.extend(distinct.values())
        self._storages.append(storage)
        for name in views:
            self._of_name[name] = storage

    def _archive(self) -> ZipWriter:
        if self._zip is None:
            self._zip = ZipWriter(self._job.path)
            self._zip.add(f"{_ARCHIVE}/data.pkl", self._pickle)
            self._zip.add(f"{_ARCHIVE}/byteorder", b"little")
        return self._zip

    def _begin_storage(self, storage: _Storage) -> None:
        self._current = storage
        if storage.is_plain:
            self._archive().begin(storage.member)
            return
        beside = self._job.path.with_name(f"{self._job.path.name}.scratch")
        self._scratch = Scratch(beside, storage.nbytes)

    def _end_storage(self) -> None:
        storage, self._current = self._current, None
        if storage is not None and self._scratch is not None:
            scratch, self._scratch = self._scratch, None
            self._archive().copy(storage.member, InputFile(scratch.path), 0, storage.nbytes)
            scratch.close()

    def _pickled(self, content: Content) -> bytes:
        same: dict[tuple[int, int], _Leaf] = {}
        leaves: dict[Place, _Leaf] = {}
        for name, storage in self._of_name.items():
            tensor = content.views[name].tensor
            leaf = _Leaf(
                storage,
                storage.views[name],
                isinstance(tensor, self._torch.nn.Parameter),
                tensor.requires_grad,
            )
            # A tensor that is in two places stays one object if it stays one storage.
            leaves[content.views[name].path] = same.setdefault((id(tensor), storage.number), leaf)
        buffer = io.BytesIO()
        root = _with_leaves(self._torch, content.root, (), leaves, content.left_out)
        _Pickler(self._torch, buffer).dump(root)
        return buffer.getvalue()


@dataclass
class _Storage:
    """A storage of the output."""

    number: int
    dtype: DType
    elements: int
    views: dict[str, View]
    is_plain: bool  # one view, whole and in order
    order: list[str]  # one name for each distinct view
    at: str = ""

    @property
    def nbytes(self) -> int:
        return self.elements * self.dtype.itemsize

    @property
    def member(self) -> str:
        return f"{_ARCHIVE}/data/{self.number}"


@dataclass(frozen=True)
class _Leaf:
    """A tensor of the output, in the place of the last input's."""

    storage: _Storage
    view: View
    is_parameter: bool
    requires_grad: bool


class _Pickler(pickle.Pickler):
    """Pickles an object as ``torch.save`` does, with tensors that show the output's storages."""

    def __init__(self, torch: Any, file: io.BytesIO) -> None:
        super().__init__(file, protocol=2)
        self._torch = torch

    def persistent_id(self, item: Any) -> Any:
        if not isinstance(item, _Storage):
            return None
        torch = self._torch
        if item.dtype.label in _STORAGE_TYPES:
            kind, size = getattr(torch, _STORAGE_TYPES[item.dtype.label]), item.elements
        else:
            kind, size = torch.storage.UntypedStorage, item.nbytes
        return ("storage", kind, str(item.number), "cpu", size)

    def reducer_override(self, item: Any) -> Any:
        if not isinstance(item, _Leaf):
            return NotImplemented
        rebuild = self._torch._utils
        if item.is_parameter:
            data = replace(item, is_parameter=False, requires_grad=False)
            return rebuild._rebuild_parameter, (data, item.requires_grad, OrderedDict())
        storage, view = item.storage, item.view
        shown: tuple[Any, ...] = (
            storage,
            view.offset,
            view.shape,
            view.stride,
            item.requires_grad,
            OrderedDict(),
        )
        if storage.dtype.label in _STORAGE_TYPES:
            return rebuild._rebuild_tensor_v2, shown
        dtype = getattr(self._torch, storage.dtype.label)
        return rebuild._rebuild_tensor_v3, (*shown, dtype)


_STORAGE_TYPES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "complex128": "ComplexDoubleStorage",
    "complex64": "ComplexFloatStorage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}
"""The classes by which torch files name a storage's dtype; newer dtypes have none."""


def _with_leaves(
    torch: Any, at: Any, where: Place, leaves: Mapping[Place, _Leaf], left_out: set[Place]
) -> Any:
    """Return a copy of the object with leaves for tensors, without those that have none."""
    if isinstance(at, torch.Tensor):
        return leaves.get(where, _GONE)
    if isinstance(at, Mapping):
        kept: Any = copy.copy(at)
        items: Any = at.items()
    elif isinstance(at, (list, tuple)):
        kept, items = [], enumerate(at)
    else:
        return at
    for name, item in items:
        here = (*where, name)
        new = _GONE if here in left_out else _with_leaves(torch, item, here, leaves, left_out)
        if isinstance(at, Mapping):
            if new is _GONE:
                del kept[name]
            else:
                kept[name] = new
        elif new is not _GONE:
            kept.append(new)
    if isinstance(at, tuple):
        # torch.Size and named tuples hold no tensors that could have changed.
        return tuple(kept) if type(at) is tuple else at
    return kept


_GONE = object()


def _is_shared_everywhere(views: Mapping[str, View], others: list[Checkpoint]) -> bool:
    """Whether these tensors are the same views of one storage in all other inputs too."""
    for other in others:
        if other.format != "torch":
            return False
        theirs = [other.extra.views.get(name) for name in views]
        if any(view is None for view in theirs) or len({view.storage for view in theirs}) != 1:
            return False
        if [view.geometry for view in theirs] != [view.geometry for view in views.values()]:
            return False
    return True
