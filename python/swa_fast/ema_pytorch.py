"""``EMA`` of ema-pytorch, over ``swa_fast.torch.WeightAverager``: change the import.

Example:
    >>> import torch
    >>> from swa_fast.ema_pytorch import EMA
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> ema = EMA(model, beta=0.5, power=1.0, update_after_step=0, update_every=1)
    >>> for weight in (1.0, 3.0, 5.0):
    ...     _ = torch.nn.init.constant_(model.weight, weight)
    ...     ema.update()
    >>> ema.ema_model.weight.item()
    3.5
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch

from ._checks import check_decay, check_integer
from ._deepspeed import require_whole_module
from .decays import warmup
from .torch import WeightAverager
from .torch.averaged_model import HostCount
from .torch.given_decay import GivenDecay
from .torch.module_tree import unwrapped
from .torch.shown import ShownModel, refuse_mismatch

__all__ = ["EMA"]


class EMA(torch.nn.Module):  # type: ignore[misc]
    """An exponential average of a model, as ``ema_pytorch.EMA`` of ema-pytorch 0.8.

    Same arguments, methods and state dict. What differs, on purpose:

    - The model is not copied until ``ema_model`` is asked for, and then its averaged tensors are
      not: they are the averages themselves. ``lazy_init_ema`` has nothing to do.
    - Averages of float16 and bfloat16 tensors are kept in float32, where no small update is lost;
      ``ema_model`` has the model's dtypes, rounded each time it is asked for, and the state dict
      holds the float32.
    - Integer buffers, as the number of batches of a batch normalization, are copied at each
      update; ema-pytorch leaves them as they were at construction.
    - An update that fails changes nothing.

    Args:
        model: what is averaged.
        ema_model: a module to show the averages in, which start as it is, or a function that
            makes one; by default a copy of ``model``.
        beta: share of the old average that the new one keeps, at most, from 0 to 1. 1 freezes the
            average once it has been copied.
        update_after_step: calls of ``update`` up to this one copy.
        update_every: calls of ``update`` from one snapshot to the next.
        inv_gamma: > 0; the decay is ``1 - (1 + s / inv_gamma) ** -power`` until it reaches
            ``beta``, with ``s`` the calls after ``update_after_step``.
        power: > 0.
        min_value: the smallest decay.
        param_or_buffer_names_no_ema: names of tensors that are copied instead of averaged.
        ignore_names: names of tensors that are left alone from ``update_after_step`` on.
        ignore_startswith_names: beginnings of such names.
        include_online_model: whether the state dict has the model too.
        allow_different_devices: accepted; the averages stay where they are in any case.
        use_foreach: accepted; has no effect.
        update_model_with_ema_every: calls of ``update`` after which the model is set to the
            average, as in arXiv 2406.02596; None for never.
        update_model_with_ema_beta: share of the model's own weights that it then keeps.
        forward_method_names: methods of ``ema_model`` that this has too.
        move_ema_to_online_device: whether the averages follow the model to its device.
        coerce_dtype: accepted; dtypes may differ in any case.
        lazy_init_ema: accepted; has no effect.

    Raises:
        TypeError: an argument has the wrong type; ``model`` is no module (ema-pytorch has another
            class for trees of tensors).
        ValueError: an argument is out of range.
    """

    initted: Any
    step: Any

    def __init__(
        self,
        model: Any,
        ema_model: Any | Callable[[], Any] | None = None,
        beta: float = 0.9999,
        update_after_step: int = 100,
        update_every: int = 10,
        inv_gamma: float = 1.0,
        power: float = 2 / 3,
        min_value: float = 0.0,
        param_or_buffer_names_no_ema: Collection[str] = (),
        ignore_names: Collection[str] = (),
        ignore_startswith_names: Collection[str] = (),
        include_online_model: bool = True,
        allow_different_devices: bool = False,
        use_foreach: bool = False,
        update_model_with_ema_every: int | None = None,
        update_model_with_ema_beta: float = 0.0,
        forward_method_names: tuple[str, ...] = (),
        move_ema_to_online_device: bool = False,
        coerce_dtype: bool = False,
        lazy_init_ema: bool = False,
    ) -> None:
        """Allocates the averages; see the class for the arguments."""
        super().__init__()
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"model must be a torch.nn.Module. Received: {type(model).__name__}")
        check_decay("beta", beta)
        check_decay("update_model_with_ema_beta", update_model_with_ema_beta)
        check_integer("update_after_step", update_after_step, 0)
        check_integer("update_every", update_every, 1)
        if update_model_with_ema_every is not None:
            check_integer("update_model_with_ema_every", update_model_with_ema_every, 1)
        warmup(beta, inv_gamma, power, min_value)  # checks them
        self.beta = beta
        self.is_frozen = beta == 1.0
        self.update_after_step = update_after_step
        self.update_every = update_every
        self.inv_gamma = inv_gamma
        self.power = power
        self.min_value = min_value
        self.param_or_buffer_names_no_ema = param_or_buffer_names_no_ema
        self.ignore_names = ignore_names
        self.ignore_startswith_names = ignore_startswith_names
        self.include_online_model = include_online_model
        self.allow_different_devices = allow_different_devices
        self.use_foreach = use_foreach
        self.update_model_with_ema_every = update_model_with_ema_every
        self.update_model_with_ema_beta = update_model_with_ema_beta
        self.forward_method_names = forward_method_names
        self.move_ema_to_online_device = move_ema_to_online_device
        self.coerce_dtype = coerce_dtype
        self.online_model = model if include_online_model else [model]
        root = unwrapped(model)
        require_whole_module(root)
        self._root = (root,)  # in a tuple, which registers no submodule
        self._given = GivenDecay()
        # What is ignored later is copied at first, so it has an averager of its own.
        ignored = [f"^{re.escape(name)}$" for name in ignore_names]
        ignored += [f"^{re.escape(name)}" for name in ignore_startswith_names]
        self.averager = self._averager(exclude="|".join(ignored) or None)
        names = {name for name, _ in (*root.named_parameters(), *root.named_buffers())}
        has_ignored = (
            any(re.search("|".join(ignored), name) for name in names) if ignored else False
        )
        self._apart = self._averager(include="|".join(ignored)) if has_ignored else None
        self.averager.copy_only(set(param_or_buffer_names_no_ema) & set(self.averager.names))
        self._shown: list[ShownModel] = []
        self.register_buffer("initted", torch.tensor(False))
        self.register_buffer("step", torch.tensor(0))
        self._step_on_host, self._initted_on_host = HostCount(), HostCount()
        if ema_model is not None:
            if not isinstance(ema_model, torch.nn.Module):
                ema_model = ema_model()
            self._show(ema_model)
        for name in forward_method_names:
            setattr(self, name, getattr(self.ema_model, name))

    def _averager(self, **chosen: Any) -> WeightAverager:
        return WeightAverager(
            self._root[0], decay=self._given, initial=True, use_buffers=True, **chosen
        )

    @property
    def model(self) -> Any:
        """The model that is averaged."""
        return self.online_model if self.include_online_model else self.online_model[0]

    @property
    def ema_model(self) -> Any:
        """A module that has the averages for its parameters and buffers."""
        if not self._shown:
            self._show(None)
        for shown in self._shown:
            shown.refresh()
        return self._shown[0].module

    def _show(self, into: Any) -> None:
        shown = [ShownModel(self.averager, self.model, into=into)]
        if self._apart is not None:
            shown.append(ShownModel(self._apart, self.model, into=shown[0].module))
        self._shown = shown
        self._modules["ema_model"] = shown[0].module

    def _averagers(self) -> list[WeightAverager]:
        return [self.averager] if self._apart is None else [self.averager, self._apart]

    def get_current_decay(self) -> float:
        """Returns the decay of the last call of ``update``, or what its would have been."""
        return self._decay(self._step_on_host.read(self.step))

    def _decay(self, step: int) -> float:
        since = step - self.update_after_step - 1
        if since <= 0:
            return 0.0
        grown: float = 1 - (1 + since / self.inv_gamma) ** -self.power
        return min(max(grown, self.min_value), self.beta)

    def update(self) -> None:
        """Counts one update, and takes the model into the average if it is due.

        Raises:
            ValueError: the model's parameters no longer match; nothing was changed.
        """
        step = self._step_on_host.read(self.step)
        if not self._initted_on_host.read(self.initted):
            self.copy_params_from_model_to_ema()
            self.initted.fill_(True)
            self._initted_on_host.wrote(self.initted, 1)
            self._count(step + 1)
            return
        due = step % self.update_every == 0
        if due and step <= self.update_after_step:
            self.copy_params_from_model_to_ema()
            self._count(step + 1)
            return
        if due and not self.is_frozen:
            self._take(self._decay(step + 1))
        self._count(step + 1)
        every = self.update_model_with_ema_every
        if every is not None and step % every == 0:
            self.update_model_with_ema()

    def _count(self, step: int) -> None:
        self.step.add_(1)
        self._step_on_host.wrote(self.step, step)

    def _take(self, decay: float) -> None:
        for shown in self._shown:
            shown.follow()
        if self.move_ema_to_online_device:
            device = next(self.model.parameters()).device
            if self.averager.averages()[0].device != device:
                self._move(device)
        self._given.decay = decay
        self.averager.update()

    def _move(self, device: Any) -> None:
        for averager in self._averagers():
            averager.to(device)
        if self._shown:
            self._shown[0].module.to(device)
        for shown in self._shown:
            shown.link()

    def copy_params_from_model_to_ema(self) -> None:
        """Makes the averages the model's tensors, the ignored ones too."""
        self._take(0.0)
        if self._apart is not None:
            self._apart.update()

    def copy_params_from_ema_to_model(self) -> None:
        """Makes the model's tensors the averages, the ignored ones too."""
        for averager in self._averagers():
            averager.copy_to()

    def update_model_with_ema(self, decay: float | None = None) -> None:
        """Moves the model's tensors to the averages.

        Args:
            decay: share of their own values that they keep; ``update_model_with_ema_beta`` if None.
        """
        decay = self.update_model_with_ema_beta if decay is None else check_decay("decay", decay)
        if decay == 0.0:
            self.copy_params_from_ema_to_model()
        elif not self.is_frozen:
            self.averager.lerp_to(decay)

    def add_to_optimizer_post_step_hook(self, optimizer: Any) -> Any:
        """Calls ``update`` after each step of an optimizer; returns the handle of the hook."""
        return optimizer.register_step_post_hook(lambda *_: self.update())

    def restore_ema_model_device(self) -> None:
        """Moves the averages to the device of this module."""
        self._move(self.initted.device)

    def eval(self) -> Any:
        """Returns ``ema_model`` in evaluation mode, as ema-pytorch does."""
        return self.ema_model.eval()

    def forward_eval(self, *args: Any, **kwargs: Any) -> Any:
        """Calls ``ema_model`` without gradients, and in the mode in which it is."""
        with torch.no_grad():
            return self.ema_model(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Calls ``ema_model``."""
        return self.ema_model(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Returns the counters, the model and ``ema_model``, averages unrounded."""
        self.ema_model  # noqa: B018, makes it
        state: dict[str, Any] = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", args[1] if len(args) > 1 else "") + "ema_model."
        for averager in self._averagers():
            for name, average in zip(averager.names, averager.averages(), strict=True):
                if prefix + name in state:
                    state[prefix + name] = average
        return state

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Loads the state dict of this class or of ema-pytorch's.

        Raises:
            ValueError: ``assign`` is true.
            RuntimeError: it does not match; nothing was changed.
        """
        if assign:
            raise ValueError("assign must be False, because the averages have their place")
        refuse_mismatch(self.state_dict(), state_dict, strict)
        found = super().load_state_dict(state_dict, strict)
        with torch.no_grad():  # those that the module shows rounded
            for averager in self._averagers():
                for name, average in zip(averager.names, averager.averages(), strict=True):
                    if f"ema_model.{name}" in state_dict:
                        average.copy_(state_dict[f"ema_model.{name}"])
        return found

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Moves or converts the averages, as ``to``, ``cuda`` and ``float`` ask for."""
        moved = fn(torch.empty(0, device=self.averager.averages()[0].device))
        for averager in self._averagers():
            averager.to(moved.device)
        super()._apply(fn, recurse)
        for shown in self._shown:
            shown.link()
        return self
