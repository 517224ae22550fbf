"""The safetensors format: a length, a JSON header, and the tensors' bytes one after another.

Written here and not by the library of that name, which needs a whole file in memory; the format is
so small that reading it in place and writing it in order takes little. A header is checked
completely before anything is believed: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..dtypes import DTYPES, DType
from ..errors import CheckpointError
from ..files import InputFile, OutputFile
from ..tensors import Bytes, Checkpoint, Tensor, Together, with_optimizer_apart
from .writer import PROVENANCE, Job

__all__ = ["SafetensorsWriter", "read_file", "read_header"]

_MAX_HEADER = 100_000_000
"""The library's limit, in bytes."""

_ALIGNMENT = 8
"""Bytes at whose multiples the tensors' data begins."""


@dataclass(frozen=True)
class Entry:
    """One line of a header: what a tensor is, and its bytes after the header."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> tuple[list[Entry], dict[str, str], int]:
    """Read and check a file's header.

    Returns:
        The tensors in the order of their bytes, the metadata, and where the bytes begin.

    Raises:
        CheckpointError: the file is not there, or is not a valid safetensors file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > _MAX_HEADER:
                raise _malformed(path, "it does not begin with the length of a header")
            if 8 + length > size:
                raise _malformed(path, f"it has {size} bytes, and its header needs {8 + length}")
            text = file.read(length)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not there") from None
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise _malformed(path, f"its header is not JSON: {error}") from None
    if not isinstance(header, dict) or not text.startswith(b"{"):
        raise _malformed(path, "its header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not _is_metadata(metadata):
        raise _malformed(path, "its __metadata__ is not an object of strings")
    entries = sorted(
        (_entry(path, name, value) for name, value in header.items()),
        key=lambda entry: (entry.begin, entry.end),
    )
    at = 0
    for entry in entries:
        if entry.begin != at:
            wrong = "overlaps the one before it" if entry.begin < at else "follows a hole"
            raise _malformed(path, f"the data of {entry.name!r} {wrong}")
        at = entry.end
    if 8 + length + at != size:
        raise _malformed(path, f"it has {size} bytes, and its header tells of {8 + length + at}")
    return entries, metadata, 8 + length


def read_file(path: Path, *, keep_optimizer: bool = False) -> Checkpoint:
    """Open a file.

    Args:
        path: the file.
        keep_optimizer: carry the optimizer's tensors over instead of leaving them out.

    Raises:
        CheckpointError: the file is not there, or is not a valid safetensors file.
    """
    entries, metadata, start = read_header(path)
    file = InputFile(path)
    found = {
        entry.name: Tensor(
            entry.name, entry.dtype, entry.shape, path, Together(file, start + entry.begin)
        )
        for entry in entries
    }
    return with_optimizer_apart(
        Checkpoint(path, "safetensors", found, metadata=metadata, files=[path]), keep_optimizer
    )


class SafetensorsWriter:
    """Writes a file from its first byte to its last; see ``Writer``."""

    def __init__(self, job: Job) -> None:
        """See the class."""
        template = job.template
        metadata = dict(template.metadata) if template.format == "safetensors" else {"format": "pt"}
        for name in ("step", "sigma_rel"):  # true of the inputs, not of their average
            metadata.pop(name, None)
        metadata[PROVENANCE] = job.provenance
        # The widest first: then every tensor is aligned to its elements.
        outputs = {**job.tensors, **job.carried}
        self.order = sorted(outputs, key=lambda name: -outputs[name].dtype.bits)
        header: dict[str, Any] = {"__metadata__": metadata}
        at = 0
        for name in self.order:
            output = outputs[name]
            end = at + output.dtype.nbytes(math.prod(output.shape))
            header[name] = {
                "dtype": output.dtype.name,
                "shape": list(output.shape),
                "data_offsets": [at, end],
            }
            at = end
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-(8 + len(text)) % _ALIGNMENT)
        self.size = 8 + len(text) + at
        self._start = len(text).to_bytes(8, "little") + text
        self._path = job.path
        self._file: OutputFile | None = None

    def write(self, name: str, data: Bytes) -> None:
        """See ``Writer``."""
        self._opened().write(data.data)

    def finish(self, *, durable: bool) -> None:
        """See ``Writer``."""
        file, self._file = self._opened(), None
        file.close(durable=durable)
        if file.size != self.size:
            raise RuntimeError(f"{self._path}: {file.size} of {self.size} bytes were written")

    def abandon(self) -> None:
        """See ``Writer``."""
        if self._file is not None:
            self._file.close(durable=False)

    def _opened(self) -> OutputFile:
        if self._file is None:
            self._file = OutputFile(self._path)
            self._file.write(self._start)
        return self._file


def _entry(path: Path, name: str, value: Any) -> Entry:
    if not isinstance(value, dict) or not {"dtype", "shape", "data_offsets"} <= value.keys():
        raise _malformed(path, f"{name!r} lacks dtype, shape or data_offsets")
    dtype = DTYPES.get(value["dtype"]) if isinstance(value["dtype"], str) else None
    if dtype is None:
        raise _malformed(path, f"{name!r} has the unknown dtype {value['dtype']!r}")
    shape, offsets = value["shape"], value["data_offsets"]
    if not _are_sizes(shape):
        raise _malformed(path, f"{name!r} has the shape {shape!r}")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _malformed(path, f"{name!r} has the data_offsets {offsets!r}")
    count = math.prod(shape)
    if count * dtype.bits % 8 or dtype.nbytes(count) != offsets[1] - offsets[0]:
        raise _malformed(
            path,
            f"{name!r} of dtype {dtype.name} and shape {tuple(shape)} has "
            f"{offsets[1] - offsets[0]} bytes",
        )
    return Entry(name, dtype, tuple(shape), *offsets)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _is_metadata(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("it has a key twice")
    return found


def _malformed(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is not a valid safetensors file: {why}")
