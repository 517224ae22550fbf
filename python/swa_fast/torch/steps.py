"""When an optimizer really steps: what torch's step hooks see, and calls that are no step."""

from __future__ import annotations

import sys
from typing import Any

import torch

from .sharding import agree, local

# Where wrappers keep the optimizer that they wrap.
_INNER = ("optimizer", "optim", "base_optimizer", "inner", "base", "_optimizer")

_INSTEAD = (
    "or keep a WeightAverager(model) beside it and call its update() where the weights of a step "
    "are final"
)


def require_seen_steps(optimizer: Any) -> None:
    """Refuses an optimizer whose steps torch's step hooks do not see once each.

    Raises:
        TypeError: its class calls no hooks, or its steps are made by other methods or by backward.
    """
    name = type(optimizer).__name__
    inner = next(
        (a for a in _INNER if isinstance(vars(optimizer).get(a), torch.optim.Optimizer)), None
    )
    if hasattr(optimizer, "first_step") and hasattr(optimizer, "second_step"):
        part = inner or "base_optimizer"
        raise TypeError(
            f"optimizer must step by step() alone. Received: {name}, whose first_step() and "
            "second_step() call no step hooks; wrap the optimizer inside it, "
            f"sam.{part} = SWA(sam.{part}), {_INSTEAD}"
        )
    seen = getattr(type(optimizer).step, "hooked", False)
    if not (seen and hasattr(optimizer, "_optimizer_step_post_hooks")):
        before = f"wrap first what it wraps, {name}(SWA(...), ...)" if inner else "call it there"
        raise TypeError(
            "optimizer must call torch's step hooks, which torch.optim.Optimizer.__init__ sets up. "
            f"Received: {name}, which does not call it; {before}, {_INSTEAD}"
        )
    by_backward = getattr(optimizer, "_overlap_with_ddp", False) or any(
        getattr(tensor, "_in_backward_optimizers", None)
        for group in optimizer.param_groups
        for tensor in group["params"]
    )
    if by_backward:
        raise TypeError(
            f"optimizer must be stepped by the training loop. Received: {name}, whose parameters "
            "are stepped during backward(); keep a WeightAverager(model) and call its update() "
            "after backward()"
        )


def fills_state(optimizer: Any) -> bool:
    """Tells whether a step is made to fill the optimizer's state, and is no step of training.

    ``torch.distributed.checkpoint.state_dict`` makes such a one, with all rates and all gradients
    exactly 0. A rate of 0 alone is a real step, as at the beginning of a warm-up. With sharded
    gradients and a rate of 0 it is a collective call. A rate on another device than the CPU is not
    read, because torch puts its 0 on the CPU.
    """
    rates = [group["lr"] for group in optimizer.param_groups if "lr" in group]
    for rate in rates:
        if (isinstance(rate, torch.Tensor) and not rate.is_cpu) or rate != 0:
            return False
    if not rates:
        return False
    gradients = [
        tensor.grad
        for group in optimizer.param_groups
        for tensor in group["params"]
        if tensor.grad is not None
    ]
    return bool(gradients) and agree(all(map(_is_zero, gradients)), gradients)


def _is_zero(gradient: Any) -> bool:
    return gradient.layout == torch.strided and not bool(local(gradient).any())


def is_step_within_step(optimizer: Any, depth: int) -> bool:
    """Tells whether a step hook is called by a step that another step of ``optimizer`` makes.

    A class whose ``step`` calls that of its base class calls the hooks twice, once from each.

    Args:
        optimizer: what the hook was called for.
        depth: calls between this one and torch's function that calls the hooks.
    """
    frame = sys._getframe(depth + 1)
    code, outer = frame.f_code, frame.f_back
    while outer is not None:
        if outer.f_code is code and outer.f_locals.get("self") is optimizer:
            return True
        outer = outer.f_back
    return False


def may_step_within_step(kind: type) -> bool:
    """Tells whether more than one class of those that ``kind`` inherits from has a ``step``."""
    classes = [one for one in kind.__mro__ if one is not torch.optim.Optimizer]
    return sum("step" in vars(one) for one in classes) > 1


def is_captured(optimizer: Any) -> bool:
    """Tells whether this step is being recorded into a CUDA graph, whose replays call no hooks."""
    capturable = any(group.get("capturable", False) for group in optimizer.param_groups)
    return capturable and torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def found_only_finite(optimizer: Any) -> bool:
    """Tells whether there are gradients, and none of them holds NaN or infinity."""
    gradients = [
        local(tensor.grad)
        for group in optimizer.param_groups
        for tensor in group["params"]
        if tensor.grad is not None and tensor.grad.layout == torch.strided
    ]
    return bool(gradients) and all(bool(gradient.isfinite().all()) for gradient in gradients)
