"""One model: its competitors are built, checked, timed, and its promises judged."""

from __future__ import annotations

import functools
import gc
from typing import Any

import numpy as np
from tqdm import tqdm

from . import arena as arenas
from . import budgets, competitors, machine, results
from .check import Target, check
from .competitors import FLAT, FUSED
from .lineup import Lineup
from .timing import Task, interleave
from .workloads import Workload

_COUNT = 9
"""Values already in the averages when an update is timed; any count above 0 costs the same."""

_PRIME_BELOW_BYTES = 1 << 29
"""Averages and values together: below this a last-level cache may hold a good part of them, and
each competitor is primed. Above, one more pass over the memory would change nothing but the
time it takes."""

_PROMISES_SHARE = 0.3
"""Of the seconds of a model, on top of them: what the promises without a row may take."""


class ModelRun:
    """The competitors on one model's tensors, and what becomes of them."""

    def __init__(self, workload: Workload, lineup: Lineup) -> None:
        """Make the lists of the frameworks that are imported so far; no memory is touched."""
        self.workload = workload
        self._lineup = lineup
        self._arena = arenas.allocate(workload)
        self._entries = competitors.build_fused(self._arena)
        self._joined: set[str] = set()
        self._join()

    def _join(self) -> None:
        for peer in self._lineup.wanted:
            if peer.name in self._lineup.modules and peer.name not in self._joined:
                self._joined.add(peer.name)
                self._entries += self._lineup.modules[peer.name].build(self._arena)

    def run(
        self, seconds: float, snapshots: bool, bar: tqdm[Any], done: int
    ) -> results.ModelResult:
        """Check, time and judge; to be called once.

        Args:
            seconds: budget of the timed rounds.
            snapshots: whether whole snapshots in TensorFlow are judged too.
            bar: shows what is going on.
            done: steps of the bar that are behind us.

        Raises:
            CheckError: a fused result is not bit-identical to NumPy's.
        """
        workload, lineup, arena, entries = self.workload, self._lineup, self._arena, self._entries
        bar.set_description(f"{workload.name}: check")
        rng = np.random.default_rng(0)
        for buffer in (arena.averages_all, arena.values_all):
            arenas.fill_random(buffer, rng)
        self._join()
        targets = [
            Target(entry.label, entry.update, flat=entry.key == FLAT)
            for entry in entries
            if entry.key in competitors.FUSED_KEYS
        ]
        checked = check(arena, targets, rng)

        bar.set_description(f"{workload.name}: warm-up")
        tasks = [
            Task(
                entry.key,
                functools.partial(entry.update, _COUNT),
                every_round=entry.key in competitors.FUSED_KEYS,
                lingers=entry.key in competitors.LINGERING_KEYS,
            )
            for entry in entries
        ]

        def progress(fraction: float) -> None:
            bar.set_description(f"{workload.name}: timing", refresh=False)
            bar.update(done + fraction - bar.n)

        prime = 2 * workload.nbytes < _PRIME_BELOW_BYTES
        neighbours = machine.Neighbours()
        samples = interleave(tasks, seconds, prime=prime, progress=progress)
        others = neighbours.share()
        timed = {entry.key: results.timed_row(entry, samples, workload) for entry in entries}
        rows = [timed[FUSED], timed[FLAT]]
        for peer in lineup.wanted:
            reason = lineup.frameworks[peer.name]
            rows += [timed.get(key) or results.missing_row(key, reason) for key in peer.keys]
        entries.clear()  # what they hold is needed below
        tasks.clear()
        promises: list[budgets.Verdict] = []
        names = [name for name in lineup.modules if snapshots or name != "tensorflow"]
        averagers = [(name, competitors.averager(name)) for name in names]
        judges = [(name, module) for name, module in averagers if module is not None]
        for name, module in judges:
            bar.set_description(f"{workload.name}: {name} averager")
            promises += module.judge(arena, seconds * _PROMISES_SHARE / len(judges), prime)
            gc.collect()
        return results.ModelResult(workload, checked, others, tuple(rows), tuple(promises))
