"""Disclosure counts: what of the real rows is in the copies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl
import pyarrow as pa


@dataclass(frozen=True, slots=True)
class IdenticalRows:
    """Share of synthetic rows that equal a real row in every column.

    Attributes
    ----------
    share : float
        Mean over the copies, between 0 and 1.
    fresh : float
        The same share for a fresh sample from the population, estimated by leaving each real row out: the share of
        real rows that equal another real row. A copy should not lie far above it.
    """

    share: float
    fresh: float


def identical_rows(original: pa.Table, copies: Iterable[pa.Table]) -> IdenticalRows:
    """Count synthetic rows that equal a real row.

    Parameters
    ----------
    original : pyarrow.Table
    copies : iterable of pyarrow.Table
        With the columns of the original; nulls equal nulls.

    Returns
    -------
    IdenticalRows

    Notes
    -----
    O(n + m k): rows are hashed, not compared pair by pair.

    Examples
    --------
    >>> real = pa.table({"a": [1, 1, 2], "b": ["x", "x", None]})
    >>> identical_rows(real, [pa.table({"a": [2, 2], "b": [None, "x"]})])
    IdenticalRows(share=0.5, fresh=0.6666666666666666)
    """
    real = _plain_rows(original)
    shares = []
    for copy in copies:
        synthetic = _plain_rows(copy)
        found = synthetic.join(real, on=real.columns, how="semi", nulls_equal=True)
        shares.append(found.height / synthetic.height)
    return IdenticalRows(sum(shares) / len(shares), int(real.is_duplicated().sum()) / real.height)


def _plain_rows(table: pa.Table) -> pl.DataFrame:
    """The rows with categories as text, so that tables with different dictionaries compare."""
    categories = pl.selectors.categorical() | pl.selectors.enum()
    return pl.DataFrame(table).with_columns(categories.cast(pl.String))
