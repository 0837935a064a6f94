"""Slopes of all pairs of numeric columns: how far copies lie from their original beyond what drawing rows explains.

The trees' own noise moves an analysis of the copies by a variance v, in units of the original's, that no combining
rule sees (docs/calibrated.md). Slopes of one column on another are analyses that can always be done, and one pass over
a table gives all of them::

    rows  (j, i)     rows in which both i and j have a value     square  (j, i)   sum of x_i^2 over these rows
    sum   (j, i)     sum of x_i over these rows                  product (j, i)   sum of x_i x_j
"""

from __future__ import annotations

from collections.abc import Sequence
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
LEAST_ROWS, MOST_R2 = 30, 0.9999


def numeric_columns(schema: pa.Schema) -> list[str]:
    """Columns that slopes are taken of: the first 20 of numbers, decimals, dates and times."""
    types = pa.types
    tests = (types.is_integer, types.is_floating, types.is_decimal, types.is_temporal)
    return [field.name for field in schema if any(test(field.type) for test in tests)][:MOST_COLUMNS]


@dataclass(frozen=True, slots=True, eq=False)
class Slopes:
    """Sums over rows, and what follows from them; each (p, p).

    Attributes
    ----------
    rows, sum, square, product : ndarray of shape (p, p), dtype=float64
    """

    rows: Floats
    sum: Floats
    square: Floats
    product: Floats

    @classmethod
    def of(cls, table: pa.Table | pa.RecordBatch, names: Sequence[str]) -> Slopes:
        """The sums of a table. O(rows p^2)."""
        total = np.zeros((4, len(names), len(names)))
        for start in range(0, table.num_rows if names else 0, BLOCK):
            x = np.array([numbers_of(table.column(name).slice(start, BLOCK)) for name in names])
            present = np.isfinite(x)
            x[~present] = 0
            seen = present.astype(float)
            # Squares of huge numbers overflow: then there is no slope.
            with np.errstate(over="ignore", invalid="ignore"):
                total += [seen @ seen.T, seen @ x.T, seen @ np.square(x).T, x @ x.T]
        return cls(*total)

    def __add__(self, other: Slopes) -> Slopes:
        with np.errstate(over="ignore", invalid="ignore"):
            return Slopes(
                self.rows + other.rows, self.sum + other.sum, self.square + other.square, self.product + other.product
            )

    def estimates(self) -> tuple[Floats, Floats]:
        """Slope of column i on column j at [i, j] (p, p), and its variance; nan where there is none."""
        with np.errstate(all="ignore"):
            xx = self.square - self.sum**2 / self.rows
            yy = xx.T
            slope = (self.product - self.sum * self.sum.T / self.rows) / xx
            r2 = slope**2 * xx / yy
            known = (self.rows >= LEAST_ROWS) & (xx > 0) & (yy > 0) & (r2 < MOST_R2) & ~np.eye(len(xx), dtype=bool)
            variance = (1 - r2) * yy / xx / (self.rows - 2)
        return np.where(known, slope, np.nan), np.where(known, variance, np.nan)


def add_up(parts: Sequence[Slopes]) -> Slopes:
    """The sums of all parts, in their order."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def excess_variance(original: Slopes, copies: Sequence[Slopes]) -> float | None:
    """v: mean square distance of the copies' mean slopes from the original's, less what drawing rows explains.

    In units of the variances of the original's slopes. Between two copies or more, what drawing explains is taken from
    how they differ. Averaged over p (p - 1) slopes its standard error is about .1 for five columns and five copies of
    k = n rows. None without slopes.
    """
    slope, variance = original.estimates()
    found = [copy.estimates() for copy in copies]
    slopes, variances = (np.array([part[i] for part in found]) for i in (0, 1))
    m = len(copies)
    drawing = slopes.var(0, ddof=1) if m > 1 else variances[0]
    with np.errstate(all="ignore"):
        v = ((slopes.mean(0) - slope) ** 2 - drawing / m) / variance
    known = v[np.isfinite(v)]
    return float(known.mean()) if len(known) else None
