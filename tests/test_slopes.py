"""Slopes of pairs of columns: sums that add up over pieces, and the excess variance of copies."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from fastsynth.slopes import Slopes, add_up, excess_variance, numeric_columns


def table(n, seed, noise=1.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(2, 1, n)
    y = 3 * x + noise * rng.normal(size=n)
    z = np.where(rng.random(n) < 0.3, np.nan, y - x + rng.normal(size=n))
    return pa.table({"x": x, "y": y, "z": pa.array(z, from_pandas=True), "c": ["a"] * n})


def test_slopes_and_variances_are_those_of_least_squares():
    data = table(400, 1)
    names = numeric_columns(data.schema)
    assert names == ("x", "y", "z")
    slope, variance = Slopes.of(data, names).estimates()
    x, z = (data[name].to_numpy(zero_copy_only=False) for name in ("x", "z"))
    x, z = x[~np.isnan(z)], z[~np.isnan(z)]
    (b, _), (left,), *_ = np.polyfit(x, z, 1, full=True)
    assert slope[2, 0] == pytest.approx(b)
    assert variance[2, 0] == pytest.approx(left / (len(x) - 2) / ((x - x.mean()) ** 2).sum())
    assert np.isnan(slope.diagonal()).all()


def test_pieces_add_up():
    data = table(150_000, 2)
    names = ["x", "z"]
    pieces = add_up([Slopes.of(data.slice(start, 50_001), names) for start in (0, 50_001, 100_002)])
    whole = Slopes.of(data, names)
    for name in ("rows", "mean", "square", "product"):
        assert getattr(pieces, name) == pytest.approx(getattr(whole, name), rel=1e-9)


def test_copies_of_the_truth_have_no_excess_and_those_of_another_one_have():
    names = ["x", "y", "z"]
    original = Slopes.of(table(500, 3), names)
    # What an infinitely large copy of a wrong model gives is one fixed estimate: here that of other 500 rows.
    other = table(500, 4)
    rng = np.random.default_rng(5)
    good, bad = (
        [Slopes.of(source.take(pa.array(rng.integers(0, 500, 500))), names) for _ in range(40)]
        for source in (table(500, 3), other)
    )
    # Six slopes, of which about two are independent: four standard errors of a chi-squared of two over 40 copies.
    assert abs(excess_variance(original, good)) < 4 * np.sqrt(2 / 2) / 40 * 2
    assert excess_variance(original, bad) > 0.3
    one = excess_variance(original, [Slopes.of(other, names)])
    assert one > 0


@pytest.mark.parametrize("columns", [{"a": ["x"] * 50}, {"a": [1] * 50, "b": [2.5] * 50}, {"a": [1, 2], "b": [2, 1]}])
def test_without_slopes_there_is_no_v(columns):
    data = pa.table(columns)
    slopes = Slopes.of(data, numeric_columns(data.schema))
    assert excess_variance(slopes, [slopes]) is None


def test_every_kind_of_number_counts():
    data = pa.table(
        {
            "day": [dt.date(2000, 1, 1) + dt.timedelta(i) for i in range(60)],
            "money": [Decimal(i * i) for i in range(60)],
            "flag": [True, False] * 30,
        }
    )
    assert numeric_columns(data.schema) == ("day", "money")
    slope, _ = Slopes.of(data, ["day", "money"]).estimates()
    assert slope[1, 0] == pytest.approx(59)


@pytest.mark.parametrize("offset", [1e6, 1.7e9, 1.7e12])
def test_far_from_zero_nothing_cancels(offset):
    data = table(3_000, 6)
    moved = data.set_column(0, "x", pa.array(data["x"].to_numpy() * 300 + offset))
    near = data.set_column(0, "x", pa.array(data["x"].to_numpy() * 300))
    a, b = (Slopes.of(t, ["x", "y", "z"]).estimates() for t in (moved, near))
    for i in (0, 1):
        assert a[i] == pytest.approx(b[i], rel=1e-4, nan_ok=True)


def test_slopes_between_kept_columns_do_not_count():
    names = ["x", "y", "z"]
    original = Slopes.of(table(500, 3), names)
    copies = [Slopes.of(table(500, seed), names) for seed in (4, 5)]
    whole = excess_variance(original, copies)
    assert excess_variance(original, copies, np.array([True, False, False])) == pytest.approx(whole)
    assert excess_variance(original, copies, np.array([True, True, False])) != pytest.approx(whole)
    assert excess_variance(original, copies, np.array([True, True, True])) is None
