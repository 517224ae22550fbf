"""One call at a time: a check and what follows from it must not be parted by another thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Turn:
    """Held by the call that changes an averager; whoever comes meanwhile is refused.

    The fused calls release the interpreter lock, so without it two threads could both find the
    averages not swapped in, and both swap.
    """

    def __init__(self) -> None:
        """Starts with nobody's turn."""
        self._lock = threading.Lock()
        self.end: Callable[[], None] = self._lock.release

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy starts with nobody's turn."""
        return Turn, ()

    def begin(self, what: str) -> None:
        """Takes the turn, to be given back by ``end``.

        Raises:
            RuntimeError: another call, of another thread, has it.
        """
        if not self._lock.acquire(blocking=False):
            raise RuntimeError(
                f"{what} is refused while another call of the same averager is under way: let one "
                "thread at a time use it"
            )

    def await_(self) -> None:
        """Takes the turn when it is free, to be given back by ``end``."""
        self._lock.acquire()
