import numpy as np
from numpy.typing import NDArray

_F64 = NDArray[np.float64]
_I32 = NDArray[np.int32]

def truncated(low: _F64, high: _F64, key: int | np.uint64, normal: _F64, out: _F64) -> None: ...
def draw_latents(
    z: _F64,
    mean: _F64,
    codes: _I32,
    layout: _I32,
    cuts: _F64,
    precision: _F64,
    sd: _F64,
    x: _F64,
    effects: _I32,
    u: _F64,
    cluster: _I32,
    order: _I32,
    wanted: int,
    proposed: _F64,
    key: int | np.uint64,
    first_row: int,
    normal: _F64,
    residual: _F64,
    gap: _F64,
    sums: _F64,
) -> float: ...
def draw_covariances(
    omega: _F64,
    precision: _F64,
    spread: _F64,
    pairs: _I32,
    weight: float,
    width: float,
    key: int | np.uint64,
    work: _F64,
) -> None: ...
