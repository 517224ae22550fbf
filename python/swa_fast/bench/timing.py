"""Interleaved timing: in every round each call takes its turn.

A machine drifts (clock, neighbours, page cache). Timing one call after the other would give the
drift to some of them; turns in a shuffled order give it to all alike, and a ratio is the median of
the ratios inside one round.
"""

from __future__ import annotations

import gc
import random
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter, sleep
from typing import Any

MAX_ROUNDS = 200
"""More rounds than this do not move a median that is printed to three digits."""

MIN_ROUNDS = 7
"""The fewest rounds, whatever the seconds say."""

MIN_SAMPLES = 3
"""The fewest measurements of any call: nobody sits the first rounds out."""

SHORTEST = 1e-3
"""Seconds of a measurement: a shorter call is repeated in it, as the clock reads to 0.1 us only."""

SETTLE = 0.010
"""Seconds of rest after a call that lingers. With 1 ms, the quartiles of the ratio of two like
calls after TensorFlow's were 0.57 and 1.29, with 10 ms 0.93 and 1.02."""

SLOW = 4.0
"""Tasks slower than the fastest by more than this factor skip rounds."""

MAX_STRIDE = 8
"""Every task runs at least once in this many rounds."""


@dataclass(frozen=True)
class Ratio:
    """How many times as long one call takes as another: median and quartiles over the rounds."""

    median: float
    low: float
    high: float

    def is_noisy(self, target: float = 1.0) -> bool:
        """Return whether the quartiles lie on both sides of `target`, which leaves it open."""
        return self.low < target < self.high

    def __str__(self) -> str:
        """Return how the call that it is measured by compares, e.g. "1.36x faster"."""
        if self.is_noisy():
            return "noisy"
        return (
            f"{self.median:.2f}x faster" if self.median >= 1 else f"{1 / self.median:.2f}x slower"
        )


@dataclass(frozen=True)
class Comparison:
    """What `compare` measured: the seconds of one call, by name and round."""

    seconds: Mapping[str, Mapping[int, float]]

    def median(self, name: str) -> float:
        """Return the median seconds of one call."""
        return statistics.median(self.seconds[name].values())

    def ratio(self, name: str, to: str | None = None) -> Ratio:
        """Return how many times as long `name` takes as `to`, or as the first if that is None."""
        own, other = self.seconds[name], self.seconds[to or next(iter(self.seconds))]
        ratios = [own[number] / other[number] for number in own if number in other]
        low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return Ratio(median, low, high)

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Return medians, ratios to the first and every measurement, by name, as JSON types."""
        return {
            name: {
                "median": self.median(name),
                "ratio": asdict(self.ratio(name)),
                "rounds": list(seconds),
                "seconds": list(seconds.values()),
            }
            for name, seconds in self.seconds.items()
        }

    def __str__(self) -> str:
        """Return a table of the medians and of the ratios to the first; needs tabulate."""
        first, *others = self.seconds
        scale, unit = (1e3, "ms") if self.median(first) >= 1e-3 else (1e6, "us")
        rows = [[first, f"{scale * self.median(first):.2f}"]]
        for name in others:
            ratio = self.ratio(name)
            spread = f"{ratio.low:.2f}x to {ratio.high:.2f}x" + ", noisy" * ratio.is_noisy()
            rows.append([name, f"{scale * self.median(name):.2f}", f"{ratio.median:.2f}x", spread])
        return table(rows, ["", unit, f"of {first}", "quartiles"])


def compare(
    calls: Mapping[str, Callable[[], object]],
    seconds: float,
    *,
    prime: bool = False,
    lingering: Collection[str] = (),
) -> Comparison:
    """Time calls in turns; the others are compared with the first.

    Each first runs twice: once to warm up (to trace, compile, fault pages in), once to see what it
    costs. One that costs many times the fastest sits most rounds out; the first call never does.

    Args:
        calls: by name; each does its work once and returns when it is done.
        seconds: for the rounds, of which at least MIN_ROUNDS and at most MAX_ROUNDS are run.
        prime: run each call untimed just before it is timed, so that all find their own data in the
            cache as far as it fits, and no one profits from its predecessor.
        lingering: names of calls whose framework's threads spin for some milliseconds afterwards
            and would take a core from whoever comes next, who therefore waits.

    Example:
        >>> found = compare({"add": lambda: sum(range(99)), "max": lambda: max(range(99))}, 0.01)
        >>> found.ratio("add").median
        1.0
    """
    repeats, cost = {}, {}
    for name, call in calls.items():
        call()
        start = perf_counter()
        call()
        once = max(perf_counter() - start, 1e-9)
        repeats[name] = max(1, round(SHORTEST / once))
        cost[name] = once * repeats[name]
    slow = SLOW * min(cost.values())
    strides = {name: max(1, min(MAX_STRIDE, int(cost[name] / slow))) for name in calls}
    strides[next(iter(calls))] = 1
    found: dict[str, dict[int, float]] = {name: {} for name in calls}
    order, shuffle = list(calls), random.Random(0).shuffle

    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        begin = perf_counter()
        for number in range(MAX_ROUNDS):
            if number >= MIN_ROUNDS and perf_counter() - begin >= seconds:
                break
            shuffle(order)
            for name in order:
                if number >= MIN_SAMPLES and number % strides[name]:
                    continue
                call = calls[name]
                if prime:
                    call()
                start = perf_counter()
                for _ in range(repeats[name]):
                    call()
                found[name][number] = (perf_counter() - start) / repeats[name]
                if name in lingering:
                    sleep(SETTLE)
    finally:
        if collecting:
            gc.enable()
    return Comparison(found)


def table(rows: Sequence[Sequence[str]], headers: Sequence[str], text_columns: int = 1) -> str:
    """Lay out cells that are text, the first `text_columns` to the left; needs tabulate."""
    from tabulate import tabulate

    align = ["left" if column < text_columns else "right" for column in range(len(headers))]
    # disable_numparse: "1.00" must stay as it was rounded, and "inf" and "nan" stay words.
    return str(tabulate(rows, headers, colalign=align, disable_numparse=True))
