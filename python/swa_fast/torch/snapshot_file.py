"""Averages written as safetensors files, at once or in the background.

The file's metadata tells from which step and of which width an average is, for
``swa_fast.checkpoints``. Format: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from swa_fast.average import Average
from swa_fast.decays import power

_CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ALIGNMENT = 8  # bytes at whose multiples the data begins


def write_safetensors(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """Writes a file beside ``path`` and renames it, so that there is a whole file or none.

    Args:
        path: of the file; its folder is there.
        tensors: by name, on any device. One at a time is copied to host memory.
        metadata: strings by name.

    Raises:
        ValueError: a tensor has a dtype that the format has not; nothing was written.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    # The widest first: then every tensor is aligned to its elements.
    order = sorted(tensors, key=lambda name: -tensors[name].element_size())
    at = 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in _CODES:
            raise ValueError(f"safetensors files have no dtype {tensor.dtype}. Received: {name!r}")
        end = at + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with beside.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in order:
                flat = tensors[name].detach().cpu().contiguous().reshape(-1)
                if flat.numel():
                    file.write(memoryview(flat.view(torch.uint8).numpy()))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def average_metadata(average: Average, step: int, count: int) -> dict[str, str]:
    """Returns the metadata of an average's file.

    Args:
        average: its description.
        step: updates so far.
        count: snapshots in it.
    """
    metadata = {
        "format": "pt",
        "step": str(step),
        "count": str(count),
        "average": json.dumps(average.to_dict()),
    }
    if isinstance(average.decay, power):
        metadata["sigma_rel"] = repr(average.decay.sigma_rel)
    return metadata


def snapshot_path(folder: Path, step: int, key: str) -> Path:
    """Returns where the snapshot of an average is written, by its step and its name."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", key) or "average"
    return folder / f"step-{step:09d}-{name}.safetensors"


class BackgroundWriter:
    """Writes files in a thread, those of one snapshot at a time.

    So at most one snapshot waits in memory: a second one is taken when the first is on disk.
    """

    def __init__(self) -> None:
        """Has nothing to write yet."""
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def wait(self) -> None:
        """Returns when all is on disk.

        Raises:
            OSError: the last write failed; raised once.
        """
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def write(self, files: Mapping[Path, tuple[dict[str, Any], dict[str, str]]]) -> None:
        """Writes files, of tensors that nobody else writes, after those before are on disk."""
        self.wait()

        def work() -> None:
            try:
                for path, (tensors, metadata) in files.items():
                    write_safetensors(path, tensors, metadata)
            except BaseException as error:  # raised by the next call
                self._error = error

        # Not a daemon: the interpreter waits for it at its end.
        self._thread = threading.Thread(target=work, name="swa_fast snapshot")
        self._thread.start()
