"""A fresh virtual environment with the wheel in it, and what is run there."""

from __future__ import annotations

import glob
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_FUNCTIONAL = Path(__file__).with_name("functional.py")
# From other packages' variables: what is checked must not depend on who checks.
_OUTSIDE = ("PYTHONPATH", "PYTHONHOME", "SWA_FAST_ISA", "LD_LIBRARY_PATH", "LD_PRELOAD")
_TIMEOUT = 600  # seconds: a hang is a failure


def package_folders(python: str) -> list[str]:
    """The folders in which `python` has its packages, in the order in which it looks."""
    code = "import sys; print(*(p for p in sys.path if p.endswith('-packages')), sep='\\n')"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    return done.stdout.split("\n")[:-1]


@dataclass
class Environment:
    """A virtual environment of the running Python's version.

    Attributes:
        folder: where it is.
        packages_from: a Python whose packages serve instead of downloads, or None.
    """

    folder: Path
    packages_from: str | None = None

    def create(self) -> None:
        """Makes it, empty: without pip, which works on it from outside."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.folder], check=True)

    @property
    def python(self) -> str:
        """Its interpreter."""
        return str(self.folder / "bin" / "python")

    def install(self, *arguments: str) -> float:
        """Installs with pip.

        Returns:
            The seconds that it took.

        Raises:
            RuntimeError: it failed; the message ends with what pip said.
        """
        command = [sys.executable, "-m", "pip", "--python", self.python, "install", "-q"]
        start = time.perf_counter()
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        if done.returncode != 0:
            raise RuntimeError(f"pip install {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
        return seconds

    def provide(self, *requirements: str) -> None:
        """Installs these packages and no others: linked from `packages_from`, or downloaded."""
        if self.packages_from is None:
            self.install("--only-binary=:all:", *requirements)
            return
        target = Path(package_folders(self.python)[0])
        for requirement in requirements:
            name = re.split(r"[<>=!~; ]", requirement)[0]
            patterns = (name, f"{name}.*", f"{name}-*.dist-info")
            for folder in package_folders(self.packages_from):
                found = [path for p in patterns for path in glob.glob(f"{folder}/{p}")]
                for path in found:
                    (target / Path(path).name).symlink_to(path)
                if found:
                    break
            else:
                raise RuntimeError(f"{self.packages_from} has no package {name}")

    def provide_all(self, *requirements: str) -> None:
        """Lets everything that `packages_from` has be imported, or downloads the requirements."""
        if self.packages_from is None:
            self.install("--only-binary=:all:", *requirements)
            return
        target = Path(package_folders(self.python)[0]) / "packages_from.pth"
        target.write_text("\n".join(package_folders(self.packages_from)) + "\n", encoding="utf-8")

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs its Python from the root of the file system, so that no source tree is imported.

        Raises:
            subprocess.TimeoutExpired: it does not end; it and its children were killed.
        """
        clean = {k: v for k, v in os.environ.items() if k not in _OUTSIDE}
        with subprocess.Popen(
            [self.python, *arguments],
            env={**clean, "OMP_NUM_THREADS": "2", "TF_CPP_MIN_LOG_LEVEL": "3", **variables},
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                out, errors = process.communicate(timeout=_TIMEOUT)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, errors)

    def seconds_to_import(self) -> float:
        """What `import swa_fast` adds to a process that has NumPy: the least of five.

        What else the machine does only adds to it.

        Raises:
            RuntimeError: it cannot be imported.
        """
        code = (
            "import numpy, time; start = time.perf_counter(); import swa_fast; "
            "print(time.perf_counter() - start)"
        )
        seconds = []
        for _ in range(5):
            done = self.run("-c", code)
            if done.returncode != 0:
                raise RuntimeError(f"import swa_fast failed:\n{done.stderr[-2000:]}")
            seconds.append(float(done.stdout))
        return min(seconds)

    def functional(self, *order: str, **variables: str) -> list[str]:
        """Runs functional.py with these packages imported in this order.

        Returns:
            Sentences that say what is wrong.
        """
        label = " ".join([f"{k}={v}" for k, v in variables.items()] + ["import", ", ".join(order)])
        try:
            done = self.run(str(_FUNCTIONAL), *order, **variables)
        except subprocess.TimeoutExpired:
            return [f"{label}: no end after {_TIMEOUT} s"]
        print(f"  {label}: {done.stdout.strip() or 'failed'}", flush=True)
        if done.returncode == 0:
            return []
        why = done.stderr.strip()[-2000:] or f"ended with status {done.returncode}, no message"
        return [f"{label}: {why}"]
