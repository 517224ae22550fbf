"""What a run found out, as plain data: rows for people, everything for the JSON file."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .budgets import Verdict
from .competitors import FLAT, FUSED_KEYS, LABELS, Competitor
from .overhead import LABELS as OVERHEAD_LABELS
from .overhead import LENGTHS, Overhead
from .timing import Samples, median_ratio, ratios
from .workloads import BYTES_PER_ELEMENT, Workload

SCHEMA = 1
"""Raised when a reader of an older JSON file would misread a newer one."""

_NOISY = 0.05
"""Share of the machine's CPU time in other hands above which a run says so. A parallel call waits
for its slowest thread, so it suffers far more than that share."""

_STREAMS = 3
"""Every update reads the average, reads the value and writes the average."""


@dataclass(frozen=True)
class Row:
    """One competitor on one model.

    Attributes:
        key: of the competitor.
        label: what the report calls it.
        missing: why there is nothing below, e.g. "not installed"; None when it was timed.
        median: seconds per update.
        gigabytes_per_second: 12 bytes per element over the median, whatever is really moved.
        share_of_flat: throughput over that of the fused call on one flat buffer.
        fused_is_faster: how many times faster the fused call on the same tensors is.
        quartiles: of the per-round ratios behind `fused_is_faster`.
        rounds: the rounds it took part in.
        seconds: one measurement for each of them.
    """

    key: str
    label: str
    missing: str | None = None
    median: float | None = None
    gigabytes_per_second: float | None = None
    share_of_flat: float | None = None
    fused_is_faster: float | None = None
    quartiles: tuple[float, float] | None = None
    rounds: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()


@dataclass(frozen=True)
class ModelResult:
    """All competitors on one model.

    Attributes:
        workload: the model.
        updates_checked: updates that were compared with NumPy bit for bit before the timing.
        cpu_used_by_others: share of the machine's CPU time during the timing, None if unknown.
        rows: one per competitor, timed or missing, in the order of the report.
        promises: verdicts on what has no row, because it is no update of the arena's averages.
    """

    workload: Workload
    updates_checked: int
    cpu_used_by_others: float | None
    rows: tuple[Row, ...]
    promises: tuple[Verdict, ...] = ()

    def row(self, key: str) -> Row | None:
        """Return the competitor's row, None if it did not take part."""
        return next((row for row in self.rows if row.key == key), None)


@dataclass(frozen=True)
class Result:
    """A whole run.

    Attributes:
        date: when it began, ISO 8601 with the offset from UTC.
        settings: threads, seconds and peers as they were used.
        machine: from `machine.describe`.
        build: from `swa_fast.build_info`.
        frameworks: version of each peer that took part, or why it did not.
        models: one entry per model.
        overhead: one entry per callable.
        verdicts: the budgets, met or missed.
    """

    date: str
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    build: Mapping[str, Any]
    frameworks: Mapping[str, str]
    models: tuple[ModelResult, ...]
    overhead: tuple[Overhead, ...]
    verdicts: tuple[Verdict, ...]

    def noise(self) -> str:
        """Return a warning if others used the CPU while we measured, else an empty string."""
        noisy = [
            f"{model.workload.name} {model.cpu_used_by_others:.0%}"
            for model in self.models
            if model.cpu_used_by_others is not None and model.cpu_used_by_others > _NOISY
        ]
        return f"NOISY: others used the CPU meanwhile: {', '.join(noisy)}" if noisy else ""

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON types; times are in seconds."""
        return {
            "schema": SCHEMA,
            "date": self.date,
            "settings": dict(self.settings),
            "machine": dict(self.machine),
            "swa_fast": dict(self.build),
            "frameworks": dict(self.frameworks),
            "models": [
                {
                    "model": model.workload.name,
                    "source": model.workload.source,
                    "tensors": model.workload.tensors,
                    "elements": model.workload.elements,
                    "updates_checked": model.updates_checked,
                    "cpu_used_by_others": model.cpu_used_by_others,
                    "competitors": [asdict(row) for row in model.rows],
                }
                for model in self.models
            ],
            "overhead": [
                {**asdict(entry), "label": OVERHEAD_LABELS[entry.key], "pairs": LENGTHS}
                for entry in self.overhead
            ],
            "budgets": [asdict(verdict) for verdict in self.verdicts],
        }


def missing_row(key: str, reason: str) -> Row:
    """Return the row of a competitor that could not take part."""
    return Row(key, LABELS[key], missing=reason)


def timed_row(competitor: Competitor, samples: Mapping[str, Samples], workload: Workload) -> Row:
    """Return the row of a competitor that was timed."""
    own = samples[competitor.key]
    faster = quartiles = None
    if competitor.key not in FUSED_KEYS:
        per_round = ratios(own, samples[competitor.against])
        faster = statistics.median(per_round)
        quartiles = _quartiles(per_round)
    moved = _STREAMS * BYTES_PER_ELEMENT * workload.elements
    return Row(
        key=competitor.key,
        label=competitor.label,
        median=own.median,
        gigabytes_per_second=moved / own.median / 1e9,
        share_of_flat=median_ratio(samples[FLAT], own),
        fused_is_faster=faster,
        quartiles=quartiles,
        rounds=tuple(own.rounds),
        seconds=tuple(own.seconds),
    )


def _quartiles(numbers: Sequence[float]) -> tuple[float, float] | None:
    if len(numbers) < 2:
        return None
    low, _, high = statistics.quantiles(numbers, n=4, method="inclusive")
    return low, high
