"""Everything that is measured on the CPU, one script after the other, as one record.

    python benchmarks/everything.py [--seconds S] [--json FILE]

Runs `swa-fast bench` and each script in a process of its own; a script whose framework is not
installed is left out. The record is that of `swa-fast bench`, with the scripts' `findings` and
`budgets`. The page docs/benchmarks.md is made from such records in this folder.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from budgets import Verdict, render
from swa_fast.bench.run import is_installed

SCRIPTS: dict[str, tuple[str, ...]] = {
    "lists": (),
    "call_overhead": (),
    "prepared_updates": ("torch",),
    "several_averages": (),
    "torch_averagers": ("torch",),
    "tensorflow_snapshots": ("tensorflow",),
    "keras_snapshots": ("tensorflow", "keras"),
    "keras_epochs": ("tensorflow", "keras", "sklearn"),
    "keras_steps": ("tensorflow", "keras"),
}
"""Scripts, and the packages that each needs."""


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run everything, print it, and return the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="for each model and script")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record there")
    options = parser.parse_args(argv)
    seconds = f"{options.seconds:g}"
    record = run_json("-m", "swa_fast", "bench", "--seconds", seconds)
    record |= {"findings": [], "budgets": [], "cpu_used_by_others": {}}
    for script, packages in SCRIPTS.items():
        absent = [package for package in packages if not is_installed(package)]
        if absent:
            print(f"== {script} is left out: {' and '.join(absent)} are not installed", flush=True)
            continue
        print(f"== {script}", flush=True)
        found = run_json(str(Path(__file__).with_name(f"{script}.py")), "--seconds", seconds)
        record["findings"] += found["findings"]
        record["budgets"] += found["budgets"]
        record["cpu_used_by_others"][script] = found["cpu_used_by_others"]
    print(render([Verdict(**verdict) for verdict in record["budgets"]]))
    if options.json is not None:
        options.json.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", "utf-8")
    return record


def run_json(*command: str) -> dict[str, Any]:
    """Run Python with a command that has the option `--json`, and return what it writes there.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "found.json")
        subprocess.run([sys.executable, *command, "--json", str(path)], check=True)
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    main()
