"""Which frameworks take part in a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .competitors import Peer


@dataclass
class Lineup:
    """The peers of a run.

    Attributes:
        wanted: all that the user wants to see.
        modules: of those that take part, by name.
        frameworks: version of each that takes part, or why it does not.
    """

    wanted: list[Peer]
    modules: dict[str, Any] = field(default_factory=dict)
    frameworks: dict[str, str] = field(default_factory=dict)

    def load(self, peer: Peer, threads: int) -> None:
        """Import one peer. A broken installation costs the run its rows, not its life."""
        if not peer.installed:
            self.frameworks[peer.name] = "not installed"
            return
        try:
            module = peer.module()
            self.frameworks[peer.name] = module.prepare(threads)
            self.modules[peer.name] = module
        except Exception as error:
            # What a framework raises while it is imported is its own affair, and worth one line.
            reason = next(iter(str(error).splitlines()), "")
            self.frameworks[peer.name] = f"import failed: {type(error).__name__}: {reason}"[:120]
