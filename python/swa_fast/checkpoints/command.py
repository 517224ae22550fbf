"""`swa-fast merge` and `swa-fast soup`: arguments, progress, tables, exit status."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["add_parser"]

_DESCRIPTION = """\
Average checkpoints tensor by tensor: sums in float64, rounded once. Reads and
writes safetensors, torch files, Hugging Face folders,
torch.distributed.checkpoint, .keras, .weights.h5 and .npz. The output appears
complete or not at all.
"""

_EPILOG = """\
examples:
  swa-fast merge run/ -o averaged --last 10            the mean of a run's last ten checkpoints
  swa-fast merge a.safetensors:0.7 b.safetensors:0.3 -o c.safetensors
  swa-fast merge run/ -o annealed --schedule wsm:sqrt  in the place of a decay of the learning rate
"""


def add_parser(subparsers: Any) -> None:
    """Add the commands `merge` and `soup`.

    Args:
        subparsers: what ``ArgumentParser.add_subparsers`` returned.
    """
    _add_merge(subparsers)
    _add_soup(subparsers)


def _add_merge(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "merge",
        help="average checkpoints on disk, in constant memory, rounded once",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_inputs(parser)
    weights = parser.add_argument_group("coefficients")
    weights.add_argument(
        "--weights",
        metavar="W,...",
        type=_numbers,
        help="one number for each checkpoint (default: the mean)",
    )
    weights.add_argument(
        "--schedule",
        metavar="NAME",
        help="mean, ema:DECAY, wsm:linear, wsm:cosine, wsm:sqrt, linear, minus-sqrt (the names of "
        "Megatron-LM), or power:SIGMA for snapshots that carry step and sigma_rel",
    )
    weights.add_argument("--normalize", action="store_true", help="divide weights by their sum")
    weights.add_argument("--allow-negative", action="store_true", help="accept weights below 0")
    chosen = parser.add_argument_group("which checkpoints")
    chosen.add_argument("--last", type=int, metavar="N", help="use the last N")
    chosen.add_argument(
        "--every", type=int, metavar="N", help="use every Nth, counted from the last"
    )
    chosen.add_argument(
        "--sort", choices=["step", "name", "mtime"], help="order all of them (default: as given)"
    )
    _add_tensors(parser)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--dtype",
        default="same",
        choices=["same", "float32", "bfloat16", "float16"],
        help="of the averages (default: %(default)s)",
    )
    output.add_argument(
        "--format",
        metavar="F",
        help="safetensors, torch, folder, dcp, keras, h5 or npz (default: by the name of OUT, else "
        "as the last input)",
    )
    output.add_argument("--overwrite", action="store_true", help="replace OUT if it is there")
    output.add_argument("--hash", action="store_true", help="note the SHA-256 of every input file")
    output.add_argument("--dry-run", action="store_true", help="check, report, write nothing")
    output.add_argument("--json", action="store_true", help="print the report as JSON")
    _add_resources(parser)
    parser.set_defaults(run=_merge, parser=parser)


def _add_soup(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "soup",
        help="choose by a score which checkpoints to average",
        description="Model soups (Wortsman et al. 2022): score every checkpoint with your own "
        "command, then average all, or, beginning with the best, those that do not make the "
        "score of the average worse.",
    )
    _add_inputs(parser)
    parser.add_argument(
        "--eval",
        required=True,
        metavar="COMMAND",
        help="prints the score of the checkpoint at {path}: the last number on its stdout",
    )
    better = parser.add_mutually_exclusive_group(required=True)
    better.add_argument("--maximize", action="store_true", help="a higher score is better")
    better.add_argument("--minimize", action="store_true", help="a lower score is better")
    recipe = parser.add_mutually_exclusive_group()
    recipe.add_argument("--greedy", action="store_true", help="the default")
    recipe.add_argument("--uniform", action="store_true", help="the mean of all, scored too")
    parser.add_argument(
        "--metric-regex",
        metavar="RE",
        help="where the score is in the output: the group, or all, of the last match",
    )
    parser.add_argument(
        "--log",
        type=Path,
        metavar="FILE",
        help="keep all scores there; a run that was interrupted goes on from it "
        "(default: OUT with .soup.json)",
    )
    _add_tensors(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is there")
    _add_resources(parser)
    parser.set_defaults(run=_soup, parser=parser)


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoints",
        nargs="+",
        metavar="CKPT[:WEIGHT]",
        help="a file, a folder, a pattern, or the folder of a run (checkpoint-*, step_*, iter_*)",
    )
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="what to write")


def _add_tensors(parser: argparse.ArgumentParser) -> None:
    tensors = parser.add_argument_group("which tensors")
    tensors.add_argument(
        "--key", metavar="PATH", help="part of a torch file to average (default: found by itself)"
    )
    tensors.add_argument("--include", metavar="RE", help="write only tensors with such names")
    tensors.add_argument("--exclude", metavar="RE", help="leave tensors with such names out")
    tensors.add_argument(
        "--common", action="store_true", help="leave out what differs in name, shape or dtype"
    )
    tensors.add_argument(
        "--keep-optimizer",
        action="store_true",
        help="copy the last input's optimizer state (default: it is left out)",
    )
    tensors.add_argument(
        "--strict-integers", action="store_true", help="refuse integers that differ"
    )
    tensors.add_argument(
        "--allow-nonfinite", action="store_true", help="average NaN and infinities too"
    )


def _add_resources(parser: argparse.ArgumentParser) -> None:
    resources = parser.add_argument_group("resources")
    resources.add_argument(
        "--max-memory",
        default="512MiB",
        metavar="SIZE",
        help="anonymous memory of the whole process (default: %(default)s)",
    )
    resources.add_argument("--threads", type=int, metavar="N", help="threads of the arithmetic")


def _merge(options: argparse.Namespace) -> int:
    from .merging import merge

    with _errors("merge", options):
        with _progress(not options.dry_run) as progress:
            report = merge(
                options.checkpoints,
                options.output,
                weights=options.weights,
                schedule=options.schedule,
                normalize=options.normalize,
                allow_negative=options.allow_negative,
                sort=options.sort,
                last=options.last,
                every=options.every,
                dtype=options.dtype,
                format=options.format,
                hashes=options.hash,
                overwrite=options.overwrite,
                dry_run=options.dry_run,
                progress=progress,
                **_shared(options),
            )
        for warning in report.warnings:
            print(f"swa-fast merge: warning: {warning}", file=sys.stderr)
        print(json.dumps(report.to_dict(), indent=1) if options.json else report.table())
    return 0


def _soup(options: argparse.Namespace) -> int:
    from .soups import soup

    with _errors("soup", options):
        report = soup(
            options.checkpoints,
            options.output,
            evaluate=options.eval,
            maximize=options.maximize,
            uniform=options.uniform,
            metric_regex=options.metric_regex,
            log=options.log,
            overwrite=options.overwrite,
            tell=lambda line: print(line, file=sys.stderr, flush=True),
            **_shared(options),
        )
        print(report.table())
    return 0


def _shared(options: argparse.Namespace) -> dict[str, Any]:
    """Return what both commands hand to ``merge``."""
    from .memory import anonymous_memory, parse_bytes

    # The option is about the whole process, the call's argument about what the call adds to it.
    allowed = parse_bytes(options.max_memory) - anonymous_memory()
    return {
        "key": options.key,
        "include": options.include,
        "exclude": options.exclude,
        "common": options.common,
        "keep_optimizer": options.keep_optimizer,
        "strict_integers": options.strict_integers,
        "allow_nonfinite": options.allow_nonfinite,
        "max_memory": allowed,
        "threads": options.threads,
    }


@contextlib.contextmanager
def _errors(command: str, options: argparse.Namespace) -> Iterator[None]:
    """Turn what is wrong into one sentence and the exit status 2."""
    from .errors import CheckpointError

    try:
        yield
    except CheckpointError as error:
        options.parser.exit(2, f"swa-fast {command}: error: {error}\n")
    except OSError as error:
        what = f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
        options.parser.exit(
            2, f"swa-fast {command}: error: {what}: {options.output} was not written\n"
        )


@contextlib.contextmanager
def _progress(shown: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Draw a bar with bytes and rate on a terminal."""
    if not shown or not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(unit="B", unit_scale=True, unit_divisor=1000, leave=False) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield advance


def _numbers(text: str) -> list[float]:
    try:
        return [float(item) for item in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be numbers with commas between them. Received: {text!r}"
        ) from None
