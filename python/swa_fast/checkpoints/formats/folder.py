"""Model folders of the Hugging Face layout: weights in one file or in shards with an index.

Beside the weights are small files, the config, tokenizer and generation settings among them, which
the output gets from the last input.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..tensors import Bytes, Checkpoint, Tensor
from . import safetensors, torch_zip
from .writer import PROVENANCE, Job, TensorOut, Writer

__all__ = ["FolderWriter", "find_weights", "read_folder"]

_KINDS = {".safetensors": "safetensors", ".bin": "torch"}

_INDEX = ".index.json"

_NUMBERED = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)$")

_COPIED = {".json", ".txt", ".model", ".py", ".jinja", ".tiktoken", ".md"}
"""Suffixes of the small files of a model folder."""

_NOT_COPIED = {"trainer_state.json", "scheduler.json", "adapter_model.json"}
"""Small files that tell of the training and not of the model."""

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
        indices = sorted(folder.glob(f"*{suffix}{_INDEX}"))
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
    if weights.name.endswith(_INDEX):
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


class FolderWriter:
    """Writes a model folder, shard after shard; see ``Writer``.

    The last input's tensors stay in the shards that they were in; a shard that would be empty is
    left out and the others are numbered anew.
    """

    def __init__(self, job: Job) -> None:
        """See the class."""
        layout = _layout(job.template)
        self._job = job
        outputs = {**job.tensors, **job.carried}
        parts: list[tuple[str, Checkpoint, dict[str, TensorOut]]] = []
        for name, shard in layout.shards.items():
            kept = {
                tensor: outputs[tensor]
                for tensor in (*shard.tensors, *shard.carried)
                if tensor in outputs
            }
            if kept:
                parts.append((name, shard, kept))
        self._writers: dict[str, Writer] = {}
        self._shard_of: dict[str, str] = {}
        for position, (old, shard, kept) in enumerate(parts, 1):
            name = _renumbered(old, position, len(parts))
            self._writers[name] = self._writer(layout.kind, name, shard, kept)
            self._shard_of.update(dict.fromkeys(kept, name))
        self.order = [name for writer in self._writers.values() for name in writer.order]
        self._copied = _small_files(layout, job.template)
        self._index = self._index_text(layout, outputs)
        self.size = (
            sum(writer.size for writer in self._writers.values())
            + sum(path.stat().st_size for path in self._copied)
            + len(self._index or "")
        )
        self._pending = list(self._writers)

    def write(self, name: str, data: Bytes) -> None:
        """See ``Writer``."""
        self._job.path.mkdir(exist_ok=True)
        self._writers[self._shard_of[name]].write(name, data)

    def finish(self, *, durable: bool) -> None:
        """See ``Writer``."""
        folder = self._job.path
        folder.mkdir(exist_ok=True)
        for writer in self._writers.values():
            writer.finish(durable=durable)
        for path in self._copied:
            if path.name == "config.json" and self._job.dtype is not None:
                _copy_config(path, folder / path.name, self._job.dtype.label)
            else:
                shutil.copyfile(path, folder / path.name)
        layout = _layout(self._job.template)
        if self._index is not None and layout.index is not None:
            (folder / layout.index).write_text(self._index, encoding="utf-8")

    def abandon(self) -> None:
        """See ``Writer``."""
        for writer in self._writers.values():
            writer.abandon()

    def _writer(
        self, kind: str, name: str, shard: Checkpoint, kept: Mapping[str, TensorOut]
    ) -> Writer:
        others = [_shard_like(other, kept) for other in self._job.inputs[:-1]]
        job = replace(
            self._job,
            path=self._job.path / name,
            inputs=[*others, shard],
            tensors={tensor: kept[tensor] for tensor in kept if tensor in shard.tensors},
            carried={tensor: kept[tensor] for tensor in kept if tensor in shard.carried},
        )
        writer = torch_zip.TorchWriter if kind == "torch" else safetensors.SafetensorsWriter
        return writer(job)

    def _index_text(self, layout: Layout, outputs: Mapping[str, TensorOut]) -> str | None:
        if layout.index is None:
            return None
        import math

        total = sum(out.dtype.nbytes(math.prod(out.shape)) for out in outputs.values())
        index = {
            "metadata": {
                **layout.index_metadata,
                "total_size": total,
                PROVENANCE: json.loads(self._job.provenance),
            },
            "weight_map": {name: self._shard_of[name] for name in sorted(self._shard_of)},
        }
        return json.dumps(index, indent=2) + "\n"


_READERS: dict[str, Callable[..., Checkpoint]] = {
    "safetensors": safetensors.read_file,
    "torch": torch_zip.read_file,
}


def _read(kind: str, path: Path, options: Mapping[str, Any]) -> Checkpoint:
    taken = {"safetensors": {"keep_optimizer"}, "torch": {"keep_optimizer", "key"}}[kind]
    return _READERS[kind](path, **{name: options[name] for name in taken if name in options})


def _layout(checkpoint: Checkpoint) -> Layout:
    """Return the layout of a folder, or of a single file as a folder of it."""
    if isinstance(checkpoint.extra, Layout):
        return checkpoint.extra
    kind = checkpoint.format if checkpoint.format in _READERS else "safetensors"
    name = {"safetensors": "model.safetensors", "torch": "pytorch_model.bin"}[kind]
    return Layout(kind, {name: checkpoint}, None, {})


def _shard_like(checkpoint: Checkpoint, kept: Mapping[str, TensorOut]) -> Checkpoint:
    """Return the shard of another input that holds all these tensors, or the input itself."""
    for shard in _layout(checkpoint).shards.values():
        if all(name in shard.tensors for name in kept):
            return shard
    return checkpoint


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


def _renumbered(name: str, position: int, count: int) -> str:
    match = _NUMBERED.match(name)
    if match is None:
        return name
    return f"{match['stem']}-{position:05}-of-{count:05}{match['suffix']}"


def _small_files(layout: Layout, template: Checkpoint) -> list[Path]:
    if not isinstance(template.extra, Layout):
        return []
    folder = next(iter(layout.shards.values())).path.parent
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file()
        and path.suffix in _COPIED
        and not path.name.endswith(_INDEX)
        and path.name not in _NOT_COPIED
    )


def _copy_config(source: Path, target: Path, dtype: str) -> None:
    """Copy a config, with the dtype that the weights have now."""
    try:
        config = json.loads(source.read_text(encoding="utf-8"))
        names = {"dtype", "torch_dtype"} & config.keys()
    except (ValueError, AttributeError):
        names = set()
    if not names:
        shutil.copyfile(source, target)
        return
    config.update(dict.fromkeys(names, dtype))
    target.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
