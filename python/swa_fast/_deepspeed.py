"""Parameters that DeepSpeed's ZeRO-3 has sharded, which cannot be averaged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def require_whole(parameters: Iterable[tuple[str, Any]]) -> None:
    """Raises ValueError where a parameter has only values while a layer of it runs.

    ZeRO-3 marks such parameters with ``ds_id``. Between their uses they are empty, and an average
    of them would be, too.

    Args:
        parameters: what each is called in the error, and the parameter.
    """
    for name, parameter in parameters:
        if hasattr(parameter, "ds_id"):
            raise ValueError(
                f"{name} is sharded by DeepSpeed ZeRO-3 and is empty between its uses, so it "
                "cannot be averaged: train with ZeRO-2 or FSDP2"
            )


def require_whole_module(module: Any) -> None:
    """As ``require_whole``, of a module's parameters."""
    require_whole((f"parameter {name!r}", tensor) for name, tensor in module.named_parameters())
