"""Rows that equal real rows."""

from __future__ import annotations

import polars as pl
import pyarrow as pa
import pytest

from fastsynth.disclosure import identical_rows


def test_identical_rows_by_hand():
    real = pl.DataFrame(
        {
            "a": [1, 1, 2, None],
            "b": pl.Series(["x", "x", "y", None], dtype=pl.Categorical),
            "f": [0.5, 0.5, float("nan"), None],
        }
    ).to_arrow()
    copy = pa.table({"a": [1, 2, None, 2], "b": ["x", "y", None, "x"], "f": [0.5, float("nan"), None, 0.5]})
    found = identical_rows(real, [copy, copy.slice(3)])
    assert found.share == pytest.approx((0.75 + 0) / 2)
    assert found.fresh == pytest.approx(0.5)
    odd = pa.table({"len": [1, 1, 2], "count": [3, 3, 3]})
    assert identical_rows(odd, [odd]).fresh == pytest.approx(2 / 3)
