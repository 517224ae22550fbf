"""Checking a saved state before anything of it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from swa_fast._schedule import check_integer

from ._parameters import describe_mismatch

_COUNTERS = ("count", "step", "skipped")

# Up to here a float64 tells one count from the next, as the weight 1 / (count + 1) needs.
_LARGEST = 2**53 - 1


def check_state(
    names: list[str], averages: list[Any], state_dict: Mapping[str, Any]
) -> tuple[list[Any], tuple[int, int, int]]:
    """Returns the tensors of a saved state in the order of ``names``, and its counters.

    Raises:
        KeyError: an entry or an average is missing, or there is one too many.
        TypeError: an entry has the wrong type.
        ValueError: a tensor has another shape, dtype or sharding than its average.
    """
    if not isinstance(state_dict, Mapping):
        kind = type(state_dict).__name__
        raise TypeError(f"state_dict must be a dict. Received: {kind}")
    for key in ("averages", *_COUNTERS):
        if key not in state_dict:
            raise KeyError(f"state_dict must hold {key!r}. Received: {list(state_dict)}")
    saved = state_dict["averages"]
    if not isinstance(saved, Mapping):
        raise TypeError(f"state_dict['averages'] must be a dict. Received: {type(saved).__name__}")
    missing = [name for name in names if name not in saved]
    unknown = [name for name in saved if name not in set(names)]
    if missing or unknown:
        raise KeyError(
            f"state_dict['averages'] does not match: missing {missing[:5]}, unknown {unknown[:5]}"
        )
    tensors = [saved[name] for name in names]
    for name, tensor in zip(names, tensors, strict=True):
        if not isinstance(tensor, torch.Tensor):
            kind = type(tensor).__name__
            raise TypeError(f"state_dict['averages'][{name!r}] must be a tensor. Received: {kind}")
    mismatch = describe_mismatch(names, averages, tensors, any_device=True, same_dtype=True)
    if mismatch is not None:
        raise ValueError(f"state_dict does not match: the state of {mismatch}")
    count, step, skipped = (check_integer(key, state_dict[key], 0) for key in _COUNTERS)
    if step > _LARGEST:
        raise ValueError(f"step must be at most 2**53 - 1. Received: {step}")
    if count + skipped > step:
        raise ValueError(
            f"count + skipped must be at most step. Received: count={count}, skipped={skipped}, "
            f"step={step}"
        )
    return tensors, (count, step, skipped)
