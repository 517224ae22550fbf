"""What the trainers' tests share.

A test whose package is not installed is skipped; where SWA_FAST_REQUIRE_LIBRARIES is set, as in CI,
a package that is missing fails all.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator

import pytest

if os.environ.get("SWA_FAST_REQUIRE_LIBRARIES"):
    for name in ("accelerate", "peft", "transformers", "trl"):
        importlib.import_module(name)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Layers this small only wait for a second thread."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
