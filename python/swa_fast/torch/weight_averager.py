"""``WeightAverager``: averages over a list of parameters, without a copy of the model."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from swa_fast._schedule import check_integer, snapshot

from . import _fused
from ._distributed import agree, is_sharded, local_all, reshard
from ._fold import Fold, allocate
from ._guarded import Guarded
from ._nonfinite import all_finite, check_nonfinite
from ._offload import Offload, OffloadError, offloads
from ._parameters import Source
from ._state import check_state
from ._swap import Exchange
from ._turn import Turn
from .multi_avg import check_decay


class WeightAverager(Guarded):
    """Averages of a model's parameters, updated by one fused call.

    The averages are a list of tensors beside the model; the model is not copied. So models that
    cannot be copied work too: with weight_norm, compiled, with tied weights, sharded by FSDP2
    (each rank averages its own shards).

    Args:
        params_or_module: a module, whose parameters are read afresh at each call, or an iterable
            of tensors or of ``(name, tensor)`` pairs. A tensor that appears twice is averaged once.
        dtype: of the averages. By default float32 for float16 and bfloat16 parameters, and the
            parameter's own for others.
        device: where the averages are kept; by default with the parameters, which then must stay
            there (see ``to``). With "cpu", averages of parameters on a GPU are updated in the
            background, from copies in pinned memory (as many bytes as the parameters), beside the
            training step: ``update`` returns at once, reads of the averages wait, and an error is
            raised by the next call. Until the copies are made, only optimizers of torch.optim may
            write the parameters: their steps are held back on the GPU.
        decay: None for the equally weighted mean; a number in [0, 1] for the exponential one,
            ``decay * average + (1 - decay) * value``, which starts from the first value.
        start: call of ``update`` that takes the first snapshot, counted from 0.
        period: calls of ``update`` from one snapshot to the next.
        use_buffers: also average a module's floating-point buffers, and copy its integer ones.
        nonfinite: "propagate" averages NaN and infinity as torch does; "skip" leaves out a whole
            snapshot that holds one, and counts it in ``skipped``. Checking reads all values once
            more, and waits for the device.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range, or there is nothing to average.

    Example:
        >>> import torch
        >>> from swa_fast.torch import WeightAverager
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> averager = WeightAverager(model)
        >>> for weight in (1.0, 2.0, 6.0):
        ...     with torch.no_grad():
        ...         _ = model.weight.fill_(weight)
        ...     _ = averager.update()
        >>> with averager.applied():
        ...     model.weight.item()
        3.0
        >>> model.weight.item()
        6.0
    """

    def __init__(
        self,
        params_or_module: Any,
        *,
        dtype: Any = None,
        device: Any = None,
        decay: float | None = None,
        start: int = 0,
        period: int = 1,
        use_buffers: bool = False,
        nonfinite: str = "propagate",
    ) -> None:
        """Allocates the averages; see the class for the arguments."""
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise TypeError(f"dtype must be a floating-point torch.dtype. Received: {dtype!r}")
        decay = None if decay is None else check_decay(decay)
        self._start = check_integer("start", start, 0)
        self._period = check_integer("period", period, 1)
        self._nonfinite = check_nonfinite(nonfinite)
        self._device = None if device is None else torch.device(device)
        self._source = Source(params_or_module, use_buffers, "params_or_module")
        self._count = 0
        self._step = 0
        self._skipped = 0
        self._exchange = Exchange()
        self._offload = Offload()
        self._turn = Turn()
        values = self._source.tensors()
        with torch.no_grad():
            # Filled, because the state is saved before the first snapshot too.
            self._averages = [allocate(v, dtype, self._device).copy_(v) for v in values]
        self._sharded = any(is_sharded(value) for value in values)
        self._fold = Fold(self._averages, decay)

    @property
    def count(self) -> int:
        """Number of snapshots in the averages."""
        return self._count

    @property
    def step(self) -> int:
        """Number of calls of ``update`` so far."""
        return self._step

    @property
    def skipped(self) -> int:
        """Number of snapshots left out because a value was NaN or infinite."""
        return self._skipped

    @property
    def names(self) -> list[str]:
        """The name of each average, the module's own or its index in the list."""
        return list(self._source.names)

    def update(self) -> bool:
        """Takes the parameters into the averages, if a snapshot is due.

        Returns:
            Whether a snapshot was taken.

        Raises:
            ValueError: the parameters no longer match the averages; nothing was written.
            RuntimeError: the averages are swapped in, or used by another thread; or an update in
                the background failed after its call had returned, whose snapshot then is not in
                the averages.
        """
        self._begin("update()")
        try:
            due, _ = snapshot(self._step, self._start, self._period)
            if due:
                due = self._take_snapshot()
            self._step += 1
        finally:
            self._turn.end()
        return bool(due)

    def _take_snapshot(self) -> bool:
        self._settle()
        values = self._values()
        if self._nonfinite == "skip" and not agree(all_finite(local_all(values)), values):
            self._skipped += 1
            return False
        averages = local_all(self._averages)
        fold = functools.partial(self._fold, averages, self._count, self._any_device)
        if offloads(self._device, values):
            self._require_match(values)
            self._offload.submit(local_all(values), fold)
        else:
            with self._explained(values):
                fold(local_all(values))
        self._count += 1
        return True

    def _settle(self) -> None:
        try:
            self._offload.wait()
        except OffloadError:
            self._count -= 1  # it was counted when it was started
            raise

    def averages(self) -> list[Any]:
        """Returns the tensors that hold the averages now, in the order of ``names``: no copies.

        Before the first snapshot they hold the parameters as they were when this was made.
        """
        self._settle()
        return self._exchange.where(self._averages, self._values())

    def copy_to(self, params: Any = None) -> None:
        """Copies the averages into parameters, rounding where those are narrower.

        Args:
            params: a module or a list of tensors; by default the parameters that are averaged.

        Raises:
            ValueError: ``params`` does not match in number, shape or device; nothing was written.
            RuntimeError: there is no snapshot yet, or the averages are swapped in.
        """
        with self._alone("copy_to()"):
            self._settle()
            self._require_snapshot("copy_to()")
            values = self._values()
            if params is not None:
                values = Source(params, self._source.use_buffers, "params").tensors()
            averages = local_all(self._averages)
            with self._explained(values):
                _fused.copy_(local_all(values), averages, any_device=self._any_device)

    def swap(self) -> None:
        """Exchanges the averages with the parameters; a second call puts both back, bit for bit.

        Needs no memory where average and parameter have the same dtype; where the average is
        wider, the parameter's value is kept aside (2 bytes per element of a half-precision model).
        While swapped, ``update`` and ``copy_to`` are refused, and the parameters must not be
        trained: a change to them would be a change to the averages.

        Raises:
            ValueError: the parameters no longer match the averages; nothing was written.
            RuntimeError: there is no snapshot yet, or another thread uses the averager.
        """
        self._turn.begin("swap()")
        try:
            self._swap()
        finally:
            self._turn.end()

    def _swap(self) -> None:
        self._settle()
        self._require_snapshot("swap()")
        values = self._values()
        with self._explained(values):
            exchange = self._exchange.end if self._exchange.active else self._exchange.begin
            exchange(local_all(self._averages), local_all(values), self._any_device)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Context in which the parameters hold the averages; always swaps back.

        Raises:
            RuntimeError: there is no snapshot yet, or the averages are swapped in already, or
                another thread uses the averager.
        """
        with self._alone("applied()"):
            self._swap()
        try:
            yield
        finally:
            if self._exchange.active:
                self._turn.await_()  # never refused: it must swap back
                try:
                    if self._exchange.active:
                        self._swap()
                finally:
                    self._turn.end()

    def to(self, device: Any) -> WeightAverager:
        """Moves the averages to ``device``, as after moving the model there, and returns self."""
        with self._alone("to()"):
            self._settle()
            self._averages = [average.to(device) for average in self._averages]
            if self._device is not None:
                self._device = torch.device(device)
        return self

    def state_dict(self) -> dict[str, Any]:
        """Returns the averages by name (no copies), and the counters.

        Tensors and ints only: it can be loaded with ``torch.load(..., weights_only=True)``, and
        saved and resharded by ``torch.distributed.checkpoint``.
        """
        return {
            "averages": dict(zip(self._source.names, self.averages(), strict=True)),
            "count": self._count,
            "step": self._step,
            "skipped": self._skipped,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Loads what ``state_dict`` returned, from a model with the same parameters.

        Raises:
            KeyError, TypeError, ValueError: it does not match; nothing was changed.
            RuntimeError: the averages are swapped in.
        """
        with self._alone("load_state_dict()"):
            self._settle()
            tensors, counters = check_state(self._source.names, self._averages, state_dict)
            _fused.copy_(local_all(self._averages), local_all(tensors), any_device=True)
            self._count, self._step, self._skipped = counters

    def __getstate__(self) -> dict[str, Any]:
        """Returns what to copy or pickle, with no update in flight."""
        self._settle()
        return self.__dict__.copy()

    def _continue_from(self, other: WeightAverager) -> None:
        """Takes the step and skipped counters of one that has no snapshot yet."""
        self._step, self._skipped = other._step, other._skipped

    def _values(self) -> list[Any]:
        if self._sharded and self._source.module is not None:
            reshard(self._source.module)
        return self._source.tensors()
