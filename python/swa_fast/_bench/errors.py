"""The two ways in which a benchmark run ends early."""

from __future__ import annotations


class UserError(Exception):
    """Something the user asked for cannot be done; the message is one sentence. Exit code 2."""


class CheckError(Exception):
    """The fused result is not bit-identical to NumPy's. Exit code 1."""
