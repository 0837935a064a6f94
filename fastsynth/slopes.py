"""Slopes of all pairs of numeric columns: how far copies lie from their original beyond what drawing rows explains.

The trees' own noise moves an analysis of the copies by a variance v, in units of the original's, that no combining
rule sees (docs/calibrated.md). Slopes of one column on another are analyses that can always be done, and one pass over
a table gives all of them::

    rows    (j, i)   rows in which both i and j have a value
    mean    (j, i)   mean of x_i over these rows
    square  (j, i)   sum of squares of x_i about it
    product (j, i)   sum of products of x_i and x_j about theirs
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fastsynth.columns import numbers_of

Floats = NDArray[np.float64]
# Columns that are looked at, and rows at a time.
MOST_COLUMNS = 20
BLOCK = 65_536
# Slopes need so many rows, and noise: of relations closer than this nothing can be said.
LEAST_ROWS, MOST_R2 = 30, 0.99


def numeric_columns(schema: pa.Schema, without: Container[str] = ()) -> tuple[str, ...]:
    """Columns that slopes are taken of: the first 20 of numbers, decimals, dates and times, but for some."""
    types = pa.types
    tests = (types.is_integer, types.is_floating, types.is_decimal, types.is_temporal)
    names = (field.name for field in schema if any(test(field.type) for test in tests) and field.name not in without)
    return tuple(names)[:MOST_COLUMNS]


@dataclass(frozen=True, slots=True, eq=False)
class Slopes:
    """Moments of rows, and what follows from them; each (p, p).

    Attributes
    ----------
    names : tuple of str
    rows, mean, square, product : ndarray of shape (p, p), dtype=float64
    """

    names: tuple[str, ...]
    rows: Floats
    mean: Floats
    square: Floats
    product: Floats

    @classmethod
    def of(cls, table: pa.Table | pa.RecordBatch, names: Sequence[str]) -> Slopes:
        """The moments of a table. O(rows p^2)."""
        total = cls(tuple(names), *np.zeros((4, len(names), len(names))))
        for start in range(0, table.num_rows if names else 0, BLOCK):
            total = total + total._of_block(
                np.array([numbers_of(table.column(name).slice(start, BLOCK)) for name in names])
            )
        return total

    def _of_block(self, x: Floats) -> Slopes:
        present = np.isfinite(x)
        seen = present.astype(float)
        # About the means of the block, so that nothing cancels; squares of huge numbers overflow, and have no slope.
        with np.errstate(all="ignore"):
            centre = np.where(present, x, 0).sum(1) / np.maximum(seen.sum(1), 1)
            x = np.where(present, x - centre[:, None], 0)
            rows, total = seen @ seen.T, seen @ x.T
            mean = total / np.maximum(rows, 1)
            square = seen @ np.square(x).T - rows * mean**2
            return Slopes(self.names, rows, mean + centre, square, x @ x.T - rows * mean * mean.T)

    def without(self, names: Container[str]) -> Slopes:
        """The moments of the other columns."""
        left = [i for i, name in enumerate(self.names) if name not in names]
        some = (moment[np.ix_(left, left)] for moment in (self.rows, self.mean, self.square, self.product))
        return Slopes(tuple(self.names[i] for i in left), *some)

    def __add__(self, other: Slopes) -> Slopes:
        """Chan, Golub and LeVeque (1983), Algorithms for computing the sample variance."""
        with np.errstate(all="ignore"):
            rows = self.rows + other.rows
            share = other.rows / np.maximum(rows, 1)
            apart = np.where(self.rows > 0, other.mean - self.mean, 0)
            mean = np.where(self.rows > 0, self.mean, other.mean) + share * apart
            weight = self.rows * share
            square = self.square + other.square + weight * apart**2
            return Slopes(self.names, rows, mean, square, self.product + other.product + weight * apart * apart.T)

    def estimates(self) -> tuple[Floats, Floats]:
        """Slope of column i on column j at [i, j] (p, p), and its variance; nan where there is none."""
        with np.errstate(all="ignore"):
            xx, yy = self.square, self.square.T
            slope = self.product / xx
            r2 = slope**2 * xx / yy
            known = (self.rows >= LEAST_ROWS) & (xx > 0) & (yy > 0) & (r2 < MOST_R2) & ~np.eye(len(xx), dtype=bool)
            variance = (1 - r2) * yy / xx / (self.rows - 2)
        return np.where(known, slope, np.nan), np.where(known, variance, np.nan)


def add_up(parts: Sequence[Slopes]) -> Slopes:
    """The moments of all parts together, in their order."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def excess_variance(original: Slopes, copies: Sequence[Slopes], kept: NDArray[np.bool_] | None = None) -> float | None:
    """v: mean square distance of the copies' mean slopes from the original's, less what drawing rows explains.

    In units of the variances of the original's slopes. Between two copies or more, what drawing explains is taken from
    how they differ. Averaged over p (p - 1) slopes its standard error is about .1 for five columns and five copies of
    k = n rows. Slopes between columns that were kept (p,) do not count. None without slopes.
    """
    slope, variance = original.estimates()
    found = [copy.estimates() for copy in copies]
    slopes, variances = (np.array([part[i] for part in found]) for i in (0, 1))
    m = len(copies)
    drawing = slopes.var(0, ddof=1) if m > 1 else variances[0]
    with np.errstate(all="ignore"):
        v = ((slopes.mean(0) - slope) ** 2 - drawing / m) / variance
    if kept is not None:
        v[np.outer(kept, kept)] = np.nan
    known = v[np.isfinite(v)]
    return float(known.mean()) if len(known) else None
