"""Which tensors a merge writes: what all inputs have alike, and the user wants."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import CheckpointError
from .formats import is_like
from .tensors import ELSEWHERE, Checkpoint, Tensor

__all__ = ["Selection", "carried_over", "select"]


@dataclass(frozen=True)
class Selection:
    """Names to write, in the last input's order, and names that are left out."""

    names: list[str]
    skipped: list[str]


def select(
    opened: Sequence[Checkpoint], include: str | None, exclude: str | None, common: bool
) -> Selection:
    """Return the names to write, in the last input's order, and those that are left out."""
    last = opened[-1]
    skipped = list(dict.fromkeys(name for checkpoint in opened for name in checkpoint.optimizer))
    patterns = _pattern("--include", include), _pattern("--exclude", exclude)

    def is_wanted(name: str) -> bool:
        wanted = patterns[0] is None or patterns[0].search(name) is not None
        return wanted and (patterns[1] is None or patterns[1].search(name) is None)

    everywhere = dict.fromkeys(name for checkpoint in opened for name in checkpoint.tensors)
    skipped += [name for name in everywhere if not is_wanted(name)]
    names = [name for name in last.tensors if is_wanted(name)]
    differing: dict[str, None] = {}
    for checkpoint in opened[:-1]:
        for name in everywhere:
            if is_wanted(name):
                why = _difference(name, checkpoint, last)
                if why is not None and not common:
                    raise CheckpointError(f"{why}: --common averages what all inputs have")
                if why is not None:
                    differing[name] = None
    skipped += differing
    names = [name for name in names if name not in differing]
    if not names:
        has = ", ".join(list(last.tensors)[:4]) or "none"
        raise CheckpointError(
            f"no tensor of {last.path} is left to average; it has {has}"
            if everywhere
            else f"{last.path} has no tensors"
        )
    for name in names:
        tensor = last.tensors[name]
        if tensor.dtype.kind == "opaque" and len(opened) > 1:
            raise CheckpointError(
                f"{name!r} in {tensor.file} has dtype {tensor.dtype.label}, which cannot be "
                f"averaged: leave it out by --exclude"
            )
    return Selection(names, skipped)


def carried_over(
    template: Checkpoint, kind: str, keep_optimizer: bool
) -> tuple[dict[str, Tensor], list[str]]:
    """Return what the output gets beside the model, and names of what stays behind.

    Where such a tensor belongs is known in its own format alone.
    """
    if is_like(kind, template):
        return template.carried, []
    if keep_optimizer and template.carried:
        raise CheckpointError(
            f"--keep-optimizer needs an output of the last input's format, {template.format}. "
            f"Received: {kind}"
        )
    return {}, [name.removeprefix(ELSEWHERE) for name in template.carried]


def _difference(name: str, one: Checkpoint, other: Checkpoint) -> str | None:
    a, b = one.tensors.get(name), other.tensors.get(name)
    if a is None:
        return f"{other.path} has the tensor {name!r}, and {one.path} has not"
    if b is None:
        return f"{one.path} has the tensor {name!r}, and {other.path} has not"
    if a.shape != b.shape:
        return f"{name!r} has shape {a.shape} in {a.file} and {b.shape} in {b.file}"
    if a.dtype != b.dtype:
        return f"{name!r} has dtype {a.dtype.label} in {a.file} and {b.dtype.label} in {b.file}"
    return None


def _pattern(option: str, text: str | None) -> re.Pattern[str] | None:
    try:
        return None if text is None else re.compile(text)
    except re.error as error:
        raise CheckpointError(
            f"{option} must be a regular expression ({error}). Received: {text!r}"
        ) from None
