"""The order of a run: ask all that can be refused, import, then model by model, then judge."""

from __future__ import annotations

import contextlib
import datetime
import gc
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

import swa_fast

from . import (
    budgets,
    competitors,
    keras_process,
    machine,
    memory,
    outputs,
    overhead,
    results,
    workloads,
)
from .lineup import Lineup
from .model_run import ModelRun

_OVERHEAD_SECONDS = 3.0

_KERAS_SECONDS = 1.0
"""For each model."""

_KERAS_STEPS_SHARE = 0.6
"""Of the seconds of a model: what the steps of `fit` may take, some hundred of 25 ms by default."""

_SNAPSHOT_MODELS = ("mobilenet_v3_large", "bert_base")
"""Where whole snapshots in TensorFlow and Keras are timed unless models were named: their targets
speak of these, and compiling takes longer than timing."""


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
    # A tensor's Python object is small, and TensorFlow leaves a heap so full of gaps that objects
    # made after its import lie far apart: on models of many small tensors reading them then costs
    # more. So all lists are made before, as in a program that uses NumPy or torch alone. Their
    # memory is not touched yet.
    early = [peer for peer in lineup.wanted if peer.name != "tensorflow"]
    for peer in early:
        bar.set_description(f"importing {peer.name}")
        lineup.load(peer, threads)
    runs = [ModelRun(workload, lineup) for workload in selected]
    bar.set_description("call overhead")
    calls = overhead.measure("torch" in lineup.modules, min(_OVERHEAD_SECONDS, options.seconds))
    for peer in lineup.wanted:
        if peer not in early:
            bar.set_description(f"importing {peer.name}")
            lineup.load(peer, threads)
    with_snapshots = [w for w in selected if options.models or w.name in _SNAPSHOT_MODELS]
    models: list[results.ModelResult] = []
    while runs:
        model = runs.pop(0)
        snapshots = model.workload in with_snapshots
        models.append(model.run(options.seconds, snapshots, bar, done=len(models)))
        del model
        gc.collect()
    keras_verdicts: list[budgets.Verdict] = []
    if "tensorflow" in lineup.modules and importlib.util.find_spec("keras") is not None:
        bar.set_description("Keras")
        seconds = min(_KERAS_SECONDS, options.seconds)
        step_seconds = _KERAS_STEPS_SHARE * options.seconds
        keras_verdicts = keras_process.judge(with_snapshots, seconds, step_seconds, threads)
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
