"""Types of the kernel of calibrated models."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_SLOTS: int
MOST_CLASSES: int

_Codes = NDArray[np.uint16]
_Rows = NDArray[np.uint32]
_I32 = NDArray[np.int32]
_I64 = NDArray[np.int64]
_F64 = NDArray[np.float64]
_Ranks = NDArray[np.unsignedinteger[Any]]

def features(codes: _Codes, rows: _Rows, slots: _I32, offset: _I64, tables: _F64, pairs: _I32, out: _F64) -> None: ...
def combine(
    codes: _Codes,
    rows: _Rows,
    slots: _I32,
    offset: _I64,
    tables: _F64,
    numbers: _F64,
    pairs: _I32,
    weights: _F64,
    out: _F64,
) -> None: ...
def add_by_leaf(x: _F64, leaf: _Rows, out: _F64) -> None: ...
def count_classes(leaf: _Rows, ranks: _Ranks, rows: _Rows, class_of: _I32, out: _F64) -> None: ...
def sum_linear(
    codes: _Codes, rows: _Rows, leaf: _Rows, slots: _I32, offset: _I64, index: _I32, value: _F64, out: _F64
) -> None: ...
def add_gradient(
    codes: _Codes,
    rows: _Rows,
    leaf: _Rows,
    ranks: _Ranks,
    class_of: _I32,
    slots: _I32,
    offset: _I64,
    index: _I32,
    value: _F64,
    weight: _F64,
    centre: _F64,
    counts: _F64,
    limit: float,
    gradient: _F64,
    by_leaf: _F64,
) -> float: ...
def tilted(
    codes: _Codes,
    rows: _Rows,
    leaf: _Rows,
    slots: _I32,
    offset: _I64,
    index: _I32,
    value: _F64,
    weight: _F64,
    centre: _F64,
    counts: _F64,
    limit: float,
    words: NDArray[np.uint64],
    chosen: _I32,
    shares: _F64,
) -> None: ...
