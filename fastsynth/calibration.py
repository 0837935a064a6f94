"""What calibrated models add to leaves when they draw: regression shifts of numbers, tilts of class shares.

Both need features of the synthetic predictors. A feature is a table that is looked up by a predictor's code, or the
product of two of them, so no number of a predictor is ever parsed again::

    code of age   0    1    2    3 ...          feature j of a row = table[j][code of its predictor]
    age          0.0 -1.6 -1.5 -1.3 ...  standardised, 0 where it is missing
    (age - 30)+  0.0  0.0  0.0  0.2 ...  hinges
    no age       1.0  0.0  0.0  0.0 ...  whether it is missing
    code of job   0    1    2    3
    job = 2      0.0  0.0  1.0  0.0      dummies
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# Largest factor by which a tilt may change odds, as a logarithm.
CLIP = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Functions of the codes of predictors.

    Attributes
    ----------
    slots : ndarray of shape (q1,), dtype=int32
        Predictor of each table.
    tables : list of ndarray of shape (n_codes,), dtype=float64
    pairs : ndarray of shape (q2, 2), dtype=int32
        Tables that are multiplied.
    """

    slots: NDArray[np.int32]
    tables: list[Floats]
    pairs: NDArray[np.int32]

    @property
    def size(self) -> int:
        """Number of features."""
        return len(self.tables) + len(self.pairs)

    def column(self, j: int, codes: NDArray[np.uint16]) -> Floats:
        """Feature j of rows whose codes are (n_slots, n)."""
        if j < len(self.tables):
            return np.asarray(self.tables[j][codes[self.slots[j]]])
        a, b = self.pairs[j - len(self.tables)]
        return self.column(a, codes) * self.column(b, codes)

    def matrix(self, codes: NDArray[np.uint16]) -> Floats:
        """All features of rows whose codes are (n_slots, n): (n, q)."""
        out = np.empty((codes.shape[1], self.size))
        for j in range(len(self.tables)):
            out[:, j] = self.tables[j][codes[self.slots[j]]]
        for j, (a, b) in enumerate(self.pairs, len(self.tables)):
            np.multiply(out[:, a], out[:, b], out=out[:, j])
        return out

    def combine(self, codes: NDArray[np.uint16], weights: Floats) -> Floats:
        """Weighted sum of the features, one after the other: the same bits on every machine."""
        total = np.zeros(codes.shape[1])
        for j in np.flatnonzero(weights):
            total += weights[j] * self.column(int(j), codes)
        return total


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Where the values of a column lie: ``(start + i * step) / 10**digits``, within low and high.

    Attributes
    ----------
    step : int
        0 for values on no grid.
    start, digits : int
    low, high : float
    """

    step: int
    start: int
    digits: int
    low: float
    high: float

    def nearest(self, y: Floats) -> Floats:
        """Values within the range and on the grid."""
        y = np.clip(y, self.low, self.high)
        if self.step == 0:
            return y
        unit = 10.0**self.digits
        whole = self.start + self.step * np.rint((y * unit - self.start) / self.step)
        return whole / unit


@dataclass(frozen=True, slots=True, eq=False)
class Shift:
    """Numbers from leaves: y* = phi(x*)'g + r of a random donor of the leaf, r = y - phi(x)'g being the donor's.

    As the leaf's donors have r and not y, a draw is the donor's value moved by the regression from the donor's x to x*.

    Attributes
    ----------
    features : Features
    weights : ndarray of shape (q,), dtype=float64
        g, rounded to 36 bits.
    residuals : ndarray of shape (n_donors,), dtype=float64
        r by donor.
    grid : Grid
    logarithm : bool
        Whether all this is on the scale of log y.
    """

    features: Features
    weights: Floats
    residuals: Floats
    grid: Grid
    logarithm: bool

    def apply(self, codes: NDArray[np.uint16], donors: NDArray[np.uint32]) -> Floats:
        """Numbers for rows with codes (n_slots, n) and donors (n,)."""
        y = self.features.combine(codes, self.weights) + self.residuals[donors]
        return self.grid.nearest(np.exp(np.minimum(y, 700)) if self.logarithm else y)


@dataclass(frozen=True, slots=True, eq=False)
class Tilt:
    """Classes from leaves: p(c) proportional to n_Lc exp(gamma_c'(phi(x*) - mean of phi in the leaf)).

    Attributes
    ----------
    features : Features
    weights : ndarray of shape (q, n_classes), dtype=float32
        gamma.
    leaf : ndarray of shape (n_nodes,), dtype=int32
        Number of each leaf.
    counts : ndarray of shape (n_leaves, n_classes), dtype=float32
    centre : ndarray of shape (n_leaves, n_classes), dtype=float32
        gamma_c' mean of phi, less the intercept.
    ranks : ndarray of shape (n_classes,)
        What a class stands for.
    """

    features: Features
    weights: NDArray[np.float32]
    leaf: NDArray[np.int32]
    counts: NDArray[np.float32]
    centre: NDArray[np.float32]
    ranks: NDArray[np.unsignedinteger]

    def shares(self, codes: NDArray[np.uint16], node: NDArray[np.uint32]) -> NDArray[np.float32]:
        """Unnormalised shares of the classes (n, n_classes) for rows with codes (n_slots, n) in leaves (n,)."""
        leaf = self.leaf[node]
        tilt = self.features.matrix(codes).astype(np.float32) @ self.weights
        tilt -= self.centre[leaf]
        np.clip(tilt, -CLIP, CLIP, out=tilt)
        np.exp(tilt, out=tilt)
        tilt *= self.counts[leaf]
        return tilt

    def draw(
        self, codes: NDArray[np.uint16], node: NDArray[np.uint32], words: NDArray[np.uint64]
    ) -> NDArray[np.unsignedinteger]:
        """Ranks, one for each row."""
        running = np.cumsum(self.shares(codes, node), axis=1)
        wanted = (words >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24) * running[:, -1]
        # The first class whose running share is above; wanted is below the last one, so its share is not zero.
        chosen = (running <= np.minimum(wanted, np.nextafter(running[:, -1], np.float32(0)))[:, None]).sum(axis=1)
        return np.asarray(self.ranks[chosen])
