"""The order of a run: ask everything that can be refused, then check, then time, then judge."""

from __future__ import annotations

import contextlib
import datetime
import functools
import gc
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import swa_fast

from . import arena as arenas
from . import (
    budgets,
    competitors,
    keras_callback,
    keras_optimizer,
    machine,
    memory,
    outputs,
    overhead,
    results,
    workloads,
)
from .check import Target, check
from .competitors import FLAT, FUSED, Peer
from .timing import Task, interleave

_COUNT = 9
"""Values already in the averages when an update is timed; any count above 0 costs the same."""

_PRIME_BELOW_BYTES = 1 << 29
"""Averages and values together: below this a last-level cache may hold a good part of them, and
each competitor is primed. Above, one more pass over the memory would change nothing but the
time it takes."""

_OVERHEAD_SECONDS = 3.0

_KERAS_SECONDS = 1.0
"""For each model."""

_KERAS_STEPS_SHARE = 0.6
"""Of the seconds of a model: what the steps of `fit` may take, some hundred of 25 ms by default."""

_SNAPSHOT_MODELS = ("mobilenet_v3_large", "efficientnet_b0", "bert_base")
"""Where whole snapshots in TensorFlow and Keras are timed unless models were named: their targets
speak of these, and compiling takes longer than timing."""

_PROMISES_SHARE = 0.3
"""Of the seconds of a model, on top of them: what the promises without a row may take."""


@dataclass(frozen=True)
class Options:
    """What the user asked for.

    Attributes:
        models: names of workloads; empty for the default set.
        peers: comma-separated names of frameworks; None for all.
        threads: for swa_fast and every framework; None for swa_fast's own default.
        seconds: budget of the timed rounds of one model.
        json: where to write the raw result.
        plot: where to draw the chart.
    """

    models: Sequence[str] = ()
    peers: str | None = None
    threads: int | None = None
    seconds: float = 5.0
    json: Path | None = None
    plot: Path | None = None


@dataclass
class Lineup:
    """The peers of a run.

    Attributes:
        wanted: all that the user wants to see.
        modules: of those that take part, by name.
        frameworks: version of each that takes part, or why it does not.
    """

    wanted: list[Peer]
    modules: dict[str, Any] = field(default_factory=dict)
    frameworks: dict[str, str] = field(default_factory=dict)


def run(options: Options) -> results.Result:
    """Run the benchmark and write the files that were asked for.

    Raises:
        UserError: something that was asked for cannot be done; found before any work.
        CheckError: a fused result is not bit-identical to NumPy's.
    """
    selected = workloads.select(options.models)
    lineup = Lineup(competitors.select(options.peers))
    if options.json is not None:
        outputs.require_writable("--json", options.json)
    if options.plot is not None:
        outputs.require_plot(options.plot)
    for workload in selected:
        memory.require(workload, {peer.name for peer in lineup.wanted if peer.installed})

    with _threads(options.threads) as threads, _bar(len(selected) + 1) as bar:
        result = _run(options, selected, lineup, threads, bar)
    if options.json is not None:
        outputs.write_json(options.json, result.to_json())
    if options.plot is not None:
        from . import plot

        plot.draw(result, options.plot)
    return result


def _run(
    options: Options,
    selected: Sequence[workloads.Workload],
    lineup: Lineup,
    threads: int,
    bar: tqdm[Any],
) -> results.Result:
    date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    for peer in lineup.wanted:
        bar.set_description(f"importing {peer.name}")
        _load(peer, lineup, threads)
    with_snapshots = [w for w in selected if options.models or w.name in _SNAPSHOT_MODELS]
    models = []
    for done, workload in enumerate(selected):
        snapshots = workload in with_snapshots
        models.append(_run_model(workload, lineup, options.seconds, snapshots, bar, done))
        gc.collect()
    bar.set_description("call overhead")
    calls = overhead.measure("torch" in lineup.modules, min(_OVERHEAD_SECONDS, options.seconds))
    keras_verdicts = []
    if "tensorflow" in lineup.modules and importlib.util.find_spec("keras") is not None:
        bar.set_description("Keras callback")
        seconds = min(_KERAS_SECONDS, options.seconds)
        keras_verdicts = keras_callback.judge(with_snapshots, seconds)
        bar.set_description("Keras optimizer")
        keras_verdicts.append(keras_optimizer.judge(_KERAS_STEPS_SHARE * options.seconds))
    bar.update(bar.total - bar.n)
    wants_torch = any(peer.name == "torch" for peer in lineup.wanted)
    torch_missing = None if "torch" in lineup.modules else lineup.frameworks.get("torch")
    return results.Result(
        date=date,
        settings={
            "threads": threads,
            "seconds_per_model": options.seconds,
            "peers": [peer.name for peer in lineup.wanted],
        },
        machine=machine.describe(),
        build=swa_fast.build_info(),
        frameworks=lineup.frameworks,
        models=tuple(models),
        overhead=tuple(calls),
        verdicts=(
            *budgets.judge(models, calls, torch_missing if wants_torch else None),
            *keras_verdicts,
        ),
    )


def _load(peer: Peer, lineup: Lineup, threads: int) -> None:
    """Import one peer. A broken installation costs the run its rows, not its life."""
    if not peer.installed:
        lineup.frameworks[peer.name] = "not installed"
        return
    try:
        module = peer.module()
        lineup.frameworks[peer.name] = module.prepare(threads)
        lineup.modules[peer.name] = module
    except Exception as error:
        # Whatever a framework raises while it is imported is its own affair, and worth one line.
        reason = next(iter(str(error).splitlines()), "")
        lineup.frameworks[peer.name] = f"import failed: {type(error).__name__}: {reason}"[:120]


def _run_model(
    workload: workloads.Workload,
    lineup: Lineup,
    seconds: float,
    snapshots: bool,
    bar: tqdm[Any],
    done: int,
) -> results.ModelResult:
    bar.set_description(f"{workload.name}: check")
    arena = arenas.allocate(workload)
    rng = np.random.default_rng(0)
    for buffer in (arena.averages_all, arena.values_all):
        arenas.fill_random(buffer, rng)
    entries = competitors.build_fused(arena)
    for peer in lineup.wanted:
        if peer.name in lineup.modules:
            entries += lineup.modules[peer.name].build(arena)
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


@contextlib.contextmanager
def _threads(wanted: int | None) -> Iterator[int]:
    """Set the number of threads for the block, and hand out the number that holds."""
    before = swa_fast.get_num_threads()
    try:
        if wanted is not None:
            swa_fast.set_num_threads(wanted)
        yield swa_fast.get_num_threads()
    finally:
        swa_fast.set_num_threads(before)


def _bar(steps: int) -> tqdm[Any]:
    """A progress bar on stderr that shows only where a person is looking."""
    return tqdm(
        total=steps,
        disable=None,
        leave=False,
        bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}",
    )
