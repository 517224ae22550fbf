"""Keeps a chatty library's start-up messages off the terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Send everything written to file descriptor 2 to nowhere while the block runs.

    TensorFlow's C++ side logs to the descriptor before any setting of its log level takes effect,
    so `sys.stderr` alone is not enough. Python exceptions pass through as always.
    """
    sys.stderr.flush()
    try:
        saved = os.dup(2)
    except OSError:
        # No standard error to silence (a detached process).
        yield
        return
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)
