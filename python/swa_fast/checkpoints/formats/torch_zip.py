"""torch's files: a zip archive of a pickle and of one member for each storage.

Read by torch itself with ``mmap=True`` and ``weights_only=True``: nothing is copied, and no pickle
can run code.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import pickle
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..dtypes import BY_LABEL, DType
from ..errors import CheckpointError
from ..files import InputFile
from ..tensors import ELSEWHERE, Checkpoint, Strided, Tensor, Together
from ..zip_files import list_members, member_offset

__all__ = ["Content", "Place", "View", "import_torch", "read_file"]


MODEL_KEYS = (
    "state_dict",
    "state_dict_ema",
    "model",
    "model_state_dict",
    "model_ema",
    "ema",
    "ema_state_dict",
    "module",
    "params",
    "params_ema",
)
"""Where trainers put a model's tensors: timm, fairseq, Lightning, DeepSpeed, BasicSR and others."""


_OPTIMIZER = re.compile(r"^(last_)?optim(izer)?s?(_states?|_history)?(_dicts?)?$|^opt$")
"""Keys at the top of a checkpoint that hold an optimizer's state."""


_PLAIN = (argparse.Namespace,)
"""Classes beside tensors that may be read: making one stores attributes and does nothing else."""


Place = tuple[Any, ...]
"""Where a tensor is in a nested object: keys and indices."""


@dataclass(frozen=True)
class View:
    """A tensor as a view of one storage."""

    path: Place
    tensor: Any
    storage: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: DType

    @property
    def geometry(self) -> tuple[Any, ...]:
        """What it shows of its storage, in elements."""
        return self.offset, self.shape, self.stride

    @property
    def is_plain(self) -> bool:
        """Whether its elements lie one after another in row-major order."""
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and stride != expected:
                return math.prod(self.shape) == 0
            expected *= size
        return True


@dataclass
class Content:
    """What a torch file holds, for its writer."""

    root: Any
    views: dict[str, View]
    left_out: set[Place]


def read_file(path: Path, key: str | None = None, *, keep_optimizer: bool = False) -> Checkpoint:
    """Open a file that ``torch.save`` has written.

    Args:
        path: the file.
        key: the part that is to be averaged, as "model" or "ema.model"; found by itself if None.
        keep_optimizer: carry the optimizer's state over instead of leaving it out.

    Raises:
        CheckpointError: the file is damaged, needs code to be read, or has no such part.
    """
    torch = import_torch(path)
    root = _load(torch, path)
    roots, stripped, left_out = _parts(path, root, key, keep_optimizer)
    file = InputFile(path)
    found = [
        (where, tensor)
        for where, tensor in _tensors(torch, root, ())
        if not any(where[: len(part)] == part for part in left_out)
    ]
    locate = _storage_offsets(torch, file, root)
    views: dict[str, View] = {}
    tensors: dict[str, Tensor] = {}
    carried: dict[str, Tensor] = {}
    for where, tensor in found:
        part = next((part for part in roots if where[: len(part)] == part), None)
        if part is None:
            name, into = ELSEWHERE + _joined(where), carried
        else:
            name, into = _joined(where[stripped:]), tensors
        if name in views:
            raise CheckpointError(f"{path} has two tensors that are both called {name!r}")
        view = _view(torch, path, name, where, tensor)
        views[name] = view
        at = locate(view.storage) + view.offset * view.dtype.itemsize
        if view.is_plain:
            source: Any = Together(file, at)
        else:
            itemsize = view.dtype.itemsize
            strides = tuple(stride * itemsize for stride in view.stride)
            source = Strided(file, at, view.shape, strides, itemsize)
        into[name] = Tensor(name, view.dtype, view.shape, path, source)
    optimizer = [_joined(part) for part in sorted(left_out, key=str)]
    content = Content(root, views, left_out)
    return Checkpoint(path, "torch", tensors, carried, optimizer, {}, [path], content)


def import_torch(path: Path) -> Any:
    """Import torch, to read or write ``path``.

    Raises:
        CheckpointError: it is not installed.
    """
    try:
        import torch
    except ImportError:
        raise CheckpointError(f'{path} needs torch: pip install "swa-fast[torch]"') from None
    return torch


def refuse_code(path: Path, error: Exception) -> CheckpointError:
    """Return the error for a pickle that torch does not read with ``weights_only``."""
    named = re.search(r"GLOBAL ([\w.]+)", str(error)) or re.search(
        r"Unsupported (?:class|global|operand)[^\w]*([\w.]+)", str(error)
    )
    what = f" ({named[1]})" if named else ""
    return CheckpointError(
        f"{path} is a pickle that needs code to be read{what}: it could run anything on this "
        "machine, so it is refused; save the state_dict alone, which has tensors only"
    )


def _load(torch: Any, path: Path) -> Any:
    with path.open("rb") as file:
        if not file.read(4).startswith(b"PK"):
            raise CheckpointError(
                f"{path} is not a zip file of torch 1.6 or newer: load it and torch.save it again"
            )
    members = list_members(path)
    if any("/code/" in name or name.endswith("/constants.pkl") for name in members):
        raise CheckpointError(f"{path} is a TorchScript archive: save the module's state_dict")
    try:
        with _plain_classes(torch):
            return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower() or "GLOBAL" in str(error):
            raise refuse_code(path, error) from None
        raise CheckpointError(f"{path} is not a valid torch file: {_line(error)}") from None
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(f"{path} is not a valid torch file: {_line(error)}") from None


def _plain_classes(torch: Any) -> contextlib.AbstractContextManager[Any]:
    """Let torch read ``_PLAIN`` too, for a block, where it can be told: since torch 2.5."""
    if not hasattr(torch.serialization, "safe_globals"):
        return contextlib.nullcontext()
    known = torch.serialization.get_safe_globals()
    # The block's end takes out all that it is given, so it is given nothing that was there before.
    allowed: contextlib.AbstractContextManager[Any] = torch.serialization.safe_globals(
        [item for item in _PLAIN if item not in known]
    )
    return allowed


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0][:200] if text else type(error).__name__


def _parts(
    path: Path, root: Any, key: str | None, keep_optimizer: bool
) -> tuple[list[Place], int, set[Place]]:
    """Return the model's places, how much of them is not in names, and an optimizer's places."""
    if not isinstance(root, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(root).__name__}: a checkpoint must be a dict with tensors in it"
        )
    optimizer = {(name,) for name in root if isinstance(name, str) and _OPTIMIZER.match(name)}
    left_out = set() if keep_optimizer else optimizer
    if key is not None:
        part = _follow(path, root, key)
        return [part], len(part), left_out
    roots: list[Place] = [
        (name,) for name in root if name in MODEL_KEYS and isinstance(root[name], Mapping)
    ]
    if roots:
        return roots, 1 if len(roots) == 1 else 0, left_out
    return [(name,) for name in root if (name,) not in optimizer], 0, left_out


def _follow(path: Path, root: Any, key: str) -> Place:
    at, found, rest = root, [], key
    while rest:
        if isinstance(at, Mapping) and rest in at:
            found.append(rest)
            return tuple(found)
        head, _, rest = rest.partition(".")
        if not isinstance(at, Mapping) or head not in at or not rest:
            has = ", ".join(map(str, list(root)[:12]))
            raise CheckpointError(f"{path} has no part {key!r}; at the top it has {has}")
        found.append(head)
        at = at[head]
    raise CheckpointError(f"--key must name a part of {path}. Received: {key!r}")


def _tensors(torch: Any, at: Any, where: Place) -> Iterator[tuple[Place, Any]]:
    if isinstance(at, torch.Tensor):
        yield where, at
    elif isinstance(at, Mapping):
        for name, item in at.items():
            yield from _tensors(torch, item, (*where, name))
    elif isinstance(at, (list, tuple)):
        for index, item in enumerate(at):
            yield from _tensors(torch, item, (*where, index))


def _view(torch: Any, path: Path, name: str, where: Place, tensor: Any) -> View:
    label = str(tensor.dtype).removeprefix("torch.")
    dtype = BY_LABEL.get(label)
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested:
        raise CheckpointError(f"{path}: {name!r} is sparse, quantized or nested: it must be dense")
    if dtype is None or dtype.bits % 8 or tensor.device.type != "cpu":
        raise CheckpointError(f"{path}: {name!r} has dtype {label} on {tensor.device}")
    if tensor.is_conj() or tensor.is_neg():
        raise CheckpointError(f"{path}: {name!r} is lazily conjugated: resolve_conj() it first")
    storage = tensor.untyped_storage().data_ptr()
    if tensor.numel() == 0:
        storage = -id(tensor)  # an empty storage has no address
    return View(
        where, tensor, storage, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), dtype
    )


def _storage_offsets(torch: Any, file: InputFile, root: Any) -> Any:
    """Return a function from a storage's address to its place in the file.

    torch maps the whole file at an address that it does not tell. It is found by comparing the
    addresses of all storages with the places of all members.
    """
    members = {
        member_offset(file, member): member.file_size
        for name, member in list_members(file.path).items()
        if "/data/" in name and member.file_size
    }
    storages = {
        storage.data_ptr(): storage.nbytes()
        for _, tensor in _tensors(torch, root, ())
        if tensor.layout is torch.strided
        for storage in [tensor.untyped_storage()]
        if storage.nbytes()
    }
    if not storages:
        return lambda address: 0
    first, size = min(storages.items())
    bases = [
        first - offset
        for offset, length in members.items()
        if length == size
        and all(members.get(at - first + offset) == nbytes for at, nbytes in storages.items())
    ]
    if len(bases) != 1:
        raise CheckpointError(f"{file.path} is damaged: its storages do not have the sizes it says")
    return lambda address: 0 if address < 0 else address - bases[0]


def _joined(where: Place) -> str:
    return ".".join(map(str, where))
