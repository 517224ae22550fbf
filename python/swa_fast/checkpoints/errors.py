"""The error for checkpoints that cannot be used; its message is one sentence."""

from __future__ import annotations

__all__ = ["CheckpointError", "require_checkpoints"]


class CheckpointError(ValueError):
    """A checkpoint, an option or an output that cannot be used; nothing was written.

    The message says the rule, what was found and in which file. Running out of disk space and
    other failures of the system stay ``OSError``.
    """


def require_checkpoints(count: int) -> None:
    """Raise CheckpointError if there are no checkpoints."""
    if count < 1:
        raise CheckpointError(f"at least 1 checkpoint is needed. Received: {count}")
