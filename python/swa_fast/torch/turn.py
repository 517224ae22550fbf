"""Whose turn it is with an averager: one thread's at a time, and mostly not while swapped."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from .swap import Exchange


class Turn:
    """Lets one call at a time use an averager; a check and what follows from it stay together.

    The fused calls release the interpreter lock, so without it two threads could both find the
    averages not swapped in, and both swap.

    Args:
        exchange: tells whether the averages are swapped into the parameters.
    """

    def __init__(self, exchange: Exchange) -> None:
        """Is nobody's yet."""
        self._exchange = exchange
        self._lock = threading.Lock()
        self.release = self._lock.release

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy is nobody's."""
        return Turn, (self._exchange,)

    def take(self, what: str) -> None:
        """Takes the turn for the call ``what``; to be given back by ``release``.

        Raises:
            RuntimeError: another call is under way.
        """
        if not self._lock.acquire(False):
            raise RuntimeError(
                f"{what} is refused while another call of the same averager is under way: let one "
                "thread at a time use it"
            )

    def take_unswapped(self, what: str) -> None:
        """Takes the turn for a call that is refused while the averages are swapped in.

        Raises:
            RuntimeError: they are, or another call is under way.
        """
        if self._exchange.active:
            self.require_unswapped(what)  # first, as it tells more
        if not self._lock.acquire(False):
            self.take(what)
        if self._exchange.active:
            self.release()
            self.require_unswapped(what)

    def wait(self) -> None:
        """Takes the turn when it is free: for what must happen, as swapping back."""
        self._lock.acquire()

    @contextlib.contextmanager
    def alone(self, what: str) -> Iterator[None]:
        """Context of ``take_unswapped``."""
        self.take_unswapped(what)
        try:
            yield
        finally:
            self.release()

    def require_unswapped(self, what: str) -> None:
        """Refuses the call ``what`` while the averages are swapped in.

        Raises:
            RuntimeError: they are.
        """
        if self._exchange.active:
            raise RuntimeError(
                f"{what} is refused while the averages are swapped into the parameters: swap back "
                "first"
            )
