"""How long averaging checkpoints takes, and how much memory, against what people run.

    pip install swa-fast torch safetensors
    python -m venv FOLDER/mergekit && FOLDER/mergekit/bin/pip install mergekit
    python benchmarks/merge.py FOLDER --mergekit FOLDER/mergekit/bin/mergekit-yaml [--json FILE]

Makes models of the Llama layout in bfloat16 in FOLDER and averages them there: with the defaults
this needs 15 GB of disk, of which 10 GB should fit into the page cache. Every way is a process of
its own, its imports included; the ways take turns. "warm": the models are read before each run;
"cold": they are dropped from the page cache (posix_fadvise). The processor time is that of the
process, in all threads. Memory is the most anonymous memory, looked up every 5 ms. At last ten
sparse files of 30 GB in all are merged, for the memory alone. Linux. docs/plots/merging.py makes
the table and the plot of docs/checkpoints.md from the record.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import swa_fast
from merge_ways import LOOPS, WEIGHTS, make_model
from neighbours import Neighbours
from swa_fast.bench.run import machine
from swa_fast.bench.timing import Comparison

OURS = "swa-fast merge"
WATCHED = 0.005  # seconds between two looks at a process's memory
SPARSE_FILES = 10


@dataclass(frozen=True)
class Run:
    """One process.

    Attributes:
        seconds: from its start to its end.
        cpu_seconds: processor time of all its threads.
        peak_memory: bytes of anonymous memory.
        others: share of the machine's processor time that others used meanwhile.
    """

    seconds: float
    cpu_seconds: float
    peak_memory: int
    others: float | None


def measure(command: list[str]) -> Run:
    """Run a command.

    Raises:
        RuntimeError: it failed; what it printed is in the message.
    """
    neighbours = Neighbours()
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    peak = 0
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        status = Path(f"/proc/{process.pid}/status")
        while not ended.is_set():
            try:
                lines = status.read_text("utf-8").splitlines()
            except OSError:
                return
            found = [line for line in lines if line.startswith("RssAnon")]
            peak = max(peak, int(found[0].split()[1]) * 1024 if found else 0)
            ended.wait(WATCHED)

    watcher = threading.Thread(target=watch)
    watcher.start()
    printed = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    ended.set()
    watcher.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    if process.returncode:
        raise RuntimeError(f"{command} failed: {printed.decode()[-2000:]}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, peak, neighbours.share())


def prepare(models: list[Path], cache: str) -> None:
    """Bring the models into the page cache, or drop them from it."""
    buffer = bytearray(8 << 20)
    for model in models:
        with (model / WEIGHTS).open("rb", buffering=0) as file:
            if cache == "cold":
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                while file.readinto(buffer):
                    pass


def commands(models: list[Path], folder: Path, mergekit: str | None) -> dict[str, list[str]]:
    """Return what to run, by name, ours first."""
    files = [str(model / WEIGHTS) for model in models]
    out = str(folder / "out.safetensors")
    found = {OURS: [sys.executable, "-m", "swa_fast", "merge", *files, "-o", out]}
    loops = str(Path(__file__).with_name("merge_ways.py"))
    for name in LOOPS:
        found[name] = [sys.executable, loops, name, out, *map(str, models)]
    if mergekit:
        listed = "".join(
            f"  - model: {model}\n    parameters: {{weight: 1.0}}\n" for model in models
        )
        config = folder / "mergekit.yaml"
        config.write_text(f"merge_method: linear\nmodels:\n{listed}dtype: bfloat16\n", "utf-8")
        options = ["--no-copy-tokenizer", "--lazy-unpickle"]
        found["mergekit linear"] = [mergekit, str(config), str(folder / "out"), *options]
    return found


def clean(folder: Path) -> None:
    """Delete the averages."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "out.safetensors").unlink(missing_ok=True)


def compare(options: argparse.Namespace, models: list[Path], cache: str) -> dict[str, Any]:
    """Let all ways take turns, and return what each took, by name."""
    ways = commands(models, options.folder, options.mergekit)
    runs: dict[str, list[Run]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, command in ways.items():
            clean(options.folder)
            prepare(models, cache)
            runs[name].append(measure(command))
    clean(options.folder)
    timed = Comparison({k: dict(enumerate(run.seconds for run in v)) for k, v in runs.items()})
    found = timed.to_json()
    ours = runs[OURS]
    print(f"\n{len(models)} checkpoints, {cache}")
    for name, own in runs.items():
        peak = max(run.peak_memory for run in own)
        found[name] |= {
            "runs": [asdict(run) for run in own],
            "cpu_seconds": sorted(run.cpu_seconds for run in own)[len(own) // 2],
            "peak_memory": peak,
        }
        print(
            f"{name:<16} {timed.median(name):7.2f} s {found[name]['ratio']['median']:6.2f}x  "
            f"processor {found[name]['cpu_seconds']:7.2f} s  {peak / 2**20:6.0f} MiB "
            f"{peak / max(run.peak_memory for run in ours):6.1f}x",
            flush=True,
        )
    return found


def sparse(folder: Path, nbytes: float) -> dict[str, Any]:
    """Merge ten sparse files of so many bytes in all."""
    count = int(nbytes) // SPARSE_FILES // 2
    header = json.dumps({"x": {"dtype": "BF16", "shape": [count], "data_offsets": [0, 2 * count]}})
    text = header.encode().ljust(120)
    paths = [folder / f"sparse_{number}.safetensors" for number in range(SPARSE_FILES)]
    try:
        for path in paths:
            with path.open("wb") as file:
                file.write(len(text).to_bytes(8, "little") + text)
                file.truncate(8 + len(text) + 2 * count)
        command = commands([], folder, None)[OURS]
        command[4:4] = map(str, paths)
        run = measure(command)
    finally:
        clean(folder)
        for path in paths:
            path.unlink(missing_ok=True)
    print(
        f"\n{nbytes / 1e9:.0f} GB in {SPARSE_FILES} sparse files: {run.seconds:.1f} s, "
        f"{run.peak_memory / 2**20:.0f} MiB"
    )
    return {"bytes": nbytes, "files": SPARSE_FILES, **asdict(run)}


def versions(mergekit: str | None) -> dict[str, str]:
    """Return the version of everything that ran."""
    found = {name: importlib.metadata.version(name) for name in ("torch", "safetensors")}
    if mergekit:
        code = "import importlib.metadata as m; print(m.version('mergekit'))"
        python = str(Path(mergekit).with_name("python"))
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
        found["mergekit"] = done.stdout.strip()
    return found


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bytes", type=float, default=1e9, help="of a model")
    parser.add_argument("--counts", default="2,5,10", help="of checkpoints")
    parser.add_argument("--cold-counts", default="5", help="of checkpoints, with a cold cache")
    parser.add_argument("--rounds", type=int, default=5, help="at least 2")
    parser.add_argument("--caches", default="warm,cold")
    parser.add_argument("--mergekit", metavar="PATH", help="of mergekit-yaml")
    parser.add_argument("--sparse", type=float, default=30e9, help="bytes in all; 0 for none")
    parser.add_argument("--keep", action="store_true", help="leave the models there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record there")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    caches = options.caches.split(",")
    counts_of = {"warm": options.counts, "cold": options.cold_counts}
    counts = {cache: [int(count) for count in counts_of[cache].split(",")] for cache in caches}
    most = max(max(numbers) for numbers in counts.values())
    models = [options.folder / f"model_{number}" for number in range(most)]
    build = swa_fast.build_info()
    record: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "swa_fast": {name: build[name] for name in ("version", "commit", "isa", "num_threads")},
        "versions": versions(options.mergekit),
        "bytes": options.bytes,
        "results": [],
    }
    try:
        for number, model in enumerate(models):
            if not model.exists():
                make_model(model, number, options.bytes)
        record["bytes"] = (models[0] / WEIGHTS).stat().st_size
        for cache in caches:
            for count in counts[cache]:
                ways = compare(options, models[:count], cache)
                record["results"].append({"cache": cache, "count": count, "ways": ways})
    finally:
        clean(options.folder)
        (options.folder / "mergekit.yaml").unlink(missing_ok=True)
        if not options.keep:
            for model in models:
                shutil.rmtree(model, ignore_errors=True)
    if options.sparse:
        record["sparse"] = sparse(options.folder, options.sparse)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
