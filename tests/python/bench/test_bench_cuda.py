"""`swa-fast bench --device cuda`, as far as it goes without a GPU: on the CPU's tensors."""

from __future__ import annotations

import json
from typing import Any

import pytest

import swa_fast
from swa_fast import _cli
from swa_fast._bench import cuda, cuda_report, workloads
from swa_fast._bench.errors import CheckError

torch: Any = pytest.importorskip("torch")
TINY = workloads.Workload("tiny", "made up", ((3, 5), (40,), ()))


def rows(**changes: float) -> list[cuda.Row]:
    made = []
    for name in (cuda.COPY, cuda.FUSED, cuda.FOREACH, cuda.AVERAGED_MODEL, cuda.FOREACH_HALF):
        made.append(cuda.Row(name, 1e-5, 1e-6, changes.get(name, 100.0), 3.0, 2.0))
    return made


def test_measures_every_competitor_and_prints_it() -> None:
    waits = []
    measured = cuda.measure(torch, TINY, "cpu", lambda: waits.append(1), 0.01)
    assert [row.competitor for row in measured] == list(cuda._BYTES)
    assert waits
    by_name = {row.competitor: row for row in measured}
    assert by_name[cuda.FUSED].fused_call_is_faster == 1.0
    for row in measured:
        assert row.call > 0
        moved = cuda._BYTES[row.competitor] * TINY.elements
        assert row.gigabytes_per_second == pytest.approx(moved / row.queued / 1e9)
    result = cuda.CudaResult(
        "today", "a GPU", dict(swa_fast.build_info()), "2", {"tiny": measured}, []
    )
    text = cuda_report.render(result)
    for name in cuda._BYTES:
        assert name in text
    assert json.loads(json.dumps(result.to_json()))["models"]["tiny"][0]["competitor"] == cuda.COPY


def test_budgets_follow_the_size_of_the_model() -> None:
    verdicts = {v.what: v for v in cuda.judge(TINY, rows())}
    assert verdicts["call against torch._foreach_lerp_"].met is True  # 3 >= 2
    assert verdicts["call against AveragedModel"].met is False  # 3 < 5
    assert verdicts["bfloat16 values against .float() copies"].met is True
    assert len(verdicts) == 3
    large = workloads.Workload("large", "made up", ((100_000_000,),))
    for bandwidth, met in ((91.0, False), (92.0, True)):
        verdicts = {v.what: v for v in cuda.judge(large, rows(**{cuda.FUSED: bandwidth}))}
        assert verdicts["bandwidth against a device-to-device copy"].met is met
        assert len(verdicts) == 2


def test_a_wrong_result_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda.check(torch, TINY, "cpu")
    native = swa_fast.running_mean_

    calls: list[int] = []

    def wrong(averages: list[Any], values: list[Any], count: int) -> None:
        native(averages, values, count)
        calls.append(count)
        if len(calls) == 6:  # the last update of the tensors that are to be compared
            averages[1][39] *= 1 + 2.0**-20

    monkeypatch.setattr(swa_fast, "running_mean_", wrong)
    with pytest.raises(CheckError, match=r"tiny on cpu, averages\[1\] from torch.float32"):
        cuda.check(torch, TINY, "cpu")


def test_it_says_why_it_cannot_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build = dict(swa_fast.build_info())
    build["cuda"] = {**build["cuda"], "available": False, "reason": "no driver here"}  # type: ignore[dict-item]
    monkeypatch.setattr(swa_fast, "build_info", lambda: build)
    assert _cli.main(["bench", "--device", "cuda"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "swa-fast bench: error: --device cuda cannot run: no driver here\n"
    assert _cli.main(["bench", "--device", "cuda", "--plot", "x.svg"]) == 2
    assert "--plot is for --device cpu" in capsys.readouterr().err
