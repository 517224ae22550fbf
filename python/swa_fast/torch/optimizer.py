"""``SWA``: an optimizer wrapper that takes the snapshots itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from swa_fast._schedule import check_integer
from swa_fast.average import Average

from .averager import WeightAverager
from .source import unique

_OWN = "averager"

# What others set on an optimizer to be read by its step: GradScaler's two, and the public state.
_FORWARDED = frozenset(("grad_scale", "found_inf", "param_groups", "state", "defaults"))


class SWA(torch.optim.Optimizer):  # type: ignore[misc]
    """Wraps an optimizer and averages its parameters, as ``tfa.optimizers.SWA`` does.

    With ``start_averaging`` = m and ``average_period`` = k, a snapshot is taken after step m + 1,
    m + 1 + k, m + 1 + 2k, ... The snapshot is a step hook of the wrapped optimizer: it is taken
    whether ``step`` is called here or there, and not when ``GradScaler`` skips the step.
    ``param_groups``, ``state``, hooks and every other attribute are those of the wrapped optimizer,
    so LR schedulers, GradScaler and closures work on either.

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

    Attributes:
        optimizer: the wrapped optimizer.
        averager: the ``WeightAverager`` over all parameter groups.

    Raises:
        TypeError: ``optimizer`` is not a ``torch.optim.Optimizer``, or an argument has the wrong
            type.
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
    ) -> None:
        """Registers the step hook; see the class for the arguments."""
        if not isinstance(optimizer, torch.optim.Optimizer):
            kind = type(optimizer).__name__
            raise TypeError(f"optimizer must be a torch.optim.Optimizer. Received: {kind}")
        if isinstance(optimizer, SWA):
            raise TypeError(
                "optimizer must not be wrapped by SWA already: its saved state has room for one "
                "averager. Received: an SWA; wrap its .optimizer, or keep a WeightAverager beside"
            )
        self.optimizer = optimizer
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
        self._register()

    def _register(self) -> None:
        self._handle = self.optimizer.register_step_post_hook(self._after_step)

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        # Fused optimizers are called by GradScaler in any case, and skip the step on the device.
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is not None and bool(found_inf):
            return
        self._follow_groups()
        self.averager.update()

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

    def step(self, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        """Makes a step of the wrapped optimizer; a snapshot follows if one is due."""
        return (
            self.optimizer.step(closure, **kwargs)
            if closure is not None
            else self.optimizer.step(**kwargs)
        )

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Resets the gradients of all parameters."""
        self.optimizer.zero_grad(set_to_none)

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
        """Returns the state of the wrapped optimizer, with the averages under "averager".

        The wrapped optimizer, without averaging, can load it too.
        """
        self._follow_groups()
        return {**self.optimizer.state_dict(), _OWN: self.averager.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Loads what ``state_dict`` returned; training goes on bit for bit.

        Raises:
            KeyError, TypeError, ValueError: it does not match; nothing was changed.
        """
        if _OWN not in state_dict:
            raise KeyError(
                f"state_dict must hold {_OWN!r}, as saved by swa_fast.torch.SWA. Received: "
                f"{list(state_dict)}; load the state of a plain optimizer into .optimizer"
            )
        self._follow_groups()
        averager = self.averager
        averager.check_loadable(state_dict[_OWN])
        rest = {key: value for key, value in state_dict.items() if key != _OWN}
        before = self.optimizer.state_dict()
        self.optimizer.load_state_dict(rest)
        try:
            averager.load_state_dict(state_dict[_OWN])
        except BaseException:
            self.optimizer.load_state_dict(before)
            raise

    def __getattr__(self, name: str) -> Any:
        """Everything else is the wrapped optimizer's."""
        if name in ("optimizer", "averager"):  # not there yet: copying or unpickling
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
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores from a pickle."""
        self.__dict__.update(state)
        self._register()


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
            f"{received}, after {count} snapshots"
        )
