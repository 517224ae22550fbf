"""Post-hoc EMA: a power average of any width, from snapshots of averages of others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .errors import CheckpointError
from .formats.safetensors import read_header
from .merging import Path_, merge
from .report import MergeReport

__all__ = ["reconstruct"]


def reconstruct(
    folder: Path_, sigma_rel: float, output: Path_, *, step: float | None = None, **options: Any
) -> MergeReport:
    """Make the power average of a width that was not kept in training.

    After Karras et al. 2024 (arXiv 2312.02696, section 3.2). ``MergeReport.warnings`` says so if
    the snapshots cannot make that profile well.

    Args:
        folder: has the snapshots: safetensors files whose metadata carries ``step`` and
            ``sigma_rel``, of two widths at best. Other files are passed over.
        sigma_rel: the width wanted, in (0, 1 / sqrt(12)].
        output: the file to write.
        step: use the snapshots up to this step only, as if the training had ended there.
        options: for ``merge``, other than ``schedule`` and ``weights``.

    Returns:
        What was done.

    Raises:
        CheckpointError: there is no such snapshot, or as ``merge``.
    """
    target = Path(os.path.abspath(output))
    found = []
    for path in sorted(Path(folder).glob("*.safetensors")):
        if Path(os.path.abspath(path)) == target:
            continue
        metadata = read_header(path)[1]
        try:
            taken, width = float(metadata["step"]), float(metadata["sigma_rel"])
        except (KeyError, ValueError):
            continue
        if step is None or taken <= step:
            found.append((taken, width, path))
    if not found:
        raise CheckpointError(f"{folder} has no safetensors file that carries step and sigma_rel")
    paths = [path for _, _, path in sorted(found)]
    return merge(paths, output, schedule=f"power:{float(sigma_rel)!r}", **options)
