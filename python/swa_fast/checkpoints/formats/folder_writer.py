"""Writes model folders of the Hugging Face layout, shard after shard."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..tensors import Bytes, Checkpoint
from .folder import INDEX_SUFFIX, Layout, layout_of
from .safetensors import SafetensorsWriter
from .torch_zip_writer import TorchWriter
from .writer import PROVENANCE, Job, TensorOut, Writer

__all__ = ["FolderWriter"]


_NUMBERED = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)$")


_COPIED = {".json", ".txt", ".model", ".py", ".jinja", ".tiktoken", ".md"}
"""Suffixes of the small files of a model folder."""


_NOT_COPIED = {"trainer_state.json", "scheduler.json", "adapter_model.json"}
"""Small files that tell of the training and not of the model."""


class FolderWriter:
    """Writes a model folder, shard after shard; see ``Writer``.

    The last input's tensors stay in the shards that they were in; a shard that would be empty is
    left out and the others are numbered anew.
    """

    def __init__(self, job: Job) -> None:
        """See the class."""
        layout = layout_of(job.template)
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
        layout = layout_of(self._job.template)
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
        writer = TorchWriter if kind == "torch" else SafetensorsWriter
        return writer(job)

    def _index_text(self, layout: Layout, outputs: Mapping[str, TensorOut]) -> str | None:
        if layout.index is None:
            return None
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


def _shard_like(checkpoint: Checkpoint, kept: Mapping[str, TensorOut]) -> Checkpoint:
    """Return the shard of another input that holds all these tensors, or the input itself."""
    for shard in layout_of(checkpoint).shards.values():
        if all(name in shard.tensors for name in kept):
            return shard
    return checkpoint


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
        and not path.name.endswith(INDEX_SUFFIX)
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
