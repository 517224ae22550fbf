"""torch's files: a zip archive of a pickle and of one member for each storage.

Read by torch itself with ``mmap=True`` and ``weights_only=True``: nothing is copied, and no pickle
can run code. Written here in the same form, because ``torch.save`` needs all tensors at once: the
pickle is made from the last input's object with other storages, then the storages follow one by
one.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..dtypes import BY_LABEL, DType
from ..errors import CheckpointError
from ..mapped import MappedFile
from ..tensors import ELSEWHERE, Bytes, Checkpoint, Mapped, Strided, Tensor
from ..zip_files import ZipWriter, list_members, member_offset, overhead
from .writer import PROVENANCE, Job, Scratch

__all__ = ["TorchWriter", "read_file"]

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

_ARCHIVE = "archive"

_Path = tuple[Any, ...]


@dataclass(frozen=True)
class View:
    """A tensor as a view of one storage."""

    path: _Path
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
    left_out: set[_Path]


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
    mapped = MappedFile(path)
    found = [
        (where, tensor)
        for where, tensor in _tensors(torch, root, ())
        if not any(where[: len(part)] == part for part in left_out)
    ]
    locate = _storage_offsets(torch, mapped, root)
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
            source: Any = Mapped(mapped, at)
        else:
            itemsize = view.dtype.itemsize
            strides = tuple(stride * itemsize for stride in view.stride)
            source = Strided(mapped, at, view.shape, strides, itemsize)
        into[name] = Tensor(name, view.dtype, view.shape, path, source)
    optimizer = [_joined(part) for part in sorted(left_out, key=str)]
    content = Content(root, views, left_out)
    return Checkpoint(path, "torch", tensors, carried, optimizer, {}, [path], content)


class TorchWriter:
    """Writes a torch file in one pass; see ``Writer``."""

    def __init__(self, job: Job) -> None:
        """See the class."""
        self._torch = import_torch(job.template.path)
        self._job = job
        content: Content = job.template.extra
        self._storages: list[_Storage] = []
        self._of_name: dict[str, _Storage] = {}
        outputs = {**job.tensors, **job.carried}
        groups: dict[int, list[str]] = {}
        for name in outputs:
            groups.setdefault(content.views[name].storage, []).append(name)
        for names in groups.values():
            views = {name: content.views[name] for name in names}
            shared = len(names) == 1 or _is_shared_everywhere(views, job.inputs[:-1])
            for members in [names] if shared else [[name] for name in names]:
                self._add({name: views[name] for name in members}, outputs[members[0]].dtype)
        self.order = [name for storage in self._storages for name in storage.order]
        self._pickle = self._pickled(content)
        members = [storage.member for storage in self._storages]
        scratch = max(
            (storage.nbytes for storage in self._storages if not storage.is_plain), default=0
        )
        self.size = (
            sum(storage.nbytes for storage in self._storages)
            + scratch
            + len(self._pickle)
            + len(job.provenance)
            + overhead([*members, *["archive/version"] * 4])
        )
        self._zip: ZipWriter | None = None
        self._current: _Storage | None = None
        self._scratch: Scratch | None = None
        self._written = 0

    def write(self, name: str, data: Bytes) -> None:
        """See ``Writer``."""
        storage = self._of_name[name]
        if storage is not self._current:
            self._end_storage()
            self._begin_storage(storage)
        if self._scratch is None:
            self._archive().write(data)
            return
        if storage.at != name:
            storage.at, self._written = name, 0
        view = storage.views[name]
        itemsize = storage.dtype.itemsize
        strides = tuple(stride * itemsize for stride in view.stride)
        target = self._scratch.view(view.offset * itemsize, view.shape, strides, itemsize)
        items = data.view(target.dtype)
        target.flat[self._written : self._written + len(items)] = items
        self._written += len(items)

    def finish(self, *, durable: bool) -> None:
        """See ``Writer``."""
        self._end_storage()
        archive = self._archive()
        archive.add(f"{_ARCHIVE}/version", b"3\n")
        archive.add(f"{_ARCHIVE}/{PROVENANCE}.json", self._job.provenance.encode())
        archive.finish(durable=durable)

    def abandon(self) -> None:
        """See ``Writer``."""
        if self._scratch is not None:
            self._scratch.close()
        if self._zip is not None:
            self._zip.abandon()

    def _add(self, views: dict[str, View], dtype: DType) -> None:
        distinct: dict[tuple[Any, ...], str] = {}
        for name, view in views.items():
            distinct.setdefault(view.geometry, name)
        first = next(iter(views.values()))
        if len(distinct) == 1 and first.is_plain:
            plain = {name: replace(view, offset=0) for name, view in views.items()}
            storage = _Storage(len(self._storages), dtype, math.prod(first.shape), plain, True, [])
        else:
            elements = first.tensor.untyped_storage().nbytes() // first.dtype.itemsize
            storage = _Storage(len(self._storages), dtype, elements, views, False, [])
        storage.order.extend(distinct.values())
        self._storages.append(storage)
        for name in views:
            self._of_name[name] = storage

    def _archive(self) -> ZipWriter:
        if self._zip is None:
            self._zip = ZipWriter(self._job.path)
            self._zip.add(f"{_ARCHIVE}/data.pkl", self._pickle)
            self._zip.add(f"{_ARCHIVE}/byteorder", b"little")
        return self._zip

    def _begin_storage(self, storage: _Storage) -> None:
        self._current = storage
        if storage.is_plain:
            self._archive().begin(storage.member)
            return
        beside = self._job.path.with_name(f"{self._job.path.name}.scratch")
        self._scratch = Scratch(beside, storage.nbytes)

    def _end_storage(self) -> None:
        storage, self._current = self._current, None
        if storage is not None and self._scratch is not None:
            scratch, self._scratch = self._scratch, None
            self._archive().copy(storage.member, MappedFile(scratch.path), 0, storage.nbytes)
            scratch.close()

    def _pickled(self, content: Content) -> bytes:
        same: dict[tuple[int, int], _Leaf] = {}
        leaves: dict[_Path, _Leaf] = {}
        for name, storage in self._of_name.items():
            tensor = content.views[name].tensor
            leaf = _Leaf(
                storage,
                storage.views[name],
                isinstance(tensor, self._torch.nn.Parameter),
                tensor.requires_grad,
            )
            # A tensor that is in two places stays one object if it stays one storage.
            leaves[content.views[name].path] = same.setdefault((id(tensor), storage.number), leaf)
        buffer = io.BytesIO()
        root = _with_leaves(self._torch, content.root, (), leaves, content.left_out)
        _Pickler(self._torch, buffer).dump(root)
        return buffer.getvalue()


@dataclass
class _Storage:
    """A storage of the output."""

    number: int
    dtype: DType
    elements: int
    views: dict[str, View]
    is_plain: bool  # one view, whole and in order
    order: list[str]  # one name for each distinct view
    at: str = ""

    @property
    def nbytes(self) -> int:
        return self.elements * self.dtype.itemsize

    @property
    def member(self) -> str:
        return f"{_ARCHIVE}/data/{self.number}"


@dataclass(frozen=True)
class _Leaf:
    """A tensor of the output, in the place of the last input's."""

    storage: _Storage
    view: View
    is_parameter: bool
    requires_grad: bool


class _Pickler(pickle.Pickler):
    """Pickles an object as ``torch.save`` does, with tensors that show the output's storages."""

    def __init__(self, torch: Any, file: io.BytesIO) -> None:
        super().__init__(file, protocol=2)
        self._torch = torch

    def persistent_id(self, item: Any) -> Any:
        if not isinstance(item, _Storage):
            return None
        torch = self._torch
        if item.dtype.label in _STORAGE_TYPES:
            kind, size = getattr(torch, _STORAGE_TYPES[item.dtype.label]), item.elements
        else:
            kind, size = torch.storage.UntypedStorage, item.nbytes
        return ("storage", kind, str(item.number), "cpu", size)

    def reducer_override(self, item: Any) -> Any:
        if not isinstance(item, _Leaf):
            return NotImplemented
        rebuild = self._torch._utils
        if item.is_parameter:
            data = replace(item, is_parameter=False, requires_grad=False)
            return rebuild._rebuild_parameter, (data, item.requires_grad, OrderedDict())
        storage, view = item.storage, item.view
        shown: tuple[Any, ...] = (
            storage,
            view.offset,
            view.shape,
            view.stride,
            item.requires_grad,
            OrderedDict(),
        )
        if storage.dtype.label in _STORAGE_TYPES:
            return rebuild._rebuild_tensor_v2, shown
        dtype = getattr(self._torch, storage.dtype.label)
        return rebuild._rebuild_tensor_v3, (*shown, dtype)


_STORAGE_TYPES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "complex128": "ComplexDoubleStorage",
    "complex64": "ComplexFloatStorage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}
"""The classes by which torch files name a storage's dtype; newer dtypes have none."""


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
) -> tuple[list[_Path], int, set[_Path]]:
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
    roots: list[_Path] = [
        (name,) for name in root if name in MODEL_KEYS and isinstance(root[name], Mapping)
    ]
    if roots:
        return roots, 1 if len(roots) == 1 else 0, left_out
    return [(name,) for name in root if (name,) not in optimizer], 0, left_out


def _follow(path: Path, root: Any, key: str) -> _Path:
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


def _tensors(torch: Any, at: Any, where: _Path) -> Iterator[tuple[_Path, Any]]:
    if isinstance(at, torch.Tensor):
        yield where, at
    elif isinstance(at, Mapping):
        for name, item in at.items():
            yield from _tensors(torch, item, (*where, name))
    elif isinstance(at, (list, tuple)):
        for index, item in enumerate(at):
            yield from _tensors(torch, item, (*where, index))


def _with_leaves(
    torch: Any, at: Any, where: _Path, leaves: Mapping[_Path, _Leaf], left_out: set[_Path]
) -> Any:
    """Return a copy of the object with leaves for tensors, without those that have none."""
    if isinstance(at, torch.Tensor):
        return leaves.get(where, _GONE)
    if isinstance(at, Mapping):
        kept: Any = copy.copy(at)
        items: Any = at.items()
    elif isinstance(at, (list, tuple)):
        kept, items = [], enumerate(at)
    else:
        return at
    for name, item in items:
        here = (*where, name)
        new = _GONE if here in left_out else _with_leaves(torch, item, here, leaves, left_out)
        if isinstance(at, Mapping):
            if new is _GONE:
                del kept[name]
            else:
                kept[name] = new
        elif new is not _GONE:
            kept.append(new)
    if isinstance(at, tuple):
        # torch.Size and named tuples hold no tensors that could have changed.
        return tuple(kept) if type(at) is tuple else at
    return kept


_GONE = object()


def _view(torch: Any, path: Path, name: str, where: _Path, tensor: Any) -> View:
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


def _storage_offsets(torch: Any, file: MappedFile, root: Any) -> Any:
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


def _is_shared_everywhere(views: Mapping[str, View], others: list[Checkpoint]) -> bool:
    """Whether these tensors are the same views of one storage in all other inputs too."""
    for other in others:
        if other.format != "torch":
            return False
        theirs = [other.extra.views.get(name) for name in views]
        if any(view is None for view in theirs) or len({view.storage for view in theirs}) != 1:
            return False
        if [view.geometry for view in theirs] != [view.geometry for view in views.values()]:
            return False
    return True


def _joined(where: _Path) -> str:
    return ".".join(map(str, where))
