"""What the tests of the benchmark share: a tiny model and results made up for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from swa_fast._bench import (
    arena,
    competitors,
    results,
    workloads,
)

TINY = workloads.Workload("tiny", "made up", ((3, 5), (7,), (), (2, 0), (70_000,), (1,)))


def filled_arena(workload: workloads.Workload) -> arena.Arena:
    made = arena.allocate(workload)
    rng = np.random.default_rng(7)
    arena.fill_random(made.averages_all, rng)
    arena.fill_random(made.values_all, rng)
    return made


def hide(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let the benchmark find some frameworks no more."""
    monkeypatch.setattr(
        competitors.Peer, "installed", property(lambda peer: peer.name not in names)
    )


def model_result(name: str, **values: results.Row) -> results.ModelResult:
    return results.ModelResult(workloads.load()[name], 5, None, tuple(values.values()))


def row(key: str, **values: Any) -> results.Row:
    return results.Row(key, competitors.LABELS[key], **values)
