"""Synthetic rows that equal a real row, beside what a fresh sample of real rows would give."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from fastsynth.compared import Compared, open_compared
from fastsynth.tally import HASHES, row_hashes


@dataclass(frozen=True, slots=True)
class IdenticalRows:
    """Shares of synthetic rows that equal a real row in every column, beside those of a fresh sample of real rows.

    Attributes
    ----------
    share : float
        Rows that equal a real row; mean over the copies, between 0 and 1, as all others.
    unique_share : float
        Rows that equal a real row that no other real row equals.
    fresh : float
        What ``share`` would be for a fresh sample: the share of real rows that equal another real row (each left out
        in turn). A copy should not lie far above it.
    fresh_unique : float
        What ``unique_share`` would be for a fresh sample, by Good (1953): twice the number of distinct rows that occur
        exactly twice, by n.
    holdout, holdout_unique : float or None
        The same shares of a hold-out that the copies were not made from.
    """

    share: float
    unique_share: float
    fresh: float
    fresh_unique: float
    holdout: float | None = None
    holdout_unique: float | None = None


def identical_rows(original: Any, copies: Iterable[Any]) -> IdenticalRows:
    """Count synthetic rows that equal a real row.

    Parameters
    ----------
    original : any table or path that ``synthesize`` reads
    copies : iterable of such
        With the columns of the original; nulls equal nulls.

    Returns
    -------
    IdenticalRows

    Notes
    -----
    O(n + m k), and 16 bytes for each row of the original and of one copy: rows are told apart by 128 bits made of
    their values. The chance that any two of N rows differ in their values but not in these is below N^2 / 2^129, which
    is 1e-23 for 10^8.

    References
    ----------
    Good (1953), The population frequencies of species and the estimation of population parameters, Biometrika 40:237.

    Examples
    --------
    >>> import pyarrow as pa
    >>> real = pa.table({"a": [1, 1, 2], "b": ["x", "x", None]})
    >>> found = identical_rows(real, [pa.table({"a": [2, 2], "b": [None, "x"]})])
    >>> found.share, found.unique_share, round(found.fresh, 3), round(found.fresh_unique, 3)
    (0.5, 0.5, 0.667, 0.667)
    """
    return count_identical(open_compared(original, list(copies)), None)


def count_identical(both: Compared, holdout: Compared | None) -> IdenticalRows:
    """The shares of the copies, and of a hold-out that is read as a copy."""
    real = _distinct(both, 0)
    shares = np.array([_shares(_distinct(both, side), real) for side in range(1, both.m + 1)])
    held = (None, None) if holdout is None else _shares(_distinct(holdout, 1), real)
    once, twice = (int((real["n"] == times).sum()) for times in (1, 2))
    share, unique = shares.mean(axis=0).tolist()
    return IdenticalRows(share, unique, 1 - once / both.n, 2 * twice / both.n, *held)


def _distinct(both: Compared, side: int) -> pl.DataFrame:
    """Distinct rows of a side: what tells them apart, and their number n."""
    return pl.concat(both.map(hash_rows, None, None, [side])[0]).group_by(HASHES).agg(pl.len().alias("n"))


def hash_rows(_shared: None, rows: pl.DataFrame, _first: int) -> pl.DataFrame:
    """What tells the rows of a piece apart."""
    return row_hashes(rows)


def _shares(table: pl.DataFrame, real: pl.DataFrame) -> tuple[float, float]:
    """Shares of the rows of a table that equal a real row, and one that no other real row equals."""
    found = table.join(real, on=HASHES, suffix="_real")
    total, same, unique = (int(of["n"].sum()) for of in (table, found, found.filter(pl.col("n_real") == 1)))
    return same / total, unique / total
