"""``WeightAverager``: averages over a list of parameters, without a copy of the model."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from swa_fast._checks import check_decay
from swa_fast.average import Average

from . import pairs
from .advice import (
    Versions,
    is_slow_to_start,
    warn_of_a_slow_start,
    warn_of_a_write,
    warn_of_running_statistics,
)
from .arena import standalone
from .description import check_dtype, described
from .distance import distances
from .mixed_pass import prepare_pass
from .module_tree import without_wrappers
from .nonfinite import check_nonfinite
from .sharding import local, local_all
from .snapshot_file import BackgroundWriter, average_metadata, snapshot_path, write_safetensors
from .snapshots import Snapshots
from .source import Source, chooser
from .state import SavedState, check_averages, check_state, kind_of, require_shown
from .swap import Exchange, KeptBuffers
from .turn import Turn


class WeightAverager:
    """Averages of a model's parameters, updated by one fused call.

    The averages are a list of tensors beside the model; the model is not copied. So models that
    cannot be copied work too: with weight_norm, compiled, with tied weights, sharded by FSDP2
    (each rank averages its own shards).

    A module's parameters are read afresh at each call, so they may be replaced. One that is still
    there keeps its average, whatever its name is now; a new one takes the average of its name.

    Args:
        params_or_module: a module, or an iterable of tensors or of ``(name, tensor)`` pairs. A
            tensor that appears twice is averaged once.
        averages: several averages at once, ``{name: swa_fast.Average(...)}``: each value is read
            once for all that are due. Not together with ``decay``, ``start``, ``period``,
            ``initial`` or ``dtype``, which describe a single average without a name.
        dtype: of the averages. By default float32 for float16 and bfloat16 parameters, and the
            parameter's own for others.
        device: where the averages are kept; by default with the parameters, which then must stay
            there (see ``to``). With "cpu", averages of parameters on a GPU are updated in the
            background, from copies in pinned memory (as many bytes as the parameters), beside the
            training step: ``update`` returns at once, reads of the averages wait, and an error is
            raised by the next call. Until the copies are made, only optimizers of torch.optim may
            write the parameters: their steps are held back on the GPU.
        decay: None for the equally weighted mean; a number in [0, 1] for the exponential one,
            ``decay * average + (1 - decay) * value``, which starts from the first value; or a
            schedule of ``swa_fast.decays``.
        start: call of ``update`` that takes the first snapshot, counted from 0.
        period: calls of ``update`` from one snapshot to the next.
        initial: whether the values at construction are the first snapshot.
        use_buffers: also average a module's floating-point buffers, and copy its integer ones. By
            default buffers are left alone, and a warning tells what to do if there are running
            statistics among them; False leaves them alone without a word.
        nonfinite: "propagate" averages NaN and infinity as torch does; "skip" leaves out a whole
            snapshot that holds one, and counts it in ``skipped``. Checking reads all values once
            more. It waits for the device, but not for means and constant decays of tensors on one
            GPU: that leaves out the snapshot by itself, and reading a count waits.
        include: regular expression; only tensors in whose name it is found are averaged.
        exclude: regular expression; tensors in whose name it is found are not averaged.
        requires_grad_only: whether tensors that need no gradient now are left out. Which tensors
            are averaged is fixed at construction.

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
        averages: Mapping[str, Average] | None = None,
        *,
        dtype: Any = None,
        device: Any = None,
        decay: Any = None,
        start: int = 0,
        period: int = 1,
        initial: bool = False,
        use_buffers: bool | None = None,
        nonfinite: str = "propagate",
        include: str | None = None,
        exclude: str | None = None,
        requires_grad_only: bool = False,
    ) -> None:
        """Allocates the averages; see the class for the arguments."""
        descriptions = described(averages, dtype, decay, start, period, initial)
        skips_nonfinite = check_nonfinite(nonfinite) == "skip"
        place = None if device is None else torch.device(device)
        chosen = chooser(include, exclude, requires_grad_only)
        source = Source(params_or_module, bool(use_buffers), "params_or_module", chosen)
        if use_buffers is None:
            warn_of_running_statistics(source.module, stacklevel=2)
        self._snapshots = Snapshots(source, descriptions, place, skips_nonfinite)
        self._several = averages is not None
        self._exchange = Exchange()
        self._turn = Turn(self._exchange)
        self._swapped_in: int | None = None
        self._versions: Versions | None = None  # of the parameters, as they were swapped in
        self._warned_of: set[int] = set()  # the averages whose slow start was told
        self._buffers = KeptBuffers()
        self._stored: list[Any] | None = None
        self._stored_buffers = KeptBuffers()
        # Called before the averages are read, by state_dict() with False and by all others with
        # True: what has put off an update makes it then.
        self.before_read: Callable[[bool], None] | None = None
        self._writer = BackgroundWriter()

    @property
    def count(self) -> int:
        """Number of snapshots in the averages.

        Waits for a GPU that leaves out snapshots by itself (``nonfinite="skip"``).

        Raises:
            RuntimeError: there are several averages, each with a count of its own: see ``counts``.
        """
        if self._several:
            raise RuntimeError(
                f"count needs a single average. Received: averages "
                f"{self._snapshots.keys}; see .counts"
            )
        return self._snapshots.counters.counts[0]

    @property
    def counts(self) -> dict[str, int]:
        """Number of snapshots in each average, by its name; that of a single one is ``""``."""
        return dict(zip(self._snapshots.keys, self._snapshots.counters.counts, strict=True))

    @property
    def step(self) -> int:
        """Number of calls of ``update`` so far."""
        return self._snapshots.step

    @property
    def skipped(self) -> Any:
        """Number of snapshots left out because a value was NaN or infinite; waits as ``count``.

        An int; with several averages a dict of one int for each.
        """
        if self._several:
            return dict(zip(self._snapshots.keys, self._snapshots.skipped, strict=True))
        return self._snapshots.skipped[0]

    @property
    def names(self) -> list[str]:
        """The name of each averaged tensor, the module's own or its index in the list."""
        return self._snapshots.source.current_names()

    @property
    def swapped_in(self) -> str | None:
        """The name of the average that the parameters hold now ("" for a single one), or None."""
        return None if self._swapped_in is None else list(self.counts)[self._swapped_in]

    def update(self, values: Any = None) -> bool:
        """Takes the parameters into the averages that are due.

        Args:
            values: a module, whose parameters are found by name, or a list of tensors in the order
                of ``names``, to take instead of the parameters that the averager was made for.

        Returns:
            Whether a snapshot was taken, by any of the averages; true also where a GPU may still
            leave it out by itself.

        Raises:
            ValueError: the parameters no longer match the averages; nothing was written.
            RuntimeError: averages are swapped in, or used by another thread; or an update in the
                background failed after its call had returned, whose snapshot then is not in the
                averages.
        """
        turn = self._turn
        turn.take_unswapped("update()")
        try:
            return self._snapshots.update(values)
        finally:
            turn.release()

    def _announce(self, needs_snapshot: bool = True) -> None:
        if self.before_read is not None and not self._exchange.active:
            self.before_read(needs_snapshot)

    def averages(self, name: str | None = None) -> list[Any]:
        """Returns the tensors that hold the averages now, in the order of ``names``: no copies.

        Before the first snapshot they hold the parameters as they were when this was made.

        Args:
            name: which of several averages.

        Raises:
            ValueError: there are several averages, and none has this ``name``.
        """
        index = self._index("averages()", name)
        self._announce()
        self._snapshots.settle()
        self._warn_of_a_slow_start(index)
        return self._shown(index)

    def _warn_of_a_slow_start(self, index: int, inside: int = 1) -> None:
        if index in self._warned_of:
            return
        counters, keys = self._snapshots.counters, self._snapshots.keys
        average, count = counters.averages[index], counters.counts[index]
        if is_slow_to_start(average, count):
            self._warned_of.add(index)  # first: a warning may be an error
            warn_of_a_slow_start(average, count, keys[index], stacklevel=inside + 2)

    def _shown(self, index: int) -> list[Any]:
        tensors = self._snapshots.averages(index)
        if self._swapped_in != index:
            return list(tensors)
        return self._exchange.where(tensors, self._snapshots.values())

    def copy_to(self, params: Any = None, name: str | None = None) -> None:
        """Copies the averages into parameters, rounding where those are narrower.

        Args:
            params: a module, whose parameters are found by name, or a list of tensors in the order
                of ``names``; by default the parameters that are averaged.
            name: which of several averages.

        Raises:
            ValueError: ``params`` does not match in number, shape or device; nothing was written.
            RuntimeError: there is no snapshot yet, or the averages are swapped in.
        """
        index = self._index("copy_to()", name)
        self._announce()
        with self._turn.alone("copy_to()"):
            self._snapshots.settle()
            self._snapshots.require_snapshot("copy_to()", index)
            self._warn_of_a_slow_start(index)
            values = self._snapshots.values_of(params, "params")
            averages = local_all(self._snapshots.averages(index))
            with self._snapshots.explained(values):
                pairs.copy_(local_all(values), averages, any_device=self._snapshots.any_device)

    def lerp_to(self, decay: float, params: Any = None, name: str | None = None) -> None:
        """Moves parameters towards the averages: ``decay * parameter + (1 - decay) * average``.

        Tensors that are copied and not averaged are copied.

        Args:
            decay: share of its own value that a parameter keeps, from 0 to 1.
            params: as of ``copy_to``.
            name: which of several averages.

        Raises:
            ValueError: as ``copy_to``, or ``decay`` is out of range; nothing was written.
            RuntimeError: as ``copy_to``.
        """
        decay = check_decay("decay", decay)
        index = self._index("lerp_to()", name)
        with self._turn.alone("lerp_to()"):
            self._snapshots.settle()
            self._snapshots.require_snapshot("lerp_to()", index)
            values = self._snapshots.values_of(params, "params")
            averages = local_all(self._snapshots.averages(index))
            with self._snapshots.explained(values):
                moved, copied = local_all(values), self._snapshots.copied
                target = ("params", "average", 0, -1, moved, None, None, copied)
                prepare_pass(
                    averages, [target], [moved], copied, any_device=self._snapshots.any_device
                ).run([1.0 - decay], averages)

    @property
    def decays(self) -> dict[str, float]:
        """The decay that each average would give a snapshot at the next update, by its name.

        Of a mean it is ``count / (count + 1)``; of an average without a snapshot it is 0.
        """
        counters = self._snapshots.counters
        found = {}
        for index, (key, average) in enumerate(
            zip(self._snapshots.keys, counters.averages, strict=True)
        ):
            count, update = counters.counts[index], counters.step + 1
            weight = average.weight(count, update, update - counters.last[index])
            found[key] = 1.0 - (1 / (weight + 1) if isinstance(weight, int) else weight)
        return found

    def distance(self, name: str | None = None) -> dict[str, float]:
        """Returns how far each average is from its parameter, by the parameter's name.

        The Euclidean norm of their difference, divided by that of the parameter, in float64;
        integers are left out. Of a parameter that is 0 everywhere, infinity, or NaN if the average
        is 0 too. Of a sharded parameter, that of this process's part. Waits for the device.

        Args:
            name: which of several averages.

        Raises:
            RuntimeError: there is no snapshot yet, or the averages are swapped in.
        """
        index = self._index("distance()", name)
        with self._turn.alone("distance()"):
            self._snapshots.settle()
            self._snapshots.require_snapshot("distance()", index)
            averages, values = self._snapshots.averages(index), self._snapshots.values()
            kept = [
                number
                for number, value in enumerate(values)
                if (value.is_floating_point() or value.is_complex()) and value.numel()
            ]
            found = distances([averages[number] for number in kept], [values[n] for n in kept])
            names = self.names
            return {names[number]: far for number, far in zip(kept, found, strict=True)}

    def swap(self, name: str | None = None) -> None:
        """Exchanges the averages with the parameters; a second call puts both back, bit for bit.

        Needs no memory where average and parameter have the same dtype; where the average is
        wider, the parameter's value is kept aside (2 bytes per element of a half-precision model).
        While swapped, ``update`` and ``copy_to`` are refused, and the parameters must not be
        trained: a change to them would be a change to the averages.

        A module's buffers are copied aside and put back with the second call, whatever was done to
        them in between, so that ``update_bn`` may be run on the averages; one that was replaced is
        left alone. With ``use_buffers=True`` the buffers' averages stay as they were averaged.

        Args:
            name: which of several averages; one is swapped in at a time.

        Raises:
            ValueError: the parameters no longer match the averages; nothing was written.
            RuntimeError: there is no snapshot yet, another average is swapped in, or another
                thread uses the averager.
        """
        index = self._index("swap()", name)
        self._announce()
        self._turn.take("swap()")
        was_active = self._exchange.active
        try:
            moved = self._swap("swap()", index)
        finally:
            self._turn.release()
        if not was_active:
            self._warn_of_a_slow_start(index)
        if moved is not None:
            warn_of_a_write(moved, stacklevel=2)

    def _swap(self, what: str, index: int) -> str | None:
        """Swaps in or back; returns what was written in between, for a warning."""
        self._snapshots.settle()
        self._snapshots.require_snapshot(what, index)
        if self._exchange.active and self._swapped_in != index:
            assert self._swapped_in is not None
            keys = self._snapshots.keys
            raise RuntimeError(
                f"{what} is refused while average {keys[self._swapped_in]!r} is swapped into the "
                f"parameters: swap it back first. Received: {keys[index]!r}"
            )
        values, source = self._snapshots.values(), self._snapshots.source
        moved = None
        with self._snapshots.explained(values):
            averages = local_all(self._snapshots.averages(index))
            if self._exchange.active:
                if self._versions is not None:
                    moved = self._versions.first_moved(values)
                self._buffers.put_back(source.module)
                self._exchange.end(averages, local_all(values), self._snapshots.any_device)
                self._buffers.forget()
                self._versions = None
            else:
                self._exchange.begin(averages, local_all(values), self._snapshots.any_device)
                try:
                    self._buffers.keep(source.module)
                    self._versions = Versions(source.module, values, source.labels)
                except BaseException:
                    self._exchange.end(averages, local_all(values), self._snapshots.any_device)
                    raise
        self._swapped_in = index if self._exchange.active else None
        return moved

    @contextlib.contextmanager
    def applied(self, name: str | None = None) -> Iterator[None]:
        """Context in which the parameters hold the averages; always swaps back.

        Args:
            name: which of several averages.

        Raises:
            RuntimeError: there is no snapshot yet, or the averages are swapped in already, or
                another thread uses the averager.
        """
        index = self._index("applied()", name)
        self._announce()
        with self._turn.alone("applied()"):
            self._swap("applied()", index)
        try:
            self._warn_of_a_slow_start(index, inside=2)
            yield
        except BaseException:
            self._swap_back(index)
            raise
        moved = self._swap_back(index)
        if moved is not None:
            warn_of_a_write(moved, stacklevel=3)

    def _swap_back(self, index: int) -> str | None:
        if not self._exchange.active:
            return None
        self._turn.wait()  # and is never refused: it must swap back
        try:
            return self._swap("applied()", index) if self._exchange.active else None
        finally:
            self._turn.release()

    def store(self) -> None:
        """Keeps a copy of the parameters, and of a module's buffers, until ``restore``.

        A second call replaces the copy. ``applied()`` does what ``store``, ``copy_to`` and
        ``restore`` do together, without the memory of a copy.
        """
        with self._turn.alone("store()"):
            self._snapshots.settle()
            self._stored = [local(value).detach().clone() for value in self._snapshots.values()]
            self._stored_buffers.keep(self._snapshots.source.module)

    def restore(self) -> None:
        """Puts back what ``store`` kept, bit for bit, and gives its memory back.

        Raises:
            RuntimeError: nothing was stored, or the averages are swapped in.
            ValueError: the parameters no longer match; nothing was written.
        """
        with self._turn.alone("restore()"):
            self._snapshots.settle()
            if self._stored is None:
                raise RuntimeError("restore() needs a store() before it. Received: none")
            values = self._snapshots.values()
            with self._snapshots.explained(values):
                pairs.copy_(local_all(values), self._stored, any_device=True)
            self._stored_buffers.put_back(self._snapshots.source.module)
            self._stored = None
            self._stored_buffers.forget()

    def detach(self) -> None:
        """Waits for the update in flight, and takes away the hook that holds optimizers back.

        For ``device="cpu"`` beside a GPU; the next ``update`` sets the hook again. The hook goes
        with the averager, too.
        """
        self._snapshots.detach()

    def to(self, device: Any = None, dtype: Any = None) -> WeightAverager:
        """Moves the averages to ``device``, as after moving the model there, and returns self.

        Args:
            device: where to; None leaves them.
            dtype: of the floating-point averages from now on; None leaves it.

        Raises:
            TypeError: ``dtype`` is no floating-point dtype.
        """
        check_dtype(dtype)
        with self._turn.alone("to()"):
            self._snapshots.settle()
            self._snapshots.move(None if device is None else torch.device(device), dtype)
        return self

    def pin_memory(self) -> None:
        """Moves averages that are in host memory into pinned memory, for quick copies to a GPU.

        Raises:
            RuntimeError: there is no GPU, or the averages are swapped in.
        """
        with self._turn.alone("pin_memory()"):
            self._snapshots.settle()
            self._snapshots.pin_memory()

    def state_dict(self, config: bool = False, copy: bool = False) -> dict[str, Any]:
        """Returns the averages by name (no copies), and the counters.

        Tensors, ints and strings only: it can be loaded with ``torch.load(...,
        weights_only=True)``, and saved and resharded by ``torch.distributed.checkpoint``. Each
        tensor has a storage of its own over the averages' memory, so that one saved alone is
        written alone. For a state that goes into a model see ``model_state_dict``.

        Of one average: ``{"averages": {tensor's name: tensor}, "count", "step", "skipped",
        "kind"}``. Of several: all but ``"step"`` are dicts by the average's name. The kind, "mean"
        or "exponential", is compared at loading.

        While the averages are swapped in, the parameters' own values are in it too, by name under
        "weights", and a warning says so: the model's state then holds the averages.

        Args:
            config: whether the schedules are in it too, under "config"; they are compared at
                loading.
            copy: whether the tensors are copies, which later updates leave alone.
        """
        self._announce(False)
        self._snapshots.settle()
        names, keys = self.names, self._snapshots.keys
        taken: Callable[[Any], Any] = _clone if copy else standalone
        counters = self._snapshots.counters
        averages = [
            dict(zip(names, map(taken, self._shown(index)), strict=True))
            for index in range(len(keys))
        ]
        kinds = [kind_of(average) for average in counters.averages]
        state: dict[str, Any]
        if self._several:
            state = {
                "averages": dict(zip(keys, averages, strict=True)),
                "counts": self.counts,
                "step": counters.step,
                "skipped": self.skipped,
                "kind": dict(zip(keys, kinds, strict=True)),
            }
        else:
            state = {
                "averages": averages[0],
                "count": counters.counts[0],
                "step": counters.step,
                "skipped": self._snapshots.skipped[0],
                "kind": kinds[0],
            }
        if config:
            state["config"] = self._config()
        if self._swapped_in is not None:
            warnings.warn(
                "state_dict() was called while the averages are swapped into the model, whose own "
                "state holds the averages now: this state carries the weights too. To resume, load "
                "the model's state first, then this one",
                stacklevel=2,
            )
            shown = self._snapshots.averages(self._swapped_in)
            weights = self._exchange.own_values(shown)
            state["weights"] = dict(zip(names, map(taken, weights), strict=True))
        return state

    def model_state_dict(self, name: str | None = None, copy: bool = False) -> dict[str, Any]:
        """Returns the module's state with an average in the place of what is averaged.

        ``model.load_state_dict(averager.model_state_dict())`` makes a model of the average; the
        module itself is left as it is. What is not averaged, like statistics of BatchNorm without
        ``use_buffers``, is the module's own.

        Args:
            name: which of several averages.
            copy: whether the tensors are copies, which later updates leave alone.

        Returns:
            The entries of ``module.state_dict()``, each in its own dtype.

        Raises:
            RuntimeError: there is no snapshot yet, or the averages are swapped in: the module's own
                ``state_dict()`` is the answer then.
            TypeError: the averager was made for a list.
        """
        index = self._index("model_state_dict()", name)
        self._announce()
        with self._turn.alone("model_state_dict()"):
            snapshots = self._snapshots
            if snapshots.source.module is None:
                raise TypeError(
                    "model_state_dict() needs an averager of a module. Received: one of a list of "
                    "tensors, whose averages are .averages()"
                )
            snapshots.settle()
            snapshots.require_snapshot("model_state_dict()", index)
            self._warn_of_a_slow_start(index)
            averages = snapshots.source.by_alias(snapshots.averages(index))
            state: dict[str, Any] = {}
            for key, own in snapshots.source.module.state_dict().items():
                average = averages.get(without_wrappers(key), own)
                taken = average if own is average else average.to(own.dtype)
                state[key] = _clone(taken) if copy and isinstance(taken, torch.Tensor) else taken
            return state

    def _config(self) -> dict[str, Any]:
        described = self._snapshots.counters.averages
        return {
            key: one.to_dict() for key, one in zip(self._snapshots.keys, described, strict=True)
        }

    def save(self, path: Any, name: str | None = None) -> None:
        """Writes an average as a safetensors file, under the names of the parameters.

        Its metadata has ``step``, ``count`` and the average's settings as JSON, ``average``; of a
        power average ``sigma_rel`` too. Of sharded parameters it is refused.

        Args:
            path: of the file; replaced as a whole if it is there.
            name: which of several averages.

        Raises:
            RuntimeError: there is no snapshot yet, or the averages are swapped in.
            ValueError: the parameters are sharded, or of a dtype that such files have not.
            OSError: it cannot be written; what was there is there still.
        """
        index = self._index("save()", name)
        with self._turn.alone("save()"):
            self._snapshots.settle()
            tensors, metadata = self._file("save()", index)
            write_safetensors(Path(path), tensors, metadata)

    def write_snapshot(self, folder: Any, background: bool = True) -> list[Path]:
        """Writes each average as a file, to make averages of other lengths from them afterwards.

        With averages of ``decays.power``, ``swa_fast.checkpoints.reconstruct`` makes one of any
        width from such files. Averages without a snapshot are left out.

        Args:
            folder: where to; made if it is not there.
            background: whether to return when the averages are copied to host memory, before they
                are on disk. One snapshot at a time is written, so at most one copy is in memory;
                an error is raised by the next call, or by ``wait_for_snapshots``.

        Returns:
            The files, ``step-000001000-NAME.safetensors``.

        Raises:
            RuntimeError: there is no snapshot yet, or the averages are swapped in.
            ValueError: as ``save``.
            OSError: the folder cannot be made, or an earlier file could not be written.
        """
        with self._turn.alone("write_snapshot()"):
            self._snapshots.settle()
            self._writer.wait()
            taken = [index for index, count in enumerate(self._snapshots.counters.counts) if count]
            if not taken:
                self._snapshots.require_snapshot("write_snapshot()", 0)
            place = Path(folder)
            files = {}
            for index in taken:
                tensors, metadata = self._file("write_snapshot()", index)
                copies = {each: tensor.cpu().clone() for each, tensor in tensors.items()}
                path = snapshot_path(place, self.step, self._snapshots.keys[index])
                files[path] = copies, metadata
            place.mkdir(parents=True, exist_ok=True)
            self._writer.write(files)
            if not background:
                self._writer.wait()
            return list(files)

    def wait_for_snapshots(self) -> None:
        """Returns when all that ``write_snapshot`` was asked for is on disk.

        Raises:
            OSError: it could not be written.
        """
        self._writer.wait()

    def _file(self, what: str, index: int) -> tuple[dict[str, Any], dict[str, str]]:
        """Returns the tensors and the metadata of an average's file."""
        snapshots = self._snapshots
        snapshots.require_snapshot(what, index)
        if snapshots.is_sharded:
            raise ValueError(
                f"{what} needs whole parameters, and these are sharded: save state_dict() with "
                "torch.distributed.checkpoint"
            )
        tensors = dict(zip(self.names, snapshots.averages(index), strict=True))
        counters = snapshots.counters
        average, count = counters.averages[index], counters.counts[index]
        return tensors, average_metadata(average, counters.step, count)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Loads what ``state_dict`` returned, from a model with the same parameters.

        A mean's state goes on as an exponential average, and the reverse, with a warning.

        A state that was taken while swapped has "weights", which are written into the parameters:
        these must hold the averages then, as the model's state of that moment does.

        Raises:
            KeyError, TypeError, ValueError: it does not match; nothing was changed.
            RuntimeError: the averages are swapped in.
        """
        with self._turn.alone("load_state_dict()"):
            self._snapshots.settle()
            state, loaded, weights = self._checked(state_dict)
            self._snapshots.load(state.step, state.counts, state.skipped, loaded)
            if weights is not None:
                values = local_all(self._snapshots.values())
                pairs.copy_(values, local_all(weights), any_device=True)
        for sentence in state.of_another_kind:
            warnings.warn(f"load_state_dict(): {sentence}", stacklevel=2)

    def copy_only(self, names: Collection[str]) -> None:
        """Copies some of the tensors at each snapshot from now on, instead of averaging them.

        Integer tensors are copied in any case. Each call replaces what the one before said.

        Args:
            names: of these tensors, as in ``names``.

        Raises:
            ValueError: a name is not one of ``names``; nothing was changed.
            RuntimeError: the averages are swapped in, or used by another thread.
        """
        with self._turn.alone("copy_only()"):
            known = self.names
            unknown = sorted(set(names) - set(known))
            if unknown:
                raise ValueError(
                    f"copy_only() takes names of averaged tensors. Received: {unknown[:5]}"
                )
            self._snapshots.settle()
            chosen = set(names)
            self._snapshots.copy_only([i for i, name in enumerate(known) if name in chosen])

    def check_loadable(self, state_dict: Mapping[str, Any]) -> None:
        """Raises what ``load_state_dict`` would raise for a state that does not match.

        Raises:
            KeyError, TypeError, ValueError: it does not match.
            RuntimeError: the averages are swapped in.
        """
        self._turn.require_unswapped("load_state_dict()")
        self._checked(state_dict)

    def _checked(self, state_dict: Any) -> tuple[SavedState, list[list[Any]], list[Any] | None]:
        """Returns a saved state's parts: the rest, each average's tensors, and the weights."""
        keys = self._snapshots.keys if self._several else None
        state = check_state(state_dict, keys, self._snapshots.counters.averages)
        names = self.names
        labels = self._snapshots.source.labels
        loaded = [
            check_averages(names, labels, self._snapshots.averages(index), saved, where)
            for index, (where, saved) in enumerate(state.averages)
        ]
        if "weights" not in state_dict:
            return state, loaded, None
        values = self._snapshots.values()
        weights = check_averages(
            names, labels, values, state_dict["weights"], "state_dict['weights']"
        )
        require_shown(labels, values, loaded)
        return state, loaded, weights

    def __getstate__(self) -> dict[str, Any]:
        """Returns what to copy or pickle."""
        state = self.__dict__.copy()
        del state["_writer"]
        state["before_read"] = None  # of an SWA, which sets it again in its own copy
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores from a pickle."""
        self.__dict__.update(state)
        self._writer = BackgroundWriter()
        self._versions = None

    def __copy__(self) -> WeightAverager:
        """Returns an averager of the same parameters, with averages and counters of its own."""
        return copy.deepcopy(self, self._snapshots.source.shared())

    def __repr__(self) -> str:
        """Tells the schedules, the counts and how many tensors there are."""
        described = dict(zip(self._snapshots.keys, self._snapshots.counters.averages, strict=True))
        what = (
            f"averages={described}" if self._several else str(self._snapshots.counters.averages[0])
        )
        count = f"counts={self.counts}" if self._several else f"count={self.count}"
        tensors = len(self._snapshots.source.names)
        return f"WeightAverager({what}, {count}, step={self.step}, {tensors} tensors)"

    def follow(self, tensors: list[Any]) -> None:
        """Averages other tensors from now on, in the places of those of the list it was made for.

        Whether they match is seen by the next call, which refuses them if not.
        """
        self._snapshots.source.replace(tensors)

    def continue_from(self, other: WeightAverager) -> None:
        """Takes the step and skipped counters of one that has no snapshot yet."""
        nothing = [0] * len(self._snapshots.keys)
        self._snapshots.load(other.step, nothing, other._snapshots.skipped)

    def _index(self, what: str, name: str | None) -> int:
        if not self._several:
            if name is None:
                return 0
            if not isinstance(name, str):
                raise TypeError(
                    f"{what} puts averages into the parameters that the averager was made for, and "
                    f"takes the name of one of several. Received: {type(name).__name__}"
                )
            raise ValueError(
                f"{what} takes no name, because there is a single average. Received: {name!r}"
            )
        if name not in self._snapshots.keys:
            received = "none" if name is None else repr(name)
            raise ValueError(
                f"{what} needs the name of one of the averages {self._snapshots.keys}. Received: "
                f"{received}"
            )
        return self._snapshots.keys.index(name)


def _clone(tensor: Any) -> Any:
    return tensor.detach().clone()
