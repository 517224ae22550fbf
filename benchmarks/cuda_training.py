"""Averagers beside a training on a GPU: the host time of their update, and a whole training step.

    pip install timm && python benchmarks/cuda_training.py [--seconds S] [--json FILE]

Models of timm, trained on random images in bfloat16 autocast by SGD with momentum. Steps without an
average, with timm's and torch's, with ours, and with ours in host memory (`device="cpu"`) take
turns, some steps at a time.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

from budgets import Finding, Verdict, at_least, at_most, main
from cuda_lists import per_call
from swa_fast.bench.timing import Comparison, compare

MODELS = ("mobilenetv3_large_100", "resnet50", "vit_base_patch16_224")
"""Of timm: of many small tensors, of some, of large ones."""

DECAY, BATCH, STEPS = 0.999, 64, 8
"""Of the averages; images in a batch; steps at a time, at whose end the device is waited for."""

NONE, AGAIN = "no average", "no average, again"
OURS, OFFLOADED = "WeightAverager", 'WeightAverager(device="cpu")'
OUR_MODEL, THEIR_MODEL, TIMM = (
    "swa_fast.torch AveragedModel",
    "torch AveragedModel",
    "timm ModelEmaV3",
)

OVER_TIMM, OVER_TORCH = 20.0, 35.0
"""Least ratios of the host time of their update to that of `WeightAverager.update`."""

OFFLOAD = 1.01
"""Most that a step with averages in host memory takes, in steps without averages."""


def measure(workload: None, seconds: float, device: str = "cuda") -> Iterator[Finding]:
    """Time updates and steps for each of MODELS."""
    torch: Any = importlib.import_module("torch")
    timm, timm_utils = (importlib.import_module(name) for name in ("timm", "timm.utils"))
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    for name in MODELS:
        model = timm.create_model(name).to(device)
        updates = updates_of(model, timm_utils)
        step = step_of(torch, model, device)
        share = seconds / len(MODELS) / 2
        host = {k: u for k, u in updates.items() if k != OFFLOADED}
        found = compare(host, share)
        wait()
        yield Finding(name, "host time of update()", found, host_verdicts(name, found))
        modes = {NONE: lambda: None, **updates, AGAIN: lambda: None}

        def steps(after: Callable[[], object], step: Callable[[], object] = step) -> None:
            for _ in range(STEPS):
                step()
                after()
            wait()

        calls = {mode: functools.partial(steps, after) for mode, after in modes.items()}
        found = per_call(compare(calls, share), STEPS)
        what = "training step with averages in host memory"
        verdict = at_most(what, name, found.ratio(OFFLOADED), OFFLOAD)
        yield Finding(name, "a training step", found, [verdict])


def updates_of(model: Any, timm_utils: Any) -> dict[str, Callable[[], object]]:
    """Return what is called after each step, by name; ours is the first."""
    ours: Any = importlib.import_module("swa_fast.torch")
    theirs: Any = importlib.import_module("torch.optim.swa_utils").AveragedModel(model)
    averaged, timm_ema = ours.AveragedModel(model), timm_utils.ModelEmaV3(model, decay=DECAY)
    return {
        OURS: ours.WeightAverager(model, decay=DECAY).update,
        OFFLOADED: ours.WeightAverager(model, decay=DECAY, device="cpu").update,
        OUR_MODEL: lambda: averaged.update_parameters(model),
        THEIR_MODEL: lambda: theirs.update_parameters(model),
        TIMM: lambda: timm_ema.update(model),
    }


def step_of(torch: Any, model: Any, device: str) -> Callable[[], None]:
    """Return a function that trains one step on random images, without waiting for the device."""
    images = torch.randn(BATCH, 3, 224, 224, device=device)
    labels = torch.randint(0, 1000, (BATCH,), device=device)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return step


def host_verdicts(model: str, found: Comparison) -> list[Verdict]:
    """Judge the host time of `WeightAverager.update`."""
    return [
        at_least("update() against timm's ModelEmaV3", model, found.ratio(TIMM), OVER_TIMM),
        at_least(
            "update() against torch's AveragedModel", model, found.ratio(THEIR_MODEL), OVER_TORCH
        ),
    ]


if __name__ == "__main__":
    main(__doc__, measure, models=None)
