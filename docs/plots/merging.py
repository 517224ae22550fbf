"""The table and the plot of docs/checkpoints.md, from the newest record of `benchmarks/merge.py`.

    python docs/plots/merging.py

Reads the last of `benchmarks/*-merge/merge.json` by name, which begins with the date. Nothing is
measured here. Needs matplotlib.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from style import DOCS, OURS, THEIRS, figure, fill, table

RECORDS = DOCS.parent / "benchmarks"
PAGE = DOCS / "checkpoints.md"

_COLOURS = ("#c98a00", "#d1495b", "#7a5195", "#b9c1c9", THEIRS)
"""Of the ways other than ours."""


_BUSY = 0.05
"""Share of the processors in other hands above which a record is called noisy."""


def newest(folder: Path = RECORDS) -> tuple[Path, dict[str, Any]]:
    """Return the newest record and where it is.

    Raises:
        FileNotFoundError: there is none.
    """
    paths = sorted(folder.glob("*-merge/merge.json"))
    if not paths:
        raise FileNotFoundError(f"{folder} must have a record: run benchmarks/merge.py")
    return paths[-1], json.loads(paths[-1].read_text(encoding="utf-8"))


def page_text(folder: Path = RECORDS) -> str:
    """Return the generated part of the page."""
    path, record = newest(folder)
    machine, build, versions = record["machine"], record["swa_fast"], record["versions"]
    busy = [
        run["others"]
        for result in record["results"]
        for way in result["ways"].values()
        for run in way["runs"]
        if run["others"] is not None
    ]
    others = f" Others used up to {max(busy):.0%} of the processors." if busy else ""
    noisy = " NOISY:" if busy and max(busy) > _BUSY else ""
    rounds = min(
        len(way["runs"]) for result in record["results"] for way in result["ways"].values()
    )
    note = f" {record['note']}" if "note" in record else ""
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    parts = [
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['os']}, Python "
        f"{machine['python']}. swa-fast {build['version']} at commit {build['commit']}, "
        f"{build['isa']}, {build['num_threads']} threads; {named}. {record['date'][:10]}. Models "
        f"of {record['bytes'] / 1e9:.2f} GB in bfloat16, {rounds} rounds.{noisy}{others}{note} "
        f"Record: `benchmarks/{path.parent.name}/{path.name}`.",
        "![Seconds and memory of every way to average checkpoints](images/merging.svg)",
        "Median seconds of a whole process, and how many times as long as `swa-fast merge` takes "
        "in the same round; then its processor time, all threads together.",
        _times(record),
        "Most anonymous memory, in MiB.",
        _memory(record),
    ]
    if "sparse" in record:
        sparse = record["sparse"]
        parts.append(
            f"{sparse['files']} sparse files of {sparse['bytes'] / 1e9:.0f} GB in all: "
            f"{sparse['peak_memory'] / 2**20:.0f} MiB, {sparse['seconds']:.0f} s."
        )
    return "\n\n".join(parts)


def _times(record: dict[str, Any]) -> str:
    rows = []
    for name in _ways(record):
        cells = []
        for result in record["results"]:
            way = result["ways"].get(name)
            if way is None:
                cells.append("-")
                continue
            ratio = way["ratio"]["median"]
            factor = "" if way["ratio"]["low"] == way["ratio"]["high"] == 1 else f", {ratio:.1f}x"
            cells.append(f"{way['median']:.1f} s{factor} ({way['cpu_seconds']:.1f} s)")
        rows.append([name, *cells])
    return table(["", *map(_column, record["results"])], rows)


def _memory(record: dict[str, Any]) -> str:
    rows = []
    for name in _ways(record):
        found = [result["ways"].get(name) for result in record["results"]]
        cells = ["-" if way is None else f"{way['peak_memory'] / 2**20:.0f}" for way in found]
        rows.append([name, *cells])
    return table(["", *map(_column, record["results"])], rows)


def _column(result: dict[str, Any]) -> str:
    return f"{result['count']} checkpoints, {result['cache']}"


def _ways(record: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(name for result in record["results"] for name in result["ways"]))


def draw(record: dict[str, Any]) -> None:
    """Draw seconds and memory, a group of bars for each number of checkpoints."""
    ways = [name for name in _ways(record) if not name.startswith("reading")]
    colours = [OURS, *_COLOURS]
    with figure("merging", 8.4, 3.2, 2) as (left, right):
        width = 0.8 / len(ways)
        for axis, key, unit in ((left, "median", 1), (right, "peak_memory", 2**30)):
            for number, name in enumerate(ways):
                found = [result["ways"].get(name) for result in record["results"]]
                places = [group + (number + 0.5) * width - 0.4 for group in range(len(found))]
                heights = [0 if way is None else way[key] / unit for way in found]
                axis.bar(places, heights, width, label=name, color=colours[number])
            labels = [f"{result['count']}\n{result['cache']}" for result in record["results"]]
            axis.set_xticks(range(len(labels)), labels)
            axis.grid(axis="x", visible=False)
        left.set_title("Seconds")
        right.set_title("Peak anonymous memory, GiB")
        left.set_xlabel(f"checkpoints of {record['bytes'] / 1e9:.1f} GB, page cache")
        left.legend()


def main() -> None:
    """Draw the plot and fill the page."""
    draw(newest()[1])
    fill(PAGE, "merging", page_text())


if __name__ == "__main__":
    main()
