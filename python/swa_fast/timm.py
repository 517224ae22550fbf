"""``ModelEmaV3`` of timm, over ``swa_fast.torch.WeightAverager``: change the import.

Example:
    >>> import torch
    >>> from swa_fast.timm import ModelEmaV3
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> ema = ModelEmaV3(model, decay=0.5)
    >>> _ = torch.nn.init.constant_(ema.module.weight, 1.0)
    >>> _ = torch.nn.init.constant_(model.weight, 3.0)
    >>> ema.update(model)
    >>> ema.module.weight.item()
    2.0
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from ._checks import check_decay, check_number
from ._deepspeed import require_whole_module
from .decays import warmup
from .torch import WeightAverager
from .torch.given_decay import GivenDecay
from .torch.module_tree import unwrapped
from .torch.shown import ShownModel, not_in_state_dict, refuse_mismatch

__all__ = ["ModelEmaV3"]


class ModelEmaV3(torch.nn.Module):  # type: ignore[misc]
    """An exponential average of a model's state, as ``timm.utils.ModelEmaV3`` of timm 1.0.31.

    Same arguments, methods and state dict. What differs, on purpose:

    - The model is not copied until ``module`` is asked for, and then its averaged tensors are not:
      they are the averages themselves.
    - Averages of float16 and bfloat16 tensors are kept in float32, where no small update is lost;
      ``stochastic_rounding`` has nothing to do. ``module`` has the model's dtype, or ``dtype``: it
      is rounded from the averages each time it is asked for. The state dict holds the float32.
    - A parameter that two modules share is averaged once at each update, where timm's averages it
      as often as the state dict names it.
    - An update that fails changes nothing.

    Args:
        model: what is averaged; the averages start as its weights are now.
        decay: share of the old average that the new one keeps, at most, from 0 to 1.
        min_decay: smallest decay in the warm-up.
        update_after_step: updates with a ``step`` up to this one replace the average.
        use_warmup: whether the decay is ``1 - (1 + s / warmup_gamma) ** -warmup_power`` until that
            reaches ``decay``, with ``s = step - update_after_step - 1``.
        warmup_gamma: > 0.
        warmup_power: > 0.
        device: where the averages are kept; None for where the model is. "cpu" of a model on a GPU
            is updated in the background, see ``WeightAverager``.
        dtype: of ``module``; None for the model's.
        stochastic_rounding: accepted; has no effect.
        stochastic_rounding_seed: accepted; has no effect.
        foreach: accepted; has no effect.
        exclude_buffers: whether buffers are copied instead of averaged.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        model: Any,
        decay: float = 0.9999,
        min_decay: float = 0.0,
        update_after_step: int = 0,
        use_warmup: bool = False,
        warmup_gamma: float = 1.0,
        warmup_power: float = 2 / 3,
        device: Any = None,
        dtype: Any = None,
        stochastic_rounding: bool = True,
        stochastic_rounding_seed: int = 0,
        foreach: bool = True,
        exclude_buffers: bool = False,
    ) -> None:
        """Allocates the averages; see the class for the arguments."""
        super().__init__()
        check_decay("decay", decay)
        check_number("update_after_step", update_after_step)
        if use_warmup:
            warmup(decay, warmup_gamma, warmup_power, min_decay)  # checks them
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"model must be a torch.nn.Module. Received: {type(model).__name__}")
        self.decay = decay
        self.min_decay = min_decay
        self.update_after_step = update_after_step
        self.use_warmup = use_warmup
        self.warmup_gamma = warmup_gamma
        self.warmup_power = warmup_power
        self.foreach = foreach
        self.device = None if device is None else torch.device(device)
        self.dtype = dtype
        self.stochastic_rounding = stochastic_rounding
        self.stochastic_rounding_seed = stochastic_rounding_seed
        self.exclude_buffers = exclude_buffers
        self._given = GivenDecay()
        root = unwrapped(model)
        require_whole_module(root)
        left_out = [] if exclude_buffers else not_in_state_dict(root)
        self.averager = WeightAverager(
            root,
            decay=self._given,
            initial=True,
            dtype=dtype if dtype == torch.float64 else None,
            device=self.device if self.device != next(root.parameters()).device else None,
            use_buffers=True,
            exclude="|".join(f"^{re.escape(name)}$" for name in left_out) or None,
        )
        if exclude_buffers:
            buffers = {name for name, _ in root.named_buffers()}
            self.averager.copy_only([name for name in self.averager.names if name in buffers])
        self._roots = (root, model)  # in a tuple, which registers no submodule
        self._shown: ShownModel | None = None

    @property
    def module(self) -> Any:
        """A module in evaluation mode that has the averages for its parameters and buffers."""
        if self._shown is None:
            shown = ShownModel(self.averager, self._roots[1], self.dtype)
            shown.module.eval()
            if self.device is not None:
                shown.module.to(self.device)  # what is not averaged
            self._shown = shown
            self._modules["module"] = shown.module
        return self._shown.refresh()

    def get_decay(self, step: int | None = None) -> float:
        """Returns the decay of an update with this ``step``; without one it is ``decay``."""
        if step is None:
            return self.decay
        since = step - self.update_after_step - 1
        if since <= 0:
            return 0.0
        if not self.use_warmup:
            return self.decay
        grown: float = 1 - (1 + since / self.warmup_gamma) ** -self.warmup_power
        return max(min(grown, self.decay), self.min_decay)

    def update(self, model: Any, step: int | None = None) -> None:
        """Takes the state of ``model`` into the averages.

        Args:
            model: that of the constructor, or one with the same names.
            step: number of the update, for the warm-up and ``update_after_step``.

        Raises:
            ValueError: the model does not match; nothing was written.
        """
        self._take(model, self.get_decay(step))

    def set(self, model: Any) -> None:
        """Makes the averages the state of ``model``."""
        self._take(model, 0.0)

    def _take(self, model: Any, decay: float) -> None:
        if self._shown is not None:
            self._shown.follow()
        self._given.decay = decay
        if model is self._roots[1] or model is self._roots[0]:
            self.averager.update()
        else:
            self.averager.update(model)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Calls ``module``."""
        return self.module(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Returns the state of ``module`` under its name, averages unrounded, as timm's does."""
        self.module  # noqa: B018, makes it
        state: dict[str, Any] = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", args[1] if len(args) > 1 else "") + "module."
        for name, average in zip(self.averager.names, self.averager.averages(), strict=True):
            if prefix + name in state:
                state[prefix + name] = average
        return state

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Loads the state dict of this class or of timm's.

        Raises:
            ValueError: ``assign`` is true.
            RuntimeError: it does not match; nothing was changed.
        """
        if assign:
            raise ValueError("assign must be False, because the averages have their place")
        refuse_mismatch(self.state_dict(), state_dict, strict)
        found = super().load_state_dict(state_dict, strict)
        with torch.no_grad():  # those that the module shows rounded
            for name, average in zip(self.averager.names, self.averager.averages(), strict=True):
                if f"module.{name}" in state_dict:
                    average.copy_(state_dict[f"module.{name}"])
        return found

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Moves or converts the averages, as ``to``, ``cuda`` and ``float`` ask for."""
        moved = fn(torch.empty(0, device=self.averager.averages()[0].device))
        self.averager.to(moved.device)
        if self._shown is not None:
            super()._apply(fn, recurse)
            self._shown.link()
        return self
