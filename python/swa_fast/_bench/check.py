"""Is the fused result right? Asked on the very data that is timed, bit for bit, before any timing.

The reference is the NumPy expression of the arithmetic contract, float32 throughout:
`average + (value - average) * np.float32(1 / (count + 1))`, and an exact copy for count 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .arena import Arena, Array, fill_random, split
from .errors import CheckError

COUNTS = (0, 1, 2, 3)
"""The updates of the main check: the exact copy, an exact weight (1/2), two rounded ones."""

_CHUNK = 65_536
"""Elements per step of the reference; its temporaries then stay in the cache."""


@dataclass(frozen=True)
class Target:
    """One way to call the fused kernel.

    Attributes:
        label: names it in a failure.
        update: takes the count and updates the arena's averages.
        flat: it updates the flat buffer and not the list.
    """

    label: str
    update: Callable[[int], object]
    flat: bool = False


def check(arena: Arena, targets: Sequence[Target], rng: np.random.Generator) -> int:
    """Compare fused updates with NumPy on fresh random values each.

    The first target makes one update for each of COUNTS; every further target, which reaches the
    same kernel over another road, makes one more. The padding between the tensors is compared
    too: a list update must not touch it.

    Args:
        arena: its averages and values are overwritten.
        targets: the ways to call the fused kernel.
        rng: draws the values.

    Returns:
        The number of updates that were compared.

    Raises:
        CheckError: an element differs; the message names the first one.
    """
    fill_random(arena.averages_all, rng)
    expected = arena.averages_all.copy()
    plan = [(targets[0], count) for count in COUNTS]
    plan += [(target, len(COUNTS) + extra) for extra, target in enumerate(targets[1:])]
    for target, count in plan:
        fill_random(arena.values_all, rng)
        end = arena.workload.elements
        if target.flat:
            _reference(expected[:end], arena.values_flat, count)
        else:
            for average, value in zip(split(expected, arena.workload), arena.values, strict=True):
                _reference(average.reshape(-1), value.reshape(-1), count)
        target.update(count)
        if not np.array_equal(arena.averages_all.view(np.uint32), expected.view(np.uint32)):
            raise CheckError(_describe(arena, expected, target, count))
    return len(plan)


def _reference(average: Array, value: Array, count: int) -> None:
    weight = np.float32(1 / (count + 1))
    for start in range(0, average.size, _CHUNK):
        a, v = average[start : start + _CHUNK], value[start : start + _CHUNK]
        a[...] = v if count == 0 else a + (v - a) * weight


def _describe(arena: Arena, expected: Array, target: Target, count: int) -> str:
    head = (
        f"the fused result of {arena.workload.name} ({target.label}, count={count}) "
        "is not bit-identical to NumPy: "
    )
    if target.flat:
        got_list, want_list = [arena.averages_flat], [expected[: arena.workload.elements]]
    else:
        got_list, want_list = arena.averages, split(expected, arena.workload)
    for number, (got, want) in enumerate(zip(got_list, want_list, strict=True)):
        wrong = np.flatnonzero(got.reshape(-1).view(np.uint32) != want.reshape(-1).view(np.uint32))
        if wrong.size:
            where = tuple(int(i) for i in np.unravel_index(int(wrong[0]), got.shape))
            return head + (
                f"averages[{number}] of shape {got.shape} differs first at {where}, "
                f"expected {_bits(want[where])}, got {_bits(got[where])} "
                f"({wrong.size:,} of {got.size:,} elements differ)"
            )
    return head + "it wrote into the padding between two tensors"


def _bits(number: np.float32) -> str:
    return f"{number!s} (0x{int(number.view(np.uint32)):08x})"
