"""Imported before TensorFlow by pytest and by the processes that tests start."""

from __future__ import annotations

import contextlib
import importlib

# A torch with CUDA brings triton and imports it late, with torch's first optimizer. After
# TensorFlow 2.21 that is a segmentation fault, with or without swa_fast. This order works.
with contextlib.suppress(ImportError):
    importlib.import_module("triton._C.libtriton")
