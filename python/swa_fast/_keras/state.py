"""The state of a callback that averages, and the file it lives in between two runs."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

import numpy as np

from ..average import Average
from .runtime import Array

_FORMAT = 1


class State(TypedDict):
    """All that a resumed `fit` of `SWA` needs to go on as if it had never stopped.

    Attributes:
        averages: one array for each floating-point weight, in the model's order.
        count: snapshots in them.
        epochs: epochs completed.
        steps: batches completed.
        start_step: the batch at which averaging by batch began, or None.
        rates: initial, lower and upper learning rate, or None before training.
    """

    averages: list[Array]
    count: int
    epochs: int
    steps: int
    start_step: int | None
    rates: list[float | None] | None


class NamedState(TypedDict):
    """All that a resumed `fit` of `Averages` needs to go on as if it had never stopped.

    Attributes:
        averages: by name, one array for each floating-point weight, in the model's order; none
            before the average's first snapshot.
        counts: snapshots in each.
        config: how each is taken, as `Average.to_dict` says it.
        steps: batches completed.
        epochs: epochs completed.
    """

    averages: dict[str, list[Array]]
    counts: dict[str, int]
    config: dict[str, Any]
    steps: int
    epochs: int


def check(state: Any) -> State:
    """Returns a state of `SWA` with arrays of its own.

    Raises:
        TypeError: it is not a dict.
        ValueError: a key is missing or unknown, or the count does not fit the averages.
    """
    _check_keys(state, set(State.__annotations__))
    averages = [np.array(array, order="C") for array in state["averages"]]
    if (state["count"] > 0) != bool(averages):
        raise ValueError(
            f"state must have averages if and only if count > 0. Received: count={state['count']} "
            f"with {len(averages)} averages"
        )
    return State(
        averages=averages,
        count=int(state["count"]),
        epochs=int(state["epochs"]),
        steps=int(state["steps"]),
        start_step=None if state["start_step"] is None else int(state["start_step"]),
        rates=None if state["rates"] is None else list(state["rates"]),
    )


def check_named(state: Any, described: Mapping[str, Average]) -> NamedState:
    """Returns a state of `Averages` with arrays of its own.

    Args:
        state: from `get_state`, or from a file.
        described: the averages of the callback that goes on from it.

    Raises:
        TypeError: it is not a dict.
        ValueError: a key is missing or unknown, it has other averages, or counts do not fit.
    """
    _check_keys(state, set(NamedState.__annotations__))
    names = list(described)
    for key in ("averages", "counts", "config"):
        found = list(state[key]) if isinstance(state[key], Mapping) else state[key]
        if not isinstance(state[key], Mapping) or set(found) != set(names):
            raise ValueError(f"state[{key!r}] must be a dict of {names}. Received: {found!r}")
    for name, average in described.items():
        if state["config"][name] != average.to_dict():
            raise ValueError(
                f"the state was saved with another schedule: average {name!r} is "
                f"{average.to_dict()} here. Received: {state['config'][name]}"
            )
        if (state["counts"][name] > 0) != bool(state["averages"][name]):
            raise ValueError(
                f"state['averages'][{name!r}] must have arrays if and only if its count > 0. "
                f"Received: count={state['counts'][name]} with "
                f"{len(state['averages'][name])} arrays"
            )
    return NamedState(
        averages={
            name: [np.array(array, order="C") for array in state["averages"][name]]
            for name in names
        },
        counts={name: int(state["counts"][name]) for name in names},
        config=dict(state["config"]),
        steps=int(state["steps"]),
        epochs=int(state["epochs"]),
    )


def _check_keys(state: Any, expected: set[str]) -> None:
    if not isinstance(state, dict):
        raise TypeError(f"state must be a dict. Received: {type(state).__name__}")
    if set(state) != expected:
        raise ValueError(
            f"state must have the keys {sorted(expected)}. Received: {sorted(map(str, state))}"
        )


def save(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Writes `state` as an `.npz` file: whole, or not at all.

    Args:
        path: where to; a file that is there is replaced only when the new one is complete.
        state: what to write.
    """
    target = Path(path)
    header = {
        "format": _FORMAT,
        **{key: value for key, value in state.items() if key != "averages"},
    }
    averages = state["averages"]
    if isinstance(averages, Mapping):  # of several names, whose numbers of arrays may be 0
        header["lengths"] = {name: len(arrays) for name, arrays in averages.items()}
        averages = [array for arrays in averages.values() for array in arrays]
    arrays = {f"average_{index}": array for index, array in enumerate(averages)}
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=target.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, header=np.array(json.dumps(header)), **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load(
    path: str | os.PathLike[str], check: Callable[[dict[str, Any]], Any] = check
) -> dict[str, Any]:
    """Returns the state that `save` wrote to `path`.

    Args:
        path: of the file.
        check: returns the state it is given if that is one of the callback that reads it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not one of ours.
    """
    try:
        with Path(path).open("rb") as stream, _archive(stream) as file:
            header = json.loads(str(file["header"]))
            averages: Any = [file[f"average_{index}"] for index in range(len(file.files) - 1)]
        found = header.pop("format", None)
        if "lengths" in header:
            each = iter(averages)
            averages = {
                name: [next(each) for _ in range(length)]
                for name, length in header.pop("lengths").items()
            }
        state = check({"averages": averages, **header}) if found == _FORMAT else None
    except FileNotFoundError:
        raise
    except Exception as error:  # damage shows in every module that reading goes through
        raise ValueError(
            f"{str(path)!r} is not a state that swa_fast saved. "
            f"Received: a file that gives {type(error).__name__}: {error}"
        ) from error
    if state is None:
        raise ValueError(f"{str(path)!r} must have format {_FORMAT}. Received: {found}")
    return state  # type: ignore[no-any-return]


def _archive(stream: BinaryIO) -> Any:
    if not zipfile.is_zipfile(stream):  # for which NumPy would recommend to unpickle it
        raise ValueError("it is no whole .npz archive")
    stream.seek(0)
    return np.load(stream, allow_pickle=False)


def save_backup(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Saves `state`, and keeps the one before it as well.

    A model's own backup is another file: whichever of the two is written last when a run is killed,
    one of ours fits it.
    """
    if Path(path).exists():
        os.replace(path, _previous(path))
    save(path, state)


def backups(
    path: str | os.PathLike[str], check: Callable[[dict[str, Any]], Any] = check
) -> list[dict[str, Any]]:
    """Returns the states that `save_backup` left, newest first."""
    return [load(file, check) for file in (Path(path), _previous(path)) if file.exists()]


def delete_backups(path: str | os.PathLike[str]) -> None:
    """Deletes what `save_backup` wrote."""
    for file in (Path(path), _previous(path)):
        file.unlink(missing_ok=True)


def _previous(path: str | os.PathLike[str]) -> Path:
    return Path(f"{os.fspath(path)}.previous")
