"""A run on a GPU as text."""

from __future__ import annotations

from tabulate import tabulate

from .cuda import CudaResult


def render(result: CudaResult) -> str:
    """Return the report that `swa-fast bench --device cuda` prints."""
    head = (
        f"swa-fast {result.build['version']} on {result.device}, torch {result.torch}\n"
        f"check: bit-identical to the CPU on {len(result.models)} models"
    )
    rows = []
    for model, measured in result.models.items():
        for number, row in enumerate(measured):
            rows.append(
                [
                    model if number == 0 else "",
                    row.competitor,
                    f"{1e6 * row.call:.1f}",
                    f"{1e6 * row.queued:.1f}",
                    f"{row.gigabytes_per_second:.0f}",
                    f"{row.fused_call_is_faster:.2f}x",
                    f"{row.fused_queued_is_faster:.2f}x",
                ]
            )
    headers = ["model", "competitor", "call us", "queued us", "GB/s", "fused call", "fused queued"]
    table = tabulate(rows, headers, disable_numparse=True, colalign=["left"] * 2 + ["right"] * 5)
    met = sum(bool(verdict.met) for verdict in result.verdicts)
    budgets = tabulate(
        [
            [v.what, v.subject, v.target, v.measured, "met" if v.met else "MISSED"]
            for v in result.verdicts
        ],
        ["what", "of", "target", "measured", ""],
        disable_numparse=True,
    )
    return f"{head}\n\n{table}\n\nBudgets: {met} of {len(result.verdicts)} met\n{budgets}"
