"""Recomputing the statistics of BatchNorm for averaged weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def update_bn(
    loader: Iterable[Any],
    model: Any,
    device: Any = None,
    *,
    forward: Callable[[Any, Any], Any] | None = None,
) -> None:
    """Recomputes the running statistics of every BatchNorm layer in one pass over ``loader``.

    As ``torch.optim.swa_utils.update_bn``: the statistics are reset, the model runs in training
    mode without gradients, and the statistics become the plain average over the batches. Momentum
    and the mode of each submodule are put back, whatever happens; if something is raised, the
    statistics are put back too. A model without BatchNorm is left alone and nothing is read.

    A layer that no batch reached in training mode (a head that is not used, or a layer whose
    ``train`` keeps it in evaluation mode) keeps the statistics that it had, and a warning names it;
    torch leaves it the mean 0 and the variance 1.

    Args:
        loader: the batches. Without ``forward``, a batch is the model's input, or a list or tuple
            whose first element is.
        model: the model, often an ``AveragedModel``.
        device: where the tensors of a batch are moved to first; None leaves them.
        forward: called as ``forward(model, batch)`` for each batch, for loaders whose batch is
            something else: ``forward=lambda model, batch: model(batch["image"], batch["mask"])``.

    Raises:
        ValueError: ``loader`` gave no batch; the statistics are unchanged.

    Example:
        >>> import torch
        >>> from swa_fast.torch import update_bn
        >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(1))
        >>> update_bn([torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [7.0]])], model)
        >>> model[0].running_mean
        tensor([4.])
    """
    if forward is not None and not callable(forward):
        kind = type(forward).__name__
        raise TypeError(f"forward must be callable as forward(model, batch). Received: {kind}")
    if not isinstance(model, torch.nn.Module):
        kind, hint = type(model).__name__, ""
        if isinstance(loader, torch.nn.Module):
            hint = "; the loader comes first, update_bn(loader, model)"
        elif hasattr(model, "applied"):
            hint = "; call update_bn(loader, model) inside `with averager.applied():`"
        raise TypeError(f"model must be a torch.nn.Module. Received: {kind}{hint}")
    named = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    }
    layers = list(named.values())
    if not layers:
        return
    batches = iter(loader)
    try:
        first = next(batches)
    except StopIteration:
        raise ValueError(
            "loader must give at least one batch. Received: an empty loader; the BatchNorm "
            "statistics were left as they were"
        ) from None

    momenta = [layer.momentum for layer in layers]
    modes = [(module, module.training) for module in model.modules()]
    statistics = [_statistics_of(layer) for layer in layers]
    reached: set[int] = set()

    def note(layer: Any, *_: Any) -> None:
        if layer.training:
            reached.add(id(layer))

    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        with torch.no_grad():
            model.train()
            for layer in layers:
                layer.reset_running_stats()
                layer.momentum = None
            _run(model, first, device, forward)
            for batch in batches:
                _run(model, batch, device, forward)
    except BaseException:
        for layer, kept in zip(layers, statistics, strict=True):
            _restore(layer, kept)
        raise
    finally:
        for hook in hooks:
            hook.remove()
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, training in modes:
            module.training = training
    missed = []
    for (name, layer), kept in zip(named.items(), statistics, strict=True):
        if kept and id(layer) not in reached:
            _restore(layer, kept)
            missed.append(name)
    if missed:
        listed = ", ".join(map(repr, missed[:5])) + (", ..." if len(missed) > 5 else "")
        warnings.warn(
            f"no batch reached {len(missed)} of {len(layers)} BatchNorm layers in training mode, "
            f"which keep the statistics that they had: {listed}",
            stacklevel=2,
        )


def _run(model: Any, batch: Any, device: Any, forward: Callable[[Any, Any], Any] | None) -> None:
    if forward is not None:
        forward(model, batch if device is None else _moved(batch, device))
        return
    if isinstance(batch, list | tuple):
        batch = batch[0]
    model(batch if device is None else batch.to(device))


def _moved(batch: Any, device: Any) -> Any:
    if hasattr(batch, "to"):  # tensors, and containers that know how: its own way first
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: _moved(item, device) for key, item in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_moved(item, device) for item in batch))
    if isinstance(batch, list):
        moved = copy.copy(batch)  # a subclass may be made from other arguments than a list
        moved[:] = [_moved(item, device) for item in batch]
        return moved
    if isinstance(batch, tuple):
        return tuple(_moved(item, device) for item in batch)
    return batch


def _statistics_of(layer: Any) -> dict[str, Any]:
    kept = {name: getattr(layer, name, None) for name in _STATISTICS}
    return {name: tensor.clone() for name, tensor in kept.items() if tensor is not None}


def _restore(layer: Any, statistics: dict[str, Any]) -> None:
    with torch.no_grad():
        for name, tensor in statistics.items():
            getattr(layer, name).copy_(tensor)
