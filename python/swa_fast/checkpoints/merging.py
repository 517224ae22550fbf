"""The weighted average of checkpoints on disk."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import swa_fast

from . import coefficients, stream
from .dtypes import DTYPES, DType
from .errors import CheckpointError
from .formats import format_of_output, open_checkpoint, open_writer
from .formats.writer import Job, TensorOut
from .inputs import Input, resolve
from .memory import anonymous_memory, parse_bytes
from .output import (
    check_free_space,
    new_output,
    refuse_existing,
    refuse_files,
    refuse_inputs,
    refuse_other_kind,
)
from .report import InputReport, MergeReport, provenance
from .selection import carried_over, select
from .tensors import Checkpoint, Tensor

__all__ = ["DTYPE_NAMES", "merge"]


DTYPE_NAMES = {"same": None, "float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""What ``dtype`` takes, and the storage type that it means."""


_OWN_MEMORY = 48 << 20
"""Bytes set aside for what is not a chunk: threads' stacks, headers, the allocator's own."""


Path_ = str | os.PathLike[str]


def merge(
    inputs: Sequence[Path_],
    output: Path_,
    *,
    weights: Sequence[float] | None = None,
    schedule: str | None = None,
    normalize: bool = False,
    allow_negative: bool = False,
    sort: str | None = None,
    last: int | None = None,
    every: int | None = None,
    dtype: str = "same",
    key: str | None = None,
    include: str | None = None,
    exclude: str | None = None,
    common: bool = False,
    keep_optimizer: bool = False,
    strict_integers: bool = False,
    allow_nonfinite: bool = False,
    format: str | None = None,
    max_memory: int | str = "512MiB",
    threads: int | None = None,
    hashes: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> MergeReport:
    """Average checkpoints, tensor by tensor, into a new one.

    Each element is ``sum of coefficient * element`` over the inputs in order, in float64, rounded
    once to the output's dtype: the bits of that NumPy expression. Integers, bools and whatever is
    not a tensor come from the last input. The files pass through in chunks, so the
    memory does not depend on their size. The output appears complete or not at all.

    Args:
        inputs: checkpoints, oldest first: files, folders, indices of shards, patterns, folders of
            runs; each may end in ``:WEIGHT``. Formats: safetensors, torch's zip files, Hugging Face
            folders, torch.distributed.checkpoint, ``.keras``, ``.weights.h5``, ``.npz``.
        output: the file or folder to write.
        weights: the coefficients, one for each input after ``every`` and ``last``.
        schedule: their name instead: one of ``coefficients.SCHEDULES``. The mean if neither is
            given.
        normalize: divide the weights by their sum.
        allow_negative: accept weights below 0.
        sort: order the inputs by "step", "name" or "mtime".
        last: use so many of the last.
        every: use each so-manieth, counted back from the last.
        dtype: of all averages: "same" keeps each tensor's own; "float32", "bfloat16", "float16".
        key: the part of torch files to average, as "state_dict" or "ema.model"; for them alone.
        include: regular expression; only tensors in whose names it is found are written.
        exclude: regular expression; tensors in whose names it is found are not written.
        common: use the tensors that all inputs have with one shape and dtype, and leave the others.
        keep_optimizer: copy the last input's optimizer state instead of leaving it out.
        strict_integers: require that copied tensors are equal in all inputs.
        allow_nonfinite: average NaN and infinities too.
        format: of the output, if its name and the inputs do not tell: one of ``formats.FORMATS``.
        max_memory: bytes of anonymous memory that the merge may use, or a text like "512MiB".
        threads: of the arithmetic; as set by ``swa_fast.set_num_threads`` if None.
        hashes: note the SHA-256 of every input file, which reads all of them once more.
        overwrite: replace an output that exists.
        dry_run: check everything and report, and write nothing.
        progress: called as ``progress(bytes_done, bytes_in_all)``.

    Returns:
        What was done.

    Raises:
        CheckpointError: what is wrong with an input, an option or the output; nothing was written.
        OSError: the system failed, say for lack of space; nothing is left behind.

    Example:
        >>> import numpy as np, os, tempfile
        >>> from swa_fast.checkpoints import merge
        >>> folder = tempfile.mkdtemp()
        >>> paths = [os.path.join(folder, f"step_{step}.npz") for step in (1, 2)]
        >>> for path, value in zip(paths, (1.0, 3.0)):
        ...     np.savez(path, w=np.full(2, value, np.float32))
        >>> report = merge(paths, os.path.join(folder, "mean.npz"))
        >>> np.load(os.path.join(folder, "mean.npz"))["w"], report.averaged
        (array([2., 2.], dtype=float32), 1)
    """
    started = time.perf_counter()
    at_entry = anonymous_memory()
    allowed = parse_bytes(max_memory) if isinstance(max_memory, str) else int(max_memory)
    if not os.fspath(output):
        raise CheckpointError("the output has no name")
    target = Path(os.path.abspath(output))
    output_dtype = _output_dtype(dtype)
    named = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    chosen = resolve(named, weights=weights, sort=sort, last=last, every=every)
    refuse_inputs(target, [item.path for item in chosen])
    refuse_existing(target, overwrite=overwrite)
    opened = [open_checkpoint(item.path, key=key, keep_optimizer=keep_optimizer) for item in chosen]
    for checkpoint in opened:
        refuse_files(target, checkpoint.path, checkpoint.files)
    shares, how, power = _coefficients(
        chosen, opened, schedule, normalize=normalize, allow_negative=allow_negative
    )
    selection = select(opened, include, exclude, common)
    kind = format_of_output(target, opened[-1], format)
    refuse_other_kind(target, output, kind)
    carried, left = carried_over(opened[-1], kind, keep_optimizer)
    reports = [
        InputReport(
            str(item.path),
            share,
            sum(file.stat().st_size for file in checkpoint.files),
            _hashes(checkpoint) if hashes else None,
        )
        for item, checkpoint, share in zip(chosen, opened, shares, strict=True)
    ]
    model = opened[-1].tensors
    copied = [name for name in selection.names if not _is_averaged(model[name])]
    averaged = len(selection.names) - len(copied)
    job = Job(
        path=target.with_name(f".{target.name}.partial"),
        target=target,
        inputs=opened,
        tensors={
            name: TensorOut(_dtype_of(opened[-1].tensors[name], output_dtype), tensor.shape)
            for name in selection.names
            for tensor in [opened[-1].tensors[name]]
        },
        carried={name: TensorOut(tensor.dtype, tensor.shape) for name, tensor in carried.items()},
        dtype=output_dtype,
        provenance=provenance(reports, how, averaged),
    )
    writer = open_writer(kind, job)
    tasks = _tasks(writer.order, opened, job, shares, strict_integers)
    total = sum(source.nbytes for task in tasks for source in task.sources)
    report = MergeReport(
        output=str(output),
        format=kind,
        inputs=reports,
        averaged=averaged,
        copied=[*copied, *job.carried],
        skipped=[*selection.skipped, *left],
        bytes_read=total,
        bytes_written=writer.size,
        seconds=0.0,
        peak_memory=anonymous_memory(),
        dry_run=dry_run,
        profile_error=power.error if power else None,
        magnitude=math.fsum(map(abs, shares)),
        warnings=power.warnings if power else [],
    )
    peak = report.peak_memory
    if not dry_run:
        check_free_space(target.parent, writer.size)
        room = allowed - (anonymous_memory() - at_entry) - _OWN_MEMORY
        done = 0

        def advance(nbytes: int) -> None:
            nonlocal done
            done += nbytes
            if progress is not None:
                progress(done, total)

        with new_output(target, overwrite=overwrite), _threads(threads):
            try:
                peak = stream.run(
                    tasks,
                    writer,
                    memory=room,
                    allow_nonfinite=allow_nonfinite,
                    progress=advance,
                )
                # A new output has nothing to lose to a power cut; one that is replaced has.
                writer.finish(durable=os.path.lexists(target))
            except BaseException:
                writer.abandon()
                raise
    return replace(
        report,
        bytes_written=writer.size if dry_run else _size(target),
        seconds=time.perf_counter() - started,
        peak_memory=max(peak, anonymous_memory()),
    )


def _coefficients(
    chosen: Sequence[Input],
    opened: Sequence[Checkpoint],
    schedule: str | None,
    *,
    normalize: bool,
    allow_negative: bool,
) -> tuple[list[float], str, coefficients.Power | None]:
    typed = [item.weight for item in chosen if item.weight is not None]
    if typed and schedule is not None:
        raise CheckpointError("give weights or --schedule, not both")
    if typed:
        shares = coefficients.explicit(typed, normalize=normalize, allow_negative=allow_negative)
        return shares, "explicit", None
    name = schedule or "mean"
    shares, power = coefficients.schedule(name, len(chosen), [_snapshot(x) for x in opened])
    return shares, name, power


def _snapshot(checkpoint: Checkpoint) -> tuple[float, float] | None:
    """Return the step and the width that a snapshot of a power average says it has."""
    try:
        return float(checkpoint.metadata["step"]), float(checkpoint.metadata["sigma_rel"])
    except (KeyError, ValueError):
        return None


def _tasks(
    order: Sequence[str],
    opened: Sequence[Checkpoint],
    job: Job,
    shares: Sequence[float],
    strict_integers: bool,
) -> list[stream.Task]:
    tasks = []
    for name in order:
        if name in job.carried:
            tensor = opened[-1].carried[name]
            tasks.append(stream.Task(name, (tensor,), tensor.dtype, None))
            continue
        sources = tuple(checkpoint.tensors[name] for checkpoint in opened)
        if _is_averaged(sources[-1]):
            dtype = job.tensors[name].dtype
            tasks.append(stream.Task(name, sources, dtype, tuple(shares)))
        else:
            kept = sources if strict_integers else sources[-1:]
            tasks.append(stream.Task(name, kept, sources[-1].dtype, None, strict_integers))
    return tasks


def _is_averaged(tensor: Tensor) -> bool:
    return tensor.dtype.is_averaged


def _dtype_of(tensor: Tensor, asked: DType | None) -> DType:
    if asked is None or tensor.dtype.kind not in ("float", "float8"):
        return tensor.dtype
    return asked


def _output_dtype(name: str) -> DType | None:
    if name not in DTYPE_NAMES:
        raise CheckpointError(
            f"a dtype must be one of {', '.join(DTYPE_NAMES)}. Received: {name!r}"
        )
    found = DTYPE_NAMES[name]
    return None if found is None else DTYPES[found]


def _hashes(checkpoint: Checkpoint) -> dict[str, str]:
    found = {}
    for path in checkpoint.files:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        found[path.name] = digest.hexdigest()
    return found


class _threads:  # noqa: N801
    """Sets the number of threads for a block."""

    def __init__(self, threads: int | None) -> None:
        if threads is not None and threads < 1:
            raise CheckpointError(f"--threads must be >= 1. Received: {threads}")
        self._threads = threads
        self._before = swa_fast.get_num_threads()

    def __enter__(self) -> None:
        if self._threads is not None:
            swa_fast.set_num_threads(self._threads)

    def __exit__(self, *_: object) -> None:
        swa_fast.set_num_threads(self._before)


def _size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
