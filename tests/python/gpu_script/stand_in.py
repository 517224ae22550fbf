"""Stands in for every program that tests/gpu/run.sh starts, under that program's name.

Each call becomes a line of the file $CALLS. A call that begins with $HANG never ends, and one that
begins with $FAIL fails. Installing makes what a build would have made.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

BIN = Path(__file__).resolve().parent
PRINTED = {
    "cuda_gpu_test": "8 of 8 tests passed",
    "compute-sanitizer": "========= ERROR SUMMARY: 0 errors",
    "nvidia-smi": "NVIDIA H100 80GB HBM3, 580.159.04, 81559 MiB",
    "swa-fast": "bit-identical to the CPU",
}


def begins(variable: str, call: str) -> bool:
    """Whether the call is the one that the variable names."""
    return bool(os.environ.get(variable)) and call.startswith(os.environ[variable])


def hang() -> None:
    """Goes on for ever with a child, and does not listen to a request to end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "1000"])
    print("about to hang", flush=True)
    Path(os.environ["HANGING"]).write_text(f"{os.getpid()} {child.pid}", encoding="utf-8")
    time.sleep(1000)


def link(path: Path) -> None:
    """Puts a stand-in there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(BIN / "stand_in")


def install(arguments: list[str]) -> None:
    """What pip does."""
    target = Path(arguments[arguments.index("--target") + 1])
    for argument in arguments:
        if argument.startswith("--config-settings=build-dir="):
            link(target / "bin" / "swa-fast")
            link(Path(argument.rpartition("=")[2]) / "tests" / "cpp" / "cuda_gpu_test")
    print("Successfully installed")


def main(program: str, arguments: list[str]) -> int:
    """One call; returns its exit status."""
    call = " ".join([program, *arguments])
    with open(os.environ["CALLS"], "a", encoding="utf-8") as calls:
        calls.write(json.dumps([program, *arguments]) + "\n")
    if begins("HANG", call):
        hang()
    if begins("FAIL", call):
        print(*(f"line {number} of many" for number in range(100)), "the reason", sep="\n")
        return 3
    if "--target" in arguments:
        install(arguments)
    elif "--json" in arguments:
        Path(arguments[arguments.index("--json") + 1]).write_text("{}", encoding="utf-8")
    if arguments[:1] == ["-c"]:
        print(os.environ.get("MISSING", "") if "requires" in arguments[1] else "code was run")
    elif arguments[:2] == ["-m", "pytest"]:
        print(os.environ.get("PYTEST_SAYS", "48 passed, 2 skipped in 30.50s"))
    else:
        print(PRINTED.get(program, "done"))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[0]).name, sys.argv[1:]))
