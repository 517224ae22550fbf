"""The formats of checkpoints: which one a path has, how it is opened, how its like is written."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

from ..errors import CheckpointError
from ..tensors import Checkpoint
from .writer import Job, Writer

__all__ = [
    "FOLDER_FORMATS",
    "FORMATS",
    "format_of_output",
    "is_checkpoint",
    "is_like",
    "open_checkpoint",
    "open_writer",
]

FORMATS = ("safetensors", "torch", "folder", "dcp", "keras", "h5", "npz")
"""What --format takes: how a file or a folder is written."""

FOLDER_FORMATS = ("folder", "dcp")
"""Those of which a checkpoint is a folder."""

_SUFFIXES = {
    ".safetensors": "safetensors",
    ".pt": "torch",
    ".pth": "torch",
    ".bin": "torch",
    ".ckpt": "torch",
    ".npz": "npz",
    ".keras": "keras",
    ".h5": "h5",
    ".hdf5": "h5",
}


def open_checkpoint(
    path: Path, *, key: str | None = None, keep_optimizer: bool = False
) -> Checkpoint:
    """Open a checkpoint of whatever format it is.

    Args:
        path: a file, a folder, or the index of shards.
        key: the part of a torch file that is to be averaged; refused for other formats.
        keep_optimizer: carry an optimizer's state over.

    Raises:
        CheckpointError: it is not there, of no known format, damaged, or refused.
    """
    checkpoint = _open(path, key, keep_optimizer)
    kind = _format_of_files(checkpoint)
    if key is not None and kind != "torch":
        raise CheckpointError(f"--key names a part of a torch file, and {path} is of {kind}")
    return checkpoint


def _open(path: Path, key: str | None, keep_optimizer: bool) -> Checkpoint:
    if not path.exists():
        raise CheckpointError(f"{path} is not there")
    if path.is_dir():
        return _open_folder(path, key, keep_optimizer)
    if path.name.endswith(".index.json"):
        from .folder import read_folder

        return read_folder(path, path, key=key, keep_optimizer=keep_optimizer)
    kind = _format_of_file(path)
    if kind == "torch":
        from .torch_zip import read_file as read_torch

        return read_torch(path, key, keep_optimizer=keep_optimizer)
    if kind == "npz":
        from .npz import read_file as read_npz

        return read_npz(path, keep_optimizer=keep_optimizer)
    if kind in ("keras", "h5"):
        from .keras import read_file as read_keras

        return read_keras(path, kind, keep_optimizer=keep_optimizer)
    from .safetensors import read_file as read_safetensors

    return read_safetensors(path, keep_optimizer=keep_optimizer)


def format_of_output(target: Path, template: Checkpoint, asked: str | None) -> str:
    """Return the format in which an output is written.

    Args:
        target: its path.
        template: the last input.
        asked: what the user asked for, None if nothing.

    Raises:
        CheckpointError: the format asked for is not known, or cannot be made from such an input.
    """
    if asked is not None and asked not in FORMATS:
        raise CheckpointError(f"a format must be one of {', '.join(FORMATS)}. Received: {asked!r}")
    is_folder = template.format in FOLDER_FORMATS
    kind = asked or _SUFFIXES.get(target.suffix) or (template.format if is_folder else None)
    if kind is None:
        kind = "folder" if template.format == "safetensors" else template.format
    needs_its_like = kind in ("torch", "dcp", "keras", "h5")
    like = _format_of_files(template)
    if needs_its_like and like != kind:
        raise CheckpointError(
            f"{target} would be of the format {kind}, and {template.path} is of {like}: what "
            "is not a tensor in it comes from the last input, so both must be of one format (any "
            "input can be written as .safetensors)"
        )
    if kind == "torch" and template.format == "folder" and len(template.extra.shards) > 1:
        raise CheckpointError(f"{template.path} has several shards: give a folder as output")
    if kind == "folder" and like not in ("safetensors", "torch"):
        raise CheckpointError(f"a model folder cannot be made from the format {like}")
    return kind


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder looks like a checkpoint: it has weights, or is one of DCP."""
    from .folder import find_weights

    try:
        return (folder / ".metadata").is_file() or find_weights(folder) is not None
    except CheckpointError:  # it has several files of weights
        return True


def is_like(kind: str, template: Checkpoint) -> bool:
    """Whether an output of a format is of the files that a checkpoint is of."""
    return kind == "folder" or kind == _format_of_files(template)


def open_writer(kind: str, job: Job) -> Writer:
    """Return the writer of a format that ``format_of_output`` has returned."""
    from dataclasses import replace

    if kind == "folder":
        from .folder_writer import FolderWriter

        return FolderWriter(job)
    if kind == "dcp":
        from .dcp_writer import DcpWriter

        return DcpWriter(job)
    if kind in ("keras", "h5"):
        from .keras import KerasWriter

        return KerasWriter(job)
    if kind == "npz":
        from .npz import NpzWriter

        return NpzWriter(job)
    if kind == "torch":
        from .torch_zip_writer import TorchWriter

        if job.template.format == "folder":
            only = next(iter(job.template.extra.shards.values()))
            return TorchWriter(replace(job, inputs=[*job.inputs[:-1], only]))
        return TorchWriter(job)
    from .safetensors import SafetensorsWriter

    return SafetensorsWriter(job)


def _format_of_files(checkpoint: Checkpoint) -> str:
    """Return a checkpoint's format; of a model folder that of its shards."""
    if checkpoint.format == "folder":
        kind: str = checkpoint.extra.kind
        return kind
    return checkpoint.format


def _open_folder(path: Path, key: str | None, keep_optimizer: bool) -> Checkpoint:
    if (path / ".metadata").is_file():
        from .dcp import read_folder as read_dcp

        return read_dcp(path, keep_optimizer=keep_optimizer)
    from .folder import find_weights, read_folder

    weights = find_weights(path)
    if weights is None:
        raise CheckpointError(
            f"{path} is no checkpoint that is known: it has neither *.safetensors, "
            "pytorch_model*.bin nor the .metadata of torch.distributed.checkpoint"
        )
    return read_folder(path, weights, key=key, keep_optimizer=keep_optimizer)


def _format_of_file(path: Path) -> str:
    """Tell the format by a file's first bytes, and by its suffix where those say nothing."""
    with path.open("rb") as file:
        start = file.read(9)
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return "h5"
    if start.startswith(b"PK"):
        return _format_of_archive(path)
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return "safetensors"
    suffixed = _SUFFIXES.get(path.suffix)
    if suffixed == "torch":
        if start[:1] in (b"\x80",) or b"torch" in start:
            return "torch"
        raise CheckpointError(f"{path} is not a valid torch file: it does not begin like one")
    if suffixed is not None:
        raise CheckpointError(f"{path} is not a valid {suffixed} file: it does not begin like one")
    raise CheckpointError(f"{path} is of no format that is known: {', '.join(FORMATS)}")


def _format_of_archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return _SUFFIXES.get(path.suffix, "torch")  # whose reader says what is wrong
    tests: dict[str, Callable[[str], bool]] = {
        "keras": lambda name: name == "model.weights.h5",
        "torch": lambda name: name.endswith("data.pkl"),
        "npz": lambda name: name.endswith(".npy"),
    }
    for kind, test in tests.items():
        if any(map(test, names)):
            return kind
    return _SUFFIXES.get(path.suffix, "torch")
