"""Warnings about what is legal and rarely meant; each comes once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch import nn

from swa_fast.average import Average

from .sharding import local

# The share that the first snapshot may have in an exponential average that is read.
_LARGEST_FIRST_SHARE = 0.1


def warn_of_running_statistics(module: Any, stacklevel: int) -> None:
    """Warns if a module has running statistics, which are averaged by nobody.

    Args:
        module: the module, or None.
        stacklevel: of the warning, counted from the caller.
    """
    named = [] if module is None else module.named_modules()
    found = [
        (name, part)
        for name, part in named
        if getattr(part, "_buffers", {}).get("running_mean") is not None
    ]
    if not found:
        return
    name, part = found[0]
    keep = f"and {len(found) - 1} more keep" if len(found) > 1 else "keeps"
    warnings.warn(
        f"{type(part).__name__} {name!r} {keep} running statistics of the last weights, which "
        "are wrong for averaged ones. Before you evaluate, inside `with averager.applied():`, call "
        "swa_fast.torch.update_bn(loader, model); or average the statistics too, by "
        "use_buffers=True; use_buffers=False alone says that you know",
        stacklevel=stacklevel + 1,
    )


def is_slow_to_start(average: Average, count: int) -> bool:
    """Tells whether the first snapshot still is more than a tenth of an exponential average.

    Only constant decays d are looked at, where that share is ``d ** (count - 1)``: a mean weighs
    all snapshots alike, and schedules begin with small decays.
    """
    return count > 0 and _first_share(average, count) > _LARGEST_FIRST_SHARE


def _first_share(average: Average, count: int) -> float:
    decay = average.decay
    return float(decay ** (count - 1)) if isinstance(decay, float) else 0.0


def warn_of_a_slow_start(average: Average, count: int, key: str, stacklevel: int) -> None:
    """Warns of what ``is_slow_to_start`` tells.

    Args:
        average: its description.
        count: its snapshots.
        key: its name among several, or "".
        stacklevel: of the warning, counted from the caller.
    """
    which = f"average {key!r}" if key else "the average"
    snapshots = "1 snapshot" if count == 1 else f"{count} snapshots"
    warnings.warn(
        f"{which}, of decay {average.decay:g}, is read after {snapshots}, and the first one is "
        f"{_first_share(average, count):.0%} of it. On a short run let the decay grow: "
        f"decay=swa_fast.decays.warmup({average.decay:g}), ratio({average.decay:g}) or "
        f"ramp({average.decay:g}, tau=...)",
        stacklevel=stacklevel + 1,
    )


def warn_of_a_write(label: str, stacklevel: int) -> None:
    """Warns that a parameter was written while averages were swapped in.

    Args:
        label: what the parameter is called.
        stacklevel: of the warning, counted from the caller.
    """
    warnings.warn(
        f"{label} was written while the averages were swapped in, as by an optimizer's step: the "
        "write has changed the average, or is lost with the swap back. Train after swapping back",
        stacklevel=stacklevel + 1,
    )


class Versions:
    """The versions of parameters while averages are shown in them, to see whether they are trained.

    Args:
        module: what the parameters are in, or None.
        values: the parameters.
        labels: what they are called in a message.
    """

    def __init__(self, module: Any, values: Sequence[Any], labels: Sequence[str]) -> None:
        """Takes the versions as they are now."""
        # A forward pass in training mode writes buffers, and the weight of an embedding that has a
        # max_norm.
        written = {id(buffer) for buffer in (() if module is None else module.buffers())} | {
            id(part.weight)
            for part in (() if module is None else module.modules())
            if isinstance(part, nn.Embedding | nn.EmbeddingBag) and part.max_norm is not None
        }
        self._versions = [None if id(value) in written else _version(value) for value in values]
        self._labels = labels

    def first_moved(self, values: Sequence[Any]) -> str | None:
        """Returns the name of the first parameter that was written since then, or None."""
        for label, before, value in zip(self._labels, self._versions, values, strict=False):
            if before is not None and before != _version(value):
                return label
        return None


def _version(tensor: Any) -> int | None:
    part = local(tensor)
    return None if part.is_inference() else int(part._version)
