"""The parameter shapes of real models, which every section of the benchmark runs on."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from .errors import UserError

BYTES_PER_ELEMENT = 4
"""All workloads are float32."""

DEFAULT_MODELS = ("mobilenet_v3_large", "efficientnet_b0", "resnet50", "bert_base", "gpt2")
"""What runs when no model is named; llama_1b needs about 20 GB and runs only when asked for."""

_MANY_SMALL_MEAN = 2**16
"""Below this mean number of elements per tensor (256 KiB of float32, well inside one core's L2
cache) the cost of a call per tensor shows beside the cost of moving the bytes."""


@dataclass(frozen=True)
class Workload:
    """One model's parameter list.

    Attributes:
        name: the key in workloads.json, as given to `--model`.
        source: where the shapes were read from.
        shapes: one shape per parameter, in the model's own order.
    """

    name: str
    source: str
    shapes: tuple[tuple[int, ...], ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of elements of each tensor."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def tensors(self) -> int:
        """Number of tensors in the list."""
        return len(self.shapes)

    @property
    def elements(self) -> int:
        """Number of elements in the whole list."""
        return sum(self.sizes)

    @property
    def nbytes(self) -> int:
        """Bytes of one list (the averages or the values)."""
        return self.elements * BYTES_PER_ELEMENT

    @property
    def many_small(self) -> bool:
        """Whether this is one of the models of many small tensors, which have their own budgets."""
        return self.elements < _MANY_SMALL_MEAN * self.tensors


def load() -> dict[str, Workload]:
    """Read every workload that is shipped with the package, in the order of the file."""
    text = resources.files(__package__).joinpath("workloads.json").read_text(encoding="utf-8")
    return {
        name: Workload(name, entry["source"], tuple(tuple(shape) for shape in entry["shapes"]))
        for name, entry in json.loads(text).items()
    }


def select(names: Sequence[str]) -> list[Workload]:
    """Return the named workloads in the order asked for, each once; the default set if empty.

    Raises:
        UserError: a name is not in workloads.json.
    """
    known = load()
    for name in names:
        if name not in known:
            raise UserError(f"--model must be one of {', '.join(known)}. Received: {name!r}")
    return [known[name] for name in dict.fromkeys(names or DEFAULT_MODELS)]
