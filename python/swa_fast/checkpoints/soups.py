"""Model soups: which checkpoints to average is decided by a score."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .errors import CheckpointError
from .inputs import resolve
from .merging import Path_, merge
from .output import refuse_existing

__all__ = ["SoupReport", "soup"]

_NUMBER = re.compile(
    r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|inf(?:inity)?)\b", re.I
)

_WITHOUT_EFFECT = {"max_memory", "threads", "progress", "hashes"}
"""Options of ``merge`` that leave an average as it is."""

_TOLD = 300
"""Characters of a command's output that an error shows."""


@dataclass(frozen=True)
class Trial:
    """One average that was scored: its checkpoints, the score, whether it was kept."""

    members: list[str]
    score: float
    kept: bool


@dataclass(frozen=True)
class SoupReport:
    """What ``soup`` has found.

    Attributes:
        output: the file or folder.
        members: the checkpoints in it.
        score: of the output.
        scores: of each checkpoint by itself, the best first.
        trials: the averages that were scored, in order.
    """

    output: str
    members: list[str]
    score: float
    scores: dict[str, float]
    trials: list[Trial]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, fit for JSON."""
        return asdict(self)

    def table(self) -> str:
        """Return it as text for a terminal."""
        from tabulate import tabulate

        rows = [
            (path, f"{score:.9g}", "yes" if path in self.members else "no")
            for path, score in self.scores.items()
        ]
        table = tabulate(rows, headers=("checkpoint", "score", "kept"), disable_numparse=True)
        return f"{table}\n\n{self.output}: {len(self.members)} checkpoints, score {self.score:.9g}"


def soup(
    inputs: Sequence[Path_],
    output: Path_,
    *,
    evaluate: str | Callable[[Path], float],
    maximize: bool,
    uniform: bool = False,
    metric_regex: str | None = None,
    log: Path_ | None = None,
    overwrite: bool = False,
    tell: Callable[[str], None] | None = None,
    **options: Any,
) -> SoupReport:
    """Average the checkpoints that make a score better.

    The greedy soup of Wortsman et al. 2022 (arXiv 2203.05482, recipe 1): the checkpoints are sorted
    by their scores; beginning with the best, each is kept if the average with it is not worse. Each
    trial is averaged from the checkpoints themselves, so it is rounded once. There is one average
    on the disk at a time beside the checkpoints, two while one replaces another.

    Args:
        inputs: as for ``merge``, without weights.
        output: the file or folder to write.
        evaluate: a shell command in which ``{path}`` stands for a checkpoint, or a function of its
            path that returns the score. Of a command's stdout the last number counts.
        maximize: whether a higher score is better.
        uniform: average all checkpoints, and score that too.
        metric_regex: where a command's score is: the first group, or all, of its last match.
        log: file of all scores, from which an interrupted run goes on. A score is used again if the
            command, the options, the checkpoints' paths, sizes and times are the same. None:
            ``output`` with ``.soup.json`` added.
        overwrite: replace an output that exists.
        tell: called with a line about each score.
        options: for ``merge``.

    Returns:
        What was kept, with all scores.

    Raises:
        CheckpointError: an input or an option is wrong, or a score is not a number; the output is
            as it was, and the log keeps what was scored.
    """
    target = Path(os.path.abspath(output))
    refuse_existing(target, overwrite=overwrite)
    named = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    candidates = resolve(named)
    if any(item.weight is not None for item in candidates):
        raise CheckpointError("a soup gives equal weights: leave :WEIGHT out")
    paths = [item.path for item in candidates]
    if len(set(paths)) != len(paths):
        raise CheckpointError("a checkpoint is named twice")
    if isinstance(evaluate, str) and "{path}" not in evaluate:
        raise CheckpointError(f"--eval must have {{path}} in it. Received: {evaluate!r}")
    log_path = Path(log) if log is not None else target.with_name(f"{target.name}.soup.json")
    merge(paths, target, overwrite=overwrite, dry_run=True, **options)
    changing = {k: v for k, v in sorted(options.items()) if v and k not in _WITHOUT_EFFECT}
    scored = _Scores(log_path, evaluate, metric_regex, changing, tell or (lambda line: None))
    scores = {path: scored.of([path], path) for path in paths}
    sign = 1 if maximize else -1
    ranked = sorted(paths, key=lambda path: -sign * scores[path])
    kitchen = _Kitchen(target, options)
    trials: list[Trial] = []
    try:
        if uniform:
            kept, score = ranked, scored.of(ranked, lambda: kitchen.cook(ranked))
            trials.append(Trial([str(path) for path in ranked], score, True))
        else:
            kept, score = [ranked[0]], scores[ranked[0]]
            for path in ranked[1:]:
                tried = [*kept, path]
                new = scored.of(tried, partial(kitchen.cook, tried))
                better = sign * new >= sign * score
                trials.append(Trial([str(member) for member in tried], new, better))
                if better:
                    kept, score = tried, new
        kitchen.clear()
        merge(kept, target, overwrite=overwrite, **options)
    finally:
        kitchen.clear()
    return SoupReport(
        str(output),
        [str(path) for path in kept],
        score,
        {str(path): scores[path] for path in ranked},
        trials,
    )


class _Kitchen:
    """Averages on trial, beside the output; one at a time."""

    def __init__(self, target: Path, options: dict[str, Any]) -> None:
        # The suffix stays: evaluation tools look at it.
        self._trial = target.with_name(f".trial-{target.name}")
        self._options = options

    def cook(self, members: Sequence[Path]) -> Path:
        merge(list(members), self._trial, overwrite=True, **self._options)
        return self._trial

    def clear(self) -> None:
        import shutil

        if self._trial.is_dir():
            shutil.rmtree(self._trial, ignore_errors=True)
        else:
            self._trial.unlink(missing_ok=True)


class _Scores:
    """Scores, taken once and kept in a file."""

    def __init__(
        self,
        log: Path,
        evaluate: str | Callable[[Path], float],
        metric_regex: str | None,
        options: dict[str, Any],
        tell: Callable[[str], None],
    ) -> None:
        if not log.parent.is_dir():
            raise CheckpointError(f"the folder of the log is not there: {log.parent}")
        self._log = log
        self._evaluate = evaluate
        self._tell = tell
        self._command = evaluate if isinstance(evaluate, str) else "a Python function"
        try:
            self._pattern = None if metric_regex is None else re.compile(metric_regex, re.M)
        except re.error as error:
            raise CheckpointError(
                f"--metric-regex must be a regular expression ({error}). Received: {metric_regex!r}"
            ) from None
        self._of = {"command": self._command, "metric_regex": metric_regex, "options": options}
        self._entries = self._read()

    def of(self, members: Sequence[Path], model: Path | Callable[[], Path]) -> float:
        """Return the score of an average of checkpoints.

        Args:
            members: the checkpoints.
            model: their average, or what makes it if it has not been scored yet.
        """
        key = [_identity(path) for path in members]
        for entry in self._entries:
            if entry["members"] == key:
                return float(entry["score"])
        path = model() if callable(model) else model
        score = self._run(path)
        self._entries.append({"members": key, "score": score})
        self._write()
        names = " + ".join(member.name for member in members)
        self._tell(f"{score:.9g}  {names}")
        return score

    def _run(self, path: Path) -> float:
        if not isinstance(self._evaluate, str):
            score = float(self._evaluate(path))
        else:
            command = self._evaluate.replace("{path}", shlex.quote(str(path)))
            done = subprocess.run(
                command, shell=True, stdout=subprocess.PIPE, text=True, check=False
            )
            if done.returncode != 0:
                raise CheckpointError(f"the command ended with status {done.returncode}: {command}")
            score = self._score(command, done.stdout)
        if not math.isfinite(score):
            raise CheckpointError(f"the score of {path} is {score}: it must be finite")
        return score

    def _score(self, command: str, text: str) -> float:
        found = (self._pattern or _NUMBER).findall(text)
        last = found[-1] if found else None
        if isinstance(last, tuple):
            last = last[0]
        try:
            return float(str(last))
        except ValueError:
            shown = text[-_TOLD:].strip() or "nothing"
            raise CheckpointError(f"no score in what {command} printed: {shown}") from None

    def _read(self) -> list[dict[str, Any]]:
        try:
            text = json.loads(self._log.read_text(encoding="utf-8"))
            scores = list(text["scores"])
            return scores if all(text.get(key) == self._of[key] for key in self._of) else []
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{self._log} is not a log of a soup: {error}") from None

    def _write(self) -> None:
        text = {**self._of, "scores": self._entries}
        beside = self._log.with_name(f".{self._log.name}.partial")
        beside.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
        beside.replace(self._log)


def _identity(path: Path) -> list[Any]:
    """Return what tells whether a checkpoint is the one that was scored: path, bytes, time."""
    files = sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]
    status = [file.stat() for file in files]
    return [
        os.path.abspath(path),
        sum(item.st_size for item in status),
        max((item.st_mtime_ns for item in status), default=0),
    ]
