"""What an averager refuses, before it writes anything, and in which words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ._parameters import Source, describe_mismatch
from ._swap import Exchange
from ._turn import Turn


class Guarded:
    """The checks of ``WeightAverager``."""

    _averages: list[Any]
    _count: int
    _device: Any
    _exchange: Exchange
    _period: int
    _source: Source
    _start: int
    _step: int
    _turn: Turn

    @property
    def _any_device(self) -> bool:
        return self._device is not None

    @contextlib.contextmanager
    def _explained(self, values: list[Any]) -> Iterator[None]:
        try:
            yield
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            self._require_match(values, error)
            raise

    def _require_match(self, values: list[Any], error: Exception | None = None) -> None:
        mismatch = describe_mismatch(
            self._source.names, self._averages, values, any_device=self._any_device
        )
        if mismatch is not None:
            raise ValueError(f"the parameters do not match the averages: {mismatch}") from error

    def _require_snapshot(self, what: str) -> None:
        if self._count == 0:
            raise RuntimeError(
                f"{what} needs at least one snapshot. Received: none in {self._step} calls of "
                f"update() (start={self._start}, period={self._period})"
            )

    def _begin(self, what: str) -> None:
        """Takes the turn for a call that is refused while swapped."""
        self._require_not_swapped(what)  # also first, as it tells more
        self._turn.begin(what)
        if self._exchange.active:
            self._turn.end()
            self._require_not_swapped(what)

    @contextlib.contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        self._begin(what)
        try:
            yield
        finally:
            self._turn.end()

    def _require_not_swapped(self, what: str) -> None:
        if self._exchange.active:
            raise RuntimeError(
                f"{what} is refused while the averages are swapped into the parameters: swap back "
                "first"
            )
