"""What a call takes while others use the CPUs: on one thread, on all, and on as many as it chooses.

    pip install swa-fast torch && python benchmarks/busy_machine.py [--seconds 10] [SCENARIO...]

The update of float32 averages is timed in a loop with a training step of 10 ms before each call
("wait": the process sleeps, as when a GPU computes; "compute": torch multiplies matrices on all
threads) or none. One thread, all threads, the number that the call chooses, and
`torch._foreach_lerp_` take turns, half a second each. Scenarios:

    idle        nothing else runs
    one         one process that never rests
    busy        as many of them as there are CPUs
    workers     as many processes that work for 10 ms and sleep for 10 ms, like a DataLoader's
    training    a second process like the timed one, which takes its turns at the same moments
    quota       a control group with 3 CPUs' time for every 4 CPUs (needs root and writable cgroups)
    switching   "busy" that stops and goes on every 3 seconds; --seconds 12 or more

Prints the mean and the median of the calls in milliseconds. The mean is what training pays.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ELEMENTS = {"0.6 M": 600_000, "5.5 M": 5_500_000, "50 M": 50_000_000}
STEPS = ("none", "wait", "compute")
KINDS = ("1 thread", "all threads", "chosen", "torch")
SCENARIOS = ("idle", "one", "busy", "workers", "training", "quota", "switching")
TURN = 0.5  # seconds
STEP = 0.010  # seconds
CHANGE = 3.0  # seconds between two changes of "switching"
AFTER_CHANGE = ((0, 5), (5, 20), (20, 100))  # calls, counted from a change
CPUS = len(os.sched_getaffinity(0))


def spin(parent: int) -> None:
    """Uses a CPU as long as the parent process lives."""
    while os.getppid() == parent:
        sum(range(100_000))


def work_and_sleep(parent: int) -> None:
    """Uses half a CPU as long as the parent process lives."""
    while os.getppid() == parent:
        end = time.perf_counter() + 0.010
        while time.perf_counter() < end:
            sum(range(1_000))
        time.sleep(0.010)


def training_step(kind: str) -> Callable[[], None]:
    """Returns what happens between two calls."""
    if kind == "none":
        return lambda: None
    if kind == "wait":
        return lambda: time.sleep(STEP)
    import torch

    matrix = torch.ones(512, 512)

    def compute() -> None:
        end = time.perf_counter() + STEP
        while time.perf_counter() < end:
            torch.mm(matrix, matrix)

    return compute


def calls(elements: int) -> dict[str, Callable[[], None]]:
    """Returns the update by each of KINDS."""
    import torch

    import swa_fast

    averages, values = [torch.zeros(elements)], [torch.ones(elements)]

    def update(threads: int | None) -> Callable[[], None]:
        def call() -> None:
            swa_fast.set_num_threads(threads)
            swa_fast.running_mean_(averages, values, 9)

        return call

    updates = (
        update(1),
        update(CPUS),
        update(None),
        lambda: torch._foreach_lerp_(averages, values, 0.1),
    )
    return dict(zip(KINDS, updates, strict=True))


def measure(elements: int, step_kind: str, seconds: float) -> dict[str, list[float]]:
    """Times the calls in turns. They follow the clock, so two processes are always in the same.

    Returns:
        Seconds of every call of each kind.
    """
    step, updates = training_step(step_kind), calls(elements)
    for update in updates.values():
        update()
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        kind = KINDS[int(now / TURN) % len(KINDS)]
        step()
        start = time.perf_counter()
        updates[kind]()
        times[kind].append(time.perf_counter() - start)
    return times


def measure_switching(elements: int, step_kind: str, seconds: float) -> dict[str, list[float]]:
    """Times the calls of kind "chosen" after each change of the machine's state.

    Returns:
        Seconds of the calls, by state and number of calls since the change.
    """
    step, update = training_step(step_kind), calls(elements)["chosen"]
    groups = [
        f"{state} {first}-{last}" for state in ("idle", "busy") for first, last in AFTER_CHANGE
    ]
    times: dict[str, list[float]] = {group: [] for group in groups}
    with others([spin] * CPUS) as busy:
        end, number = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            state = ("busy", "idle")[number % 2]
            for process in busy:
                os.kill(process, signal.SIGCONT if state == "busy" else signal.SIGSTOP)
            change_end, call = time.monotonic() + CHANGE, 0
            while time.monotonic() < change_end:
                step()
                start = time.perf_counter()
                update()
                seconds_taken = time.perf_counter() - start
                for first, last in AFTER_CHANGE:
                    if number > 1 and first <= call < last:  # the first two changes warm up
                        times[f"{state} {first}-{last}"].append(seconds_taken)
                call += 1
            number += 1
    return times


@contextlib.contextmanager
def others(works: list[Callable[[int], None]]) -> Iterator[list[int]]:
    """Runs each function in a process of its own meanwhile."""
    parent, processes = os.getpid(), []
    try:
        for work in works:
            child = os.fork()
            if child == 0:
                work(parent)
                os._exit(0)
            processes.append(child)
        yield processes
    finally:
        for process in processes:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


@contextlib.contextmanager
def quota_group() -> Iterator[Path]:
    """Makes a control group with 3 CPUs' time for every 4 CPUs and yields its folder.

    Raises:
        OSError: it cannot be made here.
    """
    parent = Path("/sys/fs/cgroup")
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        if "cpu" in controllers.split(","):  # version 1: below the group that this process is in
            parent = parent / "cpu" / own.lstrip("/")
    group = parent / f"swa_fast_{os.getpid()}"
    group.mkdir()
    try:
        quota, period = 75_000 * CPUS, 100_000
        if (group / "cpu.max").exists():
            (group / "cpu.max").write_text(f"{quota} {period}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(period))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        yield group
    finally:
        group.rmdir()


def in_process(arguments: list[str], group: Path | None = None) -> subprocess.Popen[str]:
    """Starts this file once more, to measure, in a control group if one is given."""

    def join() -> None:
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    command = [sys.executable, __file__, "--measure", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=join)


def run(scenario: str, model: str, step: str, seconds: float) -> dict[str, list[float]]:
    """Measures one row in fresh processes."""
    arguments = [scenario, str(ELEMENTS[model]), step, str(seconds)]
    works: dict[str, list[Callable[[int], None]]]
    works = {"one": [spin], "busy": [spin] * CPUS, "workers": [work_and_sleep] * CPUS}
    with contextlib.ExitStack() as stack:
        stack.enter_context(others(works.get(scenario, [])))
        group = stack.enter_context(quota_group()) if scenario == "quota" else None
        started = [in_process(arguments, group) for _ in range(2 if scenario == "training" else 1)]
        answers = [process.communicate()[0] for process in started]
    merged: dict[str, list[float]] = {}
    for answer in answers:
        for kind, times in json.loads(answer).items():
            merged.setdefault(kind, []).extend(times)
    return merged


def cells(times: dict[str, list[float]]) -> list[str]:
    """Formats a row: mean and median of each kind, and "chosen" against the better fixed number."""
    means = {kind: statistics.fmean(values) * 1e3 for kind, values in times.items() if values}
    row = [
        f"{means[kind]:.2f} ({statistics.median(times[kind]) * 1e3:.2f})" if kind in means else "-"
        for kind in times
    ]
    if "chosen" in means:
        row.append(f"{means['chosen'] / min(means['1 thread'], means['all threads']):.2f}")
    return row


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", default=SCENARIOS)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each row")
    parser.add_argument("--models", nargs="*", choices=ELEMENTS, default=list(ELEMENTS))
    parser.add_argument("--steps", nargs="*", choices=STEPS, default=list(STEPS))
    options = parser.parse_args()
    for scenario in options.scenarios:
        if scenario not in SCENARIOS:
            parser.error(f"SCENARIO must be one of {', '.join(SCENARIOS)}. Received: {scenario}")
    for scenario in options.scenarios:
        print(f"\n{scenario}: mean (median) in ms", flush=True)
        for model in options.models:
            for step in options.steps:
                try:
                    times = run(scenario, model, step, options.seconds)
                except OSError as error:
                    print(f"not measured: {error}")
                    continue
                if model == options.models[0] and step == options.steps[0]:
                    last = ["chosen / better"] if "chosen" in times else []
                    print("| elements, step |", " | ".join([*times, *last]), "|")
                print(f"| {model}, {step} |", " | ".join(cells(times)), "|", flush=True)


def measure_here(scenario: str, elements: str, step: str, seconds: str) -> None:
    """Print the times as JSON: the other side of in_process."""
    function: Any = measure_switching if scenario == "switching" else measure
    print(json.dumps(function(int(elements), step, float(seconds))))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure_here(*sys.argv[2:])
    else:
        main()
