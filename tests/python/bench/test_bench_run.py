"""A whole run on a tiny model, and its record."""

from __future__ import annotations

import ast
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import swa_fast
from bench_tools import TINY, hide
from swa_fast.bench import UserError, competitors, plot, report, run


def quick(*peers: str) -> dict[str, Any]:
    return run.run([TINY], peers, 1e-3)


def test_a_record_has_everything_and_is_json() -> None:
    record = json.loads(json.dumps(quick("numpy"), allow_nan=False))
    assert set(record) == {
        "schema", "date", "device", "threads", "seconds_per_model", "machine", "swa_fast",
        "frameworks", "left_out", "models",
    }  # fmt: skip
    assert record["schema"] == run.SCHEMA
    assert (record["device"], record["seconds_per_model"]) == ("cpu", 1e-3)
    assert record["threads"] == swa_fast.get_num_threads()
    assert record["frameworks"] == {"numpy": np.__version__}
    assert record["left_out"] == {}
    assert record["swa_fast"]["version"] == swa_fast.__version__
    assert {"cpu", "cores", "os", "python"} <= set(record["machine"])
    (model,) = record["models"]
    assert (model["model"], model["tensors"], model["elements"]) == ("tiny", 6, TINY.elements)
    assert model["updates_checked"] == 4
    (group,) = model["groups"]
    assert list(group) == ["swa_fast, NumPy arrays", "NumPy, a += (p - a) * w"]
    for timed in group.values():
        assert len(timed["seconds"]) == len(timed["rounds"]) >= 3
        assert timed["median"] == pytest.approx(np.median(timed["seconds"]))
        assert timed["ratio"]["low"] <= timed["ratio"]["median"] <= timed["ratio"]["high"]


def test_every_framework_is_compared_with() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("tensorflow")
    record = quick(*competitors.PEERS)
    (model,) = record["models"]
    assert model["updates_checked"] == 6
    assert [list(group) for group in model["groups"]] == [
        [
            "swa_fast, NumPy arrays",
            "NumPy, a += (p - a) * w",
            "TF Addons expression, eager",
            "TF Addons expression, tf.function",
            "TF Addons expression, XLA",
        ],
        ["swa_fast, torch tensors", "torch._foreach_lerp_"],
        [
            "swa_fast.torch AveragedModel",
            "torch AveragedModel",
            "torch AveragedModel, multi_avg_fn",
        ],
    ]
    assert list(record["frameworks"]) == list(competitors.PEERS)


def test_what_is_not_installed_has_no_rows_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "torch", "tensorflow")
    record = quick(*competitors.PEERS)
    assert record["left_out"] == {"torch": "not installed", "tensorflow": "not installed"}
    (model,) = record["models"]
    assert len(model["groups"]) == 1
    text = report.render(record)
    assert text.count("torch") == text.count("tensorflow") == 1
    assert "Could be compared too, after pip install torch tensorflow." in text


def test_a_framework_that_cannot_be_imported_costs_its_rows_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def broken(name: str, threads: int) -> str:
        asked.append(name)
        if name == "torch":
            raise ImportError("libfoo.so: cannot open\nlong story")
        return "1.0"

    monkeypatch.setattr(run, "is_installed", lambda name: True)
    monkeypatch.setattr(competitors, "prepare", broken)
    record = run.run([TINY, TINY], ["numpy", "torch"], 1e-3)
    assert asked == ["numpy", "torch"]  # once, whatever the number of models
    assert record["left_out"] == {"torch": "ImportError: libfoo.so: cannot open"}
    assert [len(model["groups"]) for model in record["models"]] == [1, 1]
    text = " ".join(report.render(record).split())
    assert "Left out, as the import failed: torch (ImportError: libfoo.so: cannot open)." in text


def test_lists_are_made_before_tensorflow_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    genuine = competitors.numpy_group

    def prepare(name: str, threads: int) -> str:
        order.append(name)
        return "1.0"

    def group(*arguments: Any) -> competitors.Group:
        order.append("lists")
        return genuine(*arguments)

    monkeypatch.setattr(run, "is_installed", lambda name: True)
    monkeypatch.setattr(competitors, "prepare", prepare)
    monkeypatch.setattr(competitors, "numpy_group", group)
    monkeypatch.setattr(
        competitors, "tensorflow_group", lambda arena: competitors.Group({}, [], False)
    )
    run.run([TINY, TINY], ["numpy", "tensorflow"], 1e-3)
    assert order == ["numpy", "lists", "lists", "tensorflow"]


def test_cuda_says_why_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    build = dict(swa_fast.build_info())
    cuda = {**build["cuda"], "available": False, "reason": "no driver here"}  # type: ignore[dict-item]
    monkeypatch.setattr(swa_fast, "build_info", lambda: {**build, "cuda": cuda})
    with pytest.raises(UserError, match="--device cuda cannot run: no driver here"):
        run.run([TINY], ["torch"], 1e-3, "cuda")
    cuda["available"] = True
    hide(monkeypatch, "torch")
    with pytest.raises(UserError, match="needs a torch that can use the GPU"):
        run.run([TINY], ["torch"], 1e-3, "cuda")


def test_a_run_on_another_device_has_torchs_groups_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as it goes without a GPU: with CPU tensors in the place of those on the device."""
    pytest.importorskip("torch")
    genuine = competitors.torch_groups
    devices = []

    def groups(arena: Any, device: str) -> list[competitors.Group]:
        devices.append(device)
        return genuine(arena, "cpu")

    monkeypatch.setattr(competitors, "torch_groups", groups)
    monkeypatch.setattr(run, "_require_cuda", lambda: None)
    monkeypatch.setattr(run, "machine", lambda device: {"gpu": "H100", "cores": 2})
    record = run.run([TINY], ["torch"], 1e-3, "cuda")
    assert devices == ["cuda"]
    (model,) = record["models"]
    assert model["updates_checked"] == 5
    assert [next(iter(group)) for group in model["groups"]] == [
        "swa_fast, torch tensors",
        "swa_fast.torch AveragedModel",
    ]
    assert report.render(record).startswith(f"swa-fast {swa_fast.__version__} on H100, 2 cores\n")


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_a_plot_shows_every_row(tmp_path: Path, ending: str) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"chart.{ending}"
    plot.draw(quick("numpy"), path)
    content = path.read_bytes()
    assert content.startswith(b"<?xml" if ending == "svg" else b"\x89PNG")
    if ending == "svg":
        text = content.decode()
        for words in ("tiny, 6 tensors", "NumPy, a += (p - a) * w", "swa_fast, NumPy arrays"):
            assert words in text
        assert "on the CPU" in text


def imports_of(path: Path, package: str) -> set[str]:
    """The modules of swa_fast that a module names in an import, wherever that stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def test_no_import_of_the_benchmark_or_the_command_leads_back_to_itself() -> None:
    folder = Path(swa_fast.bench.__file__).parent
    files = {f"swa_fast.bench.{path.stem}": path for path in folder.glob("*.py")}
    files["swa_fast.bench"] = files.pop("swa_fast.bench.__init__")
    files["swa_fast.cli"] = folder.parent / "cli.py"
    files["swa_fast.__main__"] = folder.parent / "__main__.py"
    graph = {}
    for name, path in files.items():
        package = name if path.stem == "__init__" else name.rpartition(".")[0]
        graph[name] = imports_of(path, package) & set(files)
    assert "swa_fast.bench.run" in graph["swa_fast.cli"]
    assert "swa_fast.bench.timing" in graph["swa_fast.bench.competitors"]
    done: set[str] = set()
    while graph:
        free = [name for name, needed in graph.items() if needed <= done]
        assert free, f"these import each other: {graph}"
        for name in free:
            done.add(name)
            del graph[name]
