"""A run as text: the table, the overhead, the budgets."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from .overhead import LABELS as OVERHEAD_LABELS
from .overhead import LENGTHS, Overhead
from .results import ModelResult, Result, Row


def render(result: Result) -> str:
    """Return the report that `swa-fast bench` prints."""
    parts = [_head(result), _models(result.models)]
    if result.overhead:
        parts.append(_overhead(result.overhead))
    if result.verdicts:
        parts.append(_budgets(result))
    return "\n\n".join(parts)


def _head(result: Result) -> str:
    build, machine = result.build, result.machine
    frameworks = ", ".join(f"{name} {what}" for name, what in result.frameworks.items())
    updates = sum(model.updates_checked for model in result.models)
    warning = result.noise()
    return "\n".join(
        (
            f"swa-fast {build.get('version', '?')} ({build.get('isa', '?')}), "
            f"{result.settings['threads']} threads, "
            f"{machine['cpu']} with {machine['cores_usable']} cores, Python {machine['python']}",
            f"against: {frameworks or 'no one'}",
            f"check: {updates} fused updates on {len(result.models)} models "
            "are bit-identical to NumPy",
            *([warning] if warning else []),
        )
    )


def _models(models: tuple[ModelResult, ...]) -> str:
    table: list[list[str]] = []
    for model in models:
        for number, row in enumerate(model.rows):
            table.append([_model_cell(model, number), *_cells(row)])
        table.append([""] * 7)
    return _table(
        table[:-1],
        headers=["model", "competitor", "median", "GB/s", "of flat", "fused is", "rounds"],
        text_columns=2,
    )


def _model_cell(model: ModelResult, number: int) -> str:
    """The model's name on its first row, its size on the second."""
    if number == 0:
        return model.workload.name
    if number == 1:
        return f"{model.workload.tensors} tensors, {model.workload.elements / 1e6:.1f} M"
    return ""


def _cells(row: Row) -> list[str]:
    if row.missing is not None:
        return [row.label, row.missing, "", "", "", ""]
    faster = row.fused_is_faster
    return [
        row.label,
        f"{1e3 * (row.median or 0):.2f} ms",
        f"{row.gigabytes_per_second:.1f}",
        f"{row.share_of_flat:.2f}",
        "" if faster is None else f"{faster:.2f}x faster" if faster >= 1 else f"{faster:.2f}x",
        str(len(row.rounds)),
    ]


def _overhead(overhead: tuple[Overhead, ...]) -> str:
    table = [
        [
            OVERHEAD_LABELS[entry.key],
            *(f"{1e6 * seconds:.2f}" for seconds in entry.seconds),
            f"{1e6 * entry.fixed:.2f} us",
            f"{1e9 * entry.per_pair:.0f} ns",
        ]
        for entry in overhead
    ]
    return "Call overhead, one thread, one-element tensors, us per call\n" + _table(
        table,
        headers=["", *(f"{n} pairs" if n > 1 else "1 pair" for n in LENGTHS), "fixed", "per pair"],
        text_columns=1,
    )


def _budgets(result: Result) -> str:
    words = {True: "met", False: "MISSED", None: "-"}
    table = [
        [verdict.what, verdict.subject, verdict.target, verdict.measured, words[verdict.met]]
        for verdict in result.verdicts
    ]
    missed = sum(verdict.met is False for verdict in result.verdicts)
    judged = sum(verdict.met is not None for verdict in result.verdicts)
    return f"Budgets: {judged - missed} of {judged} met\n" + _table(
        table,
        headers=["what", "of", "target", "measured", ""],
        text_columns=5,
    )


def _table(rows: Sequence[Sequence[str]], headers: Sequence[str], text_columns: int) -> str:
    """Lay out cells that are already text: the first `text_columns` left, the others right."""
    align = ["left" if column < text_columns else "right" for column in range(len(headers))]
    # disable_numparse: "1.00" must stay as it was rounded, and "inf" and "nan" stay words.
    table = tabulate(rows, headers, tablefmt="simple", colalign=align, disable_numparse=True)
    return str(table)
