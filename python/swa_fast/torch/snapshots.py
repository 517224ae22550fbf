"""Taking snapshots: the tensors of a source, the averages of them, and the pass between the two."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from swa_fast import _core
from swa_fast._counters import Counters
from swa_fast.average import Average

from . import pairs
from .arena import Arena, standalone
from .mismatch import describe_mismatch
from .mixed_pass import MixedPass, is_prepared, prepare_pass
from .module_tree import lists_plainly
from .nonfinite import Gate, all_finite, can_be_gated, gate_device
from .offload import Offload, OffloadError, fold_threads, offloads
from .sharding import agree, is_sharded, local, local_all, reshard
from .source import Source

_CHANGED = "the parameters were changed by another thread during the update"
_REFUSALS = (BufferError, RuntimeError, TypeError, ValueError)


class Snapshots:
    """Several averages of the tensors of a source, with their counters.

    What an update does is prepared at the first one and kept: the next ones verify and run it.

    Args:
        source: lists the tensors.
        averages: the description of each average, by its name.
        device: where the averages are kept; None for that of each tensor.
        skips_nonfinite: whether a snapshot that holds NaN or infinity is left out.

    Attributes:
        source: the same.
        keys: the names of the averages.
        device: as given.
        copied: the indices of the tensors that are copied and not averaged, or None.
        arenas: where each average lives.
        offload: the update that is in flight, if any.
    """

    def __init__(
        self,
        source: Source,
        averages: Mapping[str, Average],
        device: Any,
        skips_nonfinite: bool,
    ) -> None:
        """Allocates the averages and fills them with the tensors as they are now."""
        self.source = source
        self.keys = list(averages)
        self._counters = Counters(list(averages.values()))
        self._skipped = [0] * len(self.keys)
        self.device = device
        self._skips_nonfinite = skips_nonfinite
        values = source.tensors()
        self.is_sharded = any(is_sharded(value) for value in values)
        self.copied = _copied(values)
        self.arenas = [
            Arena(values, _torch_dtype(average.dtype), device) for average in averages.values()
        ]
        self.offload = Offload()
        self._submitted: list[int] = []  # the averages whose snapshots are in flight
        self._pass: _core.Prepared | MixedPass | None = None
        self._quick: _core.Prepared | None = None  # what may run and look at nothing else
        self._watched = False  # whether `offload` finds the values by itself
        self._gate: Gate | None = None  # the counts, where the device leaves out snapshots
        self._may_gate = skips_nonfinite and can_be_gated(self._counters.averages)

    @property
    def counters(self) -> Counters:
        """Counters of the averages; waits for a device that counts by itself."""
        self._read_gate()
        return self._counters

    @property
    def skipped(self) -> list[int]:
        """For each average, the snapshots left out; waits as ``counters``."""
        self._read_gate()
        return self._skipped

    @property
    def step(self) -> int:
        """Number of updates so far."""
        return self._counters.step

    def update(self, values: Any = None) -> bool:
        """Takes the values into the averages that are due, and counts the update.

        Args:
            values: a module or a list, in the place of the source's tensors.

        Returns:
            Whether a snapshot was taken, by any of the averages, or queued where the device may
            still leave it out.

        Raises:
            ValueError: the values do not match the averages; nothing was written or counted.
            OffloadError: the update before this one failed in the background.
        """
        counters = self._counters
        weights = counters.weights()
        if weights is None:
            counters.advance(None)
            return False
        quick = self._quick
        if values is not None and self.source.is_of(values):
            values = None
        if (
            quick is None
            or values is not None
            or self._gate is not None
            or not quick.run(weights, self.source.listed)
        ):
            weights = self._take(weights, values)
        counters.advance(weights)
        return weights.count(None) < len(weights)

    def _take(self, weights: list[Any], values: Any) -> list[Any]:
        """Takes the snapshots; returns the weights, with None in the place of one left out."""
        self.settle()
        if values is None and self._watched and self._submit(None, weights):
            return weights
        if (
            values is None
            and self._quick is not None
            and self._gate is not None
            and self._run_gated(self._quick, weights, self.source.listed)
        ):
            return weights
        tensors = self.values_of(values, "values")
        if self._skips_nonfinite:
            if self._take_gated(tensors, weights, watch=values is None):
                return weights
            if self._gate is not None:
                self._leave_gate()
                weights = self._counters.weights() or weights  # of the counts that the device knew
            if not agree(all_finite(local_all(tensors)), tensors):
                for index, weight in enumerate(weights):
                    self._skipped[index] += weight is not None
                return [None] * len(weights)
        if offloads(self.device, tensors):
            self._offload(tensors, weights, watch=values is None)
        else:
            with self.explained(tensors):
                self._fold(local_all(tensors), weights, watch=values is None)
        return weights

    def _take_gated(self, tensors: list[Any], weights: list[Any], watch: bool) -> bool:
        """Lets the device take the snapshots or leave them out; False where it cannot."""
        device = gate_device(tensors) if self._may_gate and not self.is_sharded else None
        if device is None or self.arenas[0].tensors[0].device != device:
            return False
        with self.explained(tensors):
            if self._pass is None:
                self._pass = self._prepare(tensors)
            if not is_prepared(self._pass):
                return False
            if self._gate is None:
                self._gate = Gate(self._counters.counts, self._skipped, device)
            if not self._run_gated(self._pass, weights, tensors):
                self._forget()
                self._pass = self._prepare(tensors)
                if not is_prepared(self._pass):
                    return False
                if not self._run_gated(self._pass, weights, tensors):
                    raise RuntimeError(_CHANGED)
        if watch:
            self._watch(self._pass, tensors)
        return True

    def _run_gated(self, prepared: _core.Prepared, weights: list[Any], values: Any) -> bool:
        assert self._gate is not None
        try:
            done = prepared.run(weights, values, 0, self._gate.words)
        except RuntimeError:
            # CUDA failed on the way: what the device was to count is not known.
            self._gate = self._quick = None
            raise
        self._gate.is_ahead = self._gate.is_ahead or done
        return done

    def _read_gate(self) -> None:
        if self._gate is not None and self._gate.is_ahead:
            counts, self._skipped = self._gate.read()
            self._counters.recount(counts)

    def _leave_gate(self) -> None:
        """Lets the host count again, and nothing run without a check of the values."""
        if self._gate is not None:
            self._read_gate()
            self._gate = self._quick = None

    def _offload(self, tensors: list[Any], weights: list[Any], watch: bool) -> None:
        """Starts an update in the background, and prepares what was not."""
        parts = local_all(tensors)
        if not self._submit(parts, weights):
            self._require_match(tensors)
            self._watched = False
            self.offload.stage(parts)
            if not self._submit(parts, weights):
                raise RuntimeError(_CHANGED)
        if watch and not (self._watched or self._skips_nonfinite or self.is_sharded):
            self.offload.watch(lambda copies: self._watch_copies(copies, parts))

    def _watch_copies(self, copies: _core.HostCopies, values: Sequence[Any]) -> bool:
        source = self.source
        if source.module is not None:
            self._watched = copies.watch_values(
                source.module, values, source.use_buffers, lists_plainly
            )
        return self._watched

    def _submit(self, values: Sequence[Any] | None, weights: list[Any]) -> bool:
        """Starts an update, if what is staged is for these values; None for those watched."""
        threads = fold_threads()
        if not self.offload.submit(values, lambda staged: self._fold(staged, weights, threads)):
            return False
        self._submitted = [i for i, weight in enumerate(weights) if weight is not None]
        return True

    def _fold(
        self,
        values: Sequence[Any],
        weights: Sequence[Any],
        own_threads: int = 0,
        watch: bool = False,
    ) -> None:
        """Takes ``values``, plain tensors, into the averages, and prepares what was not.

        In the background it may take ``own_threads`` threads; 0 stands for those of a call.
        """
        if self._pass is None or not self._pass.run(weights, values, own_threads):
            self._forget()
            prepared = self._prepare(values)
            if not prepared.run(weights, values, own_threads):
                raise RuntimeError(_CHANGED)
            self._pass = prepared
        if watch and is_prepared(self._pass):
            self._watch(self._pass, values)

    def _prepare(self, values: Sequence[Any]) -> _core.Prepared | MixedPass:
        """Returns the pass over all averages.

        Raises:
            BufferError, TypeError, ValueError: the values do not match.
        """
        parts = [local_all(arena.tensors) for arena in self.arenas]
        targets: list[Any] = [
            ("averages", "average", index, -1, part, arena.blocks, None, self.copied)
            for index, (part, arena) in enumerate(zip(parts, self.arenas, strict=True))
        ]
        return prepare_pass(values, targets, parts, self.copied, any_device=self.any_device)

    def _watch(self, prepared: _core.Prepared, values: Sequence[Any]) -> None:
        """Lets ``update`` run what is prepared without listing the parameters, if it can."""
        module, self._quick = self.source.module, None
        if (self._skips_nonfinite and self._gate is None) or self.is_sharded:
            return
        if module is None or prepared.watch_values(
            module, values, self.source.use_buffers, lists_plainly
        ):
            self._quick = prepared

    def _forget(self) -> None:
        self._pass = self._quick = None

    def settle(self) -> None:
        """Waits for the update in flight.

        Raises:
            OffloadError: it failed; its snapshot is no longer counted.
        """
        try:
            self.offload.wait()
        except OffloadError:
            for index in self._submitted:  # it was counted when it was started
                self._counters.take_back(index)
            raise

    def detach(self) -> None:
        """Waits for the update in flight, and holds optimizers back no longer."""
        self.settle()
        self.offload.detach()

    @property
    def any_device(self) -> bool:
        """Whether the values may lie on another device than the averages."""
        return self.device is not None

    def averages(self, index: int) -> list[Any]:
        """Returns the tensors of an average, sharded as the values are."""
        return self.arenas[index].tensors

    def values(self) -> list[Any]:
        """Returns the source's tensors as they are now; of a sharded module the shards."""
        if self.is_sharded and self.source.module is not None:
            reshard(self.source.module)
        return self.source.tensors()

    def values_of(self, params_or_module: Any, what: str) -> list[Any]:
        """Returns another module's tensors by name, or a list's in its order; of None the own."""
        if params_or_module is None:
            return self.values()
        values = self.source.tensors_of(params_or_module, what)
        self._require_apart(values, what)
        if self.is_sharded and isinstance(params_or_module, torch.nn.Module):
            reshard(params_or_module)
        return values

    def _require_apart(self, values: Sequence[Any], what: str) -> None:
        """Refuses tensors that are the averages themselves."""
        own = {_address(tensor) for arena in self.arenas for tensor in arena.tensors} - {None}
        for index, value in enumerate(values):
            if _address(value) in own:
                raise ValueError(
                    f"{what} must be other tensors than the averages. Received: {what}[{index}] is "
                    "the memory of an average"
                )

    @contextlib.contextmanager
    def explained(self, values: list[Any]) -> Iterator[None]:
        """Context in which a refusal of ``values`` names the parameter."""
        try:
            yield
        except _REFUSALS as error:
            self._require_match(values, error)
            raise

    def _require_match(self, values: list[Any], error: Exception | None = None) -> None:
        mismatch = describe_mismatch(
            self.source.labels,
            self.arenas[0].tensors,
            values,
            any_device=self.any_device,
        )
        if mismatch is not None:
            raise ValueError(f"the parameters do not match the averages: {mismatch}") from error

    def require_snapshot(self, what: str, index: int) -> None:
        """Refuses the call ``what`` as long as an average has no snapshot.

        Raises:
            RuntimeError: it has none.
        """
        if self.counters.counts[index] == 0:
            average = self.counters.averages[index]
            raise RuntimeError(
                f"{what} needs at least one snapshot. Received: none in {self.counters.step} calls "
                f"of update() (start={average.start}, period={average.period})"
            )

    def copy_only(self, indices: Sequence[int]) -> None:
        """Copies these tensors at each snapshot from now on, and those that no average can hold."""
        copied = set(_copied(self.arenas[0].tensors) or ())
        self.copied = sorted(copied.union(indices)) or None
        self._forget()

    def move(self, device: Any, dtype: Any) -> None:
        """Moves the averages to a device, and into a dtype; None leaves them."""
        self._leave_gate()
        self.arenas = [
            Arena(arena.tensors, *_as_before(arena.tensors, device, dtype)) for arena in self.arenas
        ]
        if self.device is not None and device is not None:
            self.device = device
        self._forget()

    def pin_memory(self) -> None:
        """Moves averages that are in host memory into pinned memory."""
        for arena in self.arenas:
            arena.pin_memory()
        self._forget()

    def load(
        self,
        step: int,
        counts: Sequence[int],
        skipped: Sequence[int],
        averages: Sequence[Sequence[Any]] | None = None,
    ) -> None:
        """Goes on from counters, and from averages of the same shapes and dtypes, if given.

        Raises:
            TypeError, ValueError: a counter is wrong; nothing was changed.
        """
        self._leave_gate()
        counters = Counters(self._counters.averages)
        counters.load(step, counts)
        for arena, tensors in zip(self.arenas, averages or (), strict=averages is not None):
            pairs.copy_(local_all(arena.tensors), local_all(list(tensors)), any_device=True)
        self._counters, self._skipped = counters, list(skipped)

    def __getstate__(self) -> dict[str, Any]:
        """Returns what to copy or pickle, with no update in flight."""
        self.settle()
        self._read_gate()
        state = self.__dict__.copy()
        del state["_pass"], state["_quick"], state["_gate"]
        state["arenas"] = [list(map(standalone, arena.tensors)) for arena in self.arenas]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores from a pickle."""
        self.__dict__.update(state)
        self._watched = False
        self._gate = None
        self.arenas = [Arena(tensors, *_as_before(tensors)) for tensors in state["arenas"]]
        self._forget()


def _address(tensor: Any) -> int | None:
    part = local(tensor)
    return part.data_ptr() if part.numel() else None


def _torch_dtype(name: str | None) -> Any:
    return None if name is None else getattr(torch, name)


def _copied(values: Sequence[Any]) -> list[int] | None:
    """Returns the indices of the values that are copied and not averaged: integers and bools."""
    copied = [
        index
        for index, value in enumerate(values)
        if not (value.is_floating_point() or value.is_complex())
    ]
    return copied or None


def _as_before(tensors: Sequence[Any], device: Any = None, dtype: Any = None) -> tuple[Any, Any]:
    """Returns (dtype, device) for an ``Arena`` of copies as they are, but for what is given."""
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    kept = {tensor.dtype for tensor in floating}
    if dtype is None and len(kept) == 1:
        dtype = kept.pop()
    return dtype, device
