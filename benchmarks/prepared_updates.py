"""What an update costs on the host: one-element tensors, on one thread.

    python benchmarks/prepared_updates.py [--seconds S] [--json FILE]

A prepared list of torch tensors by its number of pairs; the averagers of a model of 180 one-element
parameters in 241 modules, against listing its parameters once; and how construction, update and
loading grow with the number of tensors.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import swa_fast
from budgets import Finding, Verdict, main
from call_overhead import LENGTHS, fit, name_of
from swa_fast.bench.timing import Comparison, compare, table
from swa_fast.bench.workloads import Workload

FIXED_SECONDS = 2e-6
PER_PAIR_SECONDS = 100e-9
"""Most that a prepared update, and each pair of one-element torch tensors in it, may cost."""

AVERAGER_SHARE = 0.25
MODEL_SHARE = 0.5
"""Most that an update may take of one `list(module.parameters())`."""

BLOCKS = 60
"""Of the model: three parameters and four modules each, and one module around them."""

COUNTS = (1_000, 10_000, 100_000)
"""Tensors of the lists whose cost per tensor is compared."""

LISTED = "list(module.parameters())"


def measure(workload: Workload | None, seconds: float) -> Iterator[Finding]:
    """Time the updates on one thread; the tensors are no model's."""
    torch: Any = importlib.import_module("torch")
    ours: Any = importlib.import_module("swa_fast.torch")
    threads = swa_fast.get_num_threads(), torch.get_num_threads()
    swa_fast.set_num_threads(1)
    torch.set_num_threads(1)
    try:
        yield lists(torch, ours, seconds / 2)
        yield modules(torch, ours, seconds / 2)
        yield growth(torch, ours)
    finally:
        swa_fast.set_num_threads(threads[0])
        torch.set_num_threads(threads[1])


def lists(torch: Any, ours: Any, seconds: float) -> Finding:
    """Time prepared updates and plain calls by their number of pairs."""
    kinds: dict[str, Callable[[int], Callable[[], object]]] = {
        "prepared": functools.partial(prepared_call, torch, ours),
        "running_mean_": functools.partial(plain_call, torch),
        "torch._foreach_lerp_": functools.partial(foreach_call, torch),
    }
    found = compare(
        {name_of(kind, n): make(n) for kind, make in kinds.items() for n in LENGTHS}, seconds
    )
    notes = []
    costs: dict[str, tuple[float, float]] = {}
    for kind in kinds:
        costs[kind] = fit(LENGTHS, [found.median(name_of(kind, n)) for n in LENGTHS])
        fixed, per_pair = costs[kind]
        notes.append(f"{kind}: {1e6 * fixed:.2f} us, and {1e9 * per_pair:.0f} ns per pair")
    fixed, per_pair = costs["prepared"]
    what = "one-element torch tensors"
    verdicts = [
        Verdict(
            "fixed part of a prepared update",
            what,
            f"<= {1e6 * FIXED_SECONDS:.0f} us",
            f"{1e6 * fixed:.2f} us",
            fixed <= FIXED_SECONDS,
        ),
        Verdict(
            "each pair in a prepared update",
            what,
            f"<= {1e9 * PER_PAIR_SECONDS:.0f} ns",
            f"{1e9 * per_pair:.0f} ns",
            per_pair <= PER_PAIR_SECONDS,
        ),
    ]
    return Finding(what, "updates by their number of pairs", found, verdicts, "\n".join(notes))


def modules(torch: Any, ours: Any, seconds: float) -> Finding:
    """Time the averagers of a model against listing its parameters."""
    swa_utils: Any = importlib.import_module("torch.optim.swa_utils")
    net = model(torch)
    averaged, theirs = ours.AveragedModel(net), swa_utils.AveragedModel(net)
    several = {f"ema {k}": swa_fast.Average(decay=1 - 0.1**k) for k in (1, 2, 3)}
    calls: dict[str, Callable[[], object]] = {
        LISTED: lambda: list(net.parameters()),
        "WeightAverager, mean": ours.WeightAverager(net).update,
        "WeightAverager, three": ours.WeightAverager(net, several).update,
        "AveragedModel": lambda: averaged.update_parameters(net),
        "torch's AveragedModel": lambda: theirs.update_parameters(net),
    }
    found = compare(calls, seconds)
    verdicts = [
        share(found, "WeightAverager, mean", AVERAGER_SHARE),
        share(found, "AveragedModel", MODEL_SHARE),
    ]
    title = f"{len(list(net.parameters()))} parameters in {len(list(net.modules()))} modules"
    return Finding("a model of one-element parameters", title, found, verdicts)


def share(found: Comparison, name: str, target: float) -> Verdict:
    """Judge how much of a listing an update takes."""
    ratio = found.ratio(name, LISTED)
    met = None if ratio.is_noisy(target) else ratio.median <= target
    subject = "180 parameters, 241 modules"
    what = f"{name}, against {LISTED}"
    return Verdict(what, subject, f"<= {target:.2f}x", f"{ratio.median:.2f}x", met)


def growth(torch: Any, ours: Any) -> Finding:
    """Time one construction, one update and one loading of many tensors, per tensor."""
    rows = []
    for count in COUNTS:
        parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(count)]
        built, averager = timed(functools.partial(ours.WeightAverager, parameters))
        first, _ = timed(averager.update)
        again = min(timed(averager.update)[0] for _ in range(3))
        state = averager.state_dict()
        loaded, _ = timed(functools.partial(averager.load_state_dict, state))
        costs = [f"{1e6 * seconds / count:.2f}" for seconds in (built, first, again, loaded)]
        rows.append([f"{count:,}", *costs])
    headers = ["tensors", "construction", "first update", "update", "load_state_dict"]
    return Finding("lists", "microseconds per tensor", note=table(rows, headers))


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds of one call, and what it returned."""
    begin = perf_counter()
    result = call()
    return perf_counter() - begin, result


def model(torch: Any) -> Any:
    """Return the model: 180 one-element parameters in 241 modules."""
    blocks = []
    for _ in range(BLOCKS):
        block = torch.nn.Module()
        for name in ("first", "second", "third"):
            block.add_module(name, torch.nn.Module())
        for owner, name in ((block.first, "weight"), (block.first, "bias"), (block.second, "bias")):
            owner.register_parameter(name, torch.nn.Parameter(torch.zeros(1)))
        blocks.append(block)
    return torch.nn.Sequential(*blocks)


def prepared_call(torch: Any, ours: Any, length: int) -> Callable[[], object]:
    """Return the update of an averager of a list."""
    averager = ours.WeightAverager([torch.zeros(1) for _ in range(length)])
    return functools.partial(averager.update)


def plain_call(torch: Any, length: int) -> Callable[[], object]:
    """Return the call that prepares and runs at once."""
    averages, values = ([torch.zeros(1) for _ in range(length)] for _ in range(2))
    return functools.partial(swa_fast.running_mean_, averages, values, 9)


def foreach_call(torch: Any, length: int) -> Callable[[], object]:
    """Return torch's call."""
    averages, values = ([torch.zeros(1) for _ in range(length)] for _ in range(2))
    return functools.partial(torch._foreach_lerp_, averages, values, 0.1)


if __name__ == "__main__":
    main(__doc__, measure, models=None)
