"""Kills, fuzz, locks, memory: the output is whole or not there, and no input can crash the
process."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint_tools import leftovers, random_model, read_safetensors, write_safetensors
from swa_fast.checkpoints import CheckpointError, merge
from swa_fast.checkpoints.output import new_output

RUN = [sys.executable, "-m", "swa_fast", "merge"]


def test_killed_at_any_moment(tmp_path: Path) -> None:
    model = {f"x{i}": np.full(400_000, i, np.float32) for i in range(8)}
    paths = [write_safetensors(tmp_path / f"{i}.safetensors", model) for i in range(2)]
    out = tmp_path / "out.safetensors"
    started = time.monotonic()
    subprocess.run([*RUN, *paths, "-o", out], check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - started
    whole = out.read_bytes()
    generator = random.Random(0)
    for number in range(10):
        replacing = number % 2 == 0
        out.write_bytes(b"old") if replacing else out.unlink(missing_ok=True)
        with subprocess.Popen(
            [*RUN, *paths, "-o", out, "--overwrite"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            time.sleep(generator.uniform(0.3, 1.0) * seconds)
            process.send_signal(signal.SIGKILL if number % 3 else signal.SIGINT)
        if out.exists():
            assert out.read_bytes() in (b"old", whole) if replacing else (whole,)
    merge(paths, out, overwrite=True)
    assert out.read_bytes()[-100:] == whole[-100:]
    assert leftovers(tmp_path) == []


def test_two_writers(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "a.safetensors", random_model(0))
    out = tmp_path / "out.safetensors"
    with new_output(out, overwrite=False) as partial:
        with pytest.raises(CheckpointError, match="another process is writing"):
            merge([path], out)
        partial.write_text("first")
    assert out.read_text() == "first"
    assert leftovers(tmp_path) == []


def test_an_error_midway_keeps_the_old_output(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a").write_text("old")

    def interrupted() -> None:
        with new_output(out, overwrite=True) as partial:
            partial.mkdir()
            (partial / "b").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in out.iterdir()] == ["a"]
    assert leftovers(tmp_path) == []


def test_sources_are_not_touched(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "a.safetensors", random_model(0))
    path.chmod(0o444)
    before = path.read_bytes(), path.stat().st_mtime_ns
    merge([path], tmp_path / "out.safetensors")
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


@pytest.mark.parametrize("suffix", ["safetensors", "npz", "pt"])
def test_fuzz(tmp_path: Path, suffix: str) -> None:
    """A damaged file is refused, or merged where the damage is in its numbers."""
    good = tmp_path / f"good.{suffix}"
    if suffix == "safetensors":
        write_safetensors(good, random_model(0), {"a": "b"})
    elif suffix == "npz":
        arrays: dict[str, Any] = dict(random_model(0))
        np.savez(good, **arrays)
    else:
        torch = pytest.importorskip("torch")
        torch.save({k: torch.from_numpy(v) for k, v in random_model(0).items()}, good)
    raw = good.read_bytes()
    out = tmp_path / f"out.{suffix}"
    bad = tmp_path / f"bad.{suffix}"
    generator = random.Random(1)
    refused = 0
    for number in range(250):
        damaged = bytearray(raw)
        if number % 3 == 0:
            del damaged[generator.randrange(len(raw)) :]
        for _ in range(generator.randint(1, 6)):
            if damaged:
                damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        bad.write_bytes(damaged)
        try:
            merge([bad], out, overwrite=True, allow_nonfinite=True)
        except CheckpointError:
            refused += 1
        assert leftovers(tmp_path) == []
    assert refused > 50


def test_constant_memory(tmp_path: Path) -> None:
    """Sparse files of 1.5 GB in all pass through 160 MiB."""
    count = 62_500_000
    header = (
        b'{"x":{"dtype":"F32","shape":[%d],"data_offsets":[0,%d]}}' % (count, 4 * count)
    ).ljust(120)
    paths = []
    for number in range(6):
        paths.append(tmp_path / f"{number}.safetensors")
        with paths[-1].open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + 4 * count)
    done = subprocess.run(
        [*RUN, *paths, "-o", tmp_path / "out.safetensors", "--max-memory", "160MiB", "--json"],
        check=True,
        capture_output=True,
        text=True,
    )
    import json

    report = json.loads(done.stdout)
    assert 0 < report["peak_memory"] < 160 * 2**20
    assert (tmp_path / "out.safetensors").stat().st_size > 4 * count
    for path in tmp_path.iterdir():
        path.unlink()


def test_many_files_do_not_use_up_descriptors(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    paths = [
        write_safetensors(tmp_path / f"step_{seed}.safetensors", random_model(seed))
        for seed in range(150)
    ]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 100
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 40, before[1]))
    try:
        merge(paths, tmp_path / "out.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert read_safetensors(tmp_path / "out.safetensors")[0]["steps"].tolist() == [149, 7]
