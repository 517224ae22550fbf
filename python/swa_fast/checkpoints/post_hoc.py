"""Post-hoc EMA: a power average of any width, from snapshots of averages of others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..plots import reconstruction, require_matplotlib
from .errors import CheckpointError
from .formats.safetensors import read_header
from .merging import Path_, merge
from .report import MergeReport

__all__ = ["reconstruct"]


def reconstruct(
    folder: Path_,
    sigma_rel: float,
    output: Path_,
    *,
    step: float | None = None,
    plot: Path_ | None = None,
    **options: Any,
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
        plot: a picture to write, of the profile wanted and the one that the snapshots make: see
            ``swa_fast.plots.reconstruction``. Needs matplotlib.
        options: for ``merge``, other than ``schedule`` and ``weights``.

    Returns:
        What was done.

    Raises:
        CheckpointError: there is no such snapshot, or as ``merge``.
        ImportError: ``plot`` is given and matplotlib is not installed; nothing was written.
    """
    if plot is not None:
        require_matplotlib()
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
    found.sort()
    paths = [path for _, _, path in found]
    report = merge(paths, output, schedule=f"power:{float(sigma_rel)!r}", **options)
    if plot is not None:
        from matplotlib.figure import Figure

        drawing = Figure()  # not pyplot's, which would keep it
        snapshots = [(taken, width) for taken, width, _ in found]
        reconstruction(snapshots, sigma_rel, ax=drawing.subplots())
        drawing.savefig(plot)
    return report
