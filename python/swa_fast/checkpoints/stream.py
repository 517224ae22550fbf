"""The work itself: chunks of all inputs are read ahead, combined, checked and written behind.

Three threads share it. One asks the disk for a chunk, and meanwhile reads the one before it into
memory; the caller's runs the fused kernel, which uses the threads of ``swa_fast.set_num_threads``;
one checks and writes what is finished.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

import swa_fast

from .dlpack import Numbers
from .dtypes import DType, float8_values, round_to_float8
from .errors import CheckpointError
from .finite import has_nonfinite
from .formats.writer import Writer
from .memory import Buffers, anonymous_memory
from .tensors import Bytes, Tensor

__all__ = ["Task", "run"]

_CHUNK = 8 << 20
"""Most bytes of output per step: larger ones gain nothing."""

_BUFFERS = 32 << 20
"""Most bytes that all chunks take together: larger ones do not stay in the third-level cache."""

_SMALLEST = 1 << 12
"""Elements of a chunk below which a merge would take for ever."""

_AHEAD = 2
"""Chunks that are read, or being read, while one is combined."""

_BEHIND = 2
"""Chunks that wait to be written."""

_GRANULE = 64
"""A chunk is a multiple of so many elements: whole vectors."""

_ALIGNMENT = 64
"""Bytes at whose multiples the sources of a chunk begin."""


@dataclass(frozen=True)
class Task:
    """One tensor of the output.

    Attributes:
        name: what the writer calls it.
        sources: the tensor of each input; of a tensor that is copied the last one counts.
        dtype: of the output.
        coefficients: None if the tensor is copied.
        compare: require that all sources of a copied tensor are equal.
    """

    name: str
    sources: tuple[Tensor, ...]
    dtype: DType
    coefficients: tuple[float, ...] | None
    compare: bool = False

    @property
    def needed(self) -> tuple[Tensor, ...]:
        """The tensors that are read."""
        if self.coefficients is not None or self.compare:
            return self.sources
        return self.sources[-1:]

    def memory_per_element(self) -> int:
        """Bytes of anonymous memory that each element of a chunk takes, in all stages."""
        widths = [source.dtype.itemsize for source in self.needed]
        # What is read may be gathered from a copy of its own; a copied tensor is written as read.
        reads = (_AHEAD + 1) * sum(widths) + max(widths)
        if self.coefficients is None:
            return reads + _BEHIND * widths[-1]
        outputs = self.dtype.itemsize * (_BEHIND + 2)
        # A float8 source becomes float32; a float8 output passes through float64, masks and codes.
        converted = 4 * sum(source.dtype.kind == "float8" for source in self.sources)
        return reads + outputs + converted + (48 if self.dtype.kind == "float8" else 0)


@dataclass(frozen=True)
class _Range:
    """The elements of a tensor from one number up to another."""

    task: Task
    begin: int
    end: int

    def places(self) -> Iterator[tuple[Tensor, int, int]]:
        """Yield every tensor that is read, and which of its bytes."""
        for source in self.task.needed:
            yield source, source.dtype.nbytes(self.begin), source.dtype.nbytes(self.end)


@dataclass(frozen=True)
class _Chunk:
    """A range, and its bytes of every source, which lie in ``buffer``."""

    range: _Range
    data: list[Bytes]
    buffer: Bytes


def run(
    tasks: Sequence[Task],
    writer: Writer,
    *,
    memory: int,
    allow_nonfinite: bool,
    progress: Callable[[int], None],
) -> int:
    """Write every task's tensor.

    Args:
        tasks: in the writer's order.
        writer: takes the bytes.
        memory: bytes of anonymous memory that may be used.
        allow_nonfinite: let NaN and infinities pass.
        progress: called with the number of bytes read, time and again.

    Returns:
        The most anonymous memory that the process had.

    Raises:
        CheckpointError: a source is truncated, not finite, or differs where it must not; or the
            memory is too small to work in.
    """
    try:
        return _run(tasks, writer, memory, allow_nonfinite, progress)
    except _NonfiniteError as error:  # nobody else reads any more
        raise _explained(error.part) from None


def _run(
    tasks: Sequence[Task],
    writer: Writer,
    memory: int,
    allow_nonfinite: bool,
    progress: Callable[[int], None],
) -> int:
    peak = anonymous_memory()
    ranges = _ranges(tasks, memory)
    inputs, outputs = Buffers(), Buffers()
    reads: deque[Future[_Chunk]] = deque()
    writes: deque[Future[None]] = deque()
    with (
        ThreadPoolExecutor(1, "swa-fast-read") as reader,
        ThreadPoolExecutor(1, "swa-fast-write") as finisher,
    ):
        try:
            prefetched = next(ranges, None)
            if prefetched is not None:
                reader.submit(_prefetch, prefetched)

            def read_next() -> None:
                nonlocal prefetched
                part, prefetched = prefetched, next(ranges, None)
                if part is not None:
                    reads.append(reader.submit(_read, part, prefetched, inputs))

            for _ in range(_AHEAD):
                read_next()
            while reads:
                chunk = reads.popleft().result()
                read_next()
                while len(writes) >= _BEHIND:
                    writes.popleft().result()
                if chunk.range.task.coefficients is None:
                    _check_equal(chunk)
                    output, give_back = chunk.data[-1], partial(inputs.give, chunk.buffer)
                else:
                    size = chunk.range.task.dtype.nbytes(chunk.range.end - chunk.range.begin)
                    buffer = outputs.take(size)
                    output, give_back = buffer[:size], partial(outputs.give, buffer)
                    _combine(chunk, output)
                    inputs.give(chunk.buffer)
                finishing = (chunk.range, output, writer, allow_nonfinite, give_back)
                writes.append(finisher.submit(_finish, *finishing))
                progress(sum(data.nbytes for data in chunk.data))
                peak = max(peak, anonymous_memory())
            while writes:
                writes.popleft().result()
        finally:
            for reading in reads:
                reading.cancel()
            for writing in writes:
                writing.cancel()
    return max(peak, anonymous_memory())


def _ranges(tasks: Sequence[Task], memory: int) -> Iterator[_Range]:
    for task in tasks:
        size = _chunk_size(task, memory)
        count = task.sources[-1].count
        for begin in range(0, max(count, 1), size):  # an empty tensor is written too
            yield _Range(task, begin, min(begin + size, count))


def _chunk_size(task: Task, memory: int) -> int:
    if task.dtype.bits % 8:  # not a whole number of bytes each: in one piece
        return max(1, task.sources[-1].count)
    each = task.memory_per_element()
    room = min(memory, max(_BUFFERS, _SMALLEST * each))
    size = min(_CHUNK // task.dtype.itemsize, room // each)
    if size < _SMALLEST:
        raise CheckpointError(
            f"--max-memory leaves {max(memory, 0):,} bytes for {len(task.sources)} inputs: "
            f"{_SMALLEST * each:,} more than the process itself has are needed"
        )
    return size // _GRANULE * _GRANULE


def _prefetch(part: _Range) -> None:
    for source, first, last in part.places():
        source.source.prefetch(first, last)


def _read(part: _Range, following: _Range | None, buffers: Buffers) -> _Chunk:
    """Bring a chunk of every source into memory, while the disk reads the following one."""
    if following is not None:
        _prefetch(following)
    places = list(part.places())
    sizes = [last - first for _, first, last in places]
    buffer = buffers.take(sum(size + -size % _ALIGNMENT for size in sizes))
    data, at = [], 0
    for (source, first, _), size in zip(places, sizes, strict=True):
        data.append(buffer[at : at + size])
        source.source.read_into(first, data[-1])
        at += size + -size % _ALIGNMENT
    return _Chunk(part, data, buffer)


def _combine(chunk: _Chunk, into: Bytes) -> None:
    """Compute the bytes of an average."""
    task = chunk.range.task
    terms = [
        [_numbers(data, source.dtype)]
        for data, source in zip(chunk.data, task.sources, strict=True)
    ]
    assert task.coefficients is not None
    if task.dtype.kind == "float8":
        sums = np.empty(into.size, np.float64)
        output = Numbers(sums.view(np.uint8), "F64")
        swa_fast.combine_([output], terms, task.coefficients)
        into[:] = round_to_float8(sums, task.dtype)
    else:
        assert task.dtype.parts is not None
        swa_fast.combine_([Numbers(into, task.dtype.parts)], terms, task.coefficients)


def _numbers(data: Bytes, dtype: DType) -> Numbers:
    if dtype.kind == "float8":
        return Numbers(float8_values(dtype)[data].view(np.uint8), "F32")
    assert dtype.parts is not None
    return Numbers(data, dtype.parts)


def _finish(
    part: _Range,
    output: Bytes,
    writer: Writer,
    allow_nonfinite: bool,
    give_back: Callable[[], None],
) -> None:
    """Check a chunk of the output, write it, and give back the memory that it took."""
    task = part.task
    if task.coefficients is not None and not allow_nonfinite and has_nonfinite(output, task.dtype):
        raise _NonfiniteError(part)
    writer.write(task.name, output)
    for source, first, last in part.places():
        source.source.release(first, last)
    give_back()


def _check_equal(chunk: _Chunk) -> None:
    """Raise CheckpointError if the sources of a copied tensor differ where they must not."""
    sources = chunk.range.task.needed
    for source, data in zip(sources, chunk.data, strict=True):
        if not np.array_equal(data, chunk.data[-1]):
            raise CheckpointError(
                f"{sources[-1].name!r} of dtype {sources[-1].dtype.label} differs between "
                f"{source.file} and {sources[-1].file}: --strict-integers wants it equal"
            )


class _NonfiniteError(Exception):
    """The average of ``part`` has a NaN or an infinity."""

    def __init__(self, part: _Range) -> None:
        super().__init__()
        self.part = part


def _explained(part: _Range) -> CheckpointError:
    """Return the error for an average that is not finite, which names its cause."""
    task = part.task
    for source, first, last in part.places():
        data = np.empty(last - first, np.uint8)
        source.source.read_into(first, data)
        if has_nonfinite(data, source.dtype):
            return CheckpointError(
                f"{source.name!r} in {source.file} has NaN or infinite elements: --allow-nonfinite "
                "averages them all the same"
            )
    return CheckpointError(
        f"the average of {task.name!r} is beyond the numbers of {task.dtype.label}: choose another "
        "--dtype, or --allow-nonfinite"
    )
