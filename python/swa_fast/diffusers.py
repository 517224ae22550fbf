"""``EMAModel`` of diffusers, over ``swa_fast.torch.WeightAverager``: change the import.

Example:
    >>> import torch
    >>> from swa_fast.diffusers import EMAModel
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> ema = EMAModel(model.parameters(), decay=0.5, use_ema_warmup=True)
    >>> for weight in (1.0, 3.0):
    ...     _ = torch.nn.init.constant_(model.weight, weight)
    ...     ema.step(model.parameters())
    >>> ema.cur_decay_value, round(ema.shadow_params[0].item(), 4)
    (0.3700394750525634, 2.2599)
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterable
from typing import Any

import torch

from ._checks import check_decay, check_integer, check_number
from ._deepspeed import require_whole
from ._parameter_listing import ParameterListing
from .decays import warmup
from .torch import WeightAverager
from .torch.given_decay import GivenDecay

__all__ = ["EMAModel"]

_SETTINGS = ("decay", "min_decay", "update_after_step", "use_ema_warmup", "inv_gamma", "power")


class EMAModel:
    """An exponential average of parameters, as ``diffusers.training_utils.EMAModel`` of 0.42.

    Same arguments, methods, attributes and state dict. What differs, on purpose:

    - Averages of float16 and bfloat16 parameters are kept in float32, where no small update is
      lost. ``copy_to`` rounds.
    - Parameters that do not match are refused, where ``zip`` would leave some out; an update or a
      ``load_state_dict`` that fails changes nothing.
    - ``restore`` works with ``foreach`` on a GPU.
    - The averages keep their place: ``load_state_dict`` copies into them.
    - Parameters that DeepSpeed's ZeRO-3 has sharded are refused: they are empty.

    Args:
        parameters: what is averaged; the averages start as they are now.
        decay: share of the old average that the new one keeps, at most, from 0 to 1.
        min_decay: the smallest decay.
        update_after_step: calls of ``step`` up to this one, and one more, replace the average.
        use_ema_warmup: whether the decay grows as ``1 - (1 + s / inv_gamma) ** -power`` instead of
            ``(1 + s) / (10 + s)``, with ``s`` the calls of ``step`` after those that replace.
        inv_gamma: > 0.
        power: > 0.
        foreach: accepted; has no effect.
        model_cls: class of the model, for ``save_pretrained``.
        model_config: its configuration, for ``save_pretrained``.
        **kwargs: ``max_value``, ``min_value`` and ``device`` of older versions, with a warning.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        decay: float = 0.9999,
        min_decay: float = 0.0,
        update_after_step: int = 0,
        use_ema_warmup: bool = False,
        inv_gamma: float = 1.0,
        power: float = 2 / 3,
        foreach: bool = False,
        model_cls: Any | None = None,
        model_config: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Allocates the averages; see the class for the arguments."""
        unknown = sorted(set(kwargs) - {"max_value", "min_value", "device"})
        if unknown:
            raise TypeError(f"EMAModel takes no argument {unknown[0]!r}")
        if isinstance(parameters, torch.nn.Module):
            _deprecated("a module as parameters", "module.parameters()")
            use_ema_warmup = True
        if kwargs.get("max_value") is not None:
            _deprecated("max_value", "decay")
            decay = kwargs["max_value"]
        if kwargs.get("min_value") is not None:
            _deprecated("min_value", "min_decay")
            min_decay = kwargs["min_value"]
        self._parameters = _listed(parameters)
        self._listing = ParameterListing()
        self.decay = decay
        self.min_decay = min_decay
        self.update_after_step = update_after_step
        self.use_ema_warmup = use_ema_warmup
        self.inv_gamma = inv_gamma
        self.power = power
        _check({name: getattr(self, name) for name in _SETTINGS})
        self._given = GivenDecay()
        self.averager = WeightAverager(self._parameters, decay=self._given, initial=True)
        place = {id(tensor): index for index, tensor in enumerate(_unique(self._parameters))}
        # A parameter that is listed twice has one average, which is shown twice.
        self._places = [place[id(tensor)] for tensor in self._parameters]
        self._frozen: list[bool] = []
        self.optimization_step = 0
        self.cur_decay_value: float | None = None
        self.temp_stored_params: list[Any] | None = None
        self.foreach = foreach
        self.model_cls = model_cls
        self.model_config = model_config
        if kwargs.get("device") is not None:
            _deprecated("device", "to()")
            self.to(device=kwargs["device"])

    @classmethod
    def from_pretrained(cls, path: Any, model_cls: Any, foreach: bool = False) -> EMAModel:
        """Makes one from the averaged model that ``save_pretrained`` wrote.

        Args:
            path: the folder.
            model_cls: class of the model, a diffusers ``ModelMixin``.
            foreach: accepted; has no effect.
        """
        saved = model_cls.from_config(path, return_unused_kwargs=True)[1]
        model = model_cls.from_pretrained(path)
        made = cls(
            model.parameters(), foreach=foreach, model_cls=model_cls, model_config=model.config
        )
        made.load_state_dict(saved)
        return made

    def save_pretrained(self, path: Any) -> None:
        """Writes a model with the averages as its weights; the settings go into its configuration.

        Raises:
            ValueError: ``model_cls`` or ``model_config`` was not given at construction.
        """
        for name in ("model_cls", "model_config"):
            if getattr(self, name) is None:
                raise ValueError(f"save_pretrained() needs {name}, given at construction")
        assert self.model_cls is not None
        model = self.model_cls.from_config(self.model_config)
        state = self.state_dict()
        del state["shadow_params"]
        model.register_to_config(**state)
        self.copy_to(model.parameters())
        model.save_pretrained(path)

    @property
    def shadow_params(self) -> list[Any]:
        """The averages themselves, no copies, one for each parameter in their order."""
        averages = self.averager.averages()
        return [averages[place] for place in self._places]

    @shadow_params.setter
    def shadow_params(self, tensors: list[Any]) -> None:
        self.load_state_dict({"shadow_params": tensors})

    def get_decay(self, optimization_step: int) -> float:
        """Returns the decay of call number ``optimization_step`` of ``step``, counted from 1."""
        since = optimization_step - self.update_after_step - 1
        if since <= 0:
            return 0.0
        if self.use_ema_warmup:
            grown: float = 1 - (1 + since / self.inv_gamma) ** -self.power
        else:
            grown = (1 + since) / (10 + since)
        return max(min(grown, self.decay), self.min_decay)

    def step(self, parameters: Iterable[Any]) -> None:
        """Takes parameters into the averages; those with ``requires_grad=False`` are copied.

        Args:
            parameters: as many as at construction, in the same order.

        Raises:
            ValueError: they do not match; nothing was changed.
        """
        if isinstance(parameters, torch.nn.Module):
            _deprecated("a module as parameters", "module.parameters()")
            parameters = parameters.parameters()
        tensors = self._listing.of(parameters)
        self._follow(tensors)
        frozen = [not tensor.requires_grad for tensor in tensors]
        if frozen != self._frozen:
            names = self.averager.names
            self.averager.copy_only(
                {names[place] for place, kept in zip(self._places, frozen, strict=True) if kept}
            )
            self._frozen = frozen
        decay = self.get_decay(self.optimization_step + 1)
        self._given.decay = decay
        self.averager.update()
        self.optimization_step += 1
        self.cur_decay_value = decay

    def _follow(self, tensors: list[Any]) -> None:
        """Averages these tensors, if they are not those of the last call."""
        before = self._parameters
        if tensors is before:
            return
        if len(tensors) == len(before) and all(map(operator.is_, tensors, before)):
            self._parameters = tensors
            return
        _require_whole(tensors)
        averages = self.averager.averages()
        _require_alike(tensors, [averages[place] for place in self._places], "parameters")
        first = {place: tensor for place, tensor in zip(self._places, tensors, strict=True)}
        self.averager.follow([first[place] for place in range(len(averages))])
        self._parameters = tensors

    def copy_to(self, parameters: Iterable[Any]) -> None:
        """Copies the averages into parameters, on whatever device those are.

        Raises:
            ValueError: they do not match; nothing was written.
        """
        tensors, averages = _listed(parameters), self.shadow_params
        _require_alike(tensors, averages, "parameters")
        if all(tensor.device == average.device for tensor, average in zip(tensors, averages)):  # noqa: B905
            first = {place: tensor for place, tensor in zip(self._places, tensors, strict=True)}
            self.averager.copy_to([first[place] for place in range(len(first))])
            return
        with torch.no_grad():
            for tensor, average in zip(tensors, averages, strict=True):
                tensor.copy_(average)

    def pin_memory(self) -> None:
        """Moves averages that are in host memory into pinned memory."""
        self.averager.pin_memory()

    def to(self, device: Any = None, dtype: Any = None, non_blocking: bool = False) -> None:
        """Moves the averages to a device, and the floating-point ones to a dtype.

        Args:
            device: where to; None leaves them.
            dtype: None leaves it.
            non_blocking: accepted; the move waits.
        """
        self.averager.to(device, dtype)

    def store(self, parameters: Iterable[Any]) -> None:
        """Keeps a copy of parameters in host memory, for ``restore``."""
        self.temp_stored_params = [tensor.detach().cpu().clone() for tensor in parameters]

    def restore(self, parameters: Iterable[Any]) -> None:
        """Copies what ``store`` kept into parameters, on whatever device those are.

        Raises:
            RuntimeError: there is nothing that ``store`` kept.
            ValueError: the parameters do not match it; nothing was written.
        """
        stored = self.temp_stored_params
        if stored is None:
            raise RuntimeError("restore() needs parameters that store() kept. Received: none")
        tensors = _listed(parameters)
        _require_alike(tensors, stored, "parameters")
        with torch.no_grad():
            for tensor, kept in zip(tensors, stored, strict=True):
                tensor.copy_(kept)
        self.temp_stored_params = None

    def state_dict(self) -> dict[str, Any]:
        """Returns the settings, the step and the averages (no copies), as diffusers' class."""
        state: dict[str, Any] = {name: getattr(self, name) for name in _SETTINGS}
        state["optimization_step"] = self.optimization_step
        state["shadow_params"] = self.shadow_params
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads the state of this class or of diffusers'; a missing entry stays as it is.

        Raises:
            TypeError, ValueError: it does not match; nothing was changed.
        """
        known = {*_SETTINGS, "optimization_step", "shadow_params"}
        if not known & set(state_dict):
            raise ValueError(
                f"state_dict must be that of an EMAModel, with {sorted(known)}. "
                f"Received: {list(state_dict)[:5]}"
            )
        settings = {name: state_dict.get(name, getattr(self, name)) for name in _SETTINGS}
        _check(settings)
        step = check_integer(
            "optimization_step", state_dict.get("optimization_step", self.optimization_step), 0
        )
        tensors = state_dict.get("shadow_params")
        if tensors is not None:
            if not isinstance(tensors, list) or not all(map(torch.is_tensor, tensors)):
                raise ValueError("shadow_params must be a list of tensors")
            averages = self.shadow_params
            _require_alike(tensors, averages, "shadow_params")
            with torch.no_grad():
                for average, tensor in zip(averages, tensors, strict=True):
                    average.copy_(tensor)
        for name, value in settings.items():
            setattr(self, name, value)
        self.optimization_step = step


def _check(settings: dict[str, Any]) -> None:
    check_decay("decay", settings["decay"])
    check_integer("update_after_step", settings["update_after_step"], 0)
    if settings["use_ema_warmup"] not in (True, False):
        raise TypeError(
            f"use_ema_warmup must be True or False. Received: {settings['use_ema_warmup']!r}"
        )
    check_number("min_decay", settings["min_decay"])
    if settings["use_ema_warmup"]:
        names = ("decay", "inv_gamma", "power", "min_decay")
        warmup(*(settings[name] for name in names))  # checks them


def _listed(parameters: Any) -> list[Any]:
    if isinstance(parameters, torch.nn.Module):
        parameters = parameters.parameters()
    tensors = list(parameters)
    _require_whole(tensors)
    return tensors


def _require_whole(tensors: list[Any]) -> None:
    require_whole((f"parameters[{index}]", tensor) for index, tensor in enumerate(tensors))


def _unique(tensors: list[Any]) -> list[Any]:
    return list({id(tensor): tensor for tensor in tensors}.values())


def _require_alike(tensors: list[Any], others: list[Any], what: str) -> None:
    if len(tensors) != len(others):
        raise ValueError(
            f"{what} must have {len(others)} tensors, as at construction. Received: {len(tensors)}"
        )
    for index, (tensor, other) in enumerate(zip(tensors, others, strict=True)):
        if tensor.shape != other.shape:
            raise ValueError(
                f"{what}[{index}] has shape {tuple(tensor.shape)}, at construction it had shape "
                f"{tuple(other.shape)}"
            )


def _deprecated(what: str, instead: str) -> None:
    warnings.warn(f"EMAModel: {what} is deprecated, use {instead}", FutureWarning, stacklevel=3)
