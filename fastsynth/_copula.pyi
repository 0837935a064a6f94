"""Types of the kernel of the Gaussian copula."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_U8 = NDArray[np.uint8]
_I32 = NDArray[np.int32]
_U64 = NDArray[np.uint64]
_F64 = NDArray[np.float64]

def polychoric(
    counts: _F64,
    first_a: _I32,
    first_b: _I32,
    below_a: _F64,
    below_b: _F64,
    cut_a: _F64,
    cut_b: _F64,
    nodes: _F64,
    weights: _F64,
    prior: float,
    r: _F64,
    variance: _F64,
) -> None: ...
def unselected(seen: _F64, lost: _F64, within: _F64, first: _I32, r: _F64) -> None: ...
def normals(words: _U64, out: _F64) -> None: ...
def shares(z: _F64, out: _F64) -> None: ...
def inverse(u: _F64, ends: _F64, guide: _I32, out: NDArray[np.unsignedinteger[Any]]) -> None: ...
def descend(z: _F64, cut: _F64, child: _I32, out: _U8) -> None: ...
