"""A record as text of at most 100 columns: a table, its legend, and two sentences at the end."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .timing import Ratio, table

LEGEND = (
    "ms: median time of one update of the whole model. GB/s: 12 bytes per element (average and "
    "value read, average written) in that time, whatever was really moved. swa_fast is: against "
    "the swa_fast row above, the median over the rounds, in which all took turns; noisy: the "
    "quartiles of the rounds lie on both sides of 1."
)
_BOLD, _COLOURS = "1", {"faster": "32", "slower": "31", "noisy": "33"}
"""As ANSI escape codes name them: green, red, yellow."""


@dataclass(frozen=True)
class Row:
    """One line of the table; `ratio` is that to swa_fast's row, None in swa_fast's own."""

    model: str
    label: str
    milliseconds: float
    gigabytes_per_second: float
    ratio: Ratio | None


def rows(model: dict[str, Any]) -> Iterator[Row]:
    """Yield the rows of one of a record's models in their order."""
    for group in model["groups"]:
        for number, (label, timed) in enumerate(group.items()):
            ratio = Ratio(**timed["ratio"]) if number else None
            rate = 12e-9 * model["elements"] / timed["median"]
            yield Row(model["model"], label, 1e3 * timed["median"], rate, ratio)


def render(record: dict[str, Any], more: Sequence[str] = (), *, colour: bool = False) -> str:
    """Return what `swa-fast bench` prints; with colours if it is for a terminal.

    Args:
        record: what `run.run` returned.
        more: parts to put before the conclusion.
        colour: whether to print the words in colours.
    """

    def paint(text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if colour and text else text

    lines: list[list[str]] = []
    for model in record["models"]:
        beside = [model["model"], f"{model['tensors']} tensors, {model['elements'] / 1e6:.1f} M"]
        lines += [[""] * 5] if lines else []
        for row in rows(model):
            label, words = row.label, "" if row.ratio is None else str(row.ratio)
            lines.append(
                [
                    beside.pop(0) if beside else "",
                    paint(label, _BOLD) if row.ratio is None else label,
                    f"{row.milliseconds:.3f}",
                    f"{row.gigabytes_per_second:.1f}",
                    paint(words, _COLOURS.get(words.split(" ")[-1], "")),
                ]
            )
    body = table(lines, ["model", "averaged by", "ms", "GB/s", "swa_fast is"], 2)
    return "\n\n".join((_head(record), body, _wrap(LEGEND), *more, _wrap(conclusion(record))))


def conclusion(record: dict[str, Any]) -> str:
    """Return in two sentences how swa_fast compares."""
    found = [row for model in record["models"] for row in rows(model)]
    compared = [(row.ratio, f"({row.label} on {row.model})") for row in found if row.ratio]
    clear = sorted((r.median, name) for r, name in compared if not r.is_noisy())
    slower = [f"{1 / median:.2f}x {name}" for median, name in clear if median < 1]
    faster = [f"{median:.2f}x {name}" for median, name in clear if median >= 1]

    first = f"swa_fast was faster in {len(faster)} of {len(compared)} comparisons"
    if faster:
        first += f", from {faster[0]} to {faster[-1]}"
    second = f"It was slower in {len(slower) or 'none'}"
    if slower:
        second += f", by up to {slower[0]}"
    if len(clear) < len(compared):
        second += f"; too noisy to say: {len(compared) - len(clear)}"
    return f"{first}. {second}."


def _head(record: dict[str, Any]) -> str:
    machine, build = record["machine"], record["swa_fast"]
    where = machine.get("gpu") or f"{record['threads']} threads ({build['isa']}), {machine['cpu']}"
    against = [f"{name} {version}" for name, version in record["frameworks"].items()]
    checked = sum(model["updates_checked"] for model in record["models"])
    absent = [name for name, why in record["left_out"].items() if why == "not installed"]
    broken = [f"{name} ({why})" for name, why in record["left_out"].items() if name not in absent]
    lines = [
        f"swa-fast {build['version']} on {where}, {machine['cores']} cores",
        f"Checked first: {checked} updates of {len(record['models'])} models have the bits of "
        "NumPy's formula.",
        f"Compared with {', '.join(against) or 'nothing'}.",
    ]
    if absent:
        lines.append(f"Could be compared too, after pip install {' '.join(absent)}.")
    if broken:
        lines.append(f"Left out, as the import failed: {', '.join(broken)}.")
    return "\n".join(map(_wrap, lines))


def _wrap(text: str) -> str:
    return textwrap.fill(text, 100)
