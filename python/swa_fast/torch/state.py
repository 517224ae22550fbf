"""Checking a saved state of a ``WeightAverager`` before anything of it is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from swa_fast._checks import check_integer
from swa_fast.average import Average

from .mismatch import describe_mismatch
from .module_tree import without_wrappers
from .sharding import local

# Up to here a float64 tells one count from the next, as the weight 1 / (count + 1) needs.
_LARGEST = 2**53 - 1

_AS_WORDS = {"mean": "a mean", "exponential": "an exponential average"}


@dataclass
class SavedState:
    """What a state holds, one entry for each average.

    Attributes:
        averages: where in the state they stand, "state_dict['averages']", and what stands there.
        counts: snapshots in each.
        step: updates so far.
        skipped: snapshots left out of each.
        of_another_kind: a sentence for each average whose state is of another kind of average.
    """

    averages: list[tuple[str, Any]]
    counts: list[int]
    step: int
    skipped: list[int]
    of_another_kind: list[str]


def kind_of(average: Average) -> str:
    """Returns what kind of average it is: "mean" or "exponential"."""
    return "mean" if average.decay is None else "exponential"


def check_state(
    state_dict: Any, keys: Sequence[str] | None, described: Sequence[Average]
) -> SavedState:
    """Returns the parts of a saved state, its counters checked.

    Args:
        state_dict: what was given to load.
        keys: the names of several averages; None for a single one.
        described: the averages that it is to be loaded into.

    Raises:
        KeyError: an entry or an average is missing, or there is one too many.
        TypeError: an entry has the wrong type.
        ValueError: a counter is out of range, or a schedule is another.
    """
    count_key = "count" if keys is None else "counts"
    _require_dict(state_dict, "state_dict")
    for key in ("averages", count_key, "step", "skipped"):
        if key not in state_dict:
            hint = ""
            if key == count_key and ("counts" if keys is None else "count") in state_dict:
                found = "several averages" if keys is None else "one average"
                hint = f"; it is the state of {found}"
            elif key == "averages" and _is_of_model(state_dict):
                hint = "; that is a model's state, and an averager loads its own state_dict()"
            raise KeyError(f"state_dict must hold {key!r}. Received: {list(state_dict)}{hint}")
    averages = state_dict["averages"]
    if keys is None:
        parts = [("state_dict['averages']", averages)]
        counts, skipped = [state_dict["count"]], [state_dict["skipped"]]
    else:
        each = {name: state_dict[name] for name in ("averages", "counts", "skipped")}
        if "kind" in state_dict:
            each["kind"] = state_dict["kind"]
        for name, entry in each.items():
            _require_dict(entry, f"state_dict[{name!r}]")
            _require_keys(entry, keys, f"state_dict[{name!r}]")
        parts = [(f"state_dict['averages'][{key!r}]", averages[key]) for key in keys]
        counts = [each["counts"][key] for key in keys]
        skipped = [each["skipped"][key] for key in keys]
    counts = [check_integer(count_key, count, 0) for count in counts]
    step = check_integer("step", state_dict["step"], 0)
    skipped = [check_integer("skipped", number, 0) for number in skipped]
    if step > _LARGEST:
        raise ValueError(f"step must be at most 2**53 - 1. Received: {step}")
    for average, count, left_out in zip(described, counts, skipped, strict=True):
        if count + left_out > step + average.initial:
            raise ValueError(
                f"count + skipped must be at most step. Received: count={count}, "
                f"skipped={left_out}, step={step}"
            )
    if "config" in state_dict:
        _check_config(state_dict["config"], keys, described)
    return SavedState(parts, counts, step, skipped, _other_kinds(state_dict, keys, described))


def _other_kinds(
    state_dict: Any, keys: Sequence[str] | None, described: Sequence[Average]
) -> list[str]:
    if "kind" not in state_dict:  # saved by an earlier version
        return []
    found = []
    for key, average in zip(keys or [""], described, strict=True):
        saved = state_dict["kind"][key] if keys else state_dict["kind"]
        if saved != kind_of(average):
            which = f" of average {key!r}" if key else ""
            found.append(
                f"the state{which} is {_AS_WORDS.get(saved, repr(saved))}, and it goes on as "
                f"{_AS_WORDS[kind_of(average)]}"
            )
    return found


def _is_of_model(state_dict: Mapping[str, Any]) -> bool:
    return bool(state_dict) and all(isinstance(one, torch.Tensor) for one in state_dict.values())


def _check_config(config: Any, keys: Sequence[str] | None, described: Sequence[Average]) -> None:
    _require_dict(config, "state_dict['config']")
    for key, average in zip(keys or [""], described, strict=True):
        ours = average.to_dict()
        if config.get(key) != ours:
            name = f" {key!r}" if key else ""
            raise ValueError(
                f"state_dict was saved with another schedule: average{name} is {ours} here. "
                f"Received: {config.get(key)}"
            )


def check_averages(
    names: Sequence[str],
    labels: Sequence[str],
    averages: Sequence[Any],
    saved: Any,
    where: str,
) -> list[Any]:
    """Returns the tensors of a saved average in the order of ``names``.

    Args:
        names: of the tensors.
        labels: what they are called in errors.
        averages: those that they are to be loaded into.
        saved: what stands in the state, a dict by name.
        where: where in the state it stands.

    Raises:
        KeyError: a tensor is missing, or there is one too many.
        TypeError: an entry has the wrong type.
        ValueError: a tensor has another shape, dtype or sharding than its average.
    """
    _require_dict(saved, where)
    saved = _renamed(saved, names)
    _require_keys(saved, names, where)
    tensors = [saved[name] for name in names]
    for name, tensor in zip(names, tensors, strict=True):
        if not isinstance(tensor, torch.Tensor):
            kind = type(tensor).__name__
            raise TypeError(f"{where}[{name!r}] must be a tensor. Received: {kind}")
    mismatch = describe_mismatch(labels, averages, tensors, any_device=True, same_dtype=True)
    if mismatch is not None:
        raise ValueError(f"state_dict does not match: the state of {mismatch}")
    return tensors


def _renamed(saved: Mapping[str, Any], names: Sequence[str]) -> Mapping[str, Any]:
    """Returns ``saved`` by ``names``, where they differ by what wrappers put into names alone."""
    if all(name in saved for name in names):
        return saved
    plain = {without_wrappers(name): tensor for name, tensor in saved.items()}
    if len(plain) != len(saved):
        return saved
    for prefixed in (plain, {f"module.{name}": tensor for name, tensor in plain.items()}):
        if set(names) == set(prefixed):
            return prefixed
    stripped = {name.removeprefix("module."): tensor for name, tensor in plain.items()}
    return stripped if set(names) == set(stripped) else saved


def require_shown(labels: Sequence[str], values: Sequence[Any], loaded: Sequence[Any]) -> None:
    """Requires that the parameters hold one of the averages of a state taken while swapped.

    Args:
        labels: what the parameters are called in errors.
        values: the parameters.
        loaded: for each average of the state, its tensors.

    Raises:
        ValueError: they hold none of them.
    """
    first = ""
    for averages in loaded:
        differing = next(
            (
                label
                for label, value, average in zip(labels, values, averages, strict=True)
                if not _shows(local(value), local(average))
            ),
            None,
        )
        if differing is None:
            return
        first = first or differing
    raise ValueError(
        "the state was taken while the averages were swapped into the model: load the model first, "
        f"with its state of the same moment. Received: {first} that does not hold its average"
    )


def _shows(value: Any, average: Any) -> bool:
    shown = average.to(value.dtype).to(value.device)
    return bool(torch.equal(value.nan_to_num(), shown.nan_to_num())) and bool(
        torch.equal(value.isnan(), shown.isnan())
    )


def _require_dict(entry: Any, where: str) -> None:
    if not isinstance(entry, Mapping):
        raise TypeError(f"{where} must be a dict. Received: {type(entry).__name__}")


def _require_keys(entry: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    known = set(names)
    missing = [name for name in names if name not in entry]
    unknown = [name for name in entry if name not in known]
    if missing or unknown:
        raise KeyError(f"{where} does not match: missing {missing[:5]}, unknown {unknown[:5]}")
