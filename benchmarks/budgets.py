"""What the scripts of this folder share: what they find, whether a promise was kept, their options.

A script measures with `swa_fast.bench.timing.compare`, and is this long:

    from budgets import Finding, at_least, main
    from swa_fast.bench.timing import compare

    def measure(workload, seconds):
        found = compare({"ours": ..., "theirs": ...}, seconds)
        kept = at_least("ours against theirs", workload.name, found.ratio("theirs"), 2.0)
        yield Finding(workload.name, "what is compared", found, [kept])

    if __name__ == "__main__":
        main(__doc__, measure)

A missed budget is reported as it is; it never makes a script fail.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from neighbours import Neighbours
from swa_fast.bench import budgets as package_budgets
from swa_fast.bench import timing, workloads
from swa_fast.bench.timing import Comparison, Ratio
from swa_fast.bench.workloads import Workload

NOT_MEASURED = "not measured"
"""What a verdict says instead of a value where this machine cannot measure it."""

_BUSY = 0.05
"""Share of the machine's CPU time in other hands above which a script says so. A parallel call
waits for its slowest thread, so it suffers far more than that share."""


@dataclass(frozen=True)
class Verdict:
    """One budget of one model.

    Attributes:
        what: what is compared.
        subject: the model, or what else it is about.
        target: the budget in words, e.g. ">= 0.95x".
        measured: the measured value in words, or why there is none.
        met: None when it was not measured, or too noisy to say.
    """

    what: str
    subject: str
    target: str
    measured: str
    met: bool | None


@dataclass(frozen=True)
class Finding:
    """What was measured on one model, and what follows for the budgets.

    Attributes:
        subject: the model, or what else it is about.
        title: what is compared.
        comparison: of the calls that took turns; None if it is a verdict alone.
        verdicts: on the budgets.
        note: lines that say more.
    """

    subject: str
    title: str
    comparison: Comparison | None = None
    verdicts: Sequence[Verdict] = ()
    note: str = ""


Measure = Callable[[Any, float], Iterable[Finding]]
"""Takes a model (None if the script has none) and the seconds for its timed rounds."""


def at_least(what: str, subject: str, ratio: Ratio, target: float) -> Verdict:
    """Judge a ratio that must reach `target`; open if its quartiles lie on both sides of it."""
    return _judge(what, subject, ratio, target, ">=", ratio.median >= target)


def at_most(what: str, subject: str, ratio: Ratio, target: float) -> Verdict:
    """Judge a ratio that must not exceed `target`; open if its quartiles lie on both sides."""
    return _judge(what, subject, ratio, target, "<=", ratio.median <= target)


def many_small(workload: Workload) -> bool:
    """Return whether this is one of the models of many small tensors, with budgets of their own."""
    return package_budgets.many_small(len(workload.shapes), workload.elements)


def render(verdicts: Sequence[Verdict]) -> str:
    """Return the table of the budgets, and how many of them are met."""
    rows = [[v.what, v.subject, v.target, v.measured, _word(v)] for v in verdicts]
    judged = [verdict for verdict in verdicts if verdict.met is not None]
    met = sum(bool(verdict.met) for verdict in judged)
    return f"Budgets: {met} of {len(judged)} met\n" + timing.table(
        rows, ["what", "of", "target", "measured", ""], 5
    )


def main(
    doc: str | None,
    measure: Measure,
    models: Sequence[str] | None = workloads.DEFAULT_MODELS,
    argv: Sequence[str] | None = None,
) -> list[Finding]:
    """Run a script: its options, its measurements, its tables and its JSON.

    Args:
        doc: the script's docstring; its first line is the description in `--help`.
        measure: called for each model.
        models: those that run if none is named; None for a script that is not about models.
        argv: the arguments; those of the process if None.

    Returns:
        All findings, in order.
    """
    known = workloads.load()
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    if models is not None:
        parser.add_argument("--model", action="append", choices=list(known), metavar="NAME")
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="for the timed rounds of one model"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    options = parser.parse_args(argv)
    selected = [None] if models is None else [known[name] for name in options.model or models]
    neighbours, findings = Neighbours(), list[Finding]()
    for workload in selected:
        for finding in measure(workload, options.seconds):
            findings.append(finding)
            if finding.comparison is not None:
                print(f"{finding.subject}: {finding.title}\n{finding.comparison}")
                print(finding.note, end="\n" * (1 + bool(finding.note)), flush=True)
    verdicts = [verdict for finding in findings for verdict in finding.verdicts]
    if verdicts:
        print(render(verdicts))
    busy = neighbours.share()
    if busy is not None and busy > _BUSY:
        print(f"\nNOISY: others used {busy:.0%} of the CPU meanwhile")
    if options.json is not None:
        record = to_json(findings) | {"cpu_used_by_others": busy}
        options.json.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", "utf-8")
    return findings


def to_json(findings: Iterable[Finding]) -> dict[str, Any]:
    """Return findings as JSON types: `findings` with their measurements, and `budgets`."""
    content: dict[str, list[Any]] = {"findings": [], "budgets": []}
    for finding in findings:
        if finding.comparison is not None:
            words = {"subject": finding.subject, "title": finding.title, "note": finding.note}
            content["findings"].append({**words, "calls": finding.comparison.to_json()})
        content["budgets"] += [asdict(verdict) for verdict in finding.verdicts]
    return content


def _word(verdict: Verdict) -> str:
    if verdict.met is None:
        return "-" if verdict.measured == NOT_MEASURED else "noisy"
    return "met" if verdict.met else "missed"


def _judge(what: str, subject: str, ratio: Ratio, target: float, sign: str, met: bool) -> Verdict:
    noisy = ratio.is_noisy(target)
    measured = f"{ratio.median:.2f}x" + (
        f", noisy ({ratio.low:.2f} to {ratio.high:.2f})" if noisy else ""
    )
    return Verdict(what, subject, f"{sign} {target:.2f}x", measured, None if noisy else met)
