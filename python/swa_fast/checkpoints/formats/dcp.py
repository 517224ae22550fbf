"""Folders of torch.distributed.checkpoint (DCP): metadata, and files of shards.

The metadata is a pickle of a few known classes, read with a list of what it may name. Each shard is
a small torch file of its own inside a larger file, and is read in place, whatever the shards of the
other inputs are.
"""

from __future__ import annotations

import io
import itertools
import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..dtypes import BY_LABEL
from ..errors import CheckpointError
from ..files import InputFile, Window
from ..tensors import Bytes, Checkpoint, Tensor, Together, boxes, is_of_optimizer
from ..zip_files import member_offset
from .dcp_pickles import MetadataReader, OneTensorReader, RefusedError
from .torch_zip import import_torch

__all__ = ["Content", "read_folder"]


_METADATA = ".metadata"


@dataclass(frozen=True)
class Shard:
    """A block of a tensor: where it belongs, and its bytes."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    file: InputFile
    at: int


@dataclass(frozen=True)
class Sharded:
    """A tensor in several blocks: gathered into row-major order as it is read."""

    shape: tuple[int, ...]
    itemsize: int
    shards: tuple[Shard, ...]

    def prefetch(self, begin: int, end: int) -> None:
        """Start to bring the bytes into the page cache."""
        for part in self._parts(begin, end):
            part.shard.file.prefetch(part.first, part.last)

    def read_into(self, begin: int, into: Bytes) -> None:
        """Copy the elements."""
        kind = np.dtype(f"V{self.itemsize}")
        gathered = into.view(kind)
        for part in self._parts(begin, begin + into.size):
            data = part.shard.file.read(part.first, part.last)
            strides = tuple(stride * self.itemsize for stride in part.shard.strides)
            block = gathered[part.at : part.at + math.prod(part.box)].reshape(part.box)
            place = block[part.into]
            place[...] = np.ndarray(place.shape, kind, data, 0, strides)

    def release(self, begin: int, end: int) -> None:
        """Take the bytes out of the page cache if they were not there before."""
        for part in self._parts(begin, end):
            part.shard.file.release(part.first, part.last)

    def _parts(self, begin: int, end: int) -> Iterator[_Part]:
        """Cut a range of bytes into what each shard has of it."""
        at = 0
        for box in boxes(self.shape, begin // self.itemsize, end // self.itemsize):
            sizes = tuple(part.stop - part.start for part in box)
            for shard in self.shards:
                into, first, last = [], 0, 1
                for part, offset, size, stride in zip(
                    box, shard.offsets, shard.sizes, shard.strides, strict=True
                ):
                    start, stop = max(part.start, offset), min(part.stop, offset + size)
                    if start >= stop:
                        break
                    into.append(slice(start - part.start, stop - part.start))
                    first += (start - offset) * stride
                    last += (stop - 1 - offset) * stride
                else:
                    first_byte, last_byte = (
                        shard.at + number * self.itemsize for number in (first, last)
                    )
                    yield _Part(shard, first_byte, last_byte, at, sizes, tuple(into))
            at += math.prod(sizes)


@dataclass(frozen=True)
class _Part:
    """What a shard has of a box of elements.

    Attributes:
        shard: the shard.
        first, last: the part of its file in which its elements are, in bytes.
        at: number of the box's first element in the range that is read.
        box: sizes of the box.
        into: place of the shard's elements in the box.
    """

    shard: Shard
    first: int
    last: int
    at: int
    box: tuple[int, ...]
    into: tuple[slice, ...]


@dataclass
class Content:
    """What a folder holds beside tensors, for its writer.

    Attributes:
        planner_data: where in a nested dict each name belongs, None if names are flat.
        objects: pickled objects by name, as DCP keeps them: copied, never read.
    """

    planner_data: Any
    objects: dict[str, bytes]


def read_folder(path: Path, *, keep_optimizer: bool = False) -> Checkpoint:
    """Open a folder that ``torch.distributed.checkpoint.save`` has written.

    Raises:
        CheckpointError: the metadata or a shard is damaged, missing or refused.
    """
    torch = import_torch(path)
    metadata = _read_metadata(torch, path)
    files: dict[str, InputFile] = {}
    places: dict[str, list[Any]] = {}
    try:
        for index, info in metadata.storage_data.items():
            places.setdefault(index.fqn, []).append((index, info))
        entries = dict(metadata.state_dict_metadata)
    except (AttributeError, TypeError, ValueError):
        raise _malformed(path, "its metadata is not a Metadata") from None
    checkpoint = Checkpoint(
        path, "dcp", {}, extra=Content(getattr(metadata, "planner_data", None), {})
    )
    for name, entry in entries.items():
        of_optimizer = is_of_optimizer(name)
        if of_optimizer and not keep_optimizer:
            checkpoint.optimizer.append(name)
            continue
        found = places.get(name, [])
        if type(entry).__name__ == "BytesStorageMetadata":
            checkpoint.extra.objects[name] = _object(path, files, name, found)
            continue
        tensor = _tensor(path, files, name, entry, found)
        (checkpoint.carried if of_optimizer else checkpoint.tensors)[name] = tensor
    checkpoint.files = [path / _METADATA, *(file.path for file in files.values())]
    return checkpoint


def _read_metadata(torch: Any, path: Path) -> Any:
    try:
        return MetadataReader(torch, (path / _METADATA).read_bytes()).load()
    except RefusedError as error:
        raise CheckpointError(
            f"{path / _METADATA} is a pickle that names {error}, which DCP's metadata does not "
            "need and which could run code: it is refused"
        ) from None
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise _malformed(path, f"its .metadata cannot be read ({error})") from None


def _tensor(
    path: Path, files: dict[str, InputFile], name: str, entry: Any, places: list[Any]
) -> Tensor:
    try:
        label = str(entry.properties.dtype).removeprefix("torch.")
        shape = tuple(int(size) for size in entry.size)
    except (AttributeError, TypeError, ValueError):
        raise _malformed(path, f"{name!r} is not described") from None
    dtype = BY_LABEL.get(label)
    if dtype is None or dtype.bits % 8:
        raise CheckpointError(f"{path}: {name!r} has dtype {label}, which is not understood")
    sizes_at = {tuple(chunk.offsets): tuple(chunk.sizes) for chunk in entry.chunks}
    shards = []
    for index, info in places:
        offsets = tuple(index.offset or ())
        sizes = sizes_at.pop(offsets, None)
        inside = sizes is not None and all(
            offset >= 0 and size >= 0 and offset + size <= whole
            for offset, size, whole in zip(offsets, sizes, shape, strict=True)
        )
        if sizes is None or not inside:
            raise _malformed(path, f"a shard of {name!r} at {offsets} does not fit")
        shards.append(_shard(path, files, name, dtype.itemsize, offsets, sizes, info))
    held = sum(math.prod(shard.sizes) for shard in shards)
    if sizes_at or held != math.prod(shape) or _overlap(shards):
        raise _malformed(path, f"the shards of {name!r} do not make up its shape {shape}")
    file = shards[0].file if shards else InputFile(path / _METADATA)
    whole = [shard for shard in shards if shard.sizes == shape and _is_plain(shard)]
    gathered = Sharded(shape, dtype.itemsize, tuple(shards))
    source = Together(file, whole[0].at) if whole else gathered
    return Tensor(name, dtype, shape, file.path, source)


def _shard(
    path: Path,
    files: dict[str, InputFile],
    name: str,
    itemsize: int,
    offsets: tuple[int, ...],
    sizes: tuple[int, ...],
    info: Any,
) -> Shard:
    file = _file(path, files, info)
    count = math.prod(sizes)
    row_major = tuple(math.prod(sizes[axis + 1 :]) for axis in range(len(sizes)))
    if count == 0:
        return Shard(offsets, sizes, row_major, file, 0)
    try:
        window: Any = Window(file, info.offset, info.length)
        with zipfile.ZipFile(window) as archive:
            members = {item.filename.partition("/")[2]: item for item in archive.infolist()}
            text = archive.read(members["data.pkl"])
        key, at, shape, strides = OneTensorReader(io.BytesIO(text)).load()
        member = members[f"data/{key}"]
        strides = tuple(int(stride) for stride in strides)
        span = int(at) + 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        fits = tuple(shape) == sizes and span * itemsize <= member.file_size and int(at) >= 0
    except RefusedError as error:
        raise CheckpointError(
            f"{file.path}: the shard of {name!r} needs code to be read ({error}): it is refused"
        ) from None
    except CheckpointError:
        raise
    except Exception as error:  # a damaged archive or pickle can raise anything
        raise _malformed(path, f"a shard of {name!r} cannot be read ({error})") from None
    if not fits or any(stride < 0 for stride in strides):
        raise _malformed(path, f"a shard of {name!r} has other sizes than the metadata says")
    start = member_offset(file, member, info.offset) + int(at) * itemsize
    return Shard(offsets, sizes, strides, file, start)


def _object(path: Path, files: dict[str, InputFile], name: str, places: list[Any]) -> bytes:
    if len(places) != 1:
        raise _malformed(path, f"{name!r} is not stored")
    info = places[0][1]
    file = _file(path, files, info)
    return file.read(info.offset, info.offset + info.length).tobytes()


def _file(path: Path, files: dict[str, InputFile], info: Any) -> InputFile:
    try:
        relative = Path(info.relative_path)
        extensions = info.transform_descriptors if hasattr(info, "transform_descriptors") else None
        numbers = info.offset >= 0 and info.length >= 0
    except (AttributeError, TypeError):
        raise _malformed(path, "it does not say where a tensor is stored") from None
    if relative.is_absolute() or ".." in relative.parts or not numbers:
        raise _malformed(path, f"it has data in {relative}")
    if extensions:
        raise CheckpointError(f"{path} was written with extensions ({extensions}): not understood")
    if str(relative) not in files:
        if not (path / relative).is_file():
            raise CheckpointError(f"{path} names {relative}, which is not there")
        files[str(relative)] = InputFile(path / relative)
    return files[str(relative)]


def _is_plain(shard: Shard) -> bool:
    expected = 1
    for size, stride in zip(reversed(shard.sizes), reversed(shard.strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _overlap(shards: list[Shard]) -> bool:
    return any(
        all(
            x < y + m and y < x + n
            for x, n, y, m in zip(a.offsets, a.sizes, b.offsets, b.sizes, strict=True)
        )
        for a, b in itertools.combinations(shards, 2)
        if math.prod(a.sizes) and math.prod(b.sizes) and a.sizes
    )


def _malformed(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is not a valid torch.distributed.checkpoint: {why}")
