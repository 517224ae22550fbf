"""``AveragedModel``: torch's own, with the fused update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import swa_utils

from . import _fused
from ._half_precision import HALF_DTYPES, Float32Averages
from ._overlap import require_writable
from ._parameters import describe_mismatch, parameters_and_buffers, unwrapped
from .multi_avg import EmaMultiAvg, SwaMultiAvg


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
    - A model whose parameters do not match is refused by name before anything is written.

    Args:
        model: the model to average; copied.
        device: where the copy is kept; None keeps each parameter where it is.
        avg_fn: function of (average, value, count) that returns the new average, per tensor.
        multi_avg_fn: function of (averages, values, count) that writes into the averages.
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
        multi_avg_fn: Callable[[Any, Any, Any], None] | None = None,
        use_buffers: bool = False,
    ) -> None:
        """Copies ``model``; the averages start with the first update."""
        super().__init__(model, device, avg_fn, multi_avg_fn, use_buffers)
        self._float32 = Float32Averages()
        self._count = HostCount()

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
        fused = multi_avg_fn is None or isinstance(multi_avg_fn, SwaMultiAvg | EmaMultiAvg)
        if self.avg_fn is not None or not fused:
            super().update_parameters(model)
            return
        count_tensor = self.n_averaged
        require_writable(count_tensor, "n_averaged")
        count = self._count.read(count_tensor)
        averages, own_buffers = parameters_and_buffers(self.module)
        values, buffers = parameters_and_buffers(model)
        if len(own_buffers) != len(buffers):
            raise ValueError(self._mismatch(model))
        copied: tuple[list[Any], list[Any]] = (own_buffers, buffers)
        if self.use_buffers and own_buffers:
            copied = ([], [])
            for own, buffer in zip(own_buffers, buffers, strict=True):
                is_averaged = own.is_floating_point() or own.is_complex()
                into = (averages, values) if is_averaged else copied
                into[0].append(own)
                into[1].append(buffer)
        decay = multi_avg_fn.decay if isinstance(multi_avg_fn, EmaMultiAvg) else None
        try:
            self._average(averages, values, count, decay, copied if copied[0] else None)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            mismatch = self._mismatch(model)
            if mismatch is None:
                raise
            raise ValueError(mismatch) from error
        with torch.no_grad():
            count_tensor.add_(1)
        self._count.wrote(count_tensor, count + 1)

    def _average(
        self,
        shown: list[Any],
        values: list[Any],
        count: int,
        decay: float | None,
        copied: tuple[list[Any], list[Any]] | None,
    ) -> None:
        averages = shown
        halves: list[Any] = []
        float32: list[Any] = []
        if not HALF_DTYPES.isdisjoint({tensor.dtype for tensor in shown}):
            halves = [tensor for tensor in shown if tensor.dtype in HALF_DTYPES]
            float32 = self._float32.of(halves)
            in_order = iter(float32)
            averages = [next(in_order) if t.dtype in HALF_DTYPES else t for t in shown]
        if decay is None or count == 0:
            _fused.running_mean_(averages, values, count, copies=copied, any_device=True)
        else:
            _fused.lerp_(averages, values, 1.0 - decay, copies=copied, any_device=True)
        if halves:
            _fused.copy_(halves, float32)
            self._float32.mark(halves)

    def _mismatch(self, model: Any) -> str | None:
        ours = _parameters_then_buffers(self.module)
        theirs = _parameters_then_buffers(unwrapped(model))
        whole = (ours[0] + ours[1], theirs[0] + theirs[1])
        # Then apart, because a parameter of one may be a buffer of the other.
        for own, other in (whole, *zip(ours, theirs, strict=True)):
            names, averages = [name for name, _ in own], [tensor for _, tensor in own]
            values = [tensor for _, tensor in other]
            mismatch = describe_mismatch(names, averages, values, any_device=True)
            if mismatch is not None:
                return f"the model does not match the averaged model: {mismatch}"
        return None

    def _half_tensors(self) -> list[Any]:
        parameters, buffers = parameters_and_buffers(self.module)
        listed = parameters + buffers if self.use_buffers else parameters
        return [tensor for tensor in listed if tensor.dtype in HALF_DTYPES]

    def __getstate__(self) -> dict[str, Any]:
        """Returns what to pickle: torch's state and the float32 averages."""
        state = self.__dict__.copy()
        state["_float32"] = self._float32.copy_for(self._half_tensors())
        del state["_count"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores from a pickle."""
        super().__setstate__(state)
        self._float32 = Float32Averages.restored(state["_float32"], self._half_tensors())
        self._count = HostCount()


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


def _parameters_then_buffers(module: Any) -> tuple[list[Any], list[Any]]:
    parameters, buffers = list(module.named_parameters()), list(module.named_buffers())
    listed = {id(tensor) for _, tensor in parameters}
    return parameters, [item for item in buffers if id(item[1]) not in listed]
