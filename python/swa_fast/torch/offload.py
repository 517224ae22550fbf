"""Averages in host memory for parameters on a GPU, without holding up the training step.

An update has three parts. The parameters are copied to pinned host memory on a stream of their own,
beside whatever the device computes; a background thread waits for the copies and folds them into
the averages; and the next step of any optimizer of torch.optim is held back, on the device alone,
until the copies have read what it is about to write. The host waits for none of this. A write of
another kind while the copies are under way is an error at the next call (writes through ``.data``
cannot be seen).

There is one set of pinned memory, so an update waits for the one before it. Reads wait too.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, Protocol

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook


class Copies(Protocol):
    """Copies under way, to pinned memory."""

    @property
    def pending(self) -> Sequence[Any]:
        """The values that may not have been read yet when the copies were started."""

    def hold_back_writers(self) -> None:
        """Makes work queued from now on wait, on its device, until the copies are done."""

    def wait(self) -> None:
        """Waits on the host until the copies are done."""


class Copier(Protocol):
    """How copies are made: by CUDA, or in tests by something slower and stranger."""

    def stage(self, value: Any) -> Any:
        """Returns host memory for a copy of ``value``, of its shape, strides and dtype."""

    def start(self, staging: Sequence[Any], values: Sequence[Any]) -> Copies:
        """Starts to copy ``values`` as they are after all work queued so far."""


class CudaCopies:
    """Copies on the side streams of one or more devices."""

    def __init__(self, events: dict[Any, Any], pending: Sequence[Any]) -> None:
        """Takes the event that each device's copies end with, and what they copy."""
        self._events = events
        self.pending = pending

    def hold_back_writers(self) -> None:
        """Lets each device's current stream wait for the copies from it."""
        for device, event in self._events.items():
            torch.cuda.current_stream(device).wait_event(event)

    def wait(self) -> None:
        """Waits on the host, without the interpreter lock."""
        for event in self._events.values():
            event.synchronize()


class CudaCopier:
    """Copies on a side stream per device."""

    def __init__(self) -> None:
        """Makes no stream before it is needed."""
        self._streams: dict[Any, Any] = {}

    def stage(self, value: Any) -> Any:
        """Returns pinned memory like ``value``; plain memory for a value on the CPU."""
        return torch.empty_like(
            value.detach(),
            device="cpu",
            pin_memory=value.is_cuda,
            memory_format=torch.preserve_format,
            requires_grad=False,
        )

    def start(self, staging: Sequence[Any], values: Sequence[Any]) -> CudaCopies:
        """Queues the copies; those from the CPU are made at once.

        Raises:
            RuntimeError: a CUDA graph is being captured, which cannot hold work of the host.
        """
        by_device: dict[Any, list[tuple[Any, Any]]] = {}
        for stage, value in zip(staging, values, strict=True):
            by_device.setdefault(value.device, []).append((stage, value.detach()))
        for stage, value in by_device.pop(torch.device("cpu"), []):
            stage.copy_(value)
        if by_device and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "averages in host memory cannot be updated inside a CUDA graph: call update() "
                "after the replay"
            )
        events = {}
        for device, pairs in by_device.items():
            if device not in self._streams:
                self._streams[device] = torch.cuda.Stream(device)
            side = self._streams[device]
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):
                for stage, value in pairs:
                    stage.copy_(value, non_blocking=True)
                    value.record_stream(side)  # freed memory is not reused before it was read
                events[device] = side.record_event()
        return CudaCopies(events, [value for value in values if value.is_cuda])


class OffloadError(RuntimeError):
    """An update failed after ``update()`` had returned; its snapshot is not in the averages."""


class _Job:
    """One update in flight. Shared by two threads: flags are set in the order that is safe."""

    def __init__(self, copies: Copies, staging: list[Any], fold: Callable[[list[Any]], None]):
        self._copies = copies
        self._staging = staging
        self._fold = fold
        self._versions = [(value, value._version) for value in copies.pending]
        self._held_back = False

    def run(self) -> None:
        """Waits for the copies and folds them in; in the background."""
        self._copies.wait()
        # torch raises the version when a write is queued, so an unchanged version proves that no
        # write was queued.
        written = self._written()
        if written is not None and not self._held_back:
            raise RuntimeError(
                f"value {written} was written while it was being copied: parameters must be "
                "written by an optimizer of torch.optim, or after a read of the averages"
            )
        self._versions = []
        fold, self._fold = self._fold, _nothing  # which refers to the averager
        fold(self._staging)

    def hold_back_writers(self) -> None:
        if not self._held_back and self._written() is None:
            self._copies.hold_back_writers()
            self._held_back = True  # before the writer that is held back raises any version

    def _written(self) -> int | None:
        for index, (value, version) in enumerate(self._versions):
            if value._version != version:
                return index
        return None


def _nothing(_: list[Any]) -> None:
    raise RuntimeError("an update in the background was run twice")


class Offload:
    """At most one update in flight.

    Args:
        copier: makes the copies.
    """

    def __init__(self, copier: Copier | None = None) -> None:
        """Starts no thread and allocates nothing before the first update."""
        self._copier: Copier = CudaCopier() if copier is None else copier
        self._staging: list[Any] = []
        self._job: _Job | None = None
        self._in_flight: Future[None] | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._process = 0
        self._hook: Any = None
        self._remove_hook: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy begins with nothing in flight."""
        self.wait()
        return Offload, ()

    def submit(self, values: Sequence[Any], fold: Callable[[list[Any]], None]) -> None:
        """Starts an update and returns.

        Args:
            values: tensors to take a snapshot of, as they are after all work queued so far.
            fold: takes copies of them in host memory into the averages; runs in another thread,
                and writes nothing if it raises.

        Raises:
            OffloadError: the update before this one failed; nothing was started.
        """
        self.wait()
        if not _alike(self._staging, values):
            self._staging = []  # given back before as much again is taken
            self._staging = [self._copier.stage(value) for value in values]
        self._hold_back_optimizers()
        job = _Job(self._copier.start(self._staging, values), self._staging, fold)
        self._job = job
        self._in_flight = self._pool().submit(job.run)

    def hold_back_writers(self) -> None:
        """Lets writes to the values that are queued from now on wait for the copies."""
        if self._job is not None:
            self._job.hold_back_writers()

    def wait(self) -> None:
        """Waits for the update in flight, if there is one.

        Raises:
            OffloadError: it failed. Raised once; its snapshot is not in the averages.
        """
        future = self._in_flight
        if future is None:
            return
        error: BaseException | None
        if self._process != os.getpid():
            error = RuntimeError("the process was forked while the update was in flight")
        else:
            try:
                error = future.exception()  # interrupted here, the update stays in flight
            except CancelledError as cancelled:
                error = cancelled
        if self._in_flight is not future:  # another thread waited too, and has reported it
            return
        self._in_flight = self._job = None
        if error is not None:
            raise OffloadError(
                f"the last update failed in the background: {type(error).__name__}: {error}"
            ) from error

    def _hold_back_optimizers(self) -> None:
        if self._hook is not None:
            return
        reference = weakref.ref(self)

        def before_step(*_: Any) -> None:
            offload = reference()
            if offload is not None:
                offload.hold_back_writers()

        self._hook = register_optimizer_step_pre_hook(before_step)
        self._remove_hook = weakref.finalize(self, self._hook.remove)

    def detach(self) -> None:
        """Holds optimizers back no longer, until the next update; none may be in flight."""
        if self._hook is not None:
            self._remove_hook()
            self._hook = None

    def _pool(self) -> ThreadPoolExecutor:
        # Its threads are joined when the interpreter exits, and do not exist in a forked child.
        if self._executor is None or self._process != os.getpid():
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="swa_fast-offload")
            self._process = os.getpid()
        return self._executor


def offloads(device: Any, values: Sequence[Any]) -> bool:
    """Tells whether averages on ``device`` of ``values`` need copies from a GPU."""
    on_host = device is not None and device.type == "cpu"
    return on_host and any(value.is_cuda for value in values)


def _alike(staging: Sequence[Any], values: Sequence[Any]) -> bool:
    return len(staging) == len(values) and all(
        s.shape == v.shape and s.dtype == v.dtype and s.is_pinned() == v.is_cuda
        for s, v in zip(staging, values, strict=True)
    )
