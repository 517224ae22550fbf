"""The tables and plots of docs/benchmarks.md, from what `swa-fast bench --json` wrote.

    python docs/plots/benchmarks.py

Reads every record in `benchmarks/*.json` and takes the newest for each set of frameworks. Nothing
is measured here. Needs matplotlib and swa-fast.
"""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from style import DOCS, IMAGES, fill, table

from swa_fast._bench import plot, results, workloads
from swa_fast._bench.budgets import Verdict
from swa_fast._bench.overhead import LABELS as OVERHEAD_LABELS
from swa_fast._bench.overhead import Overhead

RECORDS = DOCS.parent / "benchmarks"
PAGE = DOCS / "benchmarks.md"


def newest(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return the newest record for each set of frameworks, the largest set first.

    Raises:
        ValueError: a record is of a schema that this script cannot read.
    """
    found: dict[frozenset[str], tuple[Path, dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.get("schema") != results.SCHEMA:
            raise ValueError(
                f"{path} must have schema {results.SCHEMA}. Received: {record.get('schema')!r}"
            )
        peers = frozenset(record["settings"]["peers"])
        if peers not in found or found[peers][1]["date"] < record["date"]:
            found[peers] = (path, record)
    return [found[peers] for peers in sorted(found, key=len, reverse=True)]


def to_result(record: dict[str, Any]) -> results.Result:
    """Return a record as the object that it was written from."""
    shapes = workloads.load()
    models = tuple(
        results.ModelResult(
            workload=shapes[model["model"]],
            updates_checked=model["updates_checked"],
            cpu_used_by_others=model["cpu_used_by_others"],
            rows=tuple(results.Row(**row) for row in model["competitors"]),
        )
        for model in record["models"]
    )
    overhead = tuple(
        Overhead(entry["key"], tuple(entry["seconds"]), entry["fixed"], entry["per_pair"])
        for entry in record["overhead"]
    )
    return results.Result(
        date=record["date"],
        settings=record["settings"],
        machine=record["machine"],
        build=record["swa_fast"],
        frameworks=record["frameworks"],
        models=models,
        overhead=overhead,
        verdicts=tuple(Verdict(**verdict) for verdict in record["budgets"]),
    )


def section(path: Path, result: results.Result, image: str) -> str:
    """Return the part of the page about one record."""
    versions = ", ".join(f"{name} {version}" for name, version in result.frameworks.items())
    parts = [
        f"### Against {versions}",
        _machine(path, result),
        f"![Throughput of every competitor on every model](images/{image})",
        _times(result),
    ]
    if result.overhead:
        parts.append(_overhead(result))
    parts.append(_budgets(result))
    return "\n\n".join(parts)


def _machine(path: Path, result: results.Result) -> str:
    machine, build = result.machine, result.build
    checked = sum(model.updates_checked for model in result.models)
    noise = result.noise()
    return (
        f"Machine: {machine['cpu']}, {machine['cores_usable']} cores, {machine['os']}, "
        f"Python {machine['python']}. swa-fast {build['version']} at commit {build['commit']}, "
        f"{build['isa']}, {result.settings['threads']} threads, {build['compiler']}. "
        f"{result.date[:10]}, {result.settings['seconds_per_model']:g} s of rounds per model. "
        f"{checked} updates were compared with NumPy bit for bit first. "
        f"Record: `benchmarks/{path.name}`." + (f" {noise}." if noise else "")
    )


def _times(result: results.Result) -> str:
    labels: dict[str, str] = {}
    for model in result.models:
        labels.update((row.key, row.label) for row in model.rows)
    rows = [
        [_plain(label), *(_cell(model.row(key)) for model in result.models)]
        for key, label in labels.items()
    ]
    names = [
        f"{_plain(model.workload.name)}, {model.workload.tensors} tensors, "
        f"{model.workload.elements / 1e6:.1f} M"
        for model in result.models
    ]
    return (
        'Median time of one update of the whole list. "of flat": share of the throughput on one '
        'flat buffer. "x": how many times as long as the fused call on the same tensors, the '
        "median over the rounds.\n\n" + table(["", *names], rows)
    )


def _cell(row: results.Row | None) -> str:
    if row is None:
        return "-"
    if row.missing is not None or row.median is None:
        return row.missing or "-"
    faster = row.fused_is_faster
    more = f"{row.share_of_flat:.2f} of flat" if faster is None else f"{faster:.2f}x"
    return f"{1e3 * row.median:.2f} ms, {more}"


def _overhead(result: results.Result) -> str:
    rows = [
        [
            _plain(OVERHEAD_LABELS[entry.key]),
            f"{1e6 * entry.fixed:.2f} us",
            f"{1e9 * entry.per_pair:.0f} ns",
        ]
        for entry in result.overhead
    ]
    return (
        "What a call costs before it moves a byte (one-element tensors, one thread):\n\n"
        + table(["lists of", "fixed", "per pair"], rows)
    )


def _budgets(result: results.Result) -> str:
    judged = [verdict for verdict in result.verdicts if verdict.met is not None]
    met = sum(bool(verdict.met) for verdict in judged)
    models = [model.workload.name for model in result.models]
    rows = []
    for what in dict.fromkeys(verdict.what for verdict in result.verdicts):
        cells = {verdict.subject: verdict for verdict in result.verdicts if verdict.what == what}
        own = [_verdict(cells.get(model)) for model in models]
        others = [verdict for subject, verdict in cells.items() if subject not in models]
        rows.append([_plain(what), *own, "; ".join(f"{v.subject}: {_verdict(v)}" for v in others)])
    return (
        f"Budgets: {met} of {len(judged)} met. Each cell is measured (wanted); what was missed is "
        "bold.\n\n" + table(["what", *map(_plain, models), "else"], rows)
    )


def _verdict(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    text = f"{verdict.measured} ({verdict.target})"
    return f"**{text}**" if verdict.met is False else text


def _plain(text: str) -> str:
    """Return a label whose stars and underscores Markdown does not read as emphasis."""
    return text.replace("_", r"\_").replace("*", r"\*")


def page_text(folder: Path = RECORDS) -> str:
    """Return the generated part of docs/benchmarks.md."""
    parts = []
    for path, record in newest(folder):
        parts.append(section(path, to_result(record), _image(record)))
    return "\n\n".join(parts)


def _image(record: dict[str, Any]) -> str:
    return f"bench-{'-'.join(record['settings']['peers']) or 'alone'}.svg"


def main() -> None:
    """Draw the plots and fill the page."""
    IMAGES.mkdir(exist_ok=True)
    for _, record in newest(RECORDS):
        # matplotlib writes a date into the file; with this it is the record's.
        moment = datetime.fromisoformat(record["date"]).timestamp()
        os.environ["SOURCE_DATE_EPOCH"] = str(int(moment))
        path = IMAGES / _image(record)
        plot.draw(to_result(record), path)
        lines = path.read_text(encoding="utf-8").splitlines()
        path.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")
        print(f"wrote {path}")
    fill(PAGE, "records", page_text())


if __name__ == "__main__":
    main()
