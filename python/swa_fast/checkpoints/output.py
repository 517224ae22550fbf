"""An output that appears complete or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from .errors import CheckpointError
from .formats import FOLDER_FORMATS, is_checkpoint

__all__ = [
    "check_free_space",
    "new_output",
    "refuse_existing",
    "refuse_files",
    "refuse_inputs",
    "refuse_other_kind",
]

_AT_FDCWD = -100
_EXCHANGE = 2


@contextlib.contextmanager
def new_output(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a path beside ``target`` to write to, and rename it when the block has ended.

    A lock, which the system takes back from a process that dies, keeps a second writer out. What a
    killed writer has left is deleted by the next one. If the block raises, ``target`` is as it was.

    Args:
        target: the file or folder to make; its folder must exist.
        overwrite: replace what is there.

    Raises:
        CheckpointError: ``target`` exists, its folder does not, or another process writes it.
    """
    parent = target.parent
    if not parent.is_dir():
        raise CheckpointError(f"the folder of the output is not there: {parent}")
    refuse_existing(target, overwrite=overwrite)
    partial = parent / f".{target.name}.partial"
    with _lock(parent / f".{target.name}.lock", target):
        _remove(partial)
        for left in parent.glob(f".{_escaped(target.name)}.partial.*"):
            _remove(left)
        try:
            yield partial
            refuse_existing(target, overwrite=overwrite)
            _put(partial, target)
        finally:
            _remove(partial)
            for left in parent.glob(f".{_escaped(target.name)}.partial.*"):
                _remove(left)


def refuse_existing(target: Path, *, overwrite: bool) -> None:
    """Raise CheckpointError if ``target`` exists, unless it is to be overwritten."""
    if not overwrite and os.path.lexists(target):
        raise CheckpointError(f"{target} exists: --overwrite replaces it")


def refuse_inputs(target: Path, inputs: Sequence[Path]) -> None:
    """Raise CheckpointError if ``target`` is an input, lies in one or holds one, or has no folder.

    Links are followed: the files that are meant count.
    """
    real = Path(os.path.realpath(target))
    for path in inputs:
        source = Path(os.path.realpath(path))
        if real == source or (source.is_dir() and source in real.parents):
            raise CheckpointError(f"the output {target} is the input {path}, or inside it")
        if real in source.parents:
            raise CheckpointError(f"the input {path} is inside the output {target}")
    if not target.parent.is_dir():
        raise CheckpointError(f"the folder of the output is not there: {target.parent}")


def refuse_other_kind(target: Path, named: str | os.PathLike[str], kind: str) -> None:
    """Raise CheckpointError if a file would replace a folder, or a folder a file or a run."""
    if kind not in FOLDER_FORMATS:
        if target.is_dir() or os.fspath(named).endswith(os.sep):
            word = "is a folder" if target.is_dir() else "names a folder"
            raise CheckpointError(f"{named} {word}, and a {kind} is a file")
        return
    if not target.exists():
        return
    if not target.is_dir():
        raise CheckpointError(f"{named} is a file, and the output is a folder ({kind})")
    if any(item.is_dir() for item in target.iterdir()):
        raise CheckpointError(f"{named} has folders in it, which --overwrite would delete")
    if any(target.iterdir()) and not is_checkpoint(target):
        raise CheckpointError(f"{named} is no checkpoint: --overwrite would delete other files")


def refuse_files(target: Path, checkpoint: Path, files: Sequence[Path]) -> None:
    """Raise CheckpointError if ``target`` is one of a checkpoint's files, or holds one."""
    real = Path(os.path.realpath(target))
    for file in files:
        source = Path(os.path.realpath(file))
        if real == source:
            raise CheckpointError(f"the output {target} is a file of the input {checkpoint}")
        if real in source.parents:
            raise CheckpointError(f"the input {file} is inside the output {target}")


def check_free_space(folder: Path, needed: int) -> None:
    """Raise CheckpointError if the disk of ``folder`` has fewer free bytes than ``needed``."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CheckpointError(
            f"{needed:,} bytes are needed in {folder}, and {free:,} are free: nothing was written"
        )


@contextlib.contextmanager
def _lock(path: Path, target: Path) -> Iterator[None]:
    import fcntl

    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise CheckpointError(f"another process is writing {target}") from None
        # Whoever had the lock may have deleted the file between the two calls.
        try:
            is_current = os.path.samestat(os.fstat(fd), path.stat())
        except FileNotFoundError:
            is_current = False
        if is_current:
            break
        os.close(fd)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(fd)


def _put(partial: Path, target: Path) -> None:
    if not target.is_dir() or target.is_symlink():
        partial.replace(target)  # POSIX: atomic, for a file and for a folder that is new
        return
    if _exchange(partial, target):
        _remove(partial)
        return
    aside = target.with_name(f".{target.name}.partial.old")
    target.rename(aside)
    try:
        partial.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    _remove(aside)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two names at once, where the system can: Linux, most file systems."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    done = rename(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _EXCHANGE)
    return int(done) == 0


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _escaped(name: str) -> str:
    import glob

    return glob.escape(name)
