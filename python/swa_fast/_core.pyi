from collections.abc import Iterable, Sequence
from typing import Any, SupportsFloat, SupportsIndex, TypedDict

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
def set_num_threads(n: SupportsIndex | None) -> None: ...
def get_num_threads() -> int: ...
def build_info() -> _BuildInfo: ...
