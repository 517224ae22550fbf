"""An ``SWA``'s averages in the form that torch knows of an optimizer's state.

torch's functions for checkpoints build ``{"state", "param_groups"}`` themselves, and drop all else.
So each average is an entry of its parameter's state, and the counters are in the groups.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import torch

AVERAGE = "swa_average"
WEIGHT = "swa_weight"
_STEP, _COUNT, _SKIPPED, _SWAPPED = "swa_step", "swa_count", "swa_skipped", "swa_swapped"

_OURS = frozenset((AVERAGE, WEIGHT, _STEP, _COUNT, _SKIPPED, _SWAPPED))


def _key(entry: str, name: str) -> str:
    return f"{entry}:{name}" if name else entry


def counters_of(averager_state: Mapping[str, Any]) -> dict[str, int]:
    """Returns the entries of a parameter group for the counters of a ``WeightAverager``'s state."""
    counts = _by_name(averager_state, "counts", "count")
    skipped = _by_name(averager_state, "skipped", "skipped")
    entries = {_STEP: averager_state["step"]}
    entries |= {_key(_COUNT, name): count for name, count in counts.items()}
    entries |= {_key(_SKIPPED, name): number for name, number in skipped.items()}
    entries[_SWAPPED] = int("weights" in averager_state)
    return entries


def tensors_of(averager_state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the entries of each parameter's state, in the order of the averages."""
    averages = _by_name(averager_state, "averages", "averages")
    rows = [
        dict(zip([_key(AVERAGE, name) for name in averages], row, strict=True))
        for row in zip(*(named.values() for named in averages.values()), strict=True)
    ]
    weights = averager_state.get("weights", {})
    for row, weight in zip(rows, weights.values(), strict=bool(weights)):
        row[WEIGHT] = weight
    return rows


def _by_name(state: Mapping[str, Any], several: str, single: str) -> dict[str, Any]:
    return dict(state[several]) if "counts" in state else {"": state[single]}


def is_ours(key: Any) -> bool:
    """Tells whether an entry of a state or of a group is one of these."""
    return isinstance(key, str) and key.split(":", 1)[0] in _OURS


def with_averages(
    state_dict: dict[str, Any], rows: Sequence[dict[str, Any]], positions: Sequence[int]
) -> dict[str, Any]:
    """Returns an optimizer's state with the entries of each parameter added.

    Args:
        state_dict: of the optimizer.
        rows: the entries of each average.
        positions: which average belongs to each parameter, in the order of the groups.
    """
    state = dict(state_dict["state"])
    identifiers = _identifiers(state_dict)
    for identifier, position in zip(identifiers, positions, strict=True):
        state[identifier] = {**state.get(identifier, {}), **rows[position]}
    return {**state_dict, "state": state}


def without_averages(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the optimizer's part of a state."""
    state = {}
    for identifier, entries in state_dict["state"].items():
        rest = {key: value for key, value in entries.items() if not is_ours(key)}
        if rest or not entries:
            state[identifier] = rest
    groups = [
        {key: value for key, value in group.items() if not is_ours(key)}
        for group in state_dict["param_groups"]
    ]
    return {**state_dict, "state": state, "param_groups": groups}


def averager_state_of(
    state_dict: Mapping[str, Any],
    parameters: Sequence[Any],
    positions: Sequence[int],
    current: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns a ``WeightAverager``'s state from the entries of a saved optimizer state.

    Args:
        state_dict: what was given to load.
        parameters: of the optimizer that it is loaded into, in the order of the groups.
        positions: which average belongs to each of them.
        current: the state of the ``WeightAverager`` that it is for, as it is.

    Raises:
        KeyError: an average or a counter is missing.
        ValueError: there is another number of parameters.
    """
    saved = state_dict.get("state", {})
    if not any(map(is_ours, (key for entries in saved.values() for key in entries))):
        raise KeyError(
            f"state_dict must hold {AVERAGE!r} in each parameter's state, as saved by "
            f"swa_fast.torch.SWA. Received: {list(state_dict)} without; load the state of a plain "
            "optimizer into .optimizer"
        )
    identifiers = _identifiers(state_dict)
    if len(identifiers) != len(parameters):
        raise ValueError(
            f"state_dict must have the {len(parameters)} parameters of this optimizer. Received: "
            f"{len(identifiers)}"
        )
    each = [
        (saved.get(identifier, {}), parameter, position)
        for identifier, parameter, position in zip(identifiers, parameters, positions, strict=True)
    ]
    averages = {
        key: _column(each, _key(AVERAGE, key), named)
        for key, named in _by_name(current, "averages", "averages").items()
    }
    counters: Mapping[str, Any] = next(
        (group for group in state_dict["param_groups"] if _STEP in group), {}
    )
    result: dict[str, Any] = {"step": _number(counters, _STEP)}
    if "counts" in current:
        result["averages"] = averages
        result["counts"] = {key: _number(counters, _key(_COUNT, key)) for key in averages}
        result["skipped"] = {key: _number(counters, _key(_SKIPPED, key)) for key in averages}
    else:
        result["averages"] = averages[""]
        result["count"] = _number(counters, _COUNT)
        result["skipped"] = _number(counters, _SKIPPED)
    if counters.get(_SWAPPED):
        names = next(iter(averages.values()))
        values = {name: parameters[positions.index(i)] for i, name in enumerate(names)}
        result["weights"] = _column(each, WEIGHT, values)
    return result


def left_out(state_dict: Mapping[str, Any], parameters: Sequence[Any]) -> list[Any]:
    """Returns the frozen parameters that have no average in a saved state.

    torch's functions leave out what belongs to a parameter that needs no gradient. Its average is
    its value, which may be loaded after the optimizer's state.
    """
    saved = state_dict["state"]
    return [
        parameter
        for identifier, parameter in zip(_identifiers(state_dict), parameters, strict=True)
        if not parameter.requires_grad
        and not any(key.split(":", 1)[0] == AVERAGE for key in saved.get(identifier, {}))
    ]


def _column(
    each: Sequence[tuple[Mapping[str, Any], Any, int]], key: str, like: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns one entry of every parameter's state, by names, with the dtypes of ``like``."""
    names = list(like)
    column: dict[str, Any] = {}
    for entries, parameter, position in each:
        name = names[position]
        if key in entries:
            column[name] = entries[key]
        elif not parameter.requires_grad:
            # Its average is its value; see left_out.
            column[name] = parameter.detach().to(like[name].dtype)
        else:
            raise KeyError(f"state_dict has no {key!r} for parameter {name!r}")
    return column


def _number(counters: Mapping[str, Any], key: str) -> int:
    if key not in counters:
        raise KeyError(f"state_dict has no {key!r} in its parameter groups")
    value = counters[key]
    return int(value) if isinstance(value, torch.Tensor) else value


def _identifiers(state_dict: Mapping[str, Any]) -> list[Any]:
    return [one for group in state_dict["param_groups"] for one in group["params"]]


class StateView(MutableMapping[Any, Any]):
    """An optimizer's live state, in which each parameter has the entries of its average too.

    torch's functions read here which entries a flattened state should have. Writes go to the
    optimizer.
    """

    def __init__(self, state: Any, rows: Mapping[int, dict[str, Any]]) -> None:
        """Takes the optimizer's state, and the entries by the id of the parameter."""
        self._state, self._rows = state, rows

    def __getitem__(self, parameter: Any) -> Any:
        """Returns the entries of a parameter."""
        return ChainMap(self._state[parameter], self._rows.get(id(parameter), {}))

    def __setitem__(self, parameter: Any, entries: Any) -> None:
        """Sets the optimizer's entries of a parameter."""
        self._state[parameter] = entries

    def __delitem__(self, parameter: Any) -> None:
        """Deletes the optimizer's entries of a parameter."""
        del self._state[parameter]

    def __iter__(self) -> Iterator[Any]:
        """Yields the parameters that the optimizer has entries for."""
        return iter(self._state)

    def __len__(self) -> int:
        """Returns for how many parameters the optimizer has entries."""
        return len(self._state)
