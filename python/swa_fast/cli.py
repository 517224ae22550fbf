"""The `swa-fast` command: `swa-fast info`, `bench`, `merge` and `soup`.

Only the standard library is imported here at the top, so that `swa-fast --help` answers at once.
"""

from __future__ import annotations

import argparse
import difflib
import importlib.metadata
import importlib.util
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
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

_PLOT_FORMATS = (".svg", ".png", ".pdf")


class _Parser(argparse.ArgumentParser):
    """Says in one sentence what is wrong and what was meant, instead of printing the usage."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, and keep what was given for the hint in an error."""
        self._given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        option = re.search(r"argument (?:-\w/)?(--[\w-]+): expected one argument", message)
        wrong = re.search(r"(?:unrecognized arguments: |invalid choice: ')([\w-]+)", message)
        hint = ""
        if "arguments are required" in message:
            names = [word.partition("=")[0] for word in self._given if word.startswith("--")]
            known = re.findall(r"--[\w-]+", self.format_help())
            hints = [_did_you_mean(name, known) for name in names if name not in known]
            hint = next(filter(None, hints), "")
        elif option:
            hint = f": write {option[1]}=VALUE where the value begins with a dash"
        elif wrong:
            choices = re.search(r"choose from (.*)\)", message)
            words = re.findall(r"[\w-]+", choices[1] if choices else self.format_help())
            dashes = wrong[1].startswith("-")
            known = [word for word in words if word.startswith("-") == dashes]
            hint = _did_you_mean(wrong[1], known)
        self.exit(2, f"{self.prog}: error: {message}{hint} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        argv: the arguments after the program's name; those of the process if None.

    Returns:
        0 when it ran, 1 when a fused result was wrong, 130 when it was interrupted. A wrong
        argument exits with 2.
    """
    options = parse(argv)
    if options.version:
        print(f"swa-fast {_build_info()['version']}")
        return 0
    try:
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    except KeyboardInterrupt:
        print("swa-fast: interrupted", file=sys.stderr)
        return 130


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of a command line; `run` is the function that does what it says.

    Raises:
        SystemExit: it is wrong, or only asks for help; the reason is printed.
    """
    parser = _parser()
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return options


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
    parser.set_defaults(run=_help, parser=parser)
    commands = parser.add_subparsers(dest="command", metavar="command")

    info = commands.add_parser(
        "info", help="say how swa_fast was built and what it found on this machine"
    )
    info.add_argument("--json", action="store_true", help="print it as JSON")
    info.set_defaults(run=_info, parser=info)

    bench = commands.add_parser(
        "bench",
        help="compare the fused running mean with averaging in the pure framework",
        description="Check the fused running mean bit for bit against NumPy on the parameter "
        "shapes of real models, then time it against every framework that is installed, taking "
        "turns. The default run takes about a minute on two cores, two with TensorFlow.",
    )
    bench.add_argument(
        "--model",
        action="append",
        type=_model,
        metavar="NAME",
        help="run this model, repeatable: mobilenet_v3_large, efficientnet_b0, resnet50, "
        "bert_base, gpt2 (the default is these five), llama_1b (needs about 20 GB)",
    )
    bench.add_argument(
        "--device",
        choices=["cpu", "cuda"],
        default="cpu",
        help="where to run; cuda needs a GPU and torch, and compares with torch alone "
        "(default: %(default)s)",
    )
    bench.add_argument(
        "--peers",
        type=_peers,
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
    bench.add_argument(
        "--budgets",
        action="store_true",
        help="say of each comparison that has a budget whether it was met, missed, or is too noisy "
        "to say",
    )
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the raw result there")
    bench.add_argument(
        "--plot", type=Path, metavar="FILE.svg", help="draw the result there (needs matplotlib)"
    )
    bench.set_defaults(run=_bench, parser=bench)
    checkpoints.add_parser(commands)
    return parser


def _help(options: argparse.Namespace) -> int:
    options.parser.print_help()
    return 0


def _bench(options: argparse.Namespace) -> int:
    from .bench import CheckError, UserError, budgets, report

    try:
        record = _record(options)
    except UserError as error:
        print(f"swa-fast bench: error: {error}", file=sys.stderr)
        return 2
    except CheckError as error:
        print(f"swa-fast bench: CHECK FAILED: {error}", file=sys.stderr)
        return 1
    more = [budgets.render(record)] if options.budgets else []
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print(report.render(record, more, colour=colour))
    return 0


def _record(options: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark and write the files that were asked for.

    Raises:
        UserError: something that was asked for cannot be done; found before any work.
        CheckError: a fused result is wrong.
    """
    import swa_fast

    from .bench import UserError, run, workloads
    from .bench.competitors import PEERS

    models = options.model or [_model(name) for name in workloads.DEFAULT_MODELS]
    unique = list({model.name: model for model in models}.values())
    peers = PEERS if options.peers is None else options.peers
    if options.device == "cuda":
        if options.peers not in (None, ["torch"]):
            given = ",".join(options.peers) or "none"
            raise UserError(f"--device cuda compares with torch alone. Received: --peers {given}")
        if options.budgets:
            raise UserError("--budgets are those of the CPU. Received: --device cuda")
        peers = ["torch"]
    if options.json is not None:
        _require_writable("--json", options.json)
    if options.plot is not None:
        _require_plot(options.plot)
    threads = swa_fast.get_num_threads()
    try:
        swa_fast.set_num_threads(options.threads or threads)
        record = run.run(unique, peers, options.seconds, options.device)
    finally:
        swa_fast.set_num_threads(threads)
    if options.json is not None:
        # A number that JSON does not have (NaN) is an error, not a token.
        text = json.dumps(record, indent=1, allow_nan=False)
        options.json.write_text(text + "\n", encoding="utf-8")
    if options.plot is not None:
        from .bench.plot import draw

        draw(record, options.plot)
    return record


def _require_writable(option: str, path: Path) -> None:
    """Make sure that `path` can be written, leaving no file behind that was not there."""
    from .bench import UserError

    existed = path.exists()
    try:
        with path.open("a", encoding="utf-8"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise UserError(f"{option} cannot write {path}: {error.strerror or error}") from error


def _require_plot(path: Path) -> None:
    """Make sure that a plot can be drawn into `path`."""
    from .bench import UserError

    if path.suffix.lower() not in _PLOT_FORMATS:
        raise UserError(f"--plot must end in {', '.join(_PLOT_FORMATS)}. Received: {path}")
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError('--plot needs matplotlib: pip install "swa-fast[plot]"')
    _require_writable("--plot", path)


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


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ", did you mean ...?" with the closest of the known words, or nothing."""
    close = difflib.get_close_matches(word, known, 1, 0.7)
    return f", did you mean {close[0]!r}?" if close else ""


def _model(text: str) -> Any:
    from .bench import workloads

    known = workloads.load()
    if text not in known:
        raise argparse.ArgumentTypeError(
            f"must be one of {', '.join(known)}. Received: {text!r}{_did_you_mean(text, known)}"
        )
    return known[text]


def _peers(text: str) -> list[str]:
    from .bench.competitors import PEERS
    from .bench.run import is_installed

    named = [name for name in text.replace(" ", "").split(",") if name not in ("", "none")]
    for name in named:
        if name not in PEERS:
            raise argparse.ArgumentTypeError(
                f"must name some of {', '.join(PEERS)}, or none. "
                f"Received: {name!r}{_did_you_mean(name, PEERS)}"
            )
        if not is_installed(name):
            raise argparse.ArgumentTypeError(
                f'names {name}, which is not installed: pip install "{name}"'
            )
    return [name for name in PEERS if name in named]


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
