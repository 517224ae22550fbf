"""The tables and plots of docs/benchmarks.md, from the records in `benchmarks/`.

    python docs/plots/benchmarks.py

Reads every record in `benchmarks/*.json` (of `benchmarks/everything.py`, or of `swa-fast bench
--json`) and takes the newest for each device and set of frameworks; and the run on a GPU in
`benchmarks/2026-11-26-h100/`. Nothing is measured here. Needs matplotlib and swa-fast.
"""

from __future__ import annotations

import json
import os
import re
from datetime import datetime
from pathlib import Path
from typing import Any

from style import DOCS, IMAGES, fill, table

from swa_fast.bench import plot
from swa_fast.bench.run import SCHEMA
from swa_fast.bench.timing import Comparison, Ratio

RECORDS = DOCS.parent / "benchmarks"
GPU_RECORD = RECORDS / "2026-11-26-h100" / "bench.json"
PAGE = DOCS / "benchmarks.md"

_GROUPS = (
    ("fused", "flat", "numpy", "tf_eager", "tf_function", "tf_xla"),
    ("fused_torch", "torch_foreach", "torch_default"),
    ("model_fused", "model_torch", "model_torch_multi"),
)
"""Keys of the competitors in a record of schema 1, by what they were compared with."""

_BUSY = 0.05
"""Share of the CPU time in other hands above which a record of schema 1 was called noisy."""


def newest(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return the newest record for each device and set of frameworks, the largest set first.

    Raises:
        ValueError: a record is of a schema that this script cannot read.
    """
    found: dict[tuple[str, ...], tuple[Path, dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        record = read(path)
        key = (record["device"], *sorted(record["frameworks"]))
        if key not in found or found[key][1]["date"] < record["date"]:
            found[key] = (path, record)
    return [found[key] for key in sorted(found, key=len, reverse=True)]


def read(path: Path) -> dict[str, Any]:
    """Return a record; one of schema 1 in the form of schema 2, from its measurements.

    Raises:
        ValueError: it is of another schema.
    """
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if record.get("schema") == SCHEMA:
        return record
    if record.get("schema") != 1:
        raise ValueError(
            f"{path} must have schema 1 or {SCHEMA}. Received: {record.get('schema')!r}"
        )
    machine = {**record["machine"], "cores": record["machine"]["cores_usable"]}
    return {
        **record,
        "device": "cpu",
        "threads": record["settings"]["threads"],
        "seconds_per_model": record["settings"]["seconds_per_model"],
        "machine": machine,
        "left_out": {},
        "models": [{**model, "groups": _groups(model)} for model in record["models"]],
        "cpu_used_by_others": {
            model["model"]: model["cpu_used_by_others"] for model in record["models"]
        },
    }


def _groups(model: dict[str, Any]) -> list[dict[str, Any]]:
    rows = {row["key"]: row for row in model["competitors"]}
    groups = []
    for keys in _GROUPS:
        seconds = {
            rows[key]["label"]: dict(zip(rows[key]["rounds"], rows[key]["seconds"], strict=True))
            for key in keys
            if key in rows
        }
        groups += [Comparison(seconds).to_json()] if seconds else []
    return groups


def section(path: Path, record: dict[str, Any], image: str) -> str:
    """Return the part of the page about one record."""
    versions = ", ".join(f"{name} {version}" for name, version in record["frameworks"].items())
    models = {
        model["model"]: {
            label: timed for group in model["groups"] for label, timed in group.items()
        }
        for model in record["models"]
    }
    sizes = [f"{m['tensors']}, {m['elements'] / 1e6:.1f} M" for m in record["models"]]
    parts = [
        f"### Against {versions}",
        _machine(path, record),
        f"![Throughput of every competitor on every model](images/{image})",
        'Median milliseconds of one update of the whole list. "x": how many times as long as that '
        "of the swa_fast row above on the same tensors, the median over the rounds.",
        _calls(models, sizes),
        *_findings(record.get("findings", [])),
    ]
    if record.get("overhead"):
        parts.append(_overhead(record["overhead"]))
    if record.get("budgets"):
        parts.append(_budgets(record["budgets"], [model["model"] for model in record["models"]]))
    return "\n\n".join(parts)


def _machine(path: Path, record: dict[str, Any]) -> str:
    machine, build = record["machine"], record["swa_fast"]
    checked = sum(model["updates_checked"] for model in record["models"])
    shares = record.get("cpu_used_by_others", {}).items()
    busy = [f"{what} {share:.0%}" for what, share in shares if share is not None and share > _BUSY]
    return (
        f"Machine: {machine.get('gpu') or machine['cpu']}, {machine['cores']} cores, "
        f"{machine['os']}, Python {machine['python']}. swa-fast {build['version']} at commit "
        f"{build['commit']}, {build['isa']}, {record['threads']} threads, {build['compiler']}. "
        f"{record['date'][:10]}, {record['seconds_per_model']:g} s of rounds per model. "
        f"{checked} updates were compared with NumPy bit for bit first. "
        f"Record: `benchmarks/{path.name}`."
        + (f" NOISY: others used the CPU meanwhile: {', '.join(busy)}." if busy else "")
    )


def _calls(columns: dict[str, dict[str, Any]], sizes: list[str] | None = None) -> str:
    """Return a table of what was timed: a column for each model, a row for each call.

    With the models' sizes, those are its first row and the times are in ms, without the unit.
    """
    labels = dict.fromkeys(label for calls in columns.values() for label in calls)
    if sizes is not None:
        rows = [["tensors, elements", *sizes]]
        rows += [
            [_plain(label), *(_cell(calls.get(label), unit="") for calls in columns.values())]
            for label in labels
        ]
        return table(["", *map(_plain, columns)], rows)
    rows = [
        [_plain(label), *(_cell(calls.get(label)) for calls in columns.values())]
        for label in labels
    ]
    return table(["", *map(_plain, columns)], rows)


def _cell(timed: dict[str, Any] | None, unit: str = " ms") -> str:
    if timed is None:
        return "-"
    ratio = Ratio(**timed["ratio"])
    seconds = timed["median"]
    in_ms = seconds >= 1e-4 or not unit
    text = f"{1e3 * seconds:.2f}{unit}" if in_ms else f"{1e6 * seconds:.2f} us"
    if ratio == Ratio(1.0, 1.0, 1.0):
        return text
    return f"{text}, {ratio.median:.2f}x" + (" noisy" if ratio.is_noisy() else "")


def _findings(findings: list[dict[str, Any]]) -> list[str]:
    parts = []
    for title in dict.fromkeys(finding["title"] for finding in findings):
        own = [finding for finding in findings if finding["title"] == title]
        parts.append(f"{title[:1].upper()}{title[1:]}:")
        parts.append(_calls({finding["subject"]: finding["calls"] for finding in own}))
        parts += [_plain(finding["note"]) for finding in own if finding["note"]]
    return parts


def _overhead(entries: list[dict[str, Any]]) -> str:
    rows = [
        [
            _plain(entry["label"]),
            f"{1e6 * entry['fixed']:.2f} us",
            f"{1e9 * entry['per_pair']:.0f} ns",
        ]
        for entry in entries
    ]
    return (
        "What a call costs before it moves a byte (one-element tensors, one thread):\n\n"
        + table(["lists of", "fixed", "per pair"], rows)
    )


def _budgets(verdicts: list[dict[str, Any]], models: list[str]) -> str:
    judged = [verdict for verdict in verdicts if verdict["met"] is not None]
    met = sum(verdict["met"] for verdict in judged)
    rows, others = [], []
    for what in dict.fromkeys(verdict["what"] for verdict in verdicts):
        cells = {verdict["subject"]: verdict for verdict in verdicts if verdict["what"] == what}
        if not cells.keys().isdisjoint(models):
            rows.append([_plain(what), *(_verdict(cells.get(model)) for model in models)])
        others += [
            [_plain(what), subject, _verdict(verdict)]
            for subject, verdict in cells.items()
            if subject not in models
        ]
    tables = [table(["what", *map(_plain, models)], rows)] if rows else []
    tables += [table(["what", "of", ""], others)] if others else []
    return (
        f"Budgets: {met} of {len(judged)} met. Each cell is measured (wanted); what was missed is "
        "bold.\n\n" + "\n\n".join(tables)
    )


def _verdict(verdict: dict[str, Any] | None) -> str:
    if verdict is None:
        return ""
    wanted = re.sub(r"(\.\d*?)0+x", r"\1x", verdict["target"]).replace(".x", "x")  # 3.00x: 3x
    text = f"{verdict['measured']} ({wanted})"
    return f"**{text}**" if verdict["met"] is False else text


def gpu_text(path: Path = GPU_RECORD) -> str:
    """Return the table of the first run on a GPU, whose record has a form of its own."""
    record = json.loads(path.read_text(encoding="utf-8"))
    rows = []
    for model, measured in record["models"].items():
        for number, row in enumerate(measured):
            rows.append(
                [
                    _plain(model) if number == 0 else "",
                    _plain(row["competitor"]),
                    f"{1e6 * row['call']:.0f} us",
                    f"{row['fused_call_is_faster']:.2f}x",
                    f"{1e6 * row['queued']:.0f} us",
                    f"{row['fused_queued_is_faster']:.2f}x",
                    f"{row['gigabytes_per_second']:.0f}",
                ]
            )
    headers = ["model", "competitor", "whole call", "x", "queued", "x", "GB/s, queued"]
    return table(headers, rows)


def _plain(text: str) -> str:
    """Return a label whose stars and underscores Markdown does not read as emphasis."""
    return text.replace("_", r"\_").replace("*", r"\*")


def page_text(folder: Path = RECORDS) -> str:
    """Return the generated part of docs/benchmarks.md."""
    return "\n\n".join(section(path, record, _image(record)) for path, record in newest(folder))


def _image(record: dict[str, Any]) -> str:
    device = "" if record["device"] == "cpu" else f"{record['device']}-"
    return f"bench-{device}{'-'.join(record['frameworks']) or 'alone'}.svg"


def main() -> None:
    """Draw the plots and fill the page."""
    IMAGES.mkdir(exist_ok=True)
    for _, record in newest(RECORDS):
        # matplotlib writes a date into the file; with this it is the record's.
        moment = datetime.fromisoformat(record["date"]).timestamp()
        os.environ["SOURCE_DATE_EPOCH"] = str(int(moment))
        path = IMAGES / _image(record)
        plot.draw(record, path)
        lines = path.read_text(encoding="utf-8").splitlines()
        path.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")
        print(f"wrote {path}")
    fill(PAGE, "records", page_text())
    fill(PAGE, "gpu", gpu_text())


if __name__ == "__main__":
    main()
