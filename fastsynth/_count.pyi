"""Types of the kernel that counts groups."""

import numpy as np
from numpy.typing import NDArray

_U8 = NDArray[np.uint8]
_I32 = NDArray[np.int32]
_I64 = NDArray[np.int64]
_F64 = NDArray[np.float64]

def tabulate(codes: _U8, columns: _I32, widths: _I32, offset: _I64, weights: _I64, out: _I64) -> None: ...
def cut(values: _F64, edges: _F64, first: int, missing: int, out: _U8) -> None: ...
