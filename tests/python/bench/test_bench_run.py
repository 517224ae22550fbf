"""A whole run on a tiny model, its report and its files."""

from __future__ import annotations

import importlib.util
import json
import os
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import swa_fast
from bench_tools import TINY, hide, row
from build_marks import needs_openmp
from swa_fast._bench import (
    competitors,
    machine,
    outputs,
    overhead,
    quiet,
    report,
    results,
    run,
)


def quick(**changes: Any) -> run.Options:
    return run.Options(**{"models": ("tiny",), "peers": "numpy", "seconds": 1e-3, **changes})


@pytest.mark.usefixtures("tiny")
def test_run_writes_everything_as_json(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    run.run(quick(json=path, threads=1))
    content = json.loads(path.read_text(encoding="utf-8"))
    assert set(content) == {
        "schema", "date", "settings", "machine", "swa_fast", "frameworks", "models", "overhead",
        "budgets",
    }  # fmt: skip
    assert content["schema"] == results.SCHEMA
    assert content["settings"] == {"threads": 1, "seconds_per_model": 1e-3, "peers": ["numpy"]}
    assert content["frameworks"] == {"numpy": np.__version__}
    assert content["swa_fast"]["version"] == swa_fast.__version__
    assert {"cpu", "cores", "os", "python"} <= set(content["machine"])
    (model,) = content["models"]
    assert (model["model"], model["tensors"], model["elements"]) == ("tiny", 6, TINY.elements)
    assert model["updates_checked"] == 5
    keys = [entry["key"] for entry in model["competitors"]]
    assert keys == [competitors.FUSED, competitors.FLAT, competitors.NUMPY]
    for entry in model["competitors"]:
        assert entry["missing"] is None
        assert len(entry["seconds"]) == len(entry["rounds"]) >= 3
        assert sorted(entry["seconds"])[len(entry["seconds"]) // 2] > 0
    rate = 12 * TINY.elements / model["competitors"][2]["median"] / 1e9
    assert model["competitors"][2]["gigabytes_per_second"] == pytest.approx(rate)
    assert [entry["key"] for entry in content["overhead"]] == [overhead.NUMPY]
    assert len(content["budgets"]) == 2


@pytest.mark.usefixtures("tiny")
def test_run_with_every_framework_times_every_competitor() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("tensorflow")
    result = run.run(quick(peers=None))
    (model,) = result.models
    assert {timed.key for timed in model.rows} == set(competitors.LABELS)
    assert all(timed.missing is None and timed.median for timed in model.rows)
    assert model.updates_checked == 7
    against = {timed.key for timed in model.rows if timed.fused_is_faster is not None}
    assert against == set(competitors.LABELS) - set(competitors.FUSED_KEYS)
    promised = [
        verdict.what for verdict in model.promises if verdict.what.startswith("TF snapshot")
    ]
    assert promised == [
        f"TF snapshot, {mode}, against TFA's expression"
        for mode in ("eager", "tf.function", "jit_compile=True")
    ]
    callback = [verdict for verdict in result.verdicts if verdict.what.startswith("Keras callback")]
    if importlib.util.find_spec("keras") is None:
        assert callback == []
    else:
        assert [verdict.subject for verdict in callback] == ["tiny", "digits"]
        assert all(float(verdict.measured.split("x")[0]) > 0 for verdict in callback)
    step = [verdict for verdict in result.verdicts if verdict.what.startswith("Keras SWA")]
    assert len(step) == (1 if callback else 0)
    assert all(float(verdict.measured.split("x")[0]) > 0 for verdict in step)
    assert len(result.verdicts) - len(callback) - len(step) == 14
    text = report.render(result)
    assert all(label in text for label in competitors.LABELS.values())


@pytest.mark.usefixtures("tiny")
def test_run_says_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "torch", "tensorflow")
    result = run.run(quick(peers=None))
    assert result.frameworks["torch"] == result.frameworks["tensorflow"] == "not installed"
    rows = {timed.key: timed for timed in result.models[0].rows}
    assert rows[competitors.TORCH_FOREACH].missing == "not installed"
    assert rows[competitors.NUMPY].missing is None
    text = report.render(result)
    assert text.count("not installed") >= 6 + 4
    assert "Budgets: " in text


@pytest.mark.usefixtures("tiny")
def test_run_survives_a_framework_that_cannot_be_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(peer: competitors.Peer) -> Any:
        if peer.name == "torch":
            raise ImportError("libfoo.so: cannot open\nlong story")
        return types.SimpleNamespace(prepare=lambda threads: "1.0", build=lambda made: [])

    monkeypatch.setattr(competitors.Peer, "installed", property(lambda peer: True))
    monkeypatch.setattr(competitors.Peer, "module", broken)
    result = run.run(quick(peers="torch"))
    assert result.frameworks["torch"] == "import failed: ImportError: libfoo.so: cannot open"
    assert "import failed" in report.render(result)


@needs_openmp
@pytest.mark.usefixtures("tiny")
def test_run_puts_the_number_of_threads_back() -> None:
    before = swa_fast.get_num_threads()
    result = run.run(quick(threads=before + 1, peers="none"))
    assert result.settings["threads"] == before + 1
    assert swa_fast.get_num_threads() == before


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("ending", ["svg", "png"])
def test_run_draws_the_plot(tmp_path: Path, ending: str) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"chart.{ending}"
    run.run(quick(plot=path))
    content = path.read_bytes()
    assert content.startswith(b"<?xml" if ending == "svg" else b"\x89PNG")
    if ending == "svg":
        text = content.decode()
        assert "tiny" in text
        assert competitors.LABELS[competitors.NUMPY] in text


def test_report_says_that_the_machine_was_busy() -> None:
    def rendered(others: float | None) -> str:
        model = results.ModelResult(TINY, 5, others, (row(competitors.FUSED, missing="x"),))
        described = {"cpu": "c", "cores_usable": 2, "python": "3"}
        result = results.Result("now", {"threads": 2}, described, {}, {}, (model,), (), ())
        return report.render(result)

    assert "NOISY: others used the CPU meanwhile: tiny 30%" in rendered(0.3)
    assert "NOISY" not in rendered(0.01)
    assert "NOISY" not in rendered(None)


def test_neighbours_give_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    readings: Iterator[tuple[float, float]] = iter([(100.0, 1000.0), (108.0, 1020.0)])
    own: Iterator[float] = iter([50.0, 55.0])
    monkeypatch.setattr(machine, "_machine_seconds", lambda: next(readings))
    monkeypatch.setattr(machine, "_own_seconds", lambda: next(own))
    # 8 of 20 core seconds were in use, 5 of them ours.
    assert machine.Neighbours().share() == pytest.approx(3 / 20)


def test_neighbours_know_when_they_do_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_machine_seconds", lambda: (0.0, 0.0))
    assert machine.Neighbours().share() is None


def test_json_has_no_token_that_json_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        outputs.write_json(tmp_path / "x.json", {"median": float("nan")})


def test_require_writable_leaves_nothing_behind_and_nothing_changed(tmp_path: Path) -> None:
    new, old = tmp_path / "new.json", tmp_path / "old.json"
    old.write_text("kept", encoding="utf-8")
    outputs.require_writable("--json", new)
    outputs.require_writable("--json", old)
    assert not new.exists()
    assert old.read_text(encoding="utf-8") == "kept"


def test_quiet_stderr_silences_the_descriptor_and_gives_it_back(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with quiet.quiet_stderr():
        os.write(2, b"noise of a C++ library\n")
    with pytest.raises(ImportError), quiet.quiet_stderr():
        raise ImportError
    os.write(2, b"heard\n")
    assert capfd.readouterr().err == "heard\n"
