"""Interleaved timing: every competitor takes its turn in every round.

A machine drifts (clock, neighbours, page cache). Timing one competitor after the other would give
the drift to some of them; taking turns in a shuffled order gives it to all alike, and a ratio is
the median of the ratios inside one round.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Clock = Callable[[], float]

MAX_ROUNDS = 200
"""More rounds than this do not move a median that the report prints to three digits."""

MIN_ROUNDS = 7
"""The fewest rounds, whatever the budget says."""

_SETTLE = 0.010
"""Seconds after a task that lingers before the next is timed. With 1 ms in between, the quartiles
of the ratio of two like calls after TensorFlow's were 0.57 and 1.29, with 10 ms 0.93 and 1.02."""

MIN_SAMPLES = 3
"""The fewest measurements of any task: nobody sits the first rounds out."""

_SLOW = 4.0
"""A competitor this many times slower than the fastest starts to sit rounds out, ..."""

_MAX_STRIDE = 8
"""... but never more than seven of eight."""


@dataclass(frozen=True)
class Task:
    """Something to time.

    Attributes:
        key: names it in the result.
        run: does the work once and returns when it is done.
        every_round: never sits a round out, because others are compared with it.
        lingers: its framework's threads spin for some milliseconds after the call before they
            sleep, and would take a core from whoever comes next.
    """

    key: str
    run: Callable[[], object]
    every_round: bool = False
    lingers: bool = False


@dataclass
class Samples:
    """What was measured of one task.

    Attributes:
        rounds: the round of each measurement, ascending.
        seconds: how long one call took in that round.
    """

    rounds: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median of the seconds."""
        return statistics.median(self.seconds)


def interleave(
    tasks: Sequence[Task],
    budget: float,
    *,
    prime: bool,
    seed: int = 0,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
    progress: Callable[[float], None] = lambda fraction: None,
) -> dict[str, Samples]:
    """Time all tasks in rounds until the budget is used up.

    Each task first runs twice: once to warm up (a first call traces, compiles, faults pages in),
    once to see what it costs. A task that costs many times the fastest one sits most rounds out
    after the first ones, so that it does not eat the rounds of the others. After a task that
    lingers, the next one waits: it runs untimed for some milliseconds, or rests as long if tasks
    are not primed.

    Args:
        tasks: what to time, with unique keys.
        budget: seconds for the rounds; at least MIN_ROUNDS rounds run, at most MAX_ROUNDS.
        prime: run each task once untimed just before it is timed, so that all find their own data
            in the cache as far as it fits, and no one profits from its predecessor.
        seed: of the shuffled order inside the rounds.
        clock: returns seconds.
        sleep: waits for so many seconds.
        progress: told the share of the budget that is used, 0 to 1.

    Returns:
        The samples of each task by key.
    """
    samples = {task.key: Samples() for task in tasks}
    cost = {}
    for task in tasks:
        task.run()
        start = clock()
        task.run()
        cost[task.key] = clock() - start
    strides = {task.key: _stride(task, cost) for task in tasks}
    order = list(tasks)
    rng = random.Random(seed)

    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        begin = clock()
        lingering = False
        for number in range(MAX_ROUNDS):
            used = clock() - begin
            progress(min(1.0, max(number / MAX_ROUNDS, used / budget)))
            if number >= MIN_ROUNDS and used >= budget:
                break
            rng.shuffle(order)
            for task in order:
                if number >= MIN_SAMPLES and number % strides[task.key]:
                    continue
                if prime:
                    _run_for(_SETTLE if lingering else 0.0, task, clock)
                elif lingering:
                    sleep(_SETTLE)
                lingering = task.lingers
                start = clock()
                task.run()
                samples[task.key].seconds.append(clock() - start)
                samples[task.key].rounds.append(number)
    finally:
        if collecting:
            gc.enable()
    progress(1.0)
    return samples


def ratios(slow: Samples, fast: Samples) -> list[float]:
    """Return slow / fast for each round in which both were timed."""
    of_fast = dict(zip(fast.rounds, fast.seconds, strict=True))
    return [
        seconds / of_fast[number]
        for number, seconds in zip(slow.rounds, slow.seconds, strict=True)
        if number in of_fast
    ]


def median_ratio(slow: Samples, fast: Samples) -> float:
    """Return the median of the per-round ratios: how many times faster `fast` is."""
    return statistics.median(ratios(slow, fast))


def _run_for(seconds: float, task: Task, clock: Clock) -> None:
    """Run the task once, and again until so many seconds have passed."""
    start = clock()
    task.run()
    while clock() - start < seconds:
        task.run()


def _stride(task: Task, cost: dict[str, float]) -> int:
    cheapest = min(cost.values())
    if task.every_round or cheapest <= 0.0:
        return 1
    return max(1, min(_MAX_STRIDE, int(cost[task.key] / (_SLOW * cheapest))))
