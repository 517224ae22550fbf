"""Writes folders of torch.distributed.checkpoint, by DCP itself from a mapped file.

The output loads into any sharding.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from typing import Any

from ..tensors import Bytes
from .dcp import Content
from .torch_zip import import_torch
from .writer import PROVENANCE, Job, Scratch

__all__ = ["DcpWriter"]


_ALIGNMENT = 64


_SHARD_OVERHEAD = 4096
"""Bytes that torch writes for a tensor beside its elements, generously."""


class DcpWriter:
    """Gathers all tensors in a mapped file and lets DCP write from it; see ``Writer``."""

    def __init__(self, job: Job) -> None:
        """See the class."""
        self._job = job
        self._outputs = {**job.tensors, **job.carried}
        self.order = list(self._outputs)
        self._offsets: dict[str, int] = {}
        end = 0
        for name, output in self._outputs.items():
            self._offsets[name] = end
            nbytes = output.dtype.nbytes(math.prod(output.shape))
            end += nbytes + -nbytes % _ALIGNMENT
        content: Content = job.template.extra
        self._objects = content.objects
        small = sum(map(len, self._objects.values()))
        count = len(self._outputs) + len(self._objects)
        self._scratch_size = end
        self.size = 2 * end + small + _SHARD_OVERHEAD * (count + 4)
        self._scratch: Scratch | None = None
        self._written: dict[str, int] = {}

    def write(self, name: str, data: Bytes) -> None:
        """See ``Writer``."""
        at = self._offsets[name] + self._written.get(name, 0)
        self._mapped().bytes[at : at + data.nbytes] = data
        self._written[name] = self._written.get(name, 0) + data.nbytes

    def finish(self, *, durable: bool) -> None:
        """See ``Writer``."""
        torch = import_torch(self._job.target)
        from torch.distributed import checkpoint as dcp

        scratch = self._mapped()
        scratch.give_back()
        state: dict[str, Any] = {name: _Pickled(data) for name, data in self._objects.items()}
        for name, output in self._outputs.items():
            dtype = getattr(torch, output.dtype.label)
            nbytes = output.dtype.nbytes(math.prod(output.shape))
            start = self._offsets[name]
            if nbytes == 0:
                state[name] = torch.empty(output.shape, dtype=dtype)
                continue
            flat = torch.from_numpy(scratch.bytes[start : start + nbytes]).view(dtype)
            state[name] = flat.reshape(output.shape)
        planned = self._job.template.extra.planner_data
        mapping = {name: planned[name] for name in state if name in planned} if planned else None
        dcp.save(
            state,
            storage_writer=dcp.FileSystemWriter(self._job.path, sync_files=durable),
            planner=_planner(mapping),
            no_dist=True,
        )
        del state
        scratch.close()
        (self._job.path / f"{PROVENANCE}.json").write_text(self._job.provenance, encoding="utf-8")

    def abandon(self) -> None:
        """See ``Writer``."""
        if self._scratch is not None:
            self._scratch.close()

    def _mapped(self) -> Scratch:
        if self._scratch is None:
            beside = self._job.path.with_name(f"{self._job.path.name}.scratch")
            self._scratch = Scratch(beside, self._scratch_size)
        return self._scratch


@dataclass(frozen=True)
class _Pickled:
    """An object in the form in which DCP keeps it."""

    data: bytes


def _planner(mapping: dict[str, Any] | None) -> Any:
    """Return DCP's planner of a save, which takes pickled objects as they are."""
    from torch.distributed.checkpoint import DefaultSavePlanner

    class Planner(DefaultSavePlanner):  # type: ignore[misc]
        def create_local_plan(self) -> Any:
            # Names are flat already; where they belong in a nested dict is the last input's.
            return replace(super().create_local_plan(), planner_data=mapping or {})

        def transform_object(self, write_item: Any, item: Any) -> Any:
            if isinstance(item, _Pickled):
                return io.BytesIO(item.data)
            return super().transform_object(write_item, item)

    return Planner()
