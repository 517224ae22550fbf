"""The build backend: scikit-build-core's, and an sdist says which commit it was made from.

`pip` and `build` call the functions here by the names that PEP 517 and PEP 660 give them. An sdist
has no git in it, so `build_sdist` writes the commit to the file COMMIT, which CMake reads first:
`swa_fast.build_info()["commit"]` then names the same commit for a wheel built from the sdist.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from scikit_build_core import build as _backend
from scikit_build_core.build import (
    build_editable,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

_ROOT = Path(__file__).parents[1]
_COMMIT = _ROOT / "COMMIT"
_DESCRIBE = ("describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+changes")


def _described() -> str | None:
    """The commit as cmake/commit.cmake asks for it; None where the tree is not a checkout."""
    if not (_ROOT / ".git").exists():
        return None
    done = subprocess.run(
        ["git", "-c", f"safe.directory={_ROOT}", "-C", str(_ROOT), *_DESCRIBE],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() if done.returncode == 0 else None


def build_sdist(
    sdist_directory: str, config_settings: dict[str, list[str] | str] | None = None
) -> str:
    """Builds the sdist with the file COMMIT in it, which is removed again from a checkout.

    Args:
        sdist_directory: where the sdist goes.
        config_settings: as the frontend gives them.

    Returns:
        The name of the sdist.
    """
    commit = _described()
    if commit is None:  # an sdist made from an sdist keeps what it has
        return _backend.build_sdist(sdist_directory, config_settings)
    _COMMIT.write_text(commit + "\n", encoding="utf-8")
    try:
        return _backend.build_sdist(sdist_directory, config_settings)
    finally:
        _COMMIT.unlink()
