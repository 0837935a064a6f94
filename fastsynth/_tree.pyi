"""Types of the compiled kernel."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

NODE: np.dtype[np.void]
LEAF: int
UNORDERED_SPLIT: int
SLOT: int
MAX_SLOTS: int
MAX_CODES: int
UNORDERED: int
HAS_MISSING: int

_U16 = NDArray[np.uint16]
_U32 = NDArray[np.uint32]
_Nodes = NDArray[np.void]

def grow(
    codes: _U16,
    features: NDArray[np.int32],
    n_codes: NDArray[np.int32],
    kinds: NDArray[np.uint8],
    rows: _U32,
    ranks: NDArray[np.unsignedinteger[Any]],
    y: NDArray[np.int64],
    n_classes: int,
    minbucket: int,
    cp: float,
    beyond: float = 0,
    free: int = 0,
) -> tuple[_Nodes, _U32, NDArray[np.uint64], _U32, _U32]: ...
def occurring(ranks: NDArray[np.unsignedinteger[Any]], rows: _U32, out: NDArray[np.uint8]) -> None: ...
def donors_of(
    ranks: NDArray[np.unsignedinteger[Any]], rows: _U32, order: _U32, out: NDArray[np.unsignedinteger[Any]]
) -> None: ...
def refill(
    leaf: _U32,
    ranks: NDArray[np.unsignedinteger[Any]],
    nodes: _Nodes,
    count: _U32,
    donors: NDArray[np.unsignedinteger[Any]],
) -> None: ...
def apply(
    nodes: _Nodes,
    count: _U32,
    level_mask: NDArray[np.uint64],
    levels: _U32,
    codes: _U16,
    rows: _U32,
    words: NDArray[np.uint64],
    leaf: _U32,
) -> None: ...
def draw(
    nodes: _Nodes,
    count: _U32,
    level_mask: NDArray[np.uint64],
    levels: _U32,
    donors: NDArray[np.unsignedinteger[Any]],
    codes: _U16,
    rows: _U32,
    words: NDArray[np.uint64],
    out: NDArray[np.unsignedinteger[Any]],
) -> None: ...
