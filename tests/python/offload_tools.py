"""A copier that reads a value only when it is told to: a write that comes too early is seen."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch

from swa_fast.torch import WeightAverager
from swa_fast.torch.offload import Offload


class SlowCopies:
    """Copies that are made when `finish` is set; writers that are held back wait for them."""

    def __init__(self, staging: Sequence[Any], values: Sequence[Any]) -> None:
        self.pairs = list(zip(staging, values, strict=True))
        self.pending = list(values)
        self.finish = threading.Event()
        self.done = threading.Event()
        self.held_back = 0

    def hold_back_writers(self) -> None:
        # A GPU makes the writer wait; on the CPU, the copies are finished before it may go on.
        self.held_back += 1
        self.finish.set()
        assert self.done.wait(60)

    def wait(self) -> None:
        assert self.finish.wait(60)
        for stage, value in self.pairs:
            stage.copy_(value.detach())
        self.done.set()


class SlowCopier:
    def __init__(self) -> None:
        self.started: list[SlowCopies] = []
        self.staged = 0
        self.automatic = False

    def stage(self, values: Sequence[Any]) -> list[Any]:
        self.staged += len(values)
        return [torch.empty_like(value.detach(), requires_grad=False) for value in values]

    def watch(self, record: Any) -> None:
        """Values are always given."""

    def start(self, staging: Sequence[Any], values: Sequence[Any] | None) -> SlowCopies | None:
        assert values is not None
        forms = [[(x.shape, x.dtype) for x in tensors] for tensors in (staging, values)]
        if forms[0] != forms[1]:
            return None
        copies = SlowCopies(staging, values)
        if self.automatic:
            copies.finish.set()
        self.started.append(copies)
        return copies


def make(copier: SlowCopier, **options: Any) -> tuple[Any, WeightAverager]:
    model = torch.nn.Linear(3, 2)
    averager = WeightAverager(model, device="cpu", **options)
    averager._snapshots.offload = Offload(copier)
    return model, averager


def set_weights(model: Any, number: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(number)


def make_with_a_snapshot(copier: SlowCopier) -> tuple[Any, WeightAverager]:
    """One whose first snapshot, of weights of 4, is in the averages."""
    model, averager = make(copier)
    set_weights(model, 4.0)
    averager.update()
    copier.started[0].finish.set()
    averager._snapshots.settle()
    return model, averager
