"""Averages in Lightning's checkpoints, in the form of its own ``WeightAveraging``.

``state_dict`` has the average, ``current_model_state`` the weights that are trained, and
``averaging_state`` the count. What that form has no place for (other averages, float32 averages of
half-precision parameters, counters) is under a key of its own, which Lightning's class passes over.

A distributed checkpoint (FSDP2) can hold sharded tensors under ``state_dict`` alone; there all of
them are in it, under the prefixes below, and each process reads and writes its own shards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .torch import WeightAverager
from .torch.module_tree import named_tensors, without_wrappers
from .torch.sharding import is_sharded
from .torch.shown import not_in_state_dict

_EXTRA = "swa_fast_averaging"
_WEIGHTS = "current_model_state"


class AveragesInCheckpoint:
    """Reads and writes the averages of a module.

    Args:
        averager: of several averages.
        module: what is averaged.
        shown: name of the average that is a checkpoint's ``state_dict``.
    """

    def __init__(self, averager: WeightAverager, module: Any, shown: str) -> None:
        """Keeps the three."""
        self._averager, self._module, self._shown = averager, module, shown

    def save(self, checkpoint: dict[str, Any], copies: bool = False) -> None:
        """Puts the average into the checkpoint's ``state_dict``, and the rest beside it.

        Args:
            checkpoint: with the weights as ``state_dict``: whole, sharded, or, on a process that
                does not write, none.
            copies: whether the model's tensors are about to change: then its weights, and the
                averages, are copied first.
        """
        averager = self._averager
        weights = checkpoint["state_dict"]
        distributed = any(is_sharded(value) for value in weights.values())
        writes = bool(weights)

        def taken(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            if is_sharded(value) and not distributed:  # a call that all processes make
                return value.full_tensor().detach().cpu()
            return value.detach().clone() if copies else value.detach()

        averages = {
            key: dict(zip(averager.names, map(taken, averager.averages(key)), strict=True))
            for key in averager.counts
        }
        if copies:
            weights = {name: taken(value) for name, value in self._module.state_dict().items()}
        if not writes:
            return
        shown = dict(weights)
        apart = {key: dict(named) for key, named in averages.items()}
        if averager.counts[self._shown]:
            for name, averaged in self._names(weights).items():
                average = averages[self._shown][averaged]
                shown[name] = average.to(weights[name].dtype)
                if average.dtype == weights[name].dtype:
                    apart[self._shown].pop(averaged, None)
        extra: dict[str, Any] = {
            "counts": averager.counts,
            "step": averager.step,
            "skipped": averager.skipped,
            "distributed": distributed,
        }
        checkpoint["averaging_state"] = {"n_averaged": torch.tensor(averager.counts[self._shown])}
        if distributed:
            extra["averages"] = {key: list(named) for key, named in apart.items()}
            checkpoint["state_dict"] = {
                **shown,
                **{f"{_WEIGHTS}.{name}": value for name, value in weights.items()},
                **{
                    f"averages.{key}.{name}": average
                    for key, named in apart.items()
                    for name, average in named.items()
                },
            }
        else:
            extra["averages"] = apart
            checkpoint[_WEIGHTS], checkpoint["state_dict"] = dict(weights), shown
        checkpoint[_EXTRA] = extra

    def load_weights(self, checkpoint: Mapping[str, Any], path: Any) -> None:
        """Loads the weights that are trained into the module.

        Args:
            checkpoint: what ``save`` made, or Lightning's class.
            path: the file or folder that it is from.
        """
        module = self._module
        if _is_distributed(checkpoint):
            own = {
                f"{_WEIGHTS}.{name}": value
                for name, value in module.state_dict().items()
                if isinstance(value, torch.Tensor)
            }
            _read(own, path)
        elif any(map(is_sharded, module.parameters())):
            from torch.distributed.checkpoint.state_dict import (
                StateDictOptions,
                set_model_state_dict,
            )

            options = StateDictOptions(full_state_dict=True)
            set_model_state_dict(module, dict(checkpoint[_WEIGHTS]), options=options)
        else:
            module.load_state_dict(checkpoint[_WEIGHTS])

    def load_averages(self, checkpoint: Mapping[str, Any], path: Any) -> None:
        """Loads the averages.

        Args:
            checkpoint: as of ``load_weights``. Where the strategy has taken ``state_dict`` out of
                it, the module has it.
            path: the file or folder that it is from.

        Raises:
            KeyError, TypeError, ValueError: it does not match; nothing was changed.
        """
        averager = self._averager
        keys = list(averager.counts)
        extra = checkpoint.get(_EXTRA)
        if extra is None:
            if len(keys) > 1:
                raise ValueError(
                    "the checkpoint has one average, of Lightning's WeightAveraging, and cannot "
                    f"say which of several it is. Received: averages {keys}"
                )
            count = int(checkpoint["averaging_state"]["n_averaged"])
            extra = {"counts": {keys[0]: count}, "step": count, "skipped": {keys[0]: 0}}
        apart = extra.get("averages", {})
        if extra.get("distributed") and set(apart) == set(keys):
            apart = self._read_apart(apart, path)
        shown = checkpoint.get("state_dict")
        shown = self._module.state_dict() if shown is None else shown
        unsaved = set(not_in_state_dict(self._module))  # which Lightning's class does not save
        in_shown = {
            name: average
            for name, average in zip(averager.names, averager.averages(self._shown), strict=True)
            if name in unsaved
        }
        in_shown.update({averaged: shown[name] for name, averaged in self._names(shown).items()})
        averages = {key: dict(apart.get(key, {})) for key in extra["counts"]}
        if self._shown in averages:
            averages[self._shown] = {**in_shown, **averages[self._shown]}
        for key in averages.keys() & set(keys):
            for name, average in zip(averager.names, averager.averages(key), strict=True):
                if name in averages[key]:
                    averages[key][name] = _like(averages[key][name], average)
        state = {name: extra[name] for name in ("counts", "step", "skipped")}
        averager.load_state_dict({"averages": averages, **state})

    def _read_apart(self, names: Mapping[str, Any], path: Any) -> dict[str, dict[str, Any]]:
        """Reads the averages under their prefixes, this process's shards alone."""
        found: dict[str, dict[str, Any]] = {}
        for key, wanted in names.items():
            averages = dict(zip(self._averager.names, self._averager.averages(key), strict=True))
            found[key] = {
                name: torch.empty_like(averages[name]) for name in wanted if name in averages
            }
        _read(
            {
                f"averages.{key}.{name}": value
                for key, named in found.items()
                for name, value in named.items()
            },
            path,
        )
        return found

    def _names(self, state: Mapping[str, Any]) -> dict[str, str]:
        """Returns the name of the average of each name of a state dict that has one."""
        known = set(self._averager.names)
        names = {}
        for one in named_tensors(self._module, True):
            averaged = next((alias for alias in one.aliases if alias in known), None)
            if averaged is not None:
                names.update(dict.fromkeys(one.aliases, averaged))
        plain = {name: without_wrappers(name) for name in state}
        return {name: names[key] for name, key in plain.items() if key in names}


def _is_distributed(checkpoint: Mapping[str, Any]) -> bool:
    return bool(checkpoint.get(_EXTRA, {}).get("distributed"))


def has_averages(checkpoint: Mapping[str, Any]) -> bool:
    """Tells whether a checkpoint was saved with averages."""
    return "averaging_state" in checkpoint and (
        _WEIGHTS in checkpoint or _is_distributed(checkpoint)
    )


def _read(tensors: dict[str, Any], path: Any) -> None:
    """Reads tensors of a distributed checkpoint's ``state_dict`` in place."""
    if tensors:
        import torch.distributed.checkpoint as dcp

        with torch.no_grad():
            dcp.load({"state_dict": tensors}, checkpoint_id=path)


def _like(value: Any, average: Any) -> Any:
    """Returns a loaded value with the average's dtype, sharded as that is."""
    if not isinstance(value, torch.Tensor) or value.shape != average.shape:
        return value  # refused, by name, where it is loaded
    value = value.detach().to(average.dtype)
    if is_sharded(average) and not is_sharded(value):
        from torch.distributed.tensor import distribute_tensor

        value = value.to(average.device)
        return distribute_tensor(value, average.device_mesh, average.placements)
    return value.clone()
