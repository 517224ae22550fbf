"""``AveragedModel``: torch's own, with the fused update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import swa_utils

from swa_fast import _core
from swa_fast.average import Average

from . import pairs
from .half_precision import Float32Averages, half_tensors
from .mismatch import describe_mismatch
from .mixed_pass import MixedPass, prepare_pass
from .module_tree import Named, lists_plainly, named_tensors, parameters_and_buffers, unwrapped
from .multi_avg import EmaMultiAvg, SwaMultiAvg
from .overlap import require_writable

_REFUSALS = (BufferError, RuntimeError, TypeError, ValueError)


class AveragedModel(swa_utils.AveragedModel):  # type: ignore[misc]
    """A copy of a model that holds the average of its weights; drop-in for torch's class.

    The state dict, pickles and ``isinstance`` are those of
    ``torch.optim.swa_utils.AveragedModel``. With default averaging, and with this package's
    ``get_swa_multi_avg_fn()`` and ``get_ema_multi_avg_fn(decay)``, all floating-point tensors are
    averaged in one fused call; any other function runs as in torch.

    What differs from torch, on purpose:

    - float16 and bfloat16 parameters are averaged in float32 and rounded into ``module`` after
      each update (4 bytes of memory per such element). The float32 averages are pickled with the
      model, but are not in the state dict, whose keys are torch's.
    - Integer buffers are copied, also under ``use_buffers=True``, where torch truncates a mean.
    - Parameters are matched by name where both models have the same names, else by their order, as
      torch does. One that is still the same tensor keeps its average, whatever its name is now.
    - A model whose parameters do not match is refused by name before anything is written.

    Args:
        model: the model to average; copied.
        device: where the copy is kept; None keeps each parameter where it is.
        avg_fn: function of (average, value, count) that returns the new average, per tensor.
        multi_avg_fn: function of (averages, values, count) that writes into the averages; or a
            ``swa_fast.Average``, whose snapshots are then taken, and ``n_averaged`` counts updates.
        use_buffers: whether floating-point buffers are averaged too, instead of copied.

    Example:
        >>> import torch
        >>> from swa_fast.torch import AveragedModel
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> averaged = AveragedModel(model)
        >>> for weight in (1.0, 2.0, 6.0):
        ...     with torch.no_grad():
        ...         _ = model.weight.fill_(weight)
        ...     averaged.update_parameters(model)
        >>> averaged.module.weight.item()
        3.0
    """

    def __init__(
        self,
        model: Any,
        device: Any = None,
        avg_fn: Callable[[Any, Any, Any], Any] | None = None,
        multi_avg_fn: Callable[[Any, Any, Any], None] | Average | None = None,
        use_buffers: bool = False,
    ) -> None:
        """Copies ``model``; the averages start with the first update."""
        if isinstance(multi_avg_fn, Average) and multi_avg_fn.dtype is not None:
            raise ValueError(
                "the dtype of multi_avg_fn must be None, because the averaged model keeps the "
                f"model's own. Received: {multi_avg_fn.dtype}"
            )
        _require_module(model, "model")
        if isinstance(device, float):
            raise TypeError(
                f"device must be a torch.device. Received: {device!r}; for a decay write "
                f"multi_avg_fn=swa_fast.torch.get_ema_multi_avg_fn({device!r})"
            )
        super().__init__(model, device, avg_fn, multi_avg_fn, use_buffers)
        self._float32 = Float32Averages()
        self._count = HostCount()
        self._bound: _Bound | None = None
        self._mixed: MixedPass | None = None
        self._known: dict[int, tuple[Any, int]] = {}

    def update_parameters(self, model: Any) -> None:
        """Takes the parameters of ``model`` into the average.

        Args:
            model: a model with the parameters and buffers that were copied, on any device.

        Raises:
            ValueError: they differ in number or shape; nothing was written.
            RuntimeError: this model was made in inference mode, which was left since; nothing was
                written.
        """
        multi_avg_fn = self.multi_avg_fn
        _require_module(model, "model")
        ours = SwaMultiAvg | EmaMultiAvg | Average
        fused = multi_avg_fn is None or isinstance(multi_avg_fn, ours)
        if self.avg_fn is not None or not fused:
            super().update_parameters(model)
            return
        count_tensor = self.n_averaged
        require_writable(count_tensor, "n_averaged")
        count = self._count.read(count_tensor)
        weight = _weight(multi_avg_fn, count)
        if weight is not None:
            root = unwrapped(model)
            if not self._run_bound(root, weight):
                self._bind_and_run(root, weight)
        with torch.no_grad():
            count_tensor.add_(1)
        self._count.wrote(count_tensor, count + 1)

    def _run_bound(self, root: Any, weight: int | float) -> bool:
        """Takes the snapshot by what was prepared, if that still holds."""
        bound = self._bound
        if bound is None or bound.root is not root or not self._float32.are_current(bound.halves):
            return False
        if not bound.prepared.run([weight]):
            return False
        if bound.halves:
            self._float32.mark(bound.halves)
        return True

    def _bind_and_run(self, root: Any, weight: int | float) -> None:
        """Matches the two models, prepares the pass where native code serves it, and makes it."""
        self._bound = None
        if isinstance(weight, int) and weight < 0:
            raise ValueError(f"count must be >= 0. Received: {weight}")
        own = named_tensors(self.module, True)
        theirs = self._matched(own, named_tensors(root, True))
        shown, values = [one.tensor for one in own], [one.tensor for one in theirs]
        copied = [
            index
            for index, one in enumerate(own)
            if (one.is_buffer and not self.use_buffers)
            or not (one.tensor.is_floating_point() or one.tensor.is_complex())
        ]
        try:
            self._snapshot(root, shown, values, copied, weight)
        except _REFUSALS as error:
            labels = [one.label for one in own]
            mismatch = describe_mismatch(labels, shown, values, any_device=True)
            if mismatch is None:
                raise
            raise ValueError(f"{_NO_MATCH}: {mismatch}") from error
        self._known = {
            id(identity): (identity, index)
            for index, identity in enumerate(_core.identities_of(values))
        }

    def _snapshot(
        self, root: Any, shown: list[Any], values: list[Any], copied: list[int], weight: int | float
    ) -> None:
        apart = set(copied)
        half = [index for index in half_tensors(shown) if index not in apart]
        halves = [shown[index] for index in half]
        averages = list(shown)
        for index, average in zip(half, self._float32.of(halves), strict=True):
            averages[index] = average
        known = self._mixed
        if known is not None and known.is_of(averages, copied) and known.run([weight], values):
            self._show(halves, averages, half)
            return
        self._mixed = None
        prepared = self._prepare(shown, averages, values, copied, half)
        if not prepared.run([weight], values):
            raise RuntimeError("another thread changed the model during the update")
        if isinstance(prepared, MixedPass):
            self._mixed = prepared
            self._show(halves, averages, half)
            return
        self._float32.mark(halves)
        watched = prepared.watch_values(root, values, True, lists_plainly)
        if watched and prepared.watch_targets(self.module, shown, True, lists_plainly):
            self._bound = _Bound(root, prepared, halves)

    def _show(self, halves: list[Any], averages: list[Any], half: list[int]) -> None:
        """Rounds float32 averages into the half-precision tensors of the module."""
        if halves:
            pairs.copy_(halves, [averages[index] for index in half])
            self._float32.mark(halves)

    def _prepare(
        self,
        shown: list[Any],
        averages: list[Any],
        values: list[Any],
        copied: list[int],
        half: list[int],
    ) -> _core.Prepared | MixedPass:
        """Returns the pass, which rounds what is shown only if it is native as a whole."""
        within = set(half)
        memory = None
        targets: list[Any] = []
        if half:
            memory = [tensor for index, tensor in enumerate(shown) if index not in within]
            memory += self._float32.blocks
        targets.append(("averages", "average", 0, -1, averages, memory, None, copied))
        if half:
            shown_half = [shown[index] for index in half]
            targets.append(("shown", "view", 0, 0, shown_half, None, half, None))
        return prepare_pass(values, targets, [averages], copied, any_device=True)

    def _matched(self, own: list[Named], theirs: list[Named]) -> list[Named]:
        """Returns the tensor of the model that goes into each of ours."""
        matched: list[Any] = [None] * len(own)
        rest = []
        identities = _core.identities_of([one.tensor for one in theirs])
        for one, identity in zip(theirs, identities, strict=True):
            _, index = self._known.get(id(identity), (None, -1))
            if 0 <= index < len(own) and own[index].is_buffer == one.is_buffer:
                matched[index] = one
            else:
                rest.append(one)
        by_name = {
            (alias, one.is_buffer): index for index, one in enumerate(own) for alias in one.aliases
        }
        unnamed = []
        for one in rest:
            keys = ((alias, one.is_buffer) for alias in one.aliases)
            index = next((by_name[key] for key in keys if key in by_name), -1)
            if index >= 0 and matched[index] is None:
                matched[index] = one
            else:
                unnamed.append(one)
        if not unnamed and None not in matched:
            return matched
        # Other names: by order, as torch does, if the models are alike otherwise.
        for kind in (False, True):
            ours = [one for one in own if one.is_buffer == kind]
            others = [one for one in theirs if one.is_buffer == kind]
            labels, shown = [one.label for one in ours], [one.tensor for one in ours]
            values = [one.tensor for one in others]
            mismatch = describe_mismatch(labels, shown, values, any_device=True)
            if mismatch is not None:
                found = [one for one, other in zip(own, matched, strict=True) if other is not None]
                raise ValueError(
                    f"{_NO_MATCH}: {_by_name(ours, others, found, unnamed) or mismatch}"
                )
        return theirs

    def _half_tensors(self) -> list[Any]:
        parameters, buffers = parameters_and_buffers(self.module)
        listed = parameters + buffers if self.use_buffers else parameters
        return [listed[index] for index in half_tensors(listed)]

    def __getstate__(self) -> dict[str, Any]:
        """Returns what to pickle: torch's state and the float32 averages."""
        state = self.__dict__.copy()
        state["_float32"] = self._float32.copy_for(self._half_tensors())
        del state["_count"], state["_bound"], state["_mixed"], state["_known"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores from a pickle."""
        super().__setstate__(state)
        self._float32 = Float32Averages.restored(state["_float32"], self._half_tensors())
        self._count = HostCount()
        self._bound = None
        self._mixed = None
        self._known = {}


def _require_module(model: Any, name: str) -> None:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(
            f"{name} must be a torch.nn.Module. Received: {type(model).__name__}; for a list of "
            "tensors see swa_fast.torch.WeightAverager"
        )


def _by_name(
    ours: list[Named], others: list[Named], found: list[Named], unnamed: list[Named]
) -> str:
    """Returns what does not match by name, or "" where no name matches or all do."""
    matched, new = {id(one) for one in found}, {id(one) for one in unnamed}
    what = [f"{one.label} is missing" for one in ours if id(one) not in matched][:3]
    what += [f"{one.label} has no average" for one in others if id(one) in new][:3]
    if not what or not found:
        return ""
    return f"there are {len(others)} tensors for {len(ours)} averages ({', '.join(what)})"


def _weight(multi_avg_fn: Any, count: int) -> int | float | None:
    """Returns the weight of the snapshot that follows ``count`` updates; None if none is due."""
    if isinstance(multi_avg_fn, Average) and count >= 0:
        update = count + 1
        if not multi_avg_fn.due(update):
            return None
        last = multi_avg_fn.last_due(count)
        return multi_avg_fn.weight(multi_avg_fn.count(count), update, update - last)
    if isinstance(multi_avg_fn, EmaMultiAvg) and count != 0:
        return 1.0 - multi_avg_fn.decay
    return count


_NO_MATCH = "the model does not match the averaged model"


class _Bound:
    """A prepared pass, and what it was prepared for."""

    __slots__ = ("halves", "prepared", "root")

    def __init__(self, root: Any, prepared: _core.Prepared, halves: list[Any]) -> None:
        self.root, self.prepared, self.halves = root, prepared, halves


class HostCount:
    """The value of a count tensor, read from its device only when someone else wrote it.

    A CPU tensor is always read. For any other the last value is kept beside the identity, address
    and version counter of the tensor; a write through ``.data`` moves none of these.
    """

    def __init__(self) -> None:
        """Knows nothing yet: the first read is a real one."""
        self._tensor: Any = None
        self._mark: Any = None
        self._value = 0

    def read(self, tensor: Any) -> int:
        """Returns the count in ``tensor``."""
        if not tensor.is_cpu and tensor is self._tensor and self._mark == self._mark_of(tensor):
            return self._value
        return int(tensor)

    def wrote(self, tensor: Any, value: int) -> None:
        """Remembers that ``tensor`` now holds ``value``."""
        if not tensor.is_cpu:
            self._tensor, self._mark, self._value = tensor, self._mark_of(tensor), value

    @staticmethod
    def _mark_of(tensor: Any) -> Any:
        return object() if tensor.is_inference() else (tensor._version, tensor.data_ptr())
