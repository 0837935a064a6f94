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

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastsynth import _calibrate
from fastsynth.columns import Codes, Ranks
from fastsynth.streams import Words, hashed, unit

Floats = NDArray[np.float64]
Rows = NDArray[np.uint32]
# Largest factor by which a tilt may change odds, as a logarithm.
CLIP = 3.0
# Share of the range.
LITTLE = 1e-3
# Makes other words of those that chose donors.
TAIL_WORDS = np.uint64(0x9D8F3C6A1B20E547)


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Functions of the codes of predictors, while a model is fitted.

    Attributes
    ----------
    slots : ndarray of shape (q1,), dtype=int32
        Column of each table.
    offset : ndarray of shape (q1 + 1,), dtype=int64
        Where the tables begin and end.
    values : ndarray of shape (offset[-1],), dtype=float64
        The tables, one after the other, the linear ones first: numbers, whether they are missing, dummies; then hinges.
    pairs : ndarray of shape (q2, 2), dtype=int32
        Tables (of numbers) that are multiplied.
    n_linear : int
    """

    slots: NDArray[np.int32]
    offset: NDArray[np.int64]
    values: Floats
    pairs: NDArray[np.int32]
    n_linear: int

    @classmethod
    def of(cls, slots: Sequence[int], tables: list[Floats], pairs: NDArray[np.int32], n_linear: int) -> Features:
        """From a list of tables."""
        return cls(np.array(slots, np.int32), *_concatenated(tables), pairs, n_linear)

    @property
    def tables(self) -> list[Floats]:
        """The tables, each by the codes of its column."""
        return np.split(self.values, self.offset[1:-1]) if len(self.slots) else []

    @property
    def size(self) -> int:
        """Number of features."""
        return len(self.slots) + len(self.pairs)

    def matrix(self, codes: Codes, rows: Rows) -> Floats:
        """All features (q, n) of some rows; ``codes`` is (n_slots, n_rows)."""
        out = np.empty((self.size, len(rows)))
        _calibrate.features(codes, rows, self.slots, self.offset, self.values, self.pairs, out)
        return out


def _concatenated(tables: list[Floats]) -> tuple[NDArray[np.int64], Floats]:
    offset = np.cumsum([0, *map(len, tables)]).astype(np.int64)
    return offset, np.concatenate([*tables, np.zeros(0)])


@dataclass(frozen=True, slots=True, eq=False)
class Combination:
    """A weighted sum of features, added up by column: what each code adds, and products of numbers.

    Attributes
    ----------
    slots : ndarray of shape (s,), dtype=int32
    offset : ndarray of shape (s + 1,), dtype=int64
        Where the tables of each column begin and end.
    tables, numbers : ndarray of shape (offset[-1],), dtype=float64
        What each code adds; and its number, standardised, 0 without products.
    pairs : ndarray of shape (q, 2), dtype=int32
        Places in ``slots`` of the columns that are multiplied.
    weights : ndarray of shape (q,), dtype=float64
        Of the products.
    """

    slots: NDArray[np.int32]
    offset: NDArray[np.int64]
    tables: Floats
    numbers: Floats
    pairs: NDArray[np.int32]
    weights: Floats

    @classmethod
    def of(cls, features: Features, weights: Floats) -> Combination:
        """The sum of weights[j] times feature j."""
        slots, place = np.unique(features.slots, return_inverse=True)
        added: list[Floats] = [np.zeros(0)] * len(slots)
        numbers: list[Floats] = [np.zeros(0)] * len(slots)
        for j, table in enumerate(features.tables):
            at = place[j]
            if not len(added[at]):
                added[at], numbers[at] = np.zeros(len(table)), np.zeros(len(table))
            added[at] += weights[j] * table
        of_features = features.tables
        for j in np.unique(features.pairs):
            numbers[place[j]] = of_features[j]
        offset, tables = _concatenated(added)
        pairs = place[features.pairs].astype(np.int32).reshape(-1, 2)
        products = np.ascontiguousarray(weights[len(features.slots) :])
        return cls(slots.astype(np.int32), offset, tables, _concatenated(numbers)[1], pairs, products)

    def __call__(self, codes: Codes, rows: Rows) -> Floats:
        """The sums (n,) of some rows; ``codes`` is (n_slots, n_rows)."""
        out = np.empty(len(rows))
        _calibrate.combine(
            codes, rows, self.slots, self.offset, self.tables, self.numbers, self.pairs, self.weights, out
        )
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Where (most of) the values of a column lie: ``(start + i * step) / 10**digits``, within low and high.

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
        if self.step:
            unit = 10.0**self.digits
            y = (self.start + self.step * np.rint((y * unit - self.start) / self.step)) / unit
        return np.clip(y, self.low, self.high)


@dataclass(frozen=True, slots=True, eq=False)
class Shift:
    """Numbers from leaves: y* = phi(x*)'g + u of the leaf of x* in a tree of means + r of a random donor.

    r is what the other two leave of the donor's own value; donors come from the leaf of x* in a tree of spreads, in
    which the mean of r is zero. So a draw is the donor's value moved by the model from the donor's x to x*.

    Attributes
    ----------
    regression : Combination
        phi(x)'g.
    means : ndarray of shape (n_leaves,), dtype=float64
        u.
    grid : Grid
    logarithm : bool
        Whether all this is on the scale of log y.
    tails : ndarray of shape (2, n), dtype=float64
        Quantiles of the lowest and of the highest observed values, ascending. A draw beyond the range becomes one of
        these, evenly from what is expected of the row on: at the end of the range all would repeat one person's value.
    """

    regression: Combination
    means: Floats
    grid: Grid
    logarithm: bool
    tails: Floats

    def expected(self, codes: Codes, rows: Rows, leaf: Rows) -> Floats:
        """What is expected of some rows of codes (n_slots, n_rows) and their leaves of means (n,)."""
        return self.regression(codes, rows) + self.means[leaf]

    def apply(self, expected: Floats, r: NDArray[np.float32], words: Words) -> Floats:
        """Numbers from what is expected, r of donors and random words, each (n,): on the grid, within the range."""
        y = expected + r
        if self.logarithm:
            expected, y = np.exp(np.minimum(expected, 700)), np.exp(np.minimum(y, 700))
        # What is beyond by little is moved to the end: so it is where a column follows from another one.
        little = LITTLE * (self.grid.high - self.grid.low)
        far = (y < self.grid.low - little, y > self.grid.high + little)
        place = np.linspace(0, 1, self.tails.shape[1])
        for beyond, tail, end in zip(far, self.tails, (0.0, 1.0), strict=True):
            # Between what is expected and the end of the range, and at the end where more than that is expected.
            start = np.interp(expected[beyond], tail, place)
            u = start + unit(hashed(words[beyond], TAIL_WORDS)) * (end - start)
            y[beyond] = np.interp(u, place, tail)
        return self.grid.nearest(y)


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """Linear features by code: of each column at most one is not zero.

    Attributes
    ----------
    slots : ndarray of shape (s,), dtype=int32
    offset : ndarray of shape (s + 1,), dtype=int64
        Where the codes of each column begin and end.
    index : ndarray of shape (offset[-1],), dtype=int32
        The feature that is not zero, -1 for none.
    value : ndarray of shape (offset[-1],), dtype=float64
    """

    slots: NDArray[np.int32]
    offset: NDArray[np.int64]
    index: NDArray[np.int32]
    value: Floats

    @classmethod
    def of(cls, features: Features) -> Linear:
        """The linear ones of some features."""
        slots, place = np.unique(features.slots[: features.n_linear], return_inverse=True)
        index: list[NDArray[np.int32]] = [np.zeros(0, np.int32)] * len(slots)
        value: list[Floats] = [np.zeros(0)] * len(slots)
        for j, table in enumerate(features.tables[: features.n_linear]):
            at = place[j]
            if not len(index[at]):
                index[at], value[at] = np.full(len(table), -1, np.int32), np.zeros(len(table))
            here = table != 0
            index[at][here], value[at][here] = j, table[here]
        offset, values = _concatenated(value)
        return cls(slots.astype(np.int32), offset, np.concatenate([*index, np.zeros(0, np.int32)]), values)

    @property
    def arguments(self) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32], Floats]:
        """The arrays in the order of the kernel's arguments."""
        return self.slots, self.offset, self.index, self.value


@dataclass(frozen=True, slots=True, eq=False)
class Tilt:
    """Classes from leaves: p(c) proportional to n_Lc exp(gamma_c'(phi(x*) - mean of phi in the leaf)).

    Attributes
    ----------
    linear : Linear
        phi.
    weights : ndarray of shape (q, n_classes), dtype=float64
        gamma.
    counts : ndarray of shape (n_leaves, n_classes), dtype=float64
    centre : ndarray of shape (n_leaves, n_classes), dtype=float64
        gamma_c' mean of phi, less the intercept.
    ranks : ndarray of shape (n_classes,)
        What a class stands for.
    """

    linear: Linear
    weights: Floats
    counts: Floats
    centre: Floats
    ranks: Ranks

    def shares(self, codes: Codes, rows: Rows, leaf: Rows) -> Floats:
        """Shares of the classes (n, n_classes) for some rows of codes (n_slots, n_rows) in leaves (n,)."""
        shares = np.empty((len(rows), self.counts.shape[1]))
        self._call(codes, rows, leaf, np.zeros(0, np.uint64), np.zeros(0, np.int32), shares)
        return shares

    def draw(self, codes: Codes, rows: Rows, leaf: Rows, words: NDArray[np.uint64]) -> Ranks:
        """Ranks, one for each row."""
        chosen = np.empty(len(rows), np.int32)
        self._call(codes, rows, leaf, words, chosen, np.zeros((0, self.counts.shape[1])))
        drawn: Ranks = self.ranks[chosen]
        return drawn

    def _call(
        self, codes: Codes, rows: Rows, leaf: Rows, words: NDArray[np.uint64], chosen: NDArray[np.int32], shares: Floats
    ) -> None:
        arguments = (*self.linear.arguments, self.weights, self.centre, self.counts)
        _calibrate.tilted(codes, rows, leaf, *arguments, CLIP, words, chosen, shares)
