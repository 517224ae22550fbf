from __future__ import annotations

import functools
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tqdm

from checkpoint_tools import leftovers, read_safetensors, write_safetensors
from swa_fast import cli
from swa_fast.checkpoints import CheckpointError, soup
from swa_fast.checkpoints.inputs import resolve, step_of


@pytest.fixture(autouse=True)
def small_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process of the command's own: this one holds whatever other tests have imported."""
    monkeypatch.setattr("swa_fast.checkpoints.memory.anonymous_memory", lambda: 50 << 20)


def write(folder: Path, name: str, value: float) -> Path:
    return write_safetensors(folder / name, {"x": np.array([value], np.float32)})


def value_of(path: Path) -> float:
    return float(read_safetensors(path)[0]["x"][0])


def test_merge_as_a_user_runs_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (1, 2, 10, 20):
        write(tmp_path, f"step_{step}.safetensors", step)
    out = tmp_path / "out"
    arguments = ["merge", str(tmp_path / "step_*"), "-o", f"{out}.safetensors"]
    assert cli.main([*arguments, "--last", "2", "--dry-run"]) == 0
    assert not Path(f"{out}.safetensors").exists()
    assert "would write" in capsys.readouterr().out
    assert cli.main([*arguments, "--last", "2", "--hash"]) == 0
    table = capsys.readouterr().out
    for word in ("step_10", "step_20", "0.5", "averaged", "peak memory"):
        assert word in table
    assert value_of(Path(f"{out}.safetensors")) == 15
    made = json.loads(read_safetensors(Path(f"{out}.safetensors"))[1]["swa_fast.merge"])
    assert len(made["inputs"][0]["sha256"]["step_10.safetensors"]) == 64
    assert (
        cli.main([*arguments, "--every", "2", "--schedule", "ema:0.25", "--overwrite", "--json"])
        == 0
    )
    report = json.loads(capsys.readouterr().out)
    assert [item["coefficient"] for item in report["inputs"]] == [0.25, 0.75]
    assert value_of(Path(f"{out}.safetensors")) == 0.25 * 2 + 0.75 * 20


def test_weights_beside_the_names(tmp_path: Path) -> None:
    a, b = (write(tmp_path, f"{name}.safetensors", value) for name, value in (("a", 1), ("b", 5)))
    out = tmp_path / "out.safetensors"
    assert cli.main(["merge", f"{a}:0.75", f"{b}:0.25", "-o", str(out)]) == 0
    assert value_of(out) == 2
    weights = ["--weights=2,-1", "--allow-negative", "--overwrite"]
    assert cli.main(["merge", str(a), str(b), "-o", str(out), *weights]) == 0
    assert value_of(out) == -3


def test_order(tmp_path: Path) -> None:
    names = ["iter_0000100.pt", "iter_0000020.pt", "iter_0000003.pt"]
    for age, name in enumerate(names):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (age, age))

    def order(**options: object) -> list[str]:
        paths = [tmp_path / name for name in names]
        return [item.path.name for item in resolve(paths, **options)]  # type: ignore[arg-type]

    assert order() == names
    assert order(sort="step") == names[::-1]
    assert order(sort="name") == names[::-1]
    assert order(sort="mtime") == names
    assert order(sort="step", every=2) == [names[2], names[0]]
    assert order(last=1) == names[-1:]
    assert [item.path.name for item in resolve([tmp_path])] == names[::-1]


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("checkpoint-500", 500),
        ("iter_0000020", 20),
        ("global_step1200", 1200),
        ("epoch=3-step=1200.ckpt", 1200),
        ("step=1200-epoch=3.ckpt", 1200),
        ("epoch=3-val_loss=0.25.ckpt", 3),
        ("checkpoint_2_5000.pt", 5000),  # fairseq: epoch and update
        ("checkpoint7.pt", 7),
        ("checkpoint-12.pth.tar", 12),  # timm
        ("epoch_004.weights.h5", 4),
        ("llama-7b-step-900", 900),
        ("model_17.pt", 17),
        ("final.pt", None),
    ],
)
def test_the_step_in_a_name(name: str, step: int | None) -> None:
    assert step_of(Path("run_99", name)) == step


def test_a_run_of_timm(tmp_path: Path) -> None:
    for name in ("checkpoint-10.pth.tar", "checkpoint-9.pth.tar", "last.pth.tar", "args.yaml"):
        (tmp_path / name).write_bytes(b"")
    found = [item.path.name for item in resolve([tmp_path])]
    assert found == ["checkpoint-9.pth.tar", "checkpoint-10.pth.tar"]


def test_help_needs_no_numpy() -> None:
    code = (
        "import sys; from swa_fast import cli\n"
        "try: cli.main(['merge', '--help'])\n"
        "except SystemExit: pass\n"
        "assert 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "wsm:sqrt" in done.stdout


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_progress_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of all, and the rate; gone when the table comes, and not there where nobody looks."""
    for step in (1, 2):
        write_safetensors(tmp_path / f"step_{step}.safetensors", {"x": np.zeros(5_000_000)})
    monkeypatch.setattr("swa_fast.checkpoints.stream._CHUNK", 1 << 20)
    eager = functools.partial(tqdm.tqdm, mininterval=0)  # draws every time
    monkeypatch.setattr(tqdm, "tqdm", eager)
    arguments = ["merge", str(tmp_path), "-o", str(tmp_path / "out.safetensors"), "--overwrite"]
    for terminal in (_Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", terminal)
        assert cli.main(arguments) == 0
        drawn = terminal.getvalue().split("\r")
        if not terminal.isatty():
            assert drawn == [""]
            continue
        assert drawn[-1].strip() == ""
        assert re.search(r" [1-9]\d?%\|#.*\| \d+\.\dM/80\.0M \[.*B/s\]", "\n".join(drawn))


def _must_not_run(path: Path) -> float:
    raise AssertionError(path)


class TestSoup:
    """The score is the distance from 3.

    Alone, 2, 1, 6 and 9 score 1, 2, 3 and 6. Beside 2, 1 makes it worse (1.5), 6 as good (1), and 9
    beside both worse (2.67).
    """

    EVAL = (
        f"{sys.executable} -c \"import sys; raw = open(sys.argv[1], 'rb').read(); import struct; "
        "open(sys.argv[2], 'a').write('.'); "
        "print('score', abs(struct.unpack('<f', raw[-4:])[0] - 3))\" {path} "
    )

    def candidates(self, folder: Path) -> list[Path]:
        return [write(folder, f"m{value}.safetensors", value) for value in (1, 2, 6, 9)]

    def test_greedy(self, tmp_path: Path) -> None:
        paths, out = self.candidates(tmp_path), tmp_path / "out.safetensors"
        evaluate = self.EVAL + str(tmp_path / "runs")
        lines: list[str] = []
        report = soup(paths, out, evaluate=evaluate, maximize=False, tell=lines.append)
        assert [Path(path).name for path in report.members] == ["m2.safetensors", "m6.safetensors"]
        assert [trial.kept for trial in report.trials] == [False, True, False]
        assert value_of(out) == 4
        assert report.score == 1
        assert list(report.scores.values()) == sorted(report.scores.values())
        runs = len((tmp_path / "runs").read_text())
        assert runs == len(lines) == 4 + len(report.trials)
        out.unlink()
        again = soup(paths, out, evaluate=evaluate, maximize=False)
        assert again == report
        assert len((tmp_path / "runs").read_text()) == runs
        assert leftovers(tmp_path) == []

    def test_scores_of_other_options_do_not_count(self, tmp_path: Path) -> None:
        paths, runs = self.candidates(tmp_path), tmp_path / "runs"

        def run(**options: Any) -> int:
            out = tmp_path / "out.safetensors"
            evaluate = self.EVAL + str(runs)
            soup(paths, out, evaluate=evaluate, maximize=False, overwrite=True, **options)
            return len(runs.read_text())

        first = run()
        assert run(threads=1, max_memory="1GB") == first
        assert run(exclude="y") == 2 * first

    def test_a_log_that_cannot_be_written_is_refused_before_any_score(self, tmp_path: Path) -> None:
        paths, log = self.candidates(tmp_path), tmp_path / "no" / "log.json"
        with pytest.raises(CheckpointError, match="folder of the log is not there"):
            soup(paths, tmp_path / "o.npz", evaluate=_must_not_run, maximize=True, log=log)

    def test_uniform_and_command(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        paths, out = self.candidates(tmp_path), tmp_path / "out.safetensors"
        arguments = ["--eval", self.EVAL + str(tmp_path / "runs"), "--minimize", "--uniform"]
        assert cli.main(["soup", *map(str, paths), "-o", str(out), *arguments]) == 0
        assert value_of(out) == 4.5
        assert "4 checkpoints, score 1.5" in capsys.readouterr().out

    def test_a_callable_and_trials(self, tmp_path: Path) -> None:
        paths, out = self.candidates(tmp_path), tmp_path / "out.safetensors"
        models = []

        def score(path: Path) -> float:
            models.append(sum(1 for item in tmp_path.iterdir() if "trial" in item.name))
            return -abs(value_of(path) - 3)

        report = soup(paths, out, evaluate=score, maximize=True)
        assert max(models) <= 1
        assert value_of(out) == np.float32(np.mean([value_of(Path(p)) for p in report.members]))
        assert report.score == score(out)

    @pytest.mark.parametrize(
        ("command", "message"),
        [
            ("echo 1", r"must have \{path\}"),
            ("false {path}", "ended with status"),
            ("echo nothing # {path}", "no score in what"),
            ("echo nan # {path}", "must be finite"),
        ],
    )
    def test_refusals(self, tmp_path: Path, command: str, message: str) -> None:
        out = tmp_path / "out.safetensors"
        with pytest.raises(CheckpointError, match=message):
            soup(self.candidates(tmp_path), out, evaluate=command, maximize=True)
        assert not out.exists()
        assert leftovers(tmp_path) == []

    def test_metric_regex(self, tmp_path: Path) -> None:
        report = soup(
            self.candidates(tmp_path)[:1],
            tmp_path / "out.safetensors",
            evaluate="echo accuracy=0.25, seconds=17 # {path}",
            maximize=True,
            metric_regex=r"accuracy=([\d.]+)",
        )
        assert report.score == 0.25
