"""Rows of several tables as points: samples of them, and distances between them.

It knows nothing of original and copies. Distances are between all pairs of rows, so they are for samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fastsynth.errors import DataError
from fastsynth.execute import Executor, Threads
from fastsynth.streams import ATTACK, random_words

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Rows of which a distance matrix is held at a time, and cells that are worked on at once.
BLOCK_ROWS, BLOCK_CELLS = 64, 1 << 18
# Numbers further out than this (10^8 interquartile ranges) count as equally far.
FURTHEST = 20.0
NULL, NAN, UNSEEN = -1, -2, -3


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Rows of a table as an attacker compares them.

    Attributes
    ----------
    ranks : ndarray of shape (n_columns, n_rows), dtype=int32
        Exact values: the same rank means the same value, and ranks of numbers are in their order. -1 is null, -2 NaN.
    values : ndarray of shape (n_columns, n_rows), dtype=float32
        Numbers on the scale of distances; 0 where missing, and for categories.
    is_number : tuple of bool
    """

    ranks: NDArray[np.int32]
    values: NDArray[np.float32]
    is_number: tuple[bool, ...]

    def __len__(self) -> int:
        return int(self.ranks.shape[1])

    def rows(self, rows: Integers | slice) -> Points:
        """Some of the rows."""
        return replace(
            self,
            ranks=np.ascontiguousarray(self.ranks[:, rows]),
            values=np.ascontiguousarray(self.values[:, rows]),
        )

    def columns(self, columns: Sequence[int]) -> Points:
        """Some of the columns."""
        chosen = list(columns)
        return Points(self.ranks[chosen], self.values[chosen], tuple(self.is_number[j] for j in chosen))

    @staticmethod
    def stack(parts: Sequence[Points]) -> Points:
        """All rows of several."""
        ranks, values = (np.concatenate([getattr(p, name) for p in parts], axis=1) for name in ("ranks", "values"))
        return Points(ranks, values, parts[0].is_number)


@dataclass(frozen=True, slots=True, eq=False)
class _Axis:
    """One column: its sorted levels, and of numbers the centre and the scale."""

    levels: Any
    is_number: bool
    centre: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """Where rows of several tables have a distance: mixed types, robust to long tails, nulls are a value.

    The squared distance of two rows is the sum over columns of

    * numbers and dates: (asinh(a) - asinh(b))^2, where a and b are the values less the median, in interquartile ranges,
      both of all tables; asinh is the identity around the median and a logarithm in the tails, so that neither an
      extreme value outweighs all other columns nor extremes look alike. If the range is 0, that of the values other
      than the commonest is taken;
    * categories, text and booleans: 1 if they differ;
    * null and NaN: a number that is missing lies at the median, and 1 is added if only one of the two is missing, or
      for another reason.

    So a typical difference weighs as much in every column.

    Attributes
    ----------
    names : tuple of str

    Examples
    --------
    >>> frame = pl.DataFrame({"age": [20, 30, 40, 50, 60], "sex": ["f", "m", "f", "m", None]})
    >>> points = Space.of([frame]).points(frame)
    >>> nearest(points, points, 2)[0][:, 1].astype(float).round(2).tolist()
    [0.88, 0.96, 0.88, 0.96, 1.08]
    """

    names: tuple[str, ...]
    _axes: tuple[_Axis, ...]

    @classmethod
    def of(cls, frames: Sequence[pl.DataFrame]) -> Space:
        """Learn the values and scales of all rows of some tables with the same columns.

        Raises
        ------
        DataError
            A table without rows, or without a column of the first; a column that is a number in one table only, or is
            neither a number, a date, a category, text nor a boolean.
        """
        names = frames[0].columns
        for frame in frames:
            missing = [name for name in names if name not in frame.columns]
            if frame.height == 0 or not names or missing:
                what = f"{missing[0]!r} is missing from one of them" if missing else "one of them is empty"
                raise DataError(f"Attacks need tables with the same columns and at least one row: {what}.")
        return cls(tuple(names), tuple(_axis(name, [frame[name] for frame in frames]) for name in names))

    def points(self, frame: pl.DataFrame) -> Points:
        """Rows of a table in this space.

        Numbers that ``of`` has not seen have a rank between those that it has, categories rank -3: exact comparisons
        among such values are not possible.
        """
        coded = [_code(axis, frame[name]) for name, axis in zip(self.names, self._axes, strict=True)]
        ranks, values = (np.stack(part) for part in zip(*coded, strict=True))
        return Points(ranks, values, tuple(axis.is_number for axis in self._axes))

    def agree(
        self, column: int, guesses: NDArray[np.int32], truth: NDArray[np.int32], tolerance: float
    ) -> NDArray[np.bool_]:
        """Whether ranks of a column are equal, or as numbers differ by at most this share of the true one's size."""
        axis = self._axes[column]
        equal: NDArray[np.bool_] = guesses == truth
        if axis.is_number and len(axis.levels):
            a, b = (axis.levels[np.maximum(ranks, 0) >> 1].astype(np.float64) for ranks in (guesses, truth))
            with np.errstate(invalid="ignore"):
                equal |= (guesses >= 0) & (truth >= 0) & (np.abs(a - b) <= tolerance * np.abs(b))
        return equal


def _plain(name: str, column: pl.Series) -> pl.Series:
    """A column as whole numbers, fractional numbers or text."""
    dtype = column.dtype
    if dtype.is_temporal():
        column = column.cast(pl.Datetime("us")) if isinstance(dtype, pl.Datetime) else column
        return column.to_physical().cast(pl.Int64)
    if dtype == pl.Boolean or isinstance(dtype, pl.Categorical | pl.Enum | pl.String | pl.Null):
        return column.cast(pl.String)
    if not dtype.is_numeric():
        raise DataError(f"Column {name!r} is {dtype}: attacks compare numbers, dates, categories, text and booleans.")
    return column.cast(pl.Int64 if dtype.is_integer() and dtype != pl.UInt64 else pl.Float64)


def _axis(name: str, columns: Sequence[pl.Series]) -> _Axis:
    plain = [_plain(name, column) for column in columns]
    texts = [column.dtype == pl.String for column in plain]
    if all(texts):
        return _Axis(pl.concat(plain).unique().drop_nulls().sort(), False)
    if any(texts):
        # A column of nulls alone has no type of its own.
        if any(text and column.null_count() < len(column) for text, column in zip(texts, plain, strict=True)):
            raise DataError(f"Column {name!r} is a number in one table and text in another: cast one of them.")
        plain = [column.cast(pl.Float64) for column in plain]
    whole = all(column.dtype == pl.Int64 for column in plain)
    pooled = pl.concat([column if whole else column.cast(pl.Float64) for column in plain]).drop_nulls().to_numpy()
    levels, counts = np.unique(pooled[~np.isnan(pooled)], return_counts=True)
    if len(levels) == 0:
        return _Axis(levels, True)
    finite = np.isfinite(levels)
    values, counts = levels[finite].astype(np.float64), counts[finite]
    if len(values) == 0:
        return _Axis(levels, True)
    centre, scale = _quantile(values, counts, 0.5), _range(values, counts)
    if scale == 0:
        other = np.arange(len(values)) != np.argmax(counts)
        scale = (_range(values[other], counts[other]) if other.any() else 0.0) or float(np.ptp(values))
    return _Axis(levels, True, centre, scale or 1.0)


def _quantile(values: Floats, counts: Integers, p: float) -> float:
    cumulated = np.cumsum(counts)
    return float(values[np.searchsorted(cumulated, p * cumulated[-1])])


def _range(values: Floats, counts: Integers) -> float:
    return _quantile(values, counts, 0.75) - _quantile(values, counts, 0.25)


def _code(axis: _Axis, column: pl.Series) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Ranks and values of one column."""
    plain = _plain(column.name, column)
    null = plain.is_null().to_numpy()
    if not axis.is_number:
        codes = pl.Series(range(len(axis.levels)), dtype=pl.Int32)
        ranks = plain.cast(pl.String).replace_strict(axis.levels, codes, default=UNSEEN).to_numpy().copy()
        ranks[null] = NULL
        return ranks, np.zeros(len(ranks), np.float32)
    whole = axis.levels.dtype == np.int64 and plain.dtype == pl.Int64
    numbers = plain.cast(pl.Int64 if whole else pl.Float64).fill_null(0).to_numpy()
    levels = axis.levels if whole else axis.levels.astype(np.float64)
    # An odd rank has a value that was seen, an even one lies between two.
    ranks = 2 * np.searchsorted(levels, numbers).astype(np.int32)
    if len(levels):
        ranks += levels[np.minimum(ranks >> 1, len(levels) - 1)] == numbers
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.arcsinh((numbers.astype(np.float64) - axis.centre) / axis.scale)
    nan = np.isnan(numbers) & ~null
    ranks[nan], ranks[null] = NAN, NULL
    values[nan | null] = 0.0
    return ranks, np.clip(values, -FURTHEST, FURTHEST).astype(np.float32)


def squared_distances(targets: Points, index: Points) -> NDArray[np.float32]:
    """Squared distances of all pairs: (n_targets, n_index)."""
    shape = (len(targets), len(index))
    squared, differ = np.zeros(shape, np.float32), np.zeros(shape, np.uint8 if len(targets.ranks) < 256 else np.uint16)
    part, unequal = np.empty(shape, np.float32), np.empty(shape, np.bool_)
    for j, is_number in enumerate(targets.is_number):
        a, b = targets.ranks[j], index.ranks[j]
        if is_number:
            np.subtract(targets.values[j][:, None], index.values[j], out=part)
            np.multiply(part, part, out=part)
            squared += part
            a, b = np.minimum(a, 0), np.minimum(b, 0)
            if not a.any() and not b.any():
                continue
        np.not_equal(a[:, None], b, out=unequal)
        differ += unequal.view(np.uint8)
    squared += differ
    return squared


def _nearest_of_block(shared: tuple[Points, Points, int], first: int, end: int) -> tuple[NDArray[Any], Integers]:
    targets, index, k = shared
    block = targets.rows(slice(first, end))
    squared = np.empty((end - first, len(index)), np.float32)
    # Pieces of the index stay in the cache while all columns are added up.
    width = max(1, BLOCK_CELLS // (end - first))
    for start in range(0, len(index), width):
        squared[:, start : start + width] = squared_distances(block, index.rows(slice(start, start + width)))
    if k == 1:
        rows = squared.argmin(axis=1)[:, None]
    elif k < len(index):
        rows = np.argpartition(squared, k - 1, axis=1)[:, :k]
    else:
        rows = np.tile(np.arange(k), (len(block), 1))
    rows.sort(axis=1)
    found = np.take_along_axis(squared, rows, axis=1)
    order = np.argsort(found, axis=1, kind="stable")
    return np.sqrt(np.take_along_axis(found, order, axis=1)), np.take_along_axis(rows, order, axis=1)


def nearest(
    targets: Points, index: Points, k: int, executor: Executor | None = None
) -> tuple[NDArray[np.float32], Integers]:
    """Find the k rows of an index that are nearest to each target, exactly.

    Returns
    -------
    distances : ndarray of shape (n_targets, k), dtype=float32
        Rising.
    rows : ndarray of shape (n_targets, k), dtype=int64
        Of rows at the same distance the first of those that are among the k come first.

    Raises
    ------
    DataError
        Fewer than k rows in the index.

    Notes
    -----
    O(n_targets n_index n_columns): 10,000 targets in an index of 50,000 rows of 15 columns take some seconds. Rows that
    are equal have a distance of exactly 0, which a product of matrices would not give.
    """
    if k > len(index):
        raise DataError(f"The {k} nearest of {len(index)} rows cannot be found: give more rows.")
    jobs = [(i, min(i + BLOCK_ROWS, len(targets))) for i in range(0, len(targets), BLOCK_ROWS)]
    blocks = (executor or Threads()).map(_nearest_of_block, (targets, index, k), jobs, lambda _, x: x)
    distances, rows = zip(*blocks, strict=True)
    return np.concatenate(distances), np.concatenate(rows)


def compared_columns(original: pl.DataFrame, copies: Sequence[pl.DataFrame]) -> list[str]:
    """Columns of the original that all copies have."""
    for frame in (original, *copies):
        if not isinstance(frame, pl.DataFrame):
            raise DataError(f"Attacks take polars DataFrames, not {type(frame).__name__}.")
    names = [name for name in original.columns if all(name in copy.columns for copy in copies)]
    if not names:
        raise DataError("The copies have no column of the original. Are these copies of this table?")
    return names


def sample_rows(frame: pl.DataFrame, most: int, entropy: int, *key: int) -> tuple[pl.DataFrame, Integers]:
    """At most so many rows, drawn at random, in their order, and their numbers."""
    if frame.height <= most:
        return frame, np.arange(frame.height)
    rows = np.sort(np.argsort(random_words(entropy, (ATTACK, *key), frame.height), kind="stable")[:most])
    return frame[rows], rows


def sample_copies(copies: Sequence[pl.DataFrame], most: int, entropy: int) -> pl.DataFrame:
    """Rows of all copies, as many of each, at most so many together."""
    names = copies[0].columns if copies else []
    if not names:
        raise DataError("There is nothing to attack: give at least one copy.")
    each = max(most // len(copies), 1)
    parts = [sample_rows(copy.select(names), each, entropy, 50, i)[0] for i, copy in enumerate(copies)]
    # Categories of copies may be coded differently.
    text = pl.selectors.categorical() | pl.selectors.enum()
    return pl.concat([part.with_columns(text.cast(pl.String)) for part in parts], how="vertical_relaxed")


def sampled_note(*counts: tuple[int, int, str]) -> str:
    """What was sampled, in words."""
    return ", ".join(f"{some:,} of {total:,} {what}" for some, total, what in counts if some < total)
