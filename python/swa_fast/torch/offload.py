"""Averages in host memory for parameters on a GPU, without holding up the training step.

An update has three parts. The parameters are copied to pinned host memory on a stream of their own,
beside whatever the device computes; a background thread waits for the copies and folds them into
the averages; and the next step of any optimizer of torch.optim is held back, on the device alone,
until the copies have read what it is about to write. The host waits for none of this. A write of
another kind while the copies are under way is an error at the next call (writes through ``.data``
cannot be seen).

There is one block of pinned memory, so an update waits for the one before it. Reads wait too.

The copies are queued, and the versions of the tensors compared, by native code in one call each.
The background thread is Python's: it holds the interpreter lock while it compares the versions,
which can be read in no other way, and while it looks at the tensors before the fold: 8 and about
25 us for 152 tensors. It holds no lock while it waits, or while the fold runs.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, Protocol

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from swa_fast import _core

# Copies begin at multiples of this many bytes: a cache line, and more than any dtype's size.
_ALIGNMENT = 64

# The fold takes at most so many threads, and at most half of those that a call may use: the
# training loop needs its core. On the GPU machine that was measured (docs/cuda.md), 4 of 16 threads
# fold 86 M elements in 16 ms, behind a step of 29 ms.
_MOST_FOLD_THREADS = 4


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

    def stage(self, values: Sequence[Any]) -> list[Any]:
        """Returns host memory for a copy of each value, of its shape and dtype."""

    def watch(self, record: Callable[[_core.HostCopies], bool]) -> None:
        """Learns from ``record`` where the values that were staged for are found."""

    def start(self, staging: Sequence[Any], values: Sequence[Any] | None) -> Copies | None:
        """Starts to copy ``values`` as they are after all work queued so far.

        Args:
            staging: what ``stage`` returned.
            values: tensors, or None for those that are watched.

        Returns:
            None if ``staging`` is not for these values: nothing was started.
        """


class _CudaCopies:
    """Copies that native code has queued."""

    def __init__(self, native: _core.HostCopies, pending: Sequence[Any]) -> None:
        self._native = native
        self.pending = pending

    def hold_back_writers(self) -> None:
        self._native.hold_back_writers()

    def wait(self) -> None:
        self._native.wait()


class CudaCopier:
    """Copies by native code, on a side stream for each device, into one block of pinned memory.

    A tensor that native code cannot read as it is (one with gaps, or lazily conjugated) is first
    made dense, on its own device.
    """

    def __init__(self) -> None:
        """Allocates nothing before it is needed."""
        self._native: _core.HostCopies | None = None
        self._made_dense: list[int] = []

    def stage(self, values: Sequence[Any]) -> list[Any]:
        """Returns views of one block of memory, pinned if a value is on a GPU.

        Raises:
            RuntimeError: there is not enough of it; nothing is allocated.
        """
        self._native = None
        places, size = [], 0
        for value in values:
            like = torch.empty_like(
                value.detach(), device="meta", memory_format=torch.preserve_format
            )
            places.append((size, like))
            size += -(-like.numel() * like.element_size() // _ALIGNMENT) * _ALIGNMENT
        pinned = any(value.is_cuda for value in values)
        try:
            block = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
        except (MemoryError, RuntimeError) as error:
            raise RuntimeError(
                f"averages in host memory need {size} bytes of {'pinned ' if pinned else ''}host "
                f"memory for the copies, which could not be allocated: {error}"
            ) from error
        staging = [
            block[begin : begin + like.numel() * like.element_size()]
            .view(like.dtype)
            .as_strided(like.shape, like.stride())
            for begin, like in places
        ]
        self._made_dense = [
            index
            for index, (value, place) in enumerate(zip(values, staging, strict=True))
            if value.stride() != place.stride() or value.is_conj() or value.is_neg()
        ]
        self._native = _core.HostCopies(self._readable(values), staging)
        return staging

    def watch(self, record: Callable[[_core.HostCopies], bool]) -> None:
        """Lets ``start`` find the values by itself, if all are read as they are."""
        if self._native is not None and not self._made_dense:
            record(self._native)

    def start(self, staging: Sequence[Any], values: Sequence[Any] | None) -> Copies | None:
        """Queues the copies; those from the CPU are made at once.

        Raises:
            RuntimeError: a CUDA graph is being captured, which cannot hold work of the host; or
                CUDA fails. Nothing is under way.
        """
        native = self._native
        if native is None or len(staging) == 0:
            return None
        pending = native.start(None if values is None else self._readable(values))
        return None if pending is None else _CudaCopies(native, pending)

    def _readable(self, values: Sequence[Any]) -> Sequence[Any]:
        """Returns the values, with dense copies in the place of those that need one."""
        if not self._made_dense:
            return values
        readable = list(values)
        for index in self._made_dense:
            if index < len(readable):
                value = readable[index].detach()
                dense = torch.empty_like(value, memory_format=torch.preserve_format)
                readable[index] = dense.copy_(value)
        return readable


class OffloadError(RuntimeError):
    """An update failed after ``update()`` had returned; its snapshot is not in the averages."""


class _Job:
    """One update in flight. Shared by two threads: flags are set in the order that is safe."""

    def __init__(self, copies: Copies, staging: list[Any], fold: Callable[[list[Any]], None]):
        self._copies = copies
        self._staging = staging
        self._fold = fold
        self._versions = _core.Versions(copies.pending)
        self._held_back = False

    def run(self) -> None:
        """Waits for the copies and folds them in; in the background."""
        self._copies.wait()
        # torch raises the version when a write is queued, so an unchanged version proves that no
        # write was queued.
        written = self._versions.first_changed()
        if written >= 0 and not self._held_back:
            raise RuntimeError(
                f"value {written} was written while it was being copied: parameters must be "
                "written by an optimizer of torch.optim, or after a read of the averages"
            )
        self._versions = _core.Versions(())
        fold, self._fold = self._fold, _nothing  # which refers to the averager
        fold(self._staging)

    def hold_back_writers(self) -> None:
        if not self._held_back and self._versions.first_changed() < 0:
            self._copies.hold_back_writers()
            self._held_back = True  # before the writer that is held back raises any version


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

    def stage(self, values: Sequence[Any]) -> None:
        """Takes memory for copies of ``values``; no update may be in flight.

        Raises:
            RuntimeError: there is not enough memory.
        """
        self._staging = []  # given back before as much again is taken
        self._staging = self._copier.stage(values)

    def watch(self, record: Callable[[_core.HostCopies], bool]) -> None:
        """Learns where the values that were staged for are found: ``submit`` needs them no more."""
        self._copier.watch(record)

    def submit(self, values: Sequence[Any] | None, fold: Callable[[list[Any]], None]) -> bool:
        """Starts an update and returns.

        Args:
            values: tensors to take a snapshot of, as they are after all work queued so far; None
                for those that are watched.
            fold: takes copies of them in host memory into the averages; runs in another thread,
                and writes nothing if it raises.

        Returns:
            False if the memory that is there is not for these values: nothing was started.

        Raises:
            OffloadError: the update before this one failed; nothing was started.
            RuntimeError: the copies could not be started.
        """
        self.wait()
        if not self._staging:
            return False
        copies = self._copier.start(self._staging, values)
        if copies is None:
            return False
        try:
            self._hold_back_optimizers()
            job = _Job(copies, self._staging, fold)
            in_flight = self._pool().submit(job.run)
        except BaseException:
            copies.wait()
            raise
        self._job, self._in_flight = job, in_flight
        return True

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


def fold_threads() -> int:
    """Returns how many threads a fold in the background may take."""
    return max(1, min(_MOST_FOLD_THREADS, _core.get_num_threads() // 2))
