"""Imported before TensorFlow by pytest and by the processes that tests start."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import shutil
import tempfile

# A torch with CUDA brings triton and imports it late, with torch's first optimizer. After
# TensorFlow 2.21 that is a segmentation fault, with or without swa_fast. This order works.
with contextlib.suppress(ImportError):
    importlib.import_module("triton._C.libtriton")


def _remove(directory: str, owner: int) -> None:
    if os.getpid() == owner:  # and not a child that was forked
        shutil.rmtree(directory, ignore_errors=True)


# What JAX compiles for one case serves all others with the same model, in every process that a
# test starts: the programs are stored whole, and a fit takes a sixth of the time.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="swa_fast_jax_programs_")
    atexit.register(_remove, os.environ["JAX_COMPILATION_CACHE_DIR"], os.getpid())
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
