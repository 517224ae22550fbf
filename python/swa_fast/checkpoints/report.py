"""What a merge has done: numbers, a table, JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["InputReport", "MergeReport", "provenance"]

_LISTED = 6
"""Names in a table's row: the rest is counted."""


@dataclass(frozen=True)
class InputReport:
    """One input.

    Attributes:
        path: as it was found.
        coefficient: its share of the average.
        nbytes: size of its files.
        sha256: of each file's name, None if hashes were not asked for.
    """

    path: str
    coefficient: float
    nbytes: int
    sha256: dict[str, str] | None = None


@dataclass(frozen=True)
class MergeReport:
    """What ``merge`` has done, or would do.

    Attributes:
        output: the file or folder.
        format: of the output.
        inputs: in the order of the sum.
        averaged: number of tensors that were averaged.
        copied: names of tensors that came from the last input: integers, bools, what is not part of
            the model.
        skipped: names that are not in the output: an optimizer's state, and what ``include``,
            ``exclude`` and ``common`` left out.
        bytes_read: of the inputs' tensors.
        bytes_written: of the output.
        seconds: from the call to the finished output.
        peak_memory: most anonymous memory that the process had, in bytes; 0 where the system does
            not tell.
        dry_run: nothing was written.
        profile_error: of the schedule ``power``: L2 distance from the profile asked for, as a share
            of its norm; else None.
        magnitude: sum of the absolute coefficients: how much the inputs' rounding may grow.
        warnings: sentences about the coefficients.
    """

    output: str
    format: str
    inputs: list[InputReport]
    averaged: int
    copied: list[str]
    skipped: list[str]
    bytes_read: int
    bytes_written: int
    seconds: float
    peak_memory: int
    dry_run: bool = False
    profile_error: float | None = None
    magnitude: float = 1.0
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, fit for JSON."""
        return asdict(self)

    def table(self) -> str:
        """Return it as text for a terminal."""
        from tabulate import tabulate

        rows = [(item.path, f"{item.coefficient:.9g}", _size(item.nbytes)) for item in self.inputs]
        inputs = tabulate(rows, headers=("input", "coefficient", "size"), disable_numparse=True)
        rate = self.bytes_read / self.seconds if self.seconds > 0 else 0.0
        facts = [
            ("would write" if self.dry_run else "output", f"{self.output} ({self.format})"),
            ("averaged", f"{self.averaged} tensor{'' if self.averaged == 1 else 's'}"),
            ("copied", _named(self.copied)),
            ("skipped", _named(self.skipped)),
            ("read", f"{_size(self.bytes_read)}, {_size(rate)}/s"),
            ("written", _size(self.bytes_written)),
            ("time", f"{self.seconds:.2f} s"),
            ("peak memory", _size(self.peak_memory) if self.peak_memory else "not known here"),
        ]
        if self.profile_error is not None:
            error = f"error {self.profile_error:.2%}, absolute coefficients {self.magnitude:.3g}"
            facts.insert(1, ("profile", error))
        if self.dry_run:
            facts = [fact for fact in facts if fact[0] not in ("read", "time", "peak memory")]
        return f"{inputs}\n\n{tabulate(facts, tablefmt='plain', disable_numparse=True)}"


def provenance(inputs: list[InputReport], how: str, averaged: int) -> str:
    """Return the JSON that an output carries about how it was made."""
    import swa_fast

    return json.dumps(
        {
            "swa_fast": swa_fast.__version__,
            "coefficients": how,
            "averaged": averaged,
            "inputs": [
                {
                    "path": Path(item.path).as_posix(),
                    "coefficient": item.coefficient,
                    **({"sha256": item.sha256} if item.sha256 is not None else {}),
                }
                for item in inputs
            ],
        },
        separators=(",", ":"),
    )


def _named(names: list[str]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{len(names)}: {', '.join(names[:_LISTED])}{more}"


def _size(nbytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} TB"
