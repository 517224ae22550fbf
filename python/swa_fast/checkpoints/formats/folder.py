"""Model folders of the Hugging Face layout: weights in one file or in shards with an index.

Beside the weights are small files, the config, tokenizer and generation settings among them, which
an output gets from the last input.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..tensors import Checkpoint, Tensor
from . import safetensors, torch_zip

__all__ = ["INDEX_SUFFIX", "Layout", "find_weights", "layout_of", "read_folder"]


_KINDS = {".safetensors": "safetensors", ".bin": "torch"}


INDEX_SUFFIX = ".index.json"
"""How the name of an index of shards ends."""


_OPTIMIZER = re.compile(r"^(optimizer|scheduler|scaler|rng_state.*)\.(pt|bin|pth|safetensors)$")


@dataclass(frozen=True)
class Layout:
    """How a folder holds its weights.

    Attributes:
        kind: "safetensors" or "torch".
        shards: the files, opened.
        index: the index's name, None for a single file without one.
        index_metadata: what the index says beside the places of the tensors.
    """

    kind: str
    shards: dict[str, Checkpoint]
    index: str | None
    index_metadata: dict[str, Any]


def find_weights(folder: Path) -> Path | None:
    """Return the index of a model folder, or its only file of weights, or None.

    Raises:
        CheckpointError: there are several, and nothing tells which are meant.
    """
    for suffix in _KINDS:
        indices = sorted(folder.glob(f"*{suffix}{INDEX_SUFFIX}"))
        files = sorted(
            path for path in folder.glob(f"*{suffix}") if not _OPTIMIZER.match(path.name)
        )
        files = [path for path in files if path.name != "training_args.bin"]
        if len(indices) == 1:
            return indices[0]
        if len(files) == 1 and not indices:
            return files[0]
        preferred = {f"model{suffix}", f"pytorch_model{suffix}", f"diffusion_pytorch_model{suffix}"}
        chosen = [path for path in files if path.name in preferred]
        if len(chosen) == 1 and not indices:
            return chosen[0]
        if files or indices:
            names = ", ".join(path.name for path in (indices or files)[:4])
            raise CheckpointError(
                f"{folder} has several files of weights ({names}): name the one that is meant, or "
                "its index"
            )
    return None


def read_folder(path: Path, weights: Path, **options: Any) -> Checkpoint:
    """Open a model folder.

    Args:
        path: what the user named: the folder, or an index in it.
        weights: the index, or the only file.
        options: for ``read_file`` of the format.

    Raises:
        CheckpointError: a file is malformed or not there, or the index is wrong.
    """
    if weights.name.endswith(INDEX_SUFFIX):
        kind = "torch" if ".bin" in weights.name else "safetensors"
        metadata, places = _read_index(weights)
    else:
        kind = _KINDS[weights.suffix]
        metadata, places = {}, None
    names = [weights.name] if places is None else sorted(set(places.values()))
    for name in names:
        if not (weights.parent / name).is_file():
            raise CheckpointError(f"{weights} names {name}, which is not there")
    shards = {name: _read(kind, weights.parent / name, options) for name in names}
    tensors: dict[str, Tensor] = {}
    carried: dict[str, Tensor] = {}
    for shard in shards.values():
        for mine, theirs in ((tensors, shard.tensors), (carried, shard.carried)):
            for name, tensor in theirs.items():
                if name in tensors or name in carried:
                    first = (tensors.get(name) or carried[name]).file
                    raise CheckpointError(f"{first} and {tensor.file} both have {name!r}")
                mine[name] = tensor
    if places is not None:
        _check_index(weights, places, shards)
    first_shard = next(iter(shards.values()))
    left = [name for shard in shards.values() for name in shard.optimizer]
    left += sorted(file.name for file in weights.parent.iterdir() if _OPTIMIZER.match(file.name))
    return Checkpoint(
        path,
        "folder",
        tensors,
        carried,
        left,
        first_shard.metadata,
        [*([weights] if places is not None else []), *(shard.path for shard in shards.values())],
        Layout(kind, shards, weights.name if places is not None else None, metadata),
    )


_READERS: dict[str, Callable[..., Checkpoint]] = {
    "safetensors": safetensors.read_file,
    "torch": torch_zip.read_file,
}


def _read(kind: str, path: Path, options: Mapping[str, Any]) -> Checkpoint:
    taken = {"safetensors": {"keep_optimizer"}, "torch": {"keep_optimizer", "key"}}[kind]
    return _READERS[kind](path, **{name: options[name] for name in taken if name in options})


def layout_of(checkpoint: Checkpoint) -> Layout:
    """Return the layout of a folder, or of a single file as a folder of it."""
    if isinstance(checkpoint.extra, Layout):
        return checkpoint.extra
    kind = checkpoint.format if checkpoint.format in _READERS else "safetensors"
    name = {"safetensors": "model.safetensors", "torch": "pytorch_model.bin"}[kind]
    return Layout(kind, {name: checkpoint}, None, {})


def _read_index(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not there") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a valid index: {error}") from None
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{path} is not a valid index: it has no weight_map of file names")
    for name in places.values():
        if Path(name).name != name:
            raise CheckpointError(f"{path} names {name!r}, which is not a file in its folder")
    if not places:
        raise CheckpointError(f"{path} is not a valid index: its weight_map is empty")
    metadata = index.get("metadata", {})
    return metadata if isinstance(metadata, dict) else {}, places


def _check_index(path: Path, places: Mapping[str, str], shards: Mapping[str, Checkpoint]) -> None:
    for file, shard in shards.items():
        held = {*shard.tensors, *shard.carried, *shard.optimizer}
        named = {name for name, place in places.items() if place == file}
        if shard.format == "torch":  # what a pickle holds beside tensors is not in an index
            held &= {*shard.tensors, *named}
        for name in sorted(named - held):
            raise CheckpointError(f"{path} says that {file} has {name!r}: it has not")
        for name in sorted(held - named):
            raise CheckpointError(f"{file} has {name!r}, which {path} does not name")
