"""``Averager``: several averages of plain lists of tensors, of any framework or of none."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import _core
from ._checks import check_integer
from ._counters import Counters
from .average import Average, check_averages

# Averages begin at multiples of this many bytes of a block: a cache line.
_ALIGNMENT = 64


class Averager:
    """Averages of a list of tensors, each by its own schedule, updated in one pass.

    Each value is read once for all averages that are due. The averages are made by the framework of
    the values: NumPy arrays of NumPy arrays, torch tensors of torch tensors, CuPy arrays of CuPy
    arrays, on the values' device; of tensors that never change (JAX, TensorFlow), NumPy arrays. For
    the parameters of a torch module, ``swa_fast.torch.WeightAverager`` does more.

    Args:
        values: a list of tensors: anything with DLPack or the buffer protocol. Integers and bools
            are copied, not averaged.
        averages: ``{name: swa_fast.Average(...)}``. Without a dtype of its own an average of
            float16 or bfloat16 values is in float32, of others in theirs.

    Raises:
        TypeError: an argument has the wrong type, or a value cannot be averaged.
        ValueError: there is no value or no average.

    Example:
        >>> import numpy as np
        >>> from swa_fast import Average, Averager
        >>> weights = [np.zeros(2, np.float32)]
        >>> averager = Averager(weights, {"mean": Average(), "ema": Average(decay=0.5)})
        >>> for number in (1.0, 2.0, 6.0):
        ...     weights[0][:] = number
        ...     _ = averager.update()
        >>> averager["mean"][0], averager["ema"][0]
        (array([3., 3.], dtype=float32), array([3.75, 3.75], dtype=float32))
        >>> averager.counts
        {'mean': 3, 'ema': 3}
    """

    def __init__(self, values: Sequence[Any], averages: Mapping[str, Average]) -> None:
        """Allocates the averages and fills them with the values."""
        self._names = list(check_averages(averages))
        self._values = _check_values(values)
        self._counters = Counters(list(averages.values()))
        self._refreshable = not any(_is_immutable(value) for value in self._values)
        self._copied = [i for i, value in enumerate(self._values) if _kind(value) == "other"]
        self._averages: list[list[Any]] = []
        self._blocks: list[list[Any] | None] = []
        for average in averages.values():
            tensors, blocks = _allocate(self._values, average.dtype)
            _core.copy_(tensors, self._values)
            self._averages.append(tensors)
            self._blocks.append(blocks)
        self._prepared: _core.Prepared | None = None

    @property
    def names(self) -> list[str]:
        """The names of the averages."""
        return list(self._names)

    @property
    def counts(self) -> dict[str, int]:
        """Number of snapshots in each average, by its name."""
        return dict(zip(self._names, self._counters.counts, strict=True))

    @property
    def step(self) -> int:
        """Number of calls of ``update`` so far."""
        return self._counters.step

    def __getitem__(self, name: str) -> list[Any]:
        """Returns the tensors that hold an average, in the order of the values: no copies.

        Before its first snapshot they hold the values as they were when this was made.

        Raises:
            KeyError: there is no average of that name.
        """
        if name not in self._names:
            raise KeyError(f"there is no average {name!r}, but {self._names}")
        return list(self._averages[self._names.index(name)])

    def update(self, values: Sequence[Any] | None = None) -> bool:
        """Takes the values into the averages that are due.

        Args:
            values: as many tensors of the same shapes, dtypes and layouts, which may be new objects
                at each call; by default those that the averager was made for, as they are now.

        Returns:
            Whether a snapshot was taken, by any of the averages.

        Raises:
            TypeError: no values were given, and those that this was made for never change.
            ValueError, BufferError: they do not match; nothing was written.
        """
        if values is None:
            if not self._refreshable:
                raise TypeError(
                    "update() must be given the values, because those that the averager was made "
                    "for never change. Received: none"
                )
            values = self._values
        elif not isinstance(values, list | tuple):
            values = _check_values(values)
        weights = self._counters.weights()
        if weights is not None:
            self._take(values, weights)
        self._counters.advance(weights)
        return weights is not None

    def leave_out(self) -> None:
        """Counts an update whose snapshots are left out, as of values that are not finite.

        The averages and their counts stay as they are. A schedule that goes by the updates since
        the last snapshot sees that there were more of them.
        """
        weights = self._counters.weights()
        self._counters.advance(None if weights is None else [None] * len(weights))

    def _take(self, values: Sequence[Any], weights: Sequence[Any]) -> None:
        if self._prepared is None or not self._prepared.run(weights, values):
            self._prepared = self._prepare(values)
            if not self._prepared.run(weights, values):
                raise RuntimeError("the values were changed by another thread during the update")

    def _prepare(self, values: Sequence[Any]) -> _core.Prepared:
        own = {id(tensor) for tensors in self._averages for tensor in tensors}
        for index, value in enumerate(values):
            if id(value) in own:
                raise ValueError(
                    "values must be other tensors than the averages. Received: "
                    f"values[{index}] is one of them"
                )
        copied = self._copied or None
        targets: list[Any] = [
            ("averages", "average", index, -1, tensors, blocks, None, copied)
            for index, (tensors, blocks) in enumerate(
                zip(self._averages, self._blocks, strict=True)
            )
        ]
        return _core.Prepared(values, targets)

    def state_dict(self) -> dict[str, Any]:
        """Returns the averages (no copies), the counters and the schedules.

        ``{"averages": {name: [tensor, ...]}, "counts": {name: int}, "step": int, "config": {name:
        dict}}``. A schedule that is a callable of your own is not in it.
        """
        described = self._counters.averages
        return {
            "averages": {name: self[name] for name in self._names},
            "counts": self.counts,
            "step": self.step,
            "config": {
                name: average.to_dict()
                for name, average in zip(self._names, described, strict=True)
            },
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Loads what ``state_dict`` returned, of averages of the same names, shapes and schedules.

        Raises:
            KeyError, TypeError, ValueError: it does not match; nothing was changed.
        """
        _require_entries(state_dict, ["averages", "counts", "step"], "state_dict", exact=False)
        for key in ("averages", "counts", "config"):
            if key in state_dict:
                _require_entries(state_dict[key], self._names, f"state_dict[{key!r}]")
        ours = self.state_dict()
        for name in self._names if "config" in state_dict else []:
            saved, here = state_dict["config"][name], ours["config"][name]
            if saved != here:
                raise ValueError(
                    f"state_dict was saved with another schedule: average {name!r} is {here} here. "
                    f"Received: {saved}"
                )
        into: list[Any] = []
        loaded: list[Any] = []
        for name in self._names:
            tensors, saved = self[name], state_dict["averages"][name]
            where = f"state_dict['averages'][{name!r}]"
            if not isinstance(saved, Sequence) or len(saved) != len(tensors):
                received = len(saved) if isinstance(saved, Sequence) else type(saved).__name__
                raise ValueError(
                    f"{where} must be a list of {len(tensors)} tensors. Received: {received}"
                )
            for index, (tensor, other) in enumerate(zip(tensors, saved, strict=True)):
                _require_alike(tensor, other, f"{where}[{index}]")
            into += tensors
            loaded += saved
        counters = Counters(self._counters.averages)
        counts = [state_dict["counts"][name] for name in self._names]
        counters.load(check_integer("step", state_dict["step"], 0), counts)
        _core.copy_(into, loaded)
        self._counters = counters

    def __getstate__(self) -> dict[str, Any]:
        """Returns what to copy or pickle."""
        state = self.__dict__.copy()
        state["_prepared"] = None
        state["_blocks"] = [None] * len(self._names)  # each tensor becomes one of its own
        return state

    def __repr__(self) -> str:
        """Tells the schedules, the counts and how many values there are."""
        described = dict(zip(self._names, self._counters.averages, strict=True))
        return f"Averager({described}, counts={self.counts}, {len(self._values)} values)"


def _check_values(values: Any) -> list[Any]:
    if hasattr(values, "parameters"):
        raise TypeError(
            "values must be a list of tensors. Received: a module; see "
            "swa_fast.torch.WeightAverager for those"
        )
    checked: list[Any] = list(values)
    if not checked:
        raise ValueError("values must hold at least one tensor. Received: none")
    for index, value in enumerate(checked):
        if not hasattr(value, "__dlpack__"):
            try:
                memoryview(value)
            except TypeError:
                raise TypeError(
                    f"values[{index}] must be a tensor that speaks DLPack or the buffer protocol. "
                    f"Received: {type(value).__name__}"
                ) from None
    return checked


def _framework(value: Any) -> str:
    return type(value).__module__.partition(".")[0]


def _is_torch(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _is_immutable(value: Any) -> bool:
    """Tells whether a value is of a framework whose tensors never change."""
    return _framework(value) in ("jax", "jaxlib", "tensorflow")


def _dtype_name(value: Any) -> str:
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        dtype = np.asarray(value).dtype
    return str(getattr(dtype, "name", dtype)).rpartition(".")[2]


def _kind(value: Any) -> str:
    name = _dtype_name(value)
    return next((kind for kind in ("float", "complex") if kind in name), "other")


def _average_dtype(value: Any, dtype: str | None) -> str:
    """Returns the name of the dtype of the average of ``value``."""
    name = _dtype_name(value)
    if _kind(value) != "float":
        return name
    return dtype or ("float32" if name in ("float16", "bfloat16") else name)


def _allocate(values: Sequence[Any], dtype: str | None) -> tuple[list[Any], list[Any] | None]:
    """Returns the tensors of an average, and the blocks of memory that they lie in, or None."""
    if any(_is_torch(value) or _framework(value) == "cupy" for value in values):
        return [_like(value, _average_dtype(value, dtype)) for value in values], None
    slots: list[tuple[Any, int, Any]] = []
    sizes: dict[Any, int] = {}  # bytes
    for value in values:
        array = np.asarray(value)
        kept = _numpy_dtype(_average_dtype(value, dtype))
        strides = np.empty_like(np.broadcast_to(np.empty((), kept), array.shape), order="C").strides
        if array.size > 0 and not array.flags.c_contiguous:
            strides = np.empty_like(array, dtype=kept, order="K").strides
        slots.append((kept, sizes.get(kept, 0), (array.shape, strides)))
        nbytes = array.size * kept.itemsize
        sizes[kept] = sizes.get(kept, 0) + -(-nbytes // _ALIGNMENT) * _ALIGNMENT
    blocks = {kept: _aligned_block(size) for kept, size in sizes.items()}
    tensors = [
        np.ndarray(shape, kept, blocks[kept].data, begin, strides)
        for kept, begin, (shape, strides) in slots
    ]
    return tensors, list(blocks.values())


def _aligned_block(size: int) -> Any:
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % _ALIGNMENT
    return memory[begin : begin + size]


def _like(value: Any, dtype: str) -> Any:
    """Returns memory like ``value``, in its framework."""
    if _is_torch(value):
        torch = sys.modules["torch"]
        return torch.empty_like(value.detach(), dtype=getattr(torch, dtype), requires_grad=False)
    if _framework(value) == "cupy":
        return sys.modules["cupy"].empty_like(value, dtype=dtype)
    return np.empty_like(np.asarray(value), dtype=_numpy_dtype(dtype))


def _numpy_dtype(name: str) -> Any:
    if name != "bfloat16":
        return np.dtype(name)
    return np.dtype(importlib.import_module("ml_dtypes").bfloat16)


def _require_entries(entries: Any, names: Sequence[str], where: str, *, exact: bool = True) -> None:
    if not isinstance(entries, Mapping):
        raise TypeError(f"{where} must be a dict. Received: {type(entries).__name__}")
    missing = [name for name in names if name not in entries]
    unknown = [name for name in entries if name not in names] if exact else []
    if missing or unknown:
        raise KeyError(f"{where} does not match: missing {missing[:5]}, unknown {unknown[:5]}")


def _require_alike(tensor: Any, other: Any, where: str) -> None:
    for what, has, expected in (
        ("shape", getattr(other, "shape", None), tensor.shape),
        ("dtype", _dtype_name(other), _dtype_name(tensor)),
    ):
        if has is None or (tuple(has) if what == "shape" else has) != expected:
            raise ValueError(f"{where} has {what} {has}, the average has {what} {expected}")
