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


# What JAX compiles for one case serves all others with the same model, in every process that a
# test starts: the programs are stored whole, and a fit takes a sixth of the time.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="swa_fast_jax_programs_")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
