"""The callback's state, and the file it lives in between two runs."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

import numpy as np

from .averages import Array

_FORMAT = 1


class State(TypedDict):
    """All that a resumed `fit` needs to go on as if it had never stopped.

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


def check(state: Any) -> State:
    """Returns a state with arrays of its own.

    Raises:
        TypeError: it is not a dict.
        ValueError: a key is missing or unknown, or the count does not fit the averages.
    """
    if not isinstance(state, dict):
        raise TypeError(f"state must be a dict. Received: {type(state).__name__}")
    expected = set(State.__annotations__)
    if set(state) != expected:
        raise ValueError(
            f"state must have the keys {sorted(expected)}. Received: {sorted(map(str, state))}"
        )
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


def save(path: str | os.PathLike[str], state: State) -> None:
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
    arrays = {f"average_{index}": array for index, array in enumerate(state["averages"])}
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=target.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, header=np.array(json.dumps(header)), **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load(path: str | os.PathLike[str]) -> State:
    """Returns the state that `save` wrote to `path`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not one of ours.
    """
    try:
        with Path(path).open("rb") as stream, _archive(stream) as file:
            header = json.loads(str(file["header"]))
            averages = [file[f"average_{index}"] for index in range(len(file.files) - 1)]
        found = header.pop("format", None)
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
    return state


def _archive(stream: BinaryIO) -> Any:
    if not zipfile.is_zipfile(stream):  # for which NumPy would recommend to unpickle it
        raise ValueError("it is no whole .npz archive")
    stream.seek(0)
    return np.load(stream, allow_pickle=False)


def save_backup(path: str | os.PathLike[str], state: State) -> None:
    """Saves `state`, and keeps the one before it as well.

    A model's own backup is another file: whichever of the two is written last when a run is killed,
    one of ours fits it.
    """
    if Path(path).exists():
        os.replace(path, _previous(path))
    save(path, state)


def backups(path: str | os.PathLike[str]) -> list[State]:
    """Returns the states that `save_backup` left, newest first."""
    return [load(file) for file in (Path(path), _previous(path)) if file.exists()]


def delete_backups(path: str | os.PathLike[str]) -> None:
    """Deletes what `save_backup` wrote."""
    for file in (Path(path), _previous(path)):
        file.unlink(missing_ok=True)


def _previous(path: str | os.PathLike[str]) -> Path:
    return Path(f"{os.fspath(path)}.previous")
