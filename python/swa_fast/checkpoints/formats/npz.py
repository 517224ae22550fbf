"""NumPy's `.npz`: a zip archive of arrays, each a small header and its bytes."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np

from ..dtypes import DTYPES, DType
from ..errors import CheckpointError
from ..files import InputFile
from ..tensors import Bytes, Checkpoint, Strided, Tensor, Together, with_optimizer_apart
from ..zip_files import Inflated, ZipWriter, list_members, member_offset, overhead
from .writer import Job

__all__ = ["NpzWriter", "read_file"]

_HEADER_READ = 1 << 16
"""Bytes within which an array's header ends: that of version 1 cannot be longer."""

_MAX_COMMENT = (1 << 16) - 1
"""Bytes that a zip archive's comment may have."""


def read_file(path: Path, *, keep_optimizer: bool = False) -> Checkpoint:
    """Open a file that ``np.savez`` or ``np.savez_compressed`` has written.

    Strings and times are copied like integers. Arrays of Python objects are pickles, and refused.

    Raises:
        CheckpointError: the file is damaged, or has an array that cannot be read.
    """
    file = InputFile(path)
    tensors: dict[str, Tensor] = {}
    for member_name, member in list_members(path).items():
        if not member_name.endswith(".npy"):
            continue
        name = member_name.removesuffix(".npy")
        is_stored = member.compress_type == 0
        start = member_offset(file, member) if is_stored else 0
        data = np.empty(min(member.file_size, _HEADER_READ), np.uint8)
        if is_stored:
            file.read_into(start, data)
        else:
            Inflated(path, member_name, 0).read_into(0, data)
        shape, fortran, dtype, length = _header(path, name, data.tobytes())
        nbytes = dtype.nbytes(math.prod(shape))
        if length + nbytes != member.file_size:
            raise CheckpointError(
                f"{path}: {name!r} of dtype {dtype.label} and shape {shape} has "
                f"{member.file_size - length} bytes"
            )
        is_plain = not fortran or sum(size != 1 for size in shape) < 2
        source: Any
        if not is_stored:
            if not is_plain:
                raise CheckpointError(f"{path}: {name!r} is compressed and in Fortran order")
            source = Inflated(path, member_name, length)
        elif is_plain:
            source = Together(file, start + length)
        else:
            strides = tuple(dtype.itemsize * math.prod(shape[:axis]) for axis in range(len(shape)))
            source = Strided(file, start + length, shape, strides, dtype.itemsize)
        tensors[name] = Tensor(name, dtype, shape, path, source)
    return with_optimizer_apart(Checkpoint(path, "npz", tensors, files=[path]), keep_optimizer)


class NpzWriter:
    """Writes an archive that ``np.load`` reads; see ``Writer``."""

    def __init__(self, job: Job) -> None:
        """See the class."""
        self._job = job
        self._outputs = {**job.tensors, **job.carried}
        for name, output in self._outputs.items():
            if output.dtype.kind == "opaque" or output.dtype.parts == "BF16":
                raise CheckpointError(
                    f"{job.target}: {name!r} would have dtype {output.dtype.label}, which NumPy "
                    "has not: choose another --dtype or format"
                )
        self.order = list(self._outputs)
        provenance = job.provenance.encode()
        self._comment = provenance if len(provenance) <= _MAX_COMMENT else b""
        self.size = (
            sum(out.dtype.nbytes(math.prod(out.shape)) + 256 for out in self._outputs.values())
            + overhead([f"{name}.npy" for name in self.order])
            + len(self._comment)
        )
        self._zip: ZipWriter | None = None
        self._current = ""

    def write(self, name: str, data: Bytes) -> None:
        """See ``Writer``."""
        archive = self._archive()
        if name != self._current:
            output = self._outputs[name]
            header = io.BytesIO()
            np.lib.format.write_array_header_2_0(
                header,
                {
                    "descr": np.lib.format.dtype_to_descr(np.dtype(output.dtype.numpy)),
                    "fortran_order": False,
                    "shape": output.shape,
                },
            )
            archive.begin(f"{name}.npy")
            archive.write(header.getvalue())
            self._current = name
        archive.write(data)

    def finish(self, *, durable: bool) -> None:
        """See ``Writer``."""
        self._archive().finish(self._comment, durable=durable)

    def abandon(self) -> None:
        """See ``Writer``."""
        if self._zip is not None:
            self._zip.abandon()

    def _archive(self) -> ZipWriter:
        if self._zip is None:
            self._zip = ZipWriter(self._job.path)
        return self._zip


def _header(path: Path, name: str, data: bytes) -> tuple[tuple[int, ...], bool, DType, int]:
    """Return shape, Fortran order, dtype, and the header's length."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise ValueError(f"its format has the version {version}")
        shape, fortran, dtype = read(stream)
    except Exception as error:  # the header is parsed as Python: many things can be wrong
        raise CheckpointError(f"{path}: {name!r} is not a valid array: {error}") from None
    if dtype.hasobject:
        raise CheckpointError(
            f"{path}: {name!r} holds Python objects, a pickle that could run code: it is refused"
        )
    found = _BY_NUMPY.get(dtype)
    if found is None:
        if dtype.kind not in "SUMm" or dtype.itemsize == 0:
            raise CheckpointError(f"{path}: {name!r} has dtype {dtype}, which is not understood")
        found = DType(dtype.str, 8 * dtype.itemsize, "integer", dtype.str, None, dtype.str)
    if any(type(size) is not int or size < 0 for size in shape):
        raise CheckpointError(f"{path}: {name!r} has the shape {shape}")
    return shape, fortran, found, stream.tell()


_BY_NUMPY = {
    np.dtype(dtype.numpy): dtype
    for dtype in DTYPES.values()
    if dtype.kind in ("float", "complex", "integer", "bool") and dtype.parts != "BF16"
}
"""Storage types by what NumPy calls them."""
