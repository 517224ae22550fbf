"""The scripts about CUDA in benchmarks/, as far as they go without a GPU: on the CPU's tensors."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

pytest.importorskip("torch")
import torch

import cuda_host
import cuda_lists
import cuda_training
import swa_fast
from swa_fast.bench.timing import Comparison
from swa_fast.bench.workloads import Workload

TINY = Workload("tiny", "made up", ((3, 5), (40,), ()))


def comparison(**seconds: float) -> Comparison:
    times = {**dict.fromkeys(cuda_lists.updates_of(torch, TINY, "cpu"), 1.0)}
    times |= {getattr(cuda_lists, name): value for name, value in seconds.items()}
    return Comparison({name: dict.fromkeys(range(3), value) for name, value in times.items()})


def test_lists_are_measured_in_whole_and_in_a_queue() -> None:
    whole, queued = cuda_lists.measure(TINY, 0.01, "cpu")
    names = list(cuda_lists.updates_of(torch, TINY, "cpu"))
    for finding in (whole, queued):
        assert finding.comparison is not None
        assert list(finding.comparison.seconds) == names
    assert [verdict.what for verdict in queued.verdicts] == [
        "bfloat16 values against .float() copies",
        "call against torch._foreach_lerp_",
        "call against AveragedModel",
    ]


def test_what_is_timed_is_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    lists: list[Any] = []
    genuine = swa_fast.running_mean_

    def spy(averages: list[Any], values: list[Any], count: int) -> None:
        lists[:] = [averages, values]
        genuine(averages, values, count)

    monkeypatch.setattr(swa_fast, "running_mean_", spy)
    updates = cuda_lists.updates_of(torch, TINY, "cpu")
    for fused, others in (
        (cuda_lists.FUSED, [cuda_lists.FOREACH]),
        (cuda_lists.FUSED_HALF, [cuda_lists.FOREACH_HALF]),
        (cuda_lists.FLAT, [cuda_lists.FLAT_LERP]),
    ):
        updates[fused]()
        averages, values = lists
        for name in [fused, *others]:
            expected = [a + (v.float() - a) / 10 for a, v in zip(averages, values, strict=True)]
            updates[name]()
            for average, want in zip(averages, expected, strict=True):
                torch.testing.assert_close(average, want)
    updates[cuda_lists.COPY]()
    assert torch.equal(averages[0], values[0])


def test_queued_calls_are_reported_by_the_call() -> None:
    found = cuda_lists.per_call(Comparison({"a": {0: 2.0, 3: 4.0}}), 20)
    assert found.seconds["a"] == {0: 0.1, 3: 0.2}


def test_budgets_follow_the_size_of_the_model() -> None:
    whole = comparison(FOREACH=2.0, AVERAGED_MODEL=4.9)
    queued = comparison(FOREACH_HALF=1.6)
    verdicts = {v.what: v for v in cuda_lists.verdicts(TINY, whole, queued)}
    assert verdicts["call against torch._foreach_lerp_"].met is True
    assert verdicts["call against AveragedModel"].met is False
    assert verdicts["bfloat16 values against .float() copies"].met is True
    large = Workload("large", "made up", ((100_000_000,),))
    assert len(cuda_lists.verdicts(large, whole, queued)) == 1
    assert cuda_lists.gpu_verdicts(TINY, comparison()) == []
    # Of equal bandwidth, 12 bytes take 1.5 times as long as the copy's 8.
    for copy, lerp, met in ((0.97 / 1.5, 0.995, True), (0.96 / 1.5, 0.99, False)):
        replayed = comparison(COPY=copy, FLAT_LERP=lerp)
        judged = cuda_lists.gpu_verdicts(large, replayed)
        assert [verdict.met for verdict in judged] == [met, met]
        assert judged[0].measured == f"{1.5 * copy:.2f}x"


def test_the_host_is_measured_by_the_number_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_host, "LENGTHS", (1, 3))
    monkeypatch.setattr(cuda_host, "COPIES", (5,))
    findings = list(cuda_host.measure(None, 1e-3, "cpu"))
    assert [finding.subject for finding in findings] == ["1 pairs", "3 pairs", "5 tensors"]


class FakeEma:
    """In the place of timm's ModelEmaV3."""

    def __init__(self, model: Any, decay: float) -> None:
        self.decay = decay
        self.updates = 0

    def update(self, model: Any) -> None:
        self.updates += 1


def test_training_compares_updates_and_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(name: str) -> Any:
        nn = torch.nn
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1000))

    modules = {
        "timm": types.SimpleNamespace(create_model=create_model),
        "timm.utils": types.SimpleNamespace(ModelEmaV3=FakeEma),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(cuda_training, "MODELS", ("small",))
    monkeypatch.setattr(cuda_training, "BATCH", 1)
    monkeypatch.setattr(cuda_training, "STEPS", 1)
    host, step = cuda_training.measure(None, 1e-3, "cpu")
    assert [verdict.what for verdict in [*host.verdicts, *step.verdicts]] == [
        "update() against timm's ModelEmaV3",
        "update() against torch's AveragedModel",
        "training step with averages in host memory",
    ]
    assert step.comparison is not None
    modes = list(step.comparison.seconds)
    assert modes[0] == cuda_training.NONE
    assert modes[-1] == cuda_training.AGAIN
    assert cuda_training.OFFLOADED in modes
