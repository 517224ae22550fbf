"""``SWA``: an optimizer wrapper that takes the snapshots itself."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch

from swa_fast._checks import check_integer
from swa_fast.average import Average

from . import optimizer_state, steps
from .averager import WeightAverager
from .module_tree import unique

# Where version 0.1.0 kept the averager's state.
_OWN = "averager"

# At this call of zero_grad without a step that was seen, something is wrong.
_ZERO_GRADS = 3

_LIKELY = (
    "the likely cause is that something else makes the steps: an optimizer that was made or loaded "
    "anew, methods other than step(), or a wrapper around another optimizer than the one given to "
    "SWA. Keep a WeightAverager(model) instead and call its update() after each step"
)

# What others set on an optimizer to be read by its step: GradScaler's two, and the public state.
_FORWARDED = frozenset(("grad_scale", "found_inf", "param_groups", "defaults"))


# Which SWA follows an optimizer: one at a time.
_following: weakref.WeakKeyDictionary[Any, weakref.ref[Any]] = weakref.WeakKeyDictionary()


class SWA(torch.optim.Optimizer):  # type: ignore[misc]
    """Wraps an optimizer and averages its parameters, as ``tfa.optimizers.SWA`` does.

    With ``start_averaging`` = m and ``average_period`` = k, a snapshot is taken after step m + 1,
    m + 1 + k, m + 1 + 2k, ... The snapshot is a step hook of the wrapped optimizer: it is taken
    whether ``step`` is called here or there, and not when ``GradScaler`` skips the step.
    ``param_groups``, ``state``, hooks and every other attribute are those of the wrapped optimizer,
    so LR schedulers, GradScaler and closures work on either.

    A step whose rates and gradients are all exactly 0 is torch filling the optimizer's state, and
    is not counted. An optimizer is followed by one ``SWA`` at a time: making another detaches the
    one before it, with a warning.

    Args:
        optimizer: the optimizer to wrap.
        start_averaging: steps before the first snapshot, >= 0.
        average_period: steps from one snapshot to the next, >= 1.
        averages: several averages at once, ``{name: swa_fast.Average(...)}``, in the place of
            ``start_averaging``, ``average_period``, ``decay`` and ``dtype``.
        decay: None for the equally weighted mean, a number in [0, 1] for the exponential one.
        dtype: of the averages; by default float32 for half-precision parameters.
        device: where the averages are kept; by default with the parameters.
        nonfinite: "propagate" or "skip", see ``WeightAverager``.
        at: "step" takes a snapshot right after the step. "next_step" takes it right before the next
            one, or when the averages are read: use it where the loop changes the weights after
            ``step`` (clipping, projection, constraints).

    Attributes:
        optimizer: the wrapped optimizer.
        averager: the ``WeightAverager`` over all parameter groups.

    Raises:
        TypeError: ``optimizer`` is not a ``torch.optim.Optimizer``, or one whose steps are not
            seen; or an argument has the wrong type.
        ValueError: an argument is out of range.

    Example:
        >>> import torch
        >>> from swa_fast.torch import SWA
        >>> weight = torch.nn.Parameter(torch.tensor([8.0]))
        >>> optimizer = SWA(torch.optim.SGD([weight], lr=0.5), start_averaging=0, average_period=1)
        >>> for _ in range(2):
        ...     weight.grad = weight.detach().clone()
        ...     _ = optimizer.step()
        >>> weight.item()
        2.0
        >>> optimizer.assign_average_vars()
        >>> weight.item()
        3.0
    """

    def __init__(
        self,
        optimizer: Any,
        start_averaging: int = 0,
        average_period: int = 10,
        *,
        averages: Mapping[str, Average] | None = None,
        decay: float | None = None,
        dtype: Any = None,
        device: Any = None,
        nonfinite: str = "propagate",
        at: str = "step",
    ) -> None:
        """Registers the step hooks; see the class for the arguments."""
        if not isinstance(optimizer, torch.optim.Optimizer):
            kind = type(optimizer).__name__
            raise TypeError(f"optimizer must be a torch.optim.Optimizer. Received: {kind}")
        if isinstance(optimizer, SWA):
            raise TypeError(
                "optimizer must not be wrapped by SWA already: its saved state has room for one "
                "averager. Received: an SWA; wrap its .optimizer, or keep a WeightAverager beside"
            )
        if at not in ("step", "next_step"):
            raise ValueError(f'at must be "step" or "next_step". Received: {at!r}')
        steps.require_seen_steps(optimizer)
        self.optimizer = optimizer
        self._at = at
        start = check_integer("start_averaging", start_averaging, 0)
        period = check_integer("average_period", average_period, 1)
        self._config: dict[str, Any] = {"device": device, "nonfinite": nonfinite}
        if averages is None:
            self._config |= {"start": start, "period": period, "decay": decay, "dtype": dtype}
        elif (start, period, decay, dtype) == (0, 10, None, None):
            self._config |= {"averages": averages}
        else:
            raise TypeError(
                "start_averaging, average_period, decay and dtype describe a single average, and "
                "averages describes several: put them into each swa_fast.Average"
            )
        self.averager = WeightAverager(_named_parameters_of(optimizer), **self._config)
        self._pending = self._stepped = False
        self._zero_grads = 0
        self._left_out: list[Any] = []
        self._register()

    def _register(self) -> None:
        """Follows the steps of the optimizer, which does not keep this object alive by that."""
        optimizer = self.optimizer
        reference = _following.get(optimizer)
        before = None if reference is None else reference()
        if before is not None:
            before.detach()
            warnings.warn(
                "the optimizer was followed by another SWA, which is detached now: its averages "
                "stay as they are. Keep one, or give it several averages",
                stacklevel=3,
            )
        _following[optimizer] = this = weakref.ref(self)

        def before_step(*_: Any) -> None:
            swa = this()
            if swa is not None:
                swa._before_step()

        def after_step(optimizer: Any, *_: Any) -> None:
            swa = this()
            if swa is None:
                return
            if swa._nests and steps.is_step_within_step(optimizer, 1):
                return
            swa._after_step()

        def before_read(needs_snapshot: bool) -> None:
            swa = this()
            if swa is not None:
                swa._before_read(needs_snapshot)

        self._before_read_hook = before_read
        self.averager.before_read = before_read
        self._nests = steps.may_step_within_step(type(optimizer))
        self._capturable = any(group.get("capturable") for group in optimizer.param_groups)
        self._rows: dict[int, dict[str, Any]] | None = None
        handles = [
            optimizer.register_step_pre_hook(before_step),
            optimizer.register_step_post_hook(after_step),
        ]
        self._remove = weakref.finalize(self, _remove_all, handles)
        self._remove.atexit = False
        self._mark_groups()

    def detach(self) -> None:
        """Stops following the optimizer's steps. The averages stay, and can still be read.

        An ``SWA`` that nobody holds any more is detached by itself.
        """
        self._take_pending()
        self._remove()
        reference = _following.get(self.optimizer)
        if reference is not None and reference() is self:
            del _following[self.optimizer]
            for group in self.optimizer.param_groups:
                for key in [key for key in group if optimizer_state.is_ours(key)]:
                    del group[key]

    def _before_step(self) -> None:
        if self._pending and not steps.fills_state(self.optimizer):
            self._take_pending()
        self._stepped = True
        self._follow_groups()
        if self._left_out:
            self._fill_left_out()

    def _after_step(self) -> None:
        optimizer = self.optimizer
        # Fused optimizers are called by GradScaler in any case, and skip the step on the device.
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is not None and bool(found_inf):
            return
        if steps.fills_state(optimizer):
            self._stepped = self.averager.step > 0
            return
        if self._capturable and steps.is_captured(optimizer):
            raise RuntimeError(
                "SWA cannot follow a step inside a CUDA graph, whose replays call no step hooks: "
                "keep a WeightAverager(model) instead and call its update() after each replay"
            )
        self._rows = None
        if self._at == "step":
            self.averager.update()
        else:
            self._pending = True

    def _take_pending(self) -> None:
        if self._pending:
            self._pending = False
            try:
                self.averager.update()
            except BaseException:
                self._pending = True
                raise

    def _before_read(self, needs_snapshot: bool) -> None:
        """Takes what is still to be taken, before the averages are read."""
        self._fill_left_out()
        self._take_pending()
        if needs_snapshot and not self._stepped and self.averager.step == 0:
            warnings.warn(f"SWA has seen no step of its optimizer: {_LIKELY}", stacklevel=5)

    def _follow_groups(self) -> None:
        """Takes up parameters that were added to the wrapped optimizer since."""
        averager, current = self.averager, _parameters_of(self.optimizer)
        known = len(averager.names)
        if len(current) == known:
            averager.follow(current)
            return
        _require_no_snapshot(averager, f"{len(current)} tensors for {known} averages")
        self.averager = WeightAverager(_named_parameters_of(self.optimizer), **self._config)
        self.averager.continue_from(averager)
        self.averager.before_read = self._before_read_hook
        self._rows = None
        self._mark_groups()

    def _mark_groups(self, averager_state: Mapping[str, Any] | None = None) -> None:
        """Writes the counters into the parameter groups, as they are now."""
        if averager_state is None:
            averager_state = self._averager_state()
        counters = optimizer_state.counters_of(averager_state)
        for group in self.optimizer.param_groups:
            group.update(counters)

    def _averager_state(self) -> dict[str, Any]:
        """Returns the averager's state as it is, without taking the snapshot that is pending."""
        self.averager.before_read = None
        try:
            return self.averager.state_dict()
        finally:
            self.averager.before_read = self._before_read_hook

    @property
    def state(self) -> Any:
        """The wrapped optimizer's state, in which each parameter has its averages too."""
        if self._rows is None:
            parameters = _parameters_of(self.optimizer)
            rows = optimizer_state.tensors_of(self._averager_state())
            self._rows = {id(one): row for one, row in zip(parameters, rows, strict=False)}
        return optimizer_state.StateView(self.optimizer.state, self._rows)

    @state.setter
    def state(self, state: Any) -> None:
        self.optimizer.state = state

    def step(self, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        """Makes a step of the wrapped optimizer; a snapshot follows if one is due."""
        return (
            self.optimizer.step(closure, **kwargs)
            if closure is not None
            else self.optimizer.step(**kwargs)
        )

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Resets the gradients of all parameters."""
        # In code that torch.compile traces, the flag may be that of an earlier call.
        if not self._stepped and not torch.compiler.is_compiling():
            self._miss_step()
        self.optimizer.zero_grad(set_to_none)

    def _miss_step(self) -> None:
        if steps.found_only_finite(self.optimizer) or self._zero_grads == 0:
            self._zero_grads += 1  # with an infinity in it GradScaler skips the step
        if self._zero_grads == _ZERO_GRADS:
            self._zero_grads += 1  # said once
            warnings.warn(
                f"zero_grad() was called {_ZERO_GRADS} times, and SWA has seen no step of its "
                f"optimizer: {_LIKELY}",
                stacklevel=3,
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters, which join the averages; refused once a snapshot was taken.

        Raises:
            RuntimeError: there is a snapshot, which has no values for these parameters.
            ValueError: they have no values yet; they were not added.
        """
        _require_no_snapshot(self.averager, "new parameters")
        self.optimizer.add_param_group(param_group)
        try:
            self._follow_groups()
        except BaseException:
            self.optimizer.param_groups.pop()
            raise

    def assign_average_vars(self, params: Any = None, name: str | None = None) -> None:
        """Copies the averages into the parameters, as at the end of training.

        Args:
            params: a module or a list of tensors instead, in the order of the parameter groups.
            name: which of several averages.

        Raises:
            RuntimeError: no snapshot was taken yet.
            ValueError: ``params`` does not match.
        """
        self.averager.copy_to(params, name)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the wrapped optimizer, with the averages in each parameter's state.

        A parameter's average is the entry "swa_average" ("swa_average:name" of several), and the
        counters are in the groups ("swa_step", "swa_count", ...). So the functions of
        ``torch.distributed.checkpoint.state_dict`` save and restore them. The state for a plain
        optimizer is that of ``.optimizer``.
        """
        self._follow_groups()
        averager_state = self.averager.state_dict()
        self._mark_groups(averager_state)
        self._rows = None
        rows = optimizer_state.tensors_of(averager_state)
        state = self.optimizer.state_dict()
        return optimizer_state.with_averages(state, rows, self._positions())

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Loads what ``state_dict`` returned; training goes on bit for bit.

        A state of version 0.1.0, with the averages under "averager", is loaded as well.

        Raises:
            KeyError, TypeError, ValueError: it does not match; nothing was changed.
        """
        self._follow_groups()
        averager = self.averager
        saved = state_dict.get(_OWN)
        rest = {key: value for key, value in state_dict.items() if key != _OWN}
        frozen: list[Any] = []
        if saved is None:
            parameters = self._listed()
            saved = optimizer_state.averager_state_of(
                state_dict, parameters, self._positions(), self._averager_state()
            )
            frozen = optimizer_state.left_out(state_dict, parameters)
            rest = optimizer_state.without_averages(rest)
        averager.check_loadable(saved)
        before = self.optimizer.state_dict()
        self.optimizer.load_state_dict(rest)
        try:
            averager.load_state_dict(saved)
        except BaseException:
            self.optimizer.load_state_dict(before)
            raise
        self._pending = False
        self._left_out = frozen
        self._stepped = averager.step > 0
        self._rows = None
        self._mark_groups({key: part for key, part in saved.items() if key != "weights"})

    def _fill_left_out(self) -> None:
        """Writes the values of frozen parameters into averages that a loaded state did not have."""
        left_out, self._left_out = self._left_out, []
        if not left_out:
            return
        position = {id(one): i for i, one in enumerate(_parameters_of(self.optimizer))}
        averager = self.averager
        with torch.no_grad():
            for name in self._config.get("averages") or [None]:
                averages = averager.averages(name)
                for parameter in left_out:
                    averages[position[id(parameter)]].copy_(parameter)

    def _listed(self) -> list[Any]:
        """Returns the parameters in the order of the groups, also one that is there twice."""
        return [one for group in self.optimizer.param_groups for one in group["params"]]

    def _positions(self) -> list[int]:
        """Returns which average belongs to each parameter, in the order of the groups."""
        position = {id(one): i for i, one in enumerate(_parameters_of(self.optimizer))}
        return [position[id(one)] for one in self._listed()]

    def __getattr__(self, name: str) -> Any:
        """Everything else is the wrapped optimizer's."""
        if name in ("optimizer", "averager", "_rows"):  # not there yet: copying or unpickling
            raise AttributeError(name)
        return getattr(self.optimizer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets on the wrapped optimizer what its step reads."""
        if name in _FORWARDED:
            setattr(self.optimizer, name, value)
        else:
            object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        """Deletes from the wrapped optimizer what was set there."""
        if name in _FORWARDED:
            delattr(self.optimizer, name)
        else:
            object.__delattr__(self, name)

    def __repr__(self) -> str:
        """Shows the schedule and the wrapped optimizer."""
        if "averages" in self._config:
            what = f"averages={self._config['averages']}"
        else:
            start, period = self._config["start"], self._config["period"]
            what = f"start_averaging={start}, average_period={period}"
        return f"SWA({what}, optimizer={self.optimizer})"

    def __copy__(self) -> SWA:
        """Refuses: two averagers would follow the steps of one optimizer."""
        raise TypeError(
            "an SWA can be copied together with its optimizer only: use copy.deepcopy. Received: "
            "copy.copy"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Returns what to pickle. An optimizer's hooks are not; ``__setstate__`` renews ours."""
        return {
            "optimizer": self.optimizer,
            "averager": self.averager,
            "_config": self._config,
            "_at": self._at,
            "_pending": self._pending,
            "_stepped": self._stepped,
            "_zero_grads": self._zero_grads,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores from a pickle."""
        defaults = {"_at": "step", "_pending": False, "_stepped": False, "_zero_grads": 0}
        self._left_out = []
        self.__dict__.update({**defaults, **state})
        self._register()


def _remove_all(handles: list[Any]) -> None:
    for handle in handles:
        handle.remove()


def _parameters_of(optimizer: Any) -> list[Any]:
    return unique(tensor for group in optimizer.param_groups for tensor in group["params"])


def _named_parameters_of(optimizer: Any) -> list[Any]:
    """Returns the parameters with their names, where the optimizer was given names for all."""
    names = [group.get("param_names") for group in optimizer.param_groups]
    if any(name is None for name in names):
        return _parameters_of(optimizer)
    named: dict[int, tuple[str, Any]] = {}
    for group in optimizer.param_groups:
        for name, tensor in zip(group["param_names"], group["params"], strict=True):
            named.setdefault(id(tensor), (name, tensor))
    return list(named.values())


def _require_no_snapshot(averager: WeightAverager, received: str) -> None:
    count = max(averager.counts.values())
    if count > 0:
        raise RuntimeError(
            "parameters can be added and removed before the first snapshot only. Received: "
            f"{received}, after {count} snapshots; for a model that grows keep a "
            "WeightAverager(model) instead and make it anew when parameters are added"
        )
