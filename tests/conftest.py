"""What several test files share: a table with every type, and every kind of table."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest


@pytest.fixture(scope="session")
def every_type() -> pl.DataFrame:
    """400 rows of every type that can be synthesised, most columns with nulls."""
    n = 400
    rng = np.random.default_rng(0)

    def holes(values, dtype, share=0.1):
        mask = rng.random(n) < share
        return pl.Series([None if hole else v for v, hole in zip(values, mask)], dtype=dtype)

    day = dt.date(2020, 1, 31)
    moment = dt.datetime(2020, 1, 31, 12, 30)
    ints = rng.integers(0, 50, n).tolist()
    return pl.DataFrame(
        {
            "i8": holes(ints, pl.Int8),
            "i64": pl.Series([v * 10**15 + 1 for v in ints], dtype=pl.Int64),
            "u16": holes(ints, pl.UInt16),
            "u64": pl.Series([2**63 + v for v in ints], dtype=pl.UInt64),
            "f32": holes(rng.normal(size=n).round(2).tolist(), pl.Float32),
            "f64": pl.Series(np.where(rng.random(n) < 0.1, np.nan, rng.normal(size=n))),
            "dec": holes([Decimal(v) / 100 for v in ints], pl.Decimal(12, 2)),
            "bool": holes([v > 20 for v in ints], pl.Boolean),
            "text": holes([f"t{v % 7}" for v in ints], pl.String),
            "cat": holes([f"c{v % 5}" for v in ints], pl.Categorical),
            "enum": holes([f"e{v % 3}" for v in ints], pl.Enum(["e2", "e0", "e1", "unused"])),
            "date": holes([day + dt.timedelta(days=v) for v in ints], pl.Date),
            "ms": holes([moment + dt.timedelta(hours=v) for v in ints], pl.Datetime("ms")),
            "zone": holes([moment + dt.timedelta(hours=v) for v in ints], pl.Datetime("ns", "Europe/Amsterdam")),
            "span": holes([dt.timedelta(seconds=v) for v in ints], pl.Duration("us")),
            "time": holes([dt.time(v % 24, v) for v in ints], pl.Time),
            "void": pl.Series([None] * n, dtype=pl.Null),
            "empty": pl.Series([None] * n, dtype=pl.Int32),
            "constant": pl.Series(["same"] * n),
        }
    )


def to_pandas(frame: pl.DataFrame) -> pd.DataFrame:
    """The same values as pandas, in pandas' own types: nullable integers, ordered categories, NaN for null floats."""
    frame = frame.drop("void", "span", "time", "dec", "u64", strict=False)
    table = pd.DataFrame(
        {
            s.name: s.to_pandas(use_pyarrow_extension_array=False) if not s.dtype.is_integer() else s.to_list()
            for s in frame
        }
    )
    for s in frame:
        if s.dtype.is_integer() and s.dtype != pl.Null:
            table[s.name] = pd.array(s.to_list(), dtype=str(s.dtype) if s.null_count() else str(s.dtype).lower())
    return table


KINDS = {
    "polars": lambda frame: frame,
    "lazy": lambda frame: frame.lazy(),
    "pandas": to_pandas,
    "pyarrow": lambda frame: frame.to_arrow(),
}


@pytest.fixture(params=KINDS)
def kind(request):
    """Name of a kind of table and the function that makes one of a polars DataFrame."""
    return request.param, KINDS[request.param]


@pytest.fixture(scope="session")
def mixed() -> pl.DataFrame:
    """500 rows of correlated mixed columns with nulls, small enough for many runs."""
    n = 500
    rng = np.random.default_rng(1)
    age = rng.integers(18, 90, n)
    income = np.where(rng.random(n) < 0.2, np.nan, np.round(np.exp(rng.normal(8 + age / 60, 0.5, n))))
    return pl.DataFrame(
        {
            "age": age,
            "sex": rng.choice(["f", "m"], n),
            "job": rng.choice(["a", "b", "c", None], n, p=[0.4, 0.3, 0.2, 0.1]),
            "income": pl.Series(income).fill_nan(None),
            "region": pl.Series(rng.choice(["n", "e", "s", "w"], n)).cast(pl.Categorical),
        }
    )


def as_arrow(table) -> pa.Table:
    """Any kind of table as Arrow, for comparing."""
    if isinstance(table, pl.LazyFrame):
        return table.collect().to_arrow()
    if isinstance(table, pl.DataFrame):
        return table.to_arrow()
    return pa.Table.from_pandas(table, preserve_index=False) if isinstance(table, pd.DataFrame) else table
