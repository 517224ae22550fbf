"""What was promised, each promise a ratio inside one run, and whether it was kept.

A missed budget is reported as it is; it never makes the run fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .competitors import (
    FUSED,
    FUSED_TORCH,
    MODEL_TORCH,
    MODEL_TORCH_MULTI,
    NUMPY,
    TORCH_FOREACH,
)
from .overhead import TORCH as OVERHEAD_TORCH
from .overhead import Overhead

if TYPE_CHECKING:
    from .results import ModelResult

SHARE_OF_FLAT = 0.95
"""Least share of the flat buffer's throughput that a real model's list reaches."""

OVER_FOREACH = 1.0
OVER_FOREACH_MANY_SMALL = 1.2
"""Least ratio to `torch._foreach_lerp_` with prebuilt lists."""

OVER_MODEL = 3.0
OVER_MODEL_MANY_SMALL = 5.0
"""Least ratio to the update of torch's `AveragedModel` with default arguments."""

OVER_MODEL_MULTI = 1.0
OVER_MODEL_MULTI_MANY_SMALL = 1.3
"""Least ratio to the same with `multi_avg_fn=get_swa_multi_avg_fn()`."""

OVER_NUMPY = 3.0
"""Least ratio to `a += (p - a) * w` per array."""

FIXED_SECONDS = 2e-6
PER_PAIR_SECONDS = 100e-9
"""Most that a call, and each pair of one-element torch tensors in it, may cost."""


@dataclass(frozen=True)
class Verdict:
    """One budget of one model.

    Attributes:
        what: what is compared.
        subject: the model, or what else it is about.
        target: the budget in words, e.g. ">= 0.95".
        measured: the measured value in words, or why there is none.
        met: None when it was not measured.
    """

    what: str
    subject: str
    target: str
    measured: str
    met: bool | None


def judge(
    models: Sequence[ModelResult], overhead: Sequence[Overhead], torch_missing: str | None
) -> list[Verdict]:
    """Return a verdict for every budget that the run could have measured.

    Args:
        models: the timed models.
        overhead: the overhead section; empty if it did not run.
        torch_missing: why torch's overhead was not measured, None if it was, or was not wanted.
    """
    return [
        *(verdict for model in models for verdict in _of_model(model)),
        *_of_overhead(overhead, torch_missing),
    ]


def _of_model(model: ModelResult) -> Iterator[Verdict]:
    small = model.workload.many_small
    foreach = OVER_FOREACH_MANY_SMALL if small else OVER_FOREACH
    default = OVER_MODEL_MANY_SMALL if small else OVER_MODEL
    multi = OVER_MODEL_MULTI_MANY_SMALL if small else OVER_MODEL_MULTI
    for key, what, target, attribute in (
        (FUSED, "NumPy list against one flat buffer", SHARE_OF_FLAT, "share_of_flat"),
        (FUSED_TORCH, "torch list against one flat buffer", SHARE_OF_FLAT, "share_of_flat"),
        (NUMPY, "against NumPy", OVER_NUMPY, "fused_is_faster"),
        (TORCH_FOREACH, "against torch._foreach_lerp_", foreach, "fused_is_faster"),
        (MODEL_TORCH, "AveragedModel against torch's", default, "fused_is_faster"),
        (MODEL_TORCH_MULTI, "AveragedModel against multi_avg_fn", multi, "fused_is_faster"),
    ):
        row = model.row(key)
        if row is None:
            continue
        value: float | None = getattr(row, attribute)
        yield Verdict(
            what=what,
            subject=model.workload.name,
            target=f">= {target:.2f}x",
            measured=row.missing or "not measured" if value is None else f"{value:.2f}x",
            met=None if value is None else value >= target,
        )
    yield from model.promises


def _of_overhead(overhead: Sequence[Overhead], torch_missing: str | None) -> Iterator[Verdict]:
    entry = next((entry for entry in overhead if entry.key == OVERHEAD_TORCH), None)
    if entry is None and torch_missing is None:
        return
    fixed, per_pair = (None, None) if entry is None else (entry.fixed, entry.per_pair)
    for what, seconds, target, unit, name in (
        ("fixed part of a call", fixed, FIXED_SECONDS, 1e-6, "us"),
        ("each pair in a call", per_pair, PER_PAIR_SECONDS, 1e-9, "ns"),
    ):
        yield Verdict(
            what=what,
            subject="torch tensors",
            target=f"<= {target / unit:.0f} {name}",
            measured=str(torch_missing) if seconds is None else f"{seconds / unit:.1f} {name}",
            met=None if seconds is None else seconds <= target,
        )
