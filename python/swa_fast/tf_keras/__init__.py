"""Weight averaging for legacy Keras (tf_keras)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._batch_norm import update_bn

__all__ = ["update_bn"]


def __getattr__(name: str) -> Any:
    if name == "update_bn":
        from ._batch_norm import update_bn

        return update_bn
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
