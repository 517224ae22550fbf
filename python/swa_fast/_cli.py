"""The `swa-fast` command: `swa-fast info`, `bench`, `merge` and `soup`.

Only the standard library is imported here at the top, so that `swa-fast --help` answers at once.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .checkpoints import command as checkpoints

_FRAMEWORKS: dict[str, tuple[str, ...]] = {
    "numpy": ("numpy",),
    "torch": ("torch",),
    "tensorflow": ("tensorflow", "tensorflow-cpu", "tf-nightly", "tensorflow-macos"),
    "keras": ("keras",),
    "tf_keras": ("tf_keras",),
    "jax": ("jax",),
    "cupy": ("cupy", "cupy-cuda13x", "cupy-cuda12x", "cupy-cuda11x"),
}
"""Import name and the distributions that may provide it."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence instead of printing the whole usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        argv: the arguments after the program's name; those of the process if None.

    Returns:
        0 when it ran (budgets may be missed), 1 when a fused result was wrong, 130 when it was
        interrupted. A wrong argument exits with 2.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if options.version:
        print(f"swa-fast {_build_info()['version']}")
        return 0
    if options.command is None:
        parser.print_help()
        return 0
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except KeyboardInterrupt:
        print("swa-fast: interrupted", file=sys.stderr)
        return 130


def frameworks() -> dict[str, str | None]:
    """Return the version of every framework we know, None where it is not installed.

    The versions come from the installed metadata: importing TensorFlow takes seconds.
    """
    found: dict[str, str | None] = {}
    for package, distributions in _FRAMEWORKS.items():
        found[package] = None
        for distribution in distributions:
            try:
                found[package] = importlib.metadata.version(distribution)
                break
            except importlib.metadata.PackageNotFoundError:
                continue
        if found[package] is None and importlib.util.find_spec(package) is not None:
            found[package] = "of unknown version"
    return found


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="swa-fast", description="Fused weight averaging for PyTorch, TensorFlow and NumPy."
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="command")

    info = commands.add_parser(
        "info", help="say how swa_fast was built and what it found on this machine"
    )
    info.add_argument("--json", action="store_true", help="print it as JSON")
    info.set_defaults(run=_info)

    bench = commands.add_parser(
        "bench",
        help="compare the fused running mean with averaging in the pure framework",
        description="Check the fused running mean bit for bit against NumPy on the parameter "
        "shapes of real models, then time it against every framework that is installed, all "
        "interleaved in one run. The default run takes about two minutes on two cores.",
    )
    bench.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME",
        help="run this model, repeatable: mobilenet_v3_large, efficientnet_b0, resnet50, "
        "bert_base, gpt2 (the default is these five), llama_1b (needs about 20 GB)",
    )
    bench.add_argument(
        "--device",
        choices=["cpu", "cuda"],
        default="cpu",
        help="where to run; cuda needs a GPU and torch, and ignores --peers and --threads "
        "(default: %(default)s)",
    )
    bench.add_argument(
        "--peers",
        metavar="LIST",
        help="comma-separated frameworks to compare with: numpy, torch, tensorflow, or none "
        "(default: all that are installed)",
    )
    bench.add_argument(
        "--threads",
        type=_positive_int,
        metavar="N",
        help="threads for swa_fast, torch and TensorFlow alike (default: swa_fast's own)",
    )
    bench.add_argument(
        "--seconds",
        type=_positive_float,
        default=5.0,
        metavar="S",
        help="time for the timed rounds of one model (default: %(default)s)",
    )
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the raw result there")
    bench.add_argument(
        "--plot", type=Path, metavar="FILE.svg", help="draw the result there (needs matplotlib)"
    )
    bench.set_defaults(run=_bench)
    checkpoints.add_parser(commands)
    return parser


def _bench(options: argparse.Namespace) -> int:
    from ._bench.errors import CheckError, UserError

    try:
        text = _bench_on_cuda(options) if options.device == "cuda" else _bench_on_cpu(options)
    except UserError as error:
        print(f"swa-fast bench: error: {error}", file=sys.stderr)
        return 2
    except CheckError as error:
        print(f"swa-fast bench: CHECK FAILED: {error}", file=sys.stderr)
        return 1
    print(text)
    return 0


def _bench_on_cuda(options: argparse.Namespace) -> str:
    from ._bench import cuda, cuda_report, outputs, workloads
    from ._bench.errors import UserError

    if options.plot is not None:
        raise UserError("--plot is for --device cpu: use --json")
    if options.json is not None:
        outputs.require_writable("--json", options.json)
    result = cuda.run(workloads.select(options.model), options.seconds)
    if options.json is not None:
        outputs.write_json(options.json, result.to_json())
    return cuda_report.render(result)


def _bench_on_cpu(options: argparse.Namespace) -> str:
    from ._bench.report import render
    from ._bench.run import Options, run

    return render(
        run(
            Options(
                models=options.model,
                peers=options.peers,
                threads=options.threads,
                seconds=options.seconds,
                json=options.json,
                plot=options.plot,
            )
        )
    )


def _info(options: argparse.Namespace) -> int:
    build = _build_info()
    found = frameworks()
    if options.json:
        print(json.dumps({"build": build, "frameworks": found}, indent=1))
        return 0
    present = [f"{name} {version}" for name, version in found.items() if version is not None]
    absent = [name for name, version in found.items() if version is None]
    lines = {
        "compiler": build["compiler"],
        "flags": build["flags"],
        "commit": build["commit"] or "unknown",
        "instructions": f"{build['isa']} (this machine can run: {', '.join(build['isas'])})",
        "OpenMP": "no, one thread"
        if build["openmp"] == "none"
        else f"yes, {build['num_threads']} threads",
        **_cuda_lines(build["cuda"]),
        "storage types": ", ".join(build["storage_dtypes"]),
        "frameworks": ", ".join(present),
        "not installed": ", ".join(absent) or "-",
    }
    print(f"swa-fast {build['version']}")
    for name, value in lines.items():
        print(f"  {name:<14} {value}")
    return 0


def _cuda_lines(cuda: dict[str, Any]) -> dict[str, str]:
    """What was built, and what was found or why nothing was."""
    if not cuda["built"]:
        return {"CUDA": f"off: {cuda['reason']}"}
    names = [_architecture(name) for name in cuda["architectures"]]
    lines = {"CUDA": f"built with {cuda['toolkit']} for {', '.join(names)}"}
    if not cuda["available"]:
        return {**lines, "GPU": f"off: {cuda['reason']}"}
    lines["driver"] = f"CUDA {cuda['driver']}, {cuda['max_pairs_per_launch']} pairs per launch"
    for index, device in enumerate(cuda["devices"]):
        lines[f"GPU {index}"] = (
            f"{device['name']}, compute capability {device['capability']}, "
            f"{device['memory'] / 2**30:.0f} GiB"
        )
    return lines


def _architecture(name: str) -> str:
    # "90" is machine code for 9.0 alone, "90-virtual" code that newer GPUs can run too.
    number = name.removesuffix("-virtual")
    return number if number == name else f"{number} and newer"


def _build_info() -> dict[str, Any]:
    import swa_fast

    return dict(swa_fast.build_info())


def _positive_int(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1. Received: {text!r}")
    return number


def _positive_float(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of seconds > 0. Received: {text!r}")
    return number


if __name__ == "__main__":
    sys.exit(main())
