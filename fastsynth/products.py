"""Products of columns: one category of several columns, made of their cells, and split into the columns again.

A joint normal model knows pairs of columns only. Columns whose interaction has to survive enter it as one unordered
column, whose levels are the cells that occur, and each drawn cell gives a donor: values that occur together.

::

    sex    f   f   m   m   m              age     20-34  35-51  52-90   quantile bins
    age   23  41  35  70  null            f         0      1      2
    cell   0   1   4   5  -1              m         3      4      5     cells of few rows would be merged
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsynth.columns import Kind, Ranks
from fastsynth.errors import DataError, OptionError, check_count
from fastsynth.streams import Words, below

Integers = NDArray[np.int64]
# Cells that numbers are cut into where nobody says how many bins; bins of one column; cells before they are merged,
# as merging takes time in proportion to their square.
MOST_CELLS, MOST_BINS, MOST_UNMERGED = 64, 64, 4_096


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """One column of a product: where its levels begin.

    Attributes
    ----------
    kind : {"numeric", "ordered", "unordered"}
    first : int
        Lowest rank that is a value; those below are missing.
    starts : ndarray of shape (n_levels,), dtype=int64
        Lowest rank of each bin of a number, ascending; rank of each level that occurs of a category.
    """

    kind: Kind
    first: int
    starts: Integers

    @classmethod
    def of(cls, ranks: Ranks, kind: Kind, first: int, counts: Integers, bins: int) -> Axis:
        """Learn the levels of rows that have values, each of which stands for ``counts`` rows."""
        values, place = np.unique(ranks.astype(np.int64), return_inverse=True)
        if kind != "numeric" or len(values) <= bins:
            return cls(kind, first, values)
        rows = np.bincount(place, counts)
        # The bin of a value is that of its middle row, so that a value on which many rows pile up has one of its own.
        middle = (np.cumsum(rows) - rows / 2) / rows.sum()
        return cls(kind, first, values[np.unique((middle * bins).astype(np.int64), return_index=True)[1]])

    def levels(self, ranks: Ranks) -> Integers:
        """Level of each rank; -1 for missing values and for categories that did not occur. O(n log n_levels)."""
        ranks = ranks.astype(np.int64)
        levels = np.searchsorted(self.starts, ranks, side="right") - 1
        if self.kind == "numeric":
            return np.where(ranks >= self.first, np.maximum(levels, 0), -1)
        return np.where((ranks >= self.first) & (self.starts[levels] == ranks), levels, -1)


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """Several columns as one unordered column of cells. Holds real values: the donors of each cell.

    Attributes
    ----------
    axes : tuple of Axis
        One for each column.
    keys : ndarray of shape (n_keys,), dtype=int64
        Combinations of levels that occur, as numbers, ascending: the level of the last column plus its number of levels
        times that of the last but one, and so on.
    cell : ndarray of shape (n_keys,), dtype=int32
        The cell of each combination, after merging: 0 to ``n_cells`` - 1.
    ends : ndarray of shape (n_donors,), dtype=int64
        Rows up to and including each donor, which are ordered by cell: a donor stands for all rows of equal values.
    offset : ndarray of shape (n_cells + 1,), dtype=int64
        Rows before each cell, and in all.
    donors : tuple of ndarray of shape (n_donors,)
        Ranks of each column, in its own type.

    Notes
    -----
    A number enters the model by its bin: within a bin it is independent of the columns outside the product. Relations
    of a number to columns outside lose about 1 / bins^2 of their size by it.

    References
    ----------
    van Buuren (2018), Flexible imputation of missing data, section 6.4, on products that are imputed as one variable.

    Examples
    --------
    >>> sex = np.repeat(np.array([1, 2], np.uint16), 60)
    >>> age = np.tile(np.arange(1, 61, dtype=np.uint16), 2)
    >>> product = Product.of([sex, age], ["unordered", "numeric"], first=[1, 1], bins=3)
    >>> product.rows.tolist()
    [20, 20, 20, 20, 20, 20]
    >>> codes = product.codes([np.array([1, 2, 0], np.uint16), np.array([7, 60, 9], np.uint16)])
    >>> codes.tolist()
    [0, 5, -1]
    >>> [ranks.tolist() for ranks in product.split(codes[:2], np.array([0, 2**63], np.uint64))]
    [[1, 2], [1, 51]]
    """

    axes: tuple[Axis, ...]
    keys: Integers
    cell: NDArray[np.int32]
    ends: Integers
    offset: Integers
    donors: tuple[Ranks, ...]

    @classmethod
    def of(
        cls,
        ranks: Sequence[Ranks],
        kinds: Sequence[Kind],
        first: Sequence[int],
        *,
        min_rows: int = 20,
        bins: int | None = None,
        counts: Integers | None = None,
        names: Sequence[str] | None = None,
    ) -> Product:
        """Learn the cells of some rows.

        Parameters
        ----------
        ranks : sequence of ndarray of shape (n,)
            Ranks of each column, as ``Variable`` has them.
        kinds : sequence of {"numeric", "ordered", "unordered"}
            Numbers are cut into bins, levels of categories are taken as they are.
        first : sequence of int
            Lowest rank of each column that is a value. Rows with a missing value have no cell and are no donors.
        min_rows : int, default 20
            Cells of fewer rows are merged with the nearest one: that of the same unordered levels whose numbers and
            ordered levels are nearest by their quantiles, else that of fewest other unordered levels.
        bins : int or None
            Quantile bins of each number, at most. None is so many that there are about 64 cells, or n / min_rows if
            these are fewer, and 2 to 64 bins of each number.
        counts : ndarray of shape (n,), dtype=int64, optional
            How many rows each one stands for, at least 1: cells may be learned from counted tables, or by weight.
        names : sequence of str, optional
            Of the columns, for messages.

        Returns
        -------
        Product
            The same for any order of the rows. O(n log n + cells^2).

        Raises
        ------
        OptionError
            Fewer than two columns, or min_rows or bins is not a positive integer.
        DataError
            No row has values in all columns; or there are more than 4,096 cells before merging.
        """
        min_rows = check_count("min_rows", min_rows)
        bins = bins if bins is None else check_count("bins", bins)
        listed = ", ".join(names) if names is not None else f"{len(ranks)} columns"
        if len(ranks) < 2:
            raise OptionError(f"interactions: a product needs at least two columns, and {listed} was given.")
        here = np.logical_and.reduce([of >= low for of, low in zip(ranks, first, strict=True)])
        if not here.any():
            raise DataError(
                f"interactions: no row has values in all of {listed}. Leave the interaction out, or name other columns."
            )
        known = [of[here] for of in ranks]
        rows = np.ones(len(known[0]), np.int64) if counts is None else counts[here].astype(np.int64)
        if bins is None:
            bins = _n_bins(known, kinds, int(rows.sum()), min_rows)
        axes = tuple(Axis.of(*column, rows, bins) for column in zip(known, kinds, first, strict=True))
        levels = [axis.levels(of) for axis, of in zip(axes, known, strict=True)]
        keys, place = np.unique(_keys(axes, levels, listed), return_inverse=True)
        if len(keys) > MOST_UNMERGED:
            raise DataError(
                f"interactions: {listed} have {len(keys)} cells, and at most {MOST_UNMERGED} are possible. Name fewer "
                "columns, or columns of fewer levels."
            )
        cell = _merged(axes, keys, np.bincount(place, rows).astype(np.int64), min_rows)
        return cls(axes, keys, cell, *_donors(known, cell[place], rows))

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.offset) - 1

    @property
    def rows(self) -> Integers:
        """Rows of each cell (n_cells,)."""
        return np.diff(self.offset)

    def codes(self, ranks: Sequence[Ranks]) -> NDArray[np.int32]:
        """Cells of some rows (n,), from the ranks of each column; -1 without one. O(n log n_keys).

        Rows have no cell where a value is missing, and where their levels did not occur together.
        """
        levels = [axis.levels(of) for axis, of in zip(self.axes, ranks, strict=True)]
        keys = _keys(self.axes, levels)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        here = (self.keys[place] == keys) & (np.min(levels, axis=0) >= 0)
        return np.where(here, self.cell[place], np.int32(-1))

    def split(self, codes: NDArray[np.int32], words: Words) -> tuple[Ranks, ...]:
        """Ranks (n,) of each column from cells (n,), all of the same donor, by a random word each. O(n log n_donors).

        Each row of a cell is as likely as any other.
        """
        row = self.offset[codes] + below(words, self.rows[codes])
        donor = np.searchsorted(self.ends, row, side="right")
        return tuple(ranks[donor] for ranks in self.donors)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """What ``of_state`` makes the same product of: a record for JSON, and arrays by name."""
        names = ("keys", "cell", "ends", "offset")
        arrays: dict[str, NDArray[Any]] = {name: getattr(self, name) for name in names}
        for i, (axis, donors) in enumerate(zip(self.axes, self.donors, strict=True)):
            arrays |= {f"starts.{i}": axis.starts, f"donors.{i}": donors}
        return {"axes": [{"kind": axis.kind, "first": axis.first} for axis in self.axes]}, arrays

    @classmethod
    def of_state(cls, record: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Product:
        """The product that gave this state."""
        axes = tuple(Axis(of["kind"], of["first"], arrays[f"starts.{i}"]) for i, of in enumerate(record["axes"]))
        donors = tuple(arrays[f"donors.{i}"] for i in range(len(axes)))
        return cls(axes, arrays["keys"], arrays["cell"], arrays["ends"], arrays["offset"], donors)


def _n_bins(ranks: Sequence[Ranks], kinds: Sequence[Kind], n_rows: int, min_rows: int) -> int:
    """Bins of each number that make about 64 cells together with the levels of the categories."""
    n_numbers = sum(kind == "numeric" for kind in kinds)
    levels = math.prod(len(np.unique(of)) for of, kind in zip(ranks, kinds, strict=True) if kind != "numeric")
    each = (min(MOST_CELLS, n_rows / min_rows) / levels) ** (1 / max(n_numbers, 1))
    return min(max(int(each + 1e-9), 2), MOST_BINS)


def _keys(axes: Sequence[Axis], levels: Sequence[Integers], listed: str = "columns") -> Integers:
    """A number for each combination of levels; those of missing ones mean nothing."""
    if math.prod(len(axis.starts) for axis in axes) >= 2**62:
        raise DataError(f"interactions: {listed} have too many cells. Name fewer columns, or columns of fewer levels.")
    keys = np.zeros(len(levels[0]), np.int64)
    for axis, of in zip(axes, levels, strict=True):
        keys = keys * len(axis.starts) + of
    return keys


def _merged(axes: Sequence[Axis], keys: Integers, rows: Integers, min_rows: int) -> NDArray[np.int32]:
    """The cell of each key (n_keys,): the smallest one is merged with the nearest one, until all have enough rows.

    Merged cells lie where the largest of them does.
    """
    levels = np.array(np.unravel_index(keys, [len(axis.starts) for axis in axes]))
    ordered = np.array([axis.kind != "unordered" for axis in axes])
    quantile = np.array([_quantiles(of, rows, len(axis.starts)) for axis, of in zip(axes, levels, strict=True)])
    quantile, other = quantile[ordered], levels[~ordered]
    cell, total = np.arange(len(keys)), rows.copy()
    heads = np.arange(len(keys))
    while len(heads) > 1:
        least = heads[np.argmin(total[heads])]
        if total[least] >= min_rows:
            break
        heads = heads[heads != least]
        # Quantiles differ by less than 1 in each column, so that one more unordered level always weighs more.
        apart = np.abs(quantile[:, heads] - quantile[:, [least]]).sum(axis=0)
        apart = apart + (1 + len(quantile)) * (other[:, heads] != other[:, [least]]).sum(axis=0)
        nearest = heads[np.lexsort((total[heads], apart))[0]]
        small, large = (least, nearest) if rows[least] <= rows[nearest] else (nearest, least)
        total[large] = total[least] + total[nearest]
        cell[cell == small] = large
        heads[heads == nearest] = large
    found: NDArray[np.int32] = np.unique(cell, return_inverse=True)[1].astype(np.int32)
    return found


def _quantiles(levels: Integers, rows: Integers, n_levels: int) -> NDArray[np.float64]:
    """Share of rows below the middle of each key's level (n_keys,)."""
    of_level = np.bincount(levels, rows, n_levels)
    middle: NDArray[np.float64] = (np.cumsum(of_level) - of_level / 2) / of_level.sum()
    return middle[levels]


def _donors(ranks: Sequence[Ranks], cell: NDArray[np.int32], rows: Integers) -> tuple[Integers, Integers, Any]:
    """Cumulated rows of distinct donors, rows before each cell, and ranks of the donors of each column, by cell."""
    order = np.lexsort((*reversed(ranks), cell))
    columns = [cell[order], *(of[order] for of in ranks)]
    new = np.append(True, np.logical_or.reduce([of[1:] != of[:-1] for of in columns]))
    starts = np.flatnonzero(new)
    ends = np.cumsum(np.add.reduceat(rows[order], starts))
    offset = np.append(0, np.cumsum(np.bincount(cell, rows).astype(np.int64)))
    return ends, offset, tuple(of[starts] for of in columns[1:])
