"""The scripts behind the documentation's plots and tables; the committed ones are theirs."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench_tools import TINY
from budgets import Finding, at_least, to_json
from documentation.blocks import ROOT
from swa_fast import decays
from swa_fast.bench import run
from swa_fast.bench.timing import Comparison

pytest.importorskip("matplotlib")

PLOTS = ROOT / "docs" / "plots"
SCRIPTS = (
    "style",
    "example",
    "digits",
    "averaging",
    "batch_norm",
    "low_precision",
    "benchmarks",
    "merging",
    "architecture",
    "post_hoc",
    "schedules",
    "warm_up",
)


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a script by name; forgets all of them afterwards."""
    monkeypatch.syspath_prepend(str(PLOTS))
    yield importlib.import_module
    for name in SCRIPTS:
        sys.modules.pop(name, None)


@pytest.fixture
def docs(tmp_path: Path, scripts: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the pages that the scripts may write to."""
    for page in (ROOT / "docs").glob("*.md"):
        shutil.copy(page, tmp_path)
    style = scripts("style")
    monkeypatch.setattr(style, "DOCS", tmp_path)
    monkeypatch.setattr(style, "IMAGES", tmp_path / "images")
    return tmp_path


def part(page: Path, name: str) -> str:
    text = page.read_text(encoding="utf-8")
    return text.split(f"<!-- {name}: begin")[1].split("-->", 1)[1].split("<!--")[0].strip()


def test_the_benchmark_page_is_what_the_records_say(scripts: Any) -> None:
    committed = part(ROOT / "docs" / "benchmarks.md", "records")
    assert committed == scripts("benchmarks").page_text().strip(), (
        "run: python docs/plots/benchmarks.py"
    )


def test_every_image_of_a_page_is_there_and_every_image_is_on_a_page() -> None:
    images = {path.name for path in (ROOT / "docs" / "images").iterdir()}
    text = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))
    shown = {piece.split(")")[0] for piece in text.split("](images/")[1:]}
    assert shown == images


def test_the_table_of_the_run_on_a_gpu_is_what_its_record_says(scripts: Any) -> None:
    committed = part(ROOT / "docs" / "benchmarks.md", "gpu")
    assert committed == scripts("benchmarks").gpu_text().strip(), (
        "run: python docs/plots/benchmarks.py"
    )


def test_the_numbers_of_merging_are_what_the_record_says(scripts: Any) -> None:
    committed = part(ROOT / "docs" / "checkpoints.md", "merging")
    assert committed == scripts("merging").page_text().strip(), "run: python docs/plots/merging.py"


def test_the_newest_record_of_each_device_and_set_of_frameworks_is_taken(
    scripts: Any, tmp_path: Path
) -> None:
    def write(name: str, date: str, peers: list[str], device: str = "cpu", schema: int = 2) -> None:
        record = {
            "schema": schema,
            "date": date,
            "device": device,
            "frameworks": dict.fromkeys(peers),
        }
        (tmp_path / name).write_text(json.dumps(record), encoding="utf-8")

    write("a.json", "2026-01-02", ["numpy"])
    write("b.json", "2026-01-01", ["numpy"])
    write("c.json", "2025-01-01", ["torch", "numpy"])
    write("e.json", "2025-01-01", ["numpy"], device="cuda")
    newest = scripts("benchmarks").newest
    assert [path.name for path, _ in newest(tmp_path)] == ["c.json", "a.json", "e.json"]
    write("d.json", "2026-01-03", ["numpy"], schema=99)
    with pytest.raises(ValueError, match=r"d\.json must have schema 1 or 2\. Received: 99"):
        newest(tmp_path)


def test_an_older_record_reads_like_a_newer_one(scripts: Any) -> None:
    path = ROOT / "benchmarks" / "2026-11-21-all.json"
    old, record = json.loads(path.read_text(encoding="utf-8")), scripts("benchmarks").read(path)
    rows = {row["label"]: row for row in old["models"][0]["competitors"]}
    groups = record["models"][0]["groups"]
    assert sum(map(len, groups)) == len(rows) == 12
    for group in groups:
        ours, *others = group
        assert rows[ours]["fused_is_faster"] is None
        for label in others:
            expected = (
                rows[label]["fused_is_faster"] or rows["swa_fast, NumPy arrays"]["share_of_flat"]
            )
            assert group[label]["ratio"]["median"] == pytest.approx(expected)
            assert group[label]["median"] == rows[label]["median"]


def test_a_new_record_with_the_scripts_findings_gets_its_section(
    scripts: Any, tmp_path: Path
) -> None:
    record = run.run([TINY], ["numpy"], 1e-3)
    found = Comparison({"ours": {0: 2e-3, 1: 2e-3}, "their_s": {0: 6e-3, 1: 6e-3}})
    verdict = at_least("ours against theirs", "tiny", found.ratio("their_s"), 4.0)
    finding = Finding("tiny", "this and that", found, [verdict], "a note")
    record |= {**to_json([finding]), "cpu_used_by_others": {"lists": 0.3, "steps": 0.01}}
    (tmp_path / "new.json").write_text(json.dumps(record), encoding="utf-8")
    text = scripts("benchmarks").page_text(tmp_path)
    assert text.startswith(f"### Against numpy {np.__version__}\n")
    assert "NOISY: others used the CPU meanwhile: lists 30%." in text
    assert "| swa\\_fast, NumPy arrays |" in text
    assert "This and that:\n\n|  | tiny |" in text
    assert "| their\\_s | 6.00 ms, 3.00x |" in text
    assert "\n\na note\n\n" in text
    assert "Budgets: 0 of 1 met" in text
    assert "**3.00x (>= 4x)**" in text
    scripts("benchmarks").plot.draw(record, tmp_path / "new.svg")
    assert "</svg>" in (tmp_path / "new.svg").read_text(encoding="utf-8")


def test_filled_replaces_one_part(scripts: Any) -> None:
    filled = scripts("style").filled
    page = "head\n<!-- x: begin, made by y.py -->\nold\n<!-- x: end -->\ntail\n"
    once = filled(page, "x", "new")
    assert once == "head\n<!-- x: begin, made by y.py -->\n\nnew\n\n<!-- x: end -->\ntail\n"
    assert filled(once, "x", "new") == once
    for wrong in ("nothing", page + page, page.replace("x: end", "y: end")):
        with pytest.raises(ValueError, match="once each"):
            filled(wrong, "x", "new")


def test_averages_of_the_plots_are_means(scripts: Any) -> None:
    pytest.importorskip("sklearn")
    averaging = scripts("averaging")
    mean = averaging.Average(start=2, period=3)
    exponential = averaging.Average(start=0, period=1, decay=0.5)
    seen = []
    for step in range(9):
        weights = [np.array([step * step], np.float32)]
        mean.after_step(step, weights)
        exponential.after_step(step, weights)
        seen.append(step * step)
    assert mean.count == 3
    assert mean.weights[0][0] == np.mean([seen[2], seen[5], seen[8]])
    expected = float(seen[0])
    for value in seen[1:]:
        expected = 0.5 * expected + 0.5 * value
    assert exponential.weights[0][0] == pytest.approx(expected)


def test_averaging_draws_and_fills(scripts: Any, docs: Path) -> None:
    pytest.importorskip("sklearn")
    averaging = scripts("averaging")
    averaging.main(["--seeds", "2", "--epochs", "4"])
    for name in ("curves", "choices", "rates"):
        assert "</svg>" in (docs / "images" / f"averaging-{name}.svg").read_text(encoding="utf-8")
    rows = part(docs / "averaging.md", "curves").splitlines()
    assert len(rows) == 6
    assert "of 2 |" in rows[-1]
    for name, entries in (("rates", averaging.RATES), ("periods", averaging.PERIODS)):
        rows = part(docs / "averaging.md", name).splitlines()[2:]
        assert [float(row.split("|")[1]) for row in rows] == [float(entry) for entry in entries]


def test_batch_norm_draws_and_fills(scripts: Any, docs: Path) -> None:
    pytest.importorskip("sklearn")
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    try:
        scripts("batch_norm").main(["--seeds", "2", "--epochs", "4"])
    finally:
        torch.set_num_threads(threads)
    rows = part(docs / "averaging.md", "batch_norm").splitlines()[2:]
    errors = [float(row.split("|")[2].split("±")[0]) for row in rows]
    assert len(errors) == 4
    assert errors[3] < errors[2]  # recomputed statistics against those of a new layer


def test_warm_up_fills_its_table(scripts: Any, docs: Path) -> None:
    pytest.importorskip("sklearn")
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    try:
        warm_up = scripts("warm_up")
        warm_up.main(["--seeds", "2", "--epochs", "2"])
    finally:
        torch.set_num_threads(threads)
    rows = [row.split("|")[1:-1] for row in part(docs / "averaging.md", "warm_up").splitlines()[2:]]
    assert [row[0].strip() for row in rows] == [
        "none: the last weights",
        *map(str, warm_up.DECAYS),
    ]
    constant, warm = (float(row.split("±")[0]) for row in rows[-1][2:])
    assert warm > constant + 10  # percent, 0.9999 after 58 steps


def test_every_schedule_has_a_picture(scripts: Any, docs: Path) -> None:
    schedules = scripts("schedules")
    known = set(decays.__all__) - {"to_dict", "from_dict"}
    assert set(schedules.PICTURES) == {"mean", *known}
    for name, (_, averages) in schedules.PICTURES.items():
        if name not in ("mean", "constant"):
            kinds = {type(average.decay).__name__ for average in averages.values()}
            assert kinds == {name}
    schedules.main()
    page = (docs / "averaging.md").read_text(encoding="utf-8")
    for name in schedules.PICTURES:
        drawn = (docs / "images" / f"profile-{name}.svg").read_text(encoding="utf-8")
        committed = ROOT / "docs" / "images" / f"profile-{name}.svg"
        assert drawn.count("<path") == committed.read_text(encoding="utf-8").count("<path")
        assert f"](images/profile-{name}.svg)" in page


def test_post_hoc_draws_and_fills(scripts: Any, docs: Path) -> None:
    pytest.importorskip("sklearn")
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    try:
        scripts("post_hoc").main(["--seeds", "1", "--epochs", "2"])
    finally:
        torch.set_num_threads(threads)
    for name in ("profiles", "digits"):
        assert "</svg>" in (docs / "images" / f"post-hoc-{name}.svg").read_text(encoding="utf-8")
    rows = part(docs / "which_average.md", "digits").splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows[:8]] == [
        "| last iterate",
        "| mean",
        "| constant 0.99",
        "| warm-up 0.999",
        "| power 0.075",
        "| power 0.15",
        "| made power 0.075",
        "| made power 0.15",
    ]
    assert "from the one that was kept" in rows[-1]


def test_low_precision_shows_the_stall(scripts: Any) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("torch")
    errors, paths, marks = scripts("low_precision").run(300)
    assert marks[-1] == 300
    assert errors["torch"][-1] > 0.02
    assert errors["rounded"][-1] < 0.004  # half a unit in the last place of bfloat16
    assert errors["float32"][-1] < 1e-5
    assert paths["float32"][-1] == pytest.approx(paths["float64"][-1], rel=1e-4)


def test_the_same_numbers_give_the_same_picture(scripts: Any, docs: Path) -> None:
    architecture, style = scripts("architecture"), scripts("style")
    architecture.main()
    drawn = (style.IMAGES / "architecture.svg").read_bytes()
    architecture.main()
    assert (style.IMAGES / "architecture.svg").read_bytes() == drawn
