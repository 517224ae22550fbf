from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, SupportsFloat, SupportsIndex, TypedDict

class _CudaDevice(TypedDict):
    name: str
    capability: str
    memory: int

class _CudaInfo(TypedDict):
    built: bool
    available: bool
    reason: str
    toolkit: str
    architectures: list[str]
    driver: str
    devices: list[_CudaDevice]
    max_pairs_per_launch: int

class _BuildInfo(TypedDict):
    version: str
    commit: str
    compiler: str
    flags: str
    isa: str
    isas: list[str]
    openmp: str
    num_threads: int
    storage_dtypes: list[str]
    cuda: _CudaInfo

__version__: str

def running_mean_(
    averages: Iterable[Any],
    values: Iterable[Any],
    count: SupportsIndex,
    *,
    copies: Sequence[Iterable[Any]] | None = None,
) -> None: ...
def lerp_(
    averages: Iterable[Any],
    values: Iterable[Any],
    weight: SupportsFloat,
    *,
    copies: Sequence[Iterable[Any]] | None = None,
) -> None: ...
def swap_(a: Iterable[Any], b: Iterable[Any]) -> None: ...
def copy_(dst: Iterable[Any], src: Iterable[Any]) -> None: ...
def squared_distances(
    averages: Iterable[Any], values: Iterable[Any]
) -> list[tuple[float, float]]: ...
def combine_(
    outputs: Iterable[Any],
    sources: Iterable[Iterable[Any]],
    weights: Iterable[SupportsFloat],
) -> None: ...
def tfa_mean_(averages: Iterable[Any], values: Iterable[Any], count: SupportsIndex) -> None: ...

# Whether every floating-point element of dense tensors on the CPU is finite.
def all_finite(tensors: Iterable[Any]) -> bool: ...

# For each object its __dict__: kept, it is never that of another object, and keeps no object alive.
def identities_of(objects: Iterable[Any]) -> list[Any]: ...

# One list of targets: its name in errors; its role; the number of the average whose snapshots move
# it; of a view, the index of the list of targets that it shows, which has one for each value, else
# -1; the tensors; those in whose memory they all lie, which are looked at anew at each run, or None
# where that is each of them itself; to which values they belong, in ascending order, None if each
# value has one; which of them are copied and not averaged.
_Targets = tuple[
    str,
    Literal["average", "copy", "view"],
    int,
    int,
    Sequence[Any],
    Sequence[Any] | None,
    Sequence[int] | None,
    Sequence[int] | None,
]

class Prepared:
    def __init__(
        self,
        values: Sequence[Any],
        targets: Sequence[_Targets],
        *,
        values_name: str = "values",
        op: Literal["lerp", "tfa_mean"] = "lerp",
    ) -> None: ...
    # From now on run() takes the values from the module's tree, walked live: `lists_plainly` tells
    # of a module type whether it uses nn.Module's own listing methods. False if the tree cannot be
    # walked, or does not hold all values.
    def watch_values(
        self,
        module: Any,
        values: Sequence[Any],
        with_buffers: bool,
        lists_plainly: Callable[[type], bool],
    ) -> bool: ...
    # From now on `tensors`, targets that belong to a module, must be where its tree has them.
    def watch_targets(
        self,
        module: Any,
        tensors: Sequence[Any],
        with_buffers: bool,
        lists_plainly: Callable[[type], bool],
    ) -> bool: ...
    # Takes a snapshot. For each average: None if it is not due, the count of a mean (int), or the
    # weight of the value (float). False, and nothing was written, if the tensors are not those that
    # this was prepared for. With `own_threads`, the CPU's part takes at most so many threads, made
    # for this run, and leaves OpenMP's alone. With `gate`, an int64 tensor of 1 + 2 K elements on
    # the CUDA device of all tensors (0; the counts of the K averages; the snapshots left out of
    # each), the device leaves the snapshot out if a value is NaN or infinite, and counts; means
    # take their counts from there. Nothing is waited for.
    def run(
        self,
        actions: Sequence[int | float | None],
        values: Sequence[Any] | None = None,
        own_threads: int = 0,
        gate: Any = None,
    ) -> bool: ...

# The version counters of torch tensors, read when this is made.
class Versions:
    def __init__(self, tensors: Iterable[Any]) -> None: ...
    # The index of the first tensor that was written since, or -1.
    def first_changed(self) -> int: ...

# Copies of torch tensors, each dense, into as many tensors in host memory of the same dtypes,
# shapes and strides; one set of copies at a time.
class HostCopies:
    def __init__(self, values: Sequence[Any], staging: Sequence[Any]) -> None: ...
    # As of Prepared: from now on start() takes the values from the module's tree.
    def watch_values(
        self,
        module: Any,
        values: Sequence[Any],
        with_buffers: bool,
        lists_plainly: Callable[[type], bool],
    ) -> bool: ...
    # Copies values in host memory at once, and queues the copies of the others; returns those.
    # Their memory is not reused before wait() has returned. None, and nothing was started, if the
    # values are not those that this was prepared for.
    def start(self, values: Sequence[Any] | None = None) -> list[Any] | None: ...
    # Lets work that is queued from now on wait, on its device, for the copies.
    def hold_back_writers(self) -> None: ...
    # Waits on the host, without the interpreter lock, until the copies are made.
    def wait(self) -> None: ...

def set_num_threads(n: SupportsIndex | None) -> None: ...
def get_num_threads() -> int: ...
def build_info() -> _BuildInfo: ...
