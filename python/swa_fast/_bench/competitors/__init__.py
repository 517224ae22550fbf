"""What is timed: the fused call and, framework by framework, what people write without it.

Each framework has one module here with `prepare(threads)` and `build(arena)`, imported only when
that framework takes part. To add a competitor, add its label to LABELS and its key to its peer.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..arena import Arena
from ..errors import UserError

FUSED = "fused"
FLAT = "flat"
NUMPY = "numpy"
FUSED_TORCH = "fused_torch"
TORCH_FOREACH = "torch_foreach"
TORCH_DEFAULT = "torch_default"
MODEL_FUSED = "model_fused"
MODEL_TORCH = "model_torch"
MODEL_TORCH_MULTI = "model_torch_multi"
TF_EAGER = "tf_eager"
TF_FUNCTION = "tf_function"
TF_XLA = "tf_xla"

FUSED_KEYS = (FUSED, FLAT, FUSED_TORCH, MODEL_FUSED)
"""Those that call swa_fast: checked against NumPy, and what the others are compared with."""

LINGERING_KEYS = (TF_EAGER, TF_FUNCTION, TF_XLA)
"""Those whose threads spin on for a while after a call, see `timing.Task`."""

LABELS = {
    FUSED: "swa_fast, NumPy arrays",
    FLAT: "swa_fast, one flat buffer (ceiling)",
    NUMPY: "NumPy, a += (p - a) * w",
    FUSED_TORCH: "swa_fast, torch tensors",
    TORCH_FOREACH: "torch._foreach_lerp_",
    TORCH_DEFAULT: "torch AveragedModel, default expression",
    MODEL_FUSED: "swa_fast.torch AveragedModel",
    MODEL_TORCH: "torch AveragedModel",
    MODEL_TORCH_MULTI: "torch AveragedModel, get_swa_multi_avg_fn()",
    TF_EAGER: "TF Addons expression, eager",
    TF_FUNCTION: "TF Addons expression, tf.function",
    TF_XLA: "TF Addons expression, jit_compile=True",
}
"""What the report calls each competitor."""


@dataclass(frozen=True)
class Competitor:
    """One way to average the arena's values into its averages.

    Attributes:
        key: one of LABELS.
        update: takes the count and makes one update; returns when it is done.
        averages: what it updates, in the order of the workload's shapes.
        against: key of the fused competitor that does the same job on the same tensors.
    """

    key: str
    update: Callable[[int], object]
    averages: Sequence[Any]
    against: str = FUSED

    @property
    def label(self) -> str:
        """What the report calls it."""
        return LABELS[self.key]


@dataclass(frozen=True)
class Peer:
    """A framework that competes.

    Attributes:
        name: as given to `--peers`; also the name of the module here and of the package to import.
        keys: its competitors.
    """

    name: str
    keys: tuple[str, ...]

    @property
    def installed(self) -> bool:
        """Whether the package can be found; nothing is imported."""
        return importlib.util.find_spec(self.name) is not None

    def module(self) -> Any:
        """Import and return this peer's module, which imports the framework."""
        return importlib.import_module(f"{__package__}.{self.name}")


PEERS = {
    peer.name: peer
    for peer in (
        Peer("numpy", (NUMPY,)),
        Peer(
            "torch",
            (
                FUSED_TORCH,
                TORCH_FOREACH,
                TORCH_DEFAULT,
                MODEL_FUSED,
                MODEL_TORCH,
                MODEL_TORCH_MULTI,
            ),
        ),
        Peer("tensorflow", (TF_EAGER, TF_FUNCTION, TF_XLA)),
    )
}
"""Every peer, in the order of the report."""


def select(names: str | None) -> list[Peer]:
    """Return the peers of a comma-separated list, or all of them for None.

    A peer that was asked for by name must be there; of the default selection, one that is not
    installed stays in the list, so that the report can say so.

    Raises:
        UserError: a name is unknown, or not installed.
    """
    if names is None:
        return list(PEERS.values())
    wanted = [name.strip() for name in names.split(",") if name.strip() not in ("", "none")]
    for name in wanted:
        if name not in PEERS:
            raise UserError(
                f"--peers must name some of {', '.join(PEERS)}, or none. Received: {name!r}"
            )
        if not PEERS[name].installed:
            raise UserError(f'--peers names {name}, which is not installed: pip install "{name}"')
    return [peer for peer in PEERS.values() if peer.name in wanted]


def averager(name: str) -> Any:
    """Import what judges the averager that swa_fast has for the framework `name`; None if none."""
    if name not in ("torch", "tensorflow"):
        return None
    return importlib.import_module(f"{__package__}.{name}_averager")


def build_fused(arena: Arena) -> list[Competitor]:
    """Return the fused call on the list, and on one flat buffer, which is its ceiling."""
    import swa_fast

    fused = swa_fast.running_mean_
    averages, values = arena.averages, arena.values
    flat_averages, flat_values = [arena.averages_flat], [arena.values_flat]
    return [
        Competitor(FUSED, lambda count: fused(averages, values, count), averages),
        Competitor(FLAT, lambda count: fused(flat_averages, flat_values, count), flat_averages),
    ]
