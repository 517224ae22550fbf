"""Keras' `.weights.h5`, other HDF5 files of arrays, and `.keras`, a zip archive with one inside.

HDF5 keeps an array that is not compressed in one piece, so its bytes are read in place and written
in place: the library makes the file's structure and tells where each array is.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..dtypes import DTYPES, DType
from ..errors import CheckpointError
from ..files import InputFile, Window
from ..tensors import Bytes, Checkpoint, Tensor, Together, boxes, with_optimizer_apart
from ..zip_files import ZipWriter, list_members, member_offset, overhead, read_member
from .writer import PROVENANCE, Job, TensorOut

__all__ = ["KerasWriter", "read_file"]

_WEIGHTS = "model.weights.h5"

_MAX_ATTRIBUTE = 60_000
"""Bytes that an HDF5 attribute may have are 64 KiB with its header."""

_SMALL = 4096
"""Bytes that HDF5's structure takes for an array, generously."""


@dataclass(frozen=True)
class Content:
    """Where a checkpoint's HDF5 file is: in ``file``, ``size`` bytes from ``offset`` on."""

    file: InputFile
    offset: int
    size: int


@dataclass(frozen=True)
class Chunked:
    """An array that HDF5 keeps in chunks, compressed perhaps: the library reads it, box by box."""

    content: Content
    name: str
    shape: tuple[int, ...]
    itemsize: int

    def prefetch(self, begin: int, end: int) -> None:
        """Do nothing: ``read_into`` is called ahead of the arithmetic."""

    def read_into(self, begin: int, into: Bytes) -> None:
        """Copy the elements."""
        first = begin // self.itemsize
        at = 0
        with _opened(self.content) as file:
            array = file[self.name]
            for box in boxes(self.shape, first, first + into.size // self.itemsize):
                part = np.ascontiguousarray(array[box]).reshape(-1).view(np.uint8)
                into[at : at + part.size] = part
                at += part.size

    def release(self, begin: int, end: int) -> None:
        """Do nothing: the bytes were a copy."""


def read_file(path: Path, kind: str, *, keep_optimizer: bool = False) -> Checkpoint:
    """Open an HDF5 file, or the one in a `.keras` archive.

    Args:
        path: the file.
        kind: "h5" or "keras".
        keep_optimizer: carry the optimizer's variables over instead of leaving them out.

    Raises:
        CheckpointError: the file is damaged, or h5py is not installed.
    """
    content = _content(path, kind)
    h5py = _import_h5py(path)
    tensors: dict[str, Tensor] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            tensors[name] = _tensor(path, content, name, item)

    with _opened(content) as file:
        file.visititems(visit)
    return with_optimizer_apart(
        Checkpoint(path, kind, tensors, files=[path], extra=content), keep_optimizer
    )


class KerasWriter:
    """Writes what it was read from: an HDF5 file, or a `.keras` archive; see ``Writer``."""

    def __init__(self, job: Job) -> None:
        """See the class."""
        self._job = job
        self._content: Content = job.template.extra
        self._is_archive = job.template.format == "keras"
        self._outputs = {**job.tensors, **job.carried}
        template = {**job.template.tensors, **job.template.carried}
        for name, output in self._outputs.items():
            if output.dtype != template[name].dtype and output.dtype.parts == "BF16":
                raise CheckpointError(
                    f"{job.target}: HDF5 has no bfloat16 of its own: choose another --dtype"
                )
        self.order = list(self._outputs)
        data = sum(out.dtype.nbytes(math.prod(out.shape)) for out in self._outputs.values())
        structure = _SMALL * (len(self._outputs) + 16)
        self.size = (data + structure) * (2 if self._is_archive else 1)
        if self._is_archive:
            self._others = [name for name in list_members(job.template.path) if name != _WEIGHTS]
            self.size += overhead([*self._others, _WEIGHTS]) + job.template.path.stat().st_size
            self.size -= self._content.size
        self._path = job.path.with_name(f"{job.path.name}.h5") if self._is_archive else job.path
        self._fd: int | None = None
        self._offsets: dict[str, int] = {}
        self._written: dict[str, int] = {}
        self._zip: ZipWriter | None = None

    def write(self, name: str, data: Bytes) -> None:
        """See ``Writer``."""
        if self._fd is None:
            self._make()
        assert self._fd is not None
        at = self._written.get(name, 0)
        rest = data.data
        while len(rest):
            done = os.pwrite(self._fd, rest, self._offsets[name] + at)
            at, rest = at + done, rest[done:]
        self._written[name] = at

    def finish(self, *, durable: bool) -> None:
        """See ``Writer``."""
        if self._fd is None:
            self._make()
        assert self._fd is not None
        fd, self._fd = self._fd, None
        if durable and not self._is_archive:
            os.fsync(fd)
        os.close(fd)
        if not self._is_archive:
            return
        self._zip = ZipWriter(self._job.path)
        for name in self._others:
            self._zip.add(name, read_member(self._job.template.path, name))
        made = InputFile(self._path)
        self._zip.copy(_WEIGHTS, made, 0, made.size)
        self._zip.add(f"{PROVENANCE}.json", self._job.provenance.encode())
        self._zip.finish(durable=durable)
        self._path.unlink()

    def abandon(self) -> None:
        """See ``Writer``."""
        if self._fd is not None:
            os.close(self._fd)
        if self._zip is not None:
            self._zip.abandon()

    def _make(self) -> None:
        """Make the file with all that is not an array's bytes, and note where those go."""
        h5py = _import_h5py(self._job.target)
        with (
            _opened(self._content) as source,
            h5py.File(self._path, "x", libver="earliest") as made,
        ):
            _copy_attributes(source, made)

            def visit(name: str, item: Any) -> None:
                if isinstance(item, h5py.Group):
                    is_needed = any(kept.startswith(f"{name}/") for kept in self._outputs)
                    is_left_out = not _is_empty(h5py, item) or name.startswith("optimizer")
                    if not is_needed and is_left_out:
                        return
                    _copy_attributes(item, made.require_group(name))
                elif name in self._outputs:
                    _copy_attributes(item, self._array(h5py, made, name, item))

            source.visititems(visit)
            if len(self._job.provenance) <= _MAX_ATTRIBUTE:
                made.attrs[PROVENANCE] = self._job.provenance
            made.flush()
            self._offsets = {
                name: made[name].id.get_offset() or 0
                for name, output in self._outputs.items()
                if math.prod(output.shape)
            }
        self._fd = os.open(self._path, os.O_WRONLY | getattr(os, "O_CLOEXEC", 0))

    def _array(self, h5py: Any, made: Any, name: str, like: Any) -> Any:
        output: TensorOut = self._outputs[name]
        tensor = self._job.template.tensors.get(name) or self._job.template.carried[name]
        if output.dtype == tensor.dtype:
            kind = like.id.get_type()
        else:
            kind = h5py.h5t.py_create(np.dtype(output.dtype.numpy))
        how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        how.set_layout(h5py.h5d.CONTIGUOUS)
        how.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        how.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        parent, _, leaf = name.rpartition("/")
        group = made.require_group(parent) if parent else made
        shape = output.shape
        space = h5py.h5s.create_simple(shape) if shape else h5py.h5s.create(h5py.h5s.SCALAR)
        return h5py.Dataset(h5py.h5d.create(group.id, leaf.encode(), kind, space, how))


def _import_h5py(path: Path) -> Any:
    try:
        import h5py
    except ImportError:
        raise CheckpointError(f"{path} needs h5py: pip install h5py") from None
    return h5py


def _content(path: Path, kind: str) -> Content:
    file = InputFile(path)
    if kind == "h5":
        return Content(file, 0, file.size)
    members = list_members(path)
    if _WEIGHTS not in members:
        raise CheckpointError(f"{path} is not a valid .keras file: it has no {_WEIGHTS}")
    return Content(file, member_offset(file, members[_WEIGHTS]), members[_WEIGHTS].file_size)


@contextlib.contextmanager
def _opened(content: Content) -> Iterator[Any]:
    """Open the HDF5 file for reading; what is wrong with it becomes a CheckpointError."""
    path = content.file.path
    h5py = _import_h5py(path)
    where: Any = path if content.offset == 0 else Window(content.file, content.offset, content.size)
    try:
        with h5py.File(where, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is not a valid HDF5 file: {error}") from None


def _tensor(path: Path, content: Content, name: str, array: Any) -> Tensor:
    dtype = _dtype(path, name, array)
    shape = array.shape
    if shape is None:
        raise CheckpointError(f"{path}: {name!r} has no shape")
    offset = array.id.get_offset()
    nbytes = dtype.nbytes(math.prod(shape))
    if offset is not None and not array.external:
        if offset + nbytes > content.size:
            raise CheckpointError(f"{path} is truncated: {name!r} lies beyond its end")
        return Tensor(name, dtype, shape, path, Together(content.file, content.offset + offset))
    if dtype.parts == "BF16":
        raise CheckpointError(f"{path}: {name!r} is bfloat16 in chunks, which is not understood")
    return Tensor(name, dtype, shape, path, Chunked(content, name, shape, dtype.itemsize))


def _dtype(path: Path, name: str, array: Any) -> DType:
    marked = array.attrs.get("dtype")
    if marked == "bfloat16" and array.id.get_type().get_size() == 2:
        return DTYPES["BF16"]
    found = _BY_NUMPY.get(array.dtype)
    if found is None:
        if array.dtype.kind not in "SV" or array.dtype.hasobject or array.dtype.itemsize == 0:
            raise CheckpointError(
                f"{path}: {name!r} has dtype {array.dtype}, which is not understood"
            )
        text = array.dtype.str
        found = DType(text, 8 * array.dtype.itemsize, "integer", text, None, text)
    return found


def _copy_attributes(source: Any, target: Any) -> None:
    for name in source.attrs:
        target.attrs[name] = source.attrs[name]


def _is_empty(h5py: Any, group: Any) -> bool:
    """Whether there is no array below a group."""
    found = []
    group.visititems(lambda _, item: found.append(1) if isinstance(item, h5py.Dataset) else None)
    return not found


_BY_NUMPY = {
    np.dtype(dtype.numpy): dtype
    for dtype in DTYPES.values()
    if dtype.kind in ("float", "complex", "integer", "bool") and dtype.parts != "BF16"
}
"""Storage types by what NumPy calls them."""
