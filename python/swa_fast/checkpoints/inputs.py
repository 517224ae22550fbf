"""Which checkpoints a user means, and in which order: patterns, folders of runs, weights."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import CheckpointError
from .formats.folder import find_weights

__all__ = ["Input", "resolve"]

SORTS = ("step", "name", "mtime")
"""What --sort takes."""

_RUN = re.compile(r"^(checkpoint|ckpt|step|iter|global_step|epoch|model|snapshot)[-_=]?\d+", re.I)
"""Names of the checkpoints in a run's folder."""

_STEPS = tuple(
    re.compile(rf"{before}(\d+)", re.I)
    for before in (
        r"(?:step|iter|iteration)s?[-_=]*",
        r"(?:checkpoint|ckpt|snapshot)s?[-_=]*(?:\d+_)?",
        r"epochs?[-_=]*",
        "",
    )
)
"""What comes before a step in a name, the surest first. fairseq's `_2_500` is epoch and update."""


@dataclass(frozen=True)
class Input:
    """One checkpoint and the weight typed for it, None if none was."""

    path: Path
    weight: float | None = None


def resolve(
    named: Sequence[str | os.PathLike[str]],
    *,
    weights: Sequence[float] | None = None,
    sort: str | None = None,
    last: int | None = None,
    every: int | None = None,
) -> list[Input]:
    """Return the checkpoints in the order of their coefficients, the oldest first.

    Args:
        named: each a checkpoint, a pattern, or the folder of a run, perhaps with ``:WEIGHT`` after
            it. A pattern or a run stands for its checkpoints in the order of their steps.
        weights: one for each checkpoint that remains.
        sort: order all by "step" (the number after "step", "iter", "checkpoint" or "epoch" in the
            name, else its last number), "name" or "mtime". None keeps the order given.
        last: keep so many of the last.
        every: keep each so-manieth, counted back from the last; done before ``last``.

    Raises:
        CheckpointError: a checkpoint is not there, none is left, one has no step to sort by, or the
            weights do not fit.
    """
    if sort is not None and sort not in SORTS:
        raise CheckpointError(f"--sort must be one of {', '.join(SORTS)}. Received: {sort!r}")
    for name, number in (("--last", last), ("--every", every)):
        if number is not None and number < 1:
            raise CheckpointError(f"{name} must be >= 1. Received: {number}")
    found: list[Input] = []
    for item in named:
        found += _expanded(os.fspath(item))
    if sort is not None:
        found = _sorted(found, sort)
    if every is not None:
        found = found[(len(found) - 1) % every :: every]
    if last is not None:
        found = found[-last:]
    if not found:
        raise CheckpointError("at least one checkpoint is needed. Received: none")
    if weights is not None:
        if any(item.weight is not None for item in found):
            raise CheckpointError("weights are given twice: after the checkpoints and by --weights")
        if len(weights) != len(found):
            raise CheckpointError(
                f"--weights must have one number for each of the {len(found)} checkpoints. "
                f"Received: {len(weights)}"
            )
        return [Input(item.path, weight) for item, weight in zip(found, weights, strict=True)]
    without = [item for item in found if item.weight is None]
    if 0 < len(without) < len(found):
        raise CheckpointError(
            f"all checkpoints must have a weight, or none: {without[0].path} has none"
        )
    return found


def step_of(path: Path) -> int | None:
    """Return the step in a checkpoint's name, None if it has no number.

    Example:
        >>> from pathlib import Path
        >>> from swa_fast.checkpoints.inputs import step_of
        >>> step_of(Path("run/epoch=3-step=1200.ckpt")), step_of(Path("model_17.pt"))
        (1200, 17)
    """
    stem = path.name.split(".")[0]
    for pattern in _STEPS:
        numbers = pattern.findall(stem)
        if numbers:
            return int(numbers[-1])
    return None


def _expanded(text: str) -> list[Input]:
    path, weight = text, None
    if not text:
        raise CheckpointError("a checkpoint has no name")
    if not os.path.lexists(text):
        head, colon, tail = text.rpartition(":")
        if colon and _is_number(tail):
            path, weight = head, float(tail)
    if not os.path.lexists(path) and glob.has_magic(path):
        matched = [Path(match) for match in glob.glob(path, recursive=True)]
        if not matched:
            raise CheckpointError(f"no checkpoint matches {path}")
        if weight is not None and len(matched) > 1:
            raise CheckpointError(
                f"{path} stands for {len(matched)} checkpoints, and has one weight"
            )
        return [Input(match, weight) for match in _in_order(matched)]
    if not os.path.exists(path):
        after = f", so it cannot have the weight {weight:g}" if weight is not None else ""
        raise CheckpointError(f"{path} is not there{after}")
    run = _run(Path(path))
    if run and weight is not None:
        raise CheckpointError(f"{path} is a run of {len(run)} checkpoints, and has one weight")
    return [Input(item) for item in run] if run else [Input(Path(path), weight)]


def _run(path: Path) -> list[Path]:
    """Return the checkpoints in a run's folder, none if it is a checkpoint itself, or a file."""
    if not path.is_dir() or (path / ".metadata").exists():
        return []
    found = [item for item in path.iterdir() if _RUN.match(item.name)]
    folders = [item for item in found if item.is_dir()]
    if folders:  # a run may have its final model beside its checkpoints
        return _in_order(folders)
    shards = any(path.glob("*.index.json"))
    if shards or any((path / name).exists() for name in ("config.json", "model.safetensors")):
        return []
    files = [item for item in found if item.name.endswith(_FILES)]
    return _in_order(files) if files and not _has_only_one(path) else []


_FILES = (".safetensors", ".pt", ".pth", ".pth.tar", ".bin", ".ckpt", ".npz", ".keras", ".h5")


def _has_only_one(path: Path) -> bool:
    try:
        return find_weights(path) is not None
    except CheckpointError:
        return False


def _in_order(paths: list[Path]) -> list[Path]:
    steps = {path: step_of(path) for path in paths}
    if any(step is None for step in steps.values()):
        return sorted(paths)
    return sorted(paths, key=lambda path: (steps[path], path.name))


def _sorted(found: list[Input], sort: str) -> list[Input]:
    if sort == "name":
        return sorted(found, key=lambda item: item.path.name)
    if sort == "mtime":
        return sorted(found, key=lambda item: item.path.stat().st_mtime_ns)
    for item in found:
        if step_of(item.path) is None:
            raise CheckpointError(
                f"{item.path} has no number to sort by: leave it out, or choose another --sort"
            )
    return sorted(found, key=lambda item: step_of(item.path) or 0)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
