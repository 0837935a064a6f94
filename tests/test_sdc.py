"""Smoothing, noise, coding and swapping against R, oracles and statistics."""

from __future__ import annotations

import datetime as dt
import json
import math
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal, assert_series_equal
from scipy.special import ndtri

import fastsynth as fs
from fastsynth.errors import DataError, OptionError
from fastsynth.sdc import (
    Grid,
    Smoothing,
    add_noise,
    decimals_of,
    grid_of,
    normal,
    numbers_of,
    record_risk,
    reflect,
    round_to,
    smooth_density,
    smooth_rmean,
    smooth_spline,
    smoothing_of,
    swap_records,
    with_numbers,
)
from fastsynth.streams import random_words

DATA = Path(__file__).parent / "data"


def words(n, seed=1):
    return random_words(seed, (), n)


def columns():
    """Those of bandwidth.R."""
    i, boys = np.arange(1, 501.0), fs.load_boys()
    z = ndtri((i - 0.5) / 500)
    return {
        "normal": z,
        "skewed": np.exp(z),
        "two": np.r_[z, 4 + 0.3 * ndtri((np.arange(1, 251) - 0.5) / 250)],
        "wild": 1000 + 50 * np.sin(i**2) + i / 3,
        "uniform": (i - 0.5) / 500,
        **{name: boys[name].to_numpy() for name in ("hgt", "bmi", "wgt")},
    }


# Bandwidth


@pytest.mark.parametrize("name", list(columns()))
def test_bandwidth_is_that_of_r(name):
    in_r = json.loads((DATA / "bandwidth.json").read_text())[name]
    assert smoothing_of(columns()[name]).bandwidth == pytest.approx(in_r, rel=1e-3)


def slow_bandwidth(x):
    """The equation of Sheather and Jones with all pairs of rows, solved by bisection."""
    n = len(x)
    quartiles = np.quantile(x, [0.25, 0.75])
    scale = min(x.std(ddof=1), (quartiles[1] - quartiles[0]) / 1.349)
    u = x[:, None] - x[None, :]

    def phi(h, order):
        d = (u / h) ** 2
        p = d**2 - 6 * d + 3 if order == 4 else d**3 - 15 * d**2 + 45 * d - 15
        return (np.exp(-d / 2) * p).sum() / (n * (n - 1) * h ** (order + 1) * np.sqrt(2 * np.pi))

    ratio = 1.357 * (phi(1.24 * scale * n ** (-1 / 7), 4) / -phi(1.23 * scale * n ** (-1 / 9), 6)) ** (1 / 7)
    low, high = 0.1 * 1.144 * scale * n**-0.2, 1.144 * scale * n**-0.2
    for _ in range(40):
        h = (low + high) / 2
        goes_on = (1 / (2 * np.sqrt(np.pi) * n * phi(ratio * h ** (5 / 7), 4))) ** 0.2 > h
        low, high = (h, high) if goes_on else (low, h)
    return h


@pytest.mark.parametrize("seed", range(3))
def test_bandwidth_is_that_of_all_pairs(seed):
    x = np.random.default_rng(seed).gamma(2, size=300)
    assert smoothing_of(x).bandwidth == pytest.approx(slow_bandwidth(x), rel=2e-3)


def test_counts_repeat_values_and_weights_count_by_the_effective_number():
    x = np.random.default_rng(0).normal(size=400)
    counts = np.random.default_rng(1).integers(1, 4, 400)
    assert smoothing_of(x, counts=counts) == smoothing_of(np.repeat(x, counts))
    assert smoothing_of(x, weights=np.full(400, 7.0)) == smoothing_of(x)
    uneven = smoothing_of(x, weights=np.where(np.arange(400) % 2, 1.0, 0.0))
    assert uneven.bandwidth == smoothing_of(x[1::2]).bandwidth
    assert smoothing_of(x, weights=np.where(np.arange(400) % 2, 9.0, 1.0)).bandwidth > smoothing_of(x).bandwidth


def test_bandwidth_of_rounded_values_is_that_of_thumb():
    ages = np.round(10 + 3 * columns()["normal"]) * 5
    found = smoothing_of(np.repeat(ages, 100)).bandwidth
    spread = np.subtract(*np.quantile(ages, [0.75, 0.25]))
    thumb = 0.9 * min(np.repeat(ages, 100).std(ddof=1), spread / 1.34) * 50_000**-0.2
    assert found == pytest.approx(thumb, rel=1e-5)


def test_what_smoothing_knows():
    spiky = np.r_[np.zeros(800), np.linspace(1, 9, 200)]
    assert smoothing_of(spiky).spike == 0
    assert smoothing_of(np.r_[spiky, np.linspace(1, 9, 300)]).spike is None
    # METHODS 2.8: 3 and 50 rows of the second largest and the largest value.
    coded = np.r_[np.arange(40.0), [98] * 3, [99] * 50]
    assert smoothing_of(coded).top == 99
    assert smoothing_of(coded[:-16]).top == 99
    # 30 is not less than 33 - 3.
    assert smoothing_of(coded[:-17]).top is None
    assert smoothing_of(np.array([1.5, 2.25, np.nan, np.inf])).decimals == 2
    assert smoothing_of(np.array([0.1, 2.3], np.float32)).decimals == 1


@pytest.mark.parametrize("values", [[], [np.nan], [3.0], [3.0] * 9, [1.0, 2.0], [0.0] * 20 + [5.0]])
def test_nothing_to_learn(values):
    found = smoothing_of(np.array(values))
    assert math.isfinite(found.bandwidth)
    drawn = np.array(values)
    assert np.isfinite(smooth_density(drawn, found, words(len(drawn)))).sum() == np.isfinite(drawn).sum()


def test_decimals():
    assert decimals_of(np.array([1.0, 200.0])) == 0
    assert decimals_of(np.r_[np.ones(500), 0.125]) == 3
    assert decimals_of(np.array([math.pi])) is None
    assert decimals_of(np.array([np.nan])) == 0


# Smoothing


def test_density_is_a_draw_from_the_kernel_density():
    n = 200_000
    drawn = np.random.default_rng(0).normal(100, 10, n)
    smoothing = smoothing_of(drawn)
    smoothed = smooth_density(drawn, smoothing, words(n))
    added = (smoothed - drawn) / smoothing.bandwidth
    assert abs(added.mean()) < 4 / math.sqrt(n)
    assert abs(added.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs(np.corrcoef(added, drawn)[0, 1]) < 4 / math.sqrt(n)
    assert not np.isin(smoothed, drawn).any()
    assert smoothing.low <= smoothed.min()
    assert smoothed.max() <= smoothing.high
    np.testing.assert_array_equal(smoothed, smooth_density(drawn, smoothing, words(n)))


def test_smoothing_leaves_codes_and_missing_values():
    smoothing = Smoothing(2.0, 0.0, 100.0, 1, spike=0.0, top=100.0)
    drawn = np.r_[np.tile([0.0, 100.0, np.nan, 50.0], 50), np.arange(1, 21.0)]
    for smoothed in (
        smooth_density(drawn, smoothing, words(len(drawn))),
        smooth_spline(drawn, smoothing),
        smooth_rmean(drawn, smoothing),
    ):
        left = np.isnan(drawn) | (drawn == 0) | (drawn == 100)
        np.testing.assert_array_equal(smoothed[left], drawn[left])
        np.testing.assert_array_equal(np.round(smoothed, 1), smoothed)
        assert (smoothed[~left] != drawn[~left]).any()


def test_by_rank():
    drawn = np.random.default_rng(0).exponential(size=5_000)
    smoothing = smoothing_of(drawn)
    for function in (smooth_spline, smooth_rmean):
        smoothed = function(drawn, smoothing)
        order = np.argsort(drawn)
        assert (np.diff(smoothed[order]) >= 0).all()
        assert np.quantile(np.abs(smoothed - drawn), 0.95) < 0.1
    ordered = np.sort(drawn)
    slow = [ordered[max(i - 2, 0) : i + 3].mean() for i in range(5_000)]
    np.testing.assert_allclose(np.sort(smooth_rmean(drawn, smoothing)), slow)
    assert not np.isin(smooth_spline(drawn, smoothing), drawn).any()


@pytest.mark.parametrize("n", [0, 1, 2, 3, 9, 10, 11, 201])
def test_few_values(n):
    drawn = np.arange(float(n))
    smoothing = Smoothing(1.0, 0.0, max(n - 1.0, 0.0))
    for smoothed in (smooth_spline(drawn, smoothing), smooth_rmean(drawn, smoothing)):
        assert smoothed.shape == (n,)
        assert np.abs(smoothed - drawn).max(initial=0) < 2
    constant = np.ones(n)
    np.testing.assert_allclose(smooth_spline(constant, Smoothing(1.0, 1.0, 1.0)), constant)


@pytest.mark.parametrize("window", [0, 2, 2.5, "3"])
def test_windows(window):
    with pytest.raises(OptionError, match="window"):
        smooth_rmean(np.ones(3), Smoothing(1.0, 1.0, 1.0), window)


def test_normal_is_finite():
    ends = np.array([0, 2**64 - 1], np.uint64)
    assert np.isfinite(normal(ends)).all()
    np.testing.assert_allclose(normal(ends).sum(), 0, atol=1e-9)


def test_reflection_stays_within():
    assert reflect(np.array([-30.0, 30.0]), 0, 10).tolist() == [0.0, 0.0]
    assert np.isnan(reflect(np.array([np.nan]), 0, 10))[0]


# Noise and coding


@pytest.mark.parametrize("a", [0.1, 0.5])
def test_noise_keeps_mean_and_variance_and_shrinks_correlations(a):
    n = 200_000
    rng = np.random.default_rng(0)
    x = rng.normal(size=n)
    y = 50 + 3 * x + rng.normal(size=n)
    noisy = add_noise(y, a, y.std(), y.mean(), words(n))
    shrink = 1 / math.sqrt(1 + a * a)
    assert abs(noisy.mean() - y.mean()) < 4 * a * y.std() / math.sqrt(n)
    # The variance of e^2 and of the product y e: 2 a^4 and 4 a^2.
    assert abs(noisy.var() / y.var() - 1) < 4 * math.sqrt((2 * a**4 + 4 * a**2) / n)
    assert np.corrcoef(x, noisy)[0, 1] == pytest.approx(shrink * np.corrcoef(x, y)[0, 1], abs=4 * a / math.sqrt(n))
    assert np.isnan(add_noise(np.array([np.nan]), a, 1.0, 0.0, words(1)))[0]


@pytest.mark.parametrize("a", [0, -1, math.inf, math.nan])
def test_noise_that_is_none(a):
    with pytest.raises(OptionError, match="noise must be"):
        add_noise(np.ones(1), a, 1.0, 0.0, words(1))


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.none(), max_size=8), st.integers(1, 2**64 - 1))
def test_rounding_of_integers(values, to):
    """Multiples within what the type holds, the nearest of these, halves up; no digit is lost."""
    rounded = round_to(pl.Series(values, dtype=pl.Int64), to)
    assert rounded.dtype == pl.Int64
    for value, found in zip(values, rounded):
        if value is None:
            assert found is None
        else:
            near = [x for x in (value // to * to, value // to * to + to) if -(2**63) <= x < 2**63]
            assert found == min(near, key=lambda x: (abs(x - value), -x))


def test_rounding_of_fractions():
    numbers = pl.Series([0.25, -0.25, math.nan, None, 1e300])
    assert_series_equal(round_to(numbers, 0.1), pl.Series([0.3, -0.2, math.nan, None, 1e300]), rel_tol=1e-12)
    assert round_to(pl.Series([255, 4], dtype=pl.UInt8), 10).to_list() == [250, 0]


# Numbers of columns

MOMENT = dt.datetime(2020, 5, 17, 12, 30)
TYPED = {
    "i8": pl.Series([-128, 127, None], dtype=pl.Int8),
    "i64": pl.Series([2**62, 2**62 + 7, None], dtype=pl.Int64),
    "extreme": pl.Series([-(2**63), 2**63 - 1, None], dtype=pl.Int64),
    "u64": pl.Series([2**63, 2**63 + 40, None], dtype=pl.UInt64),
    "f32": pl.Series([0.1, 7.25, None, math.nan], dtype=pl.Float32),
    "f64": pl.Series([0.1, 1e300, None, math.nan]),
    "decimal": pl.Series([Decimal("1.10"), Decimal("-7.25"), None], dtype=pl.Decimal(10, 2)),
    "date": pl.Series([dt.date(1950, 1, 1), dt.date(2020, 5, 17), None]),
    "moment": pl.Series([MOMENT, MOMENT + dt.timedelta(days=3), None], dtype=pl.Datetime("ns")),
    "zone": pl.Series([MOMENT, MOMENT + dt.timedelta(hours=3), None], dtype=pl.Datetime("ms", "Europe/Amsterdam")),
    "span": pl.Series([dt.timedelta(seconds=3), dt.timedelta(seconds=8), None], dtype=pl.Duration("us")),
    "time": pl.Series([dt.time(1, 0), dt.time(23, 15), None]),
    "none": pl.Series([None, None], dtype=pl.Int32),
}


@pytest.mark.parametrize("name", list(TYPED))
def test_types_come_back_exactly(name):
    values = TYPED[name].alias(name)
    grid = grid_of(values)
    numbers = numbers_of(values, grid)
    assert np.isnan(numbers).sum() == values.null_count() + (values.is_nan().sum() if values.dtype.is_float() else 0)
    assert_series_equal(with_numbers(values, numbers, grid), values, check_exact=True)
    swapped = numbers.copy()
    swapped[:2] = numbers[1::-1]
    back = with_numbers(values, swapped, grid)
    assert back.dtype == values.dtype
    if name != "extreme":
        assert back.to_list()[:2] == values.to_list()[1::-1]
    assert back.null_count() == values.null_count()


def test_grids():
    assert grid_of(pl.Series([MOMENT, MOMENT + dt.timedelta(days=3)])).step == 3 * 86_400_000_000
    assert grid_of(pl.Series([0.5])) == Grid()
    assert grid_of(pl.Series([5, 5])) == Grid(5, 1)
    narrow = pl.Series([0, 250, 255], dtype=pl.UInt8)
    assert with_numbers(narrow, np.array([-9.0, 5, 60]), grid_of(narrow)).to_list() == [0, 25, 255]


# Swapping


def test_risk_vector():
    # METHODS 6.3
    frame = pl.DataFrame({"region": [0, 0, 0, 1, 1, 1, 1], "class": list("aabaabb")})
    frame = frame.with_columns(pl.Series("class", list("aababbb")))
    expected = [0.5, 0.5, 1, 1, 1 / 3, 1 / 3, 1 / 3]
    np.testing.assert_allclose(record_risk(frame, ["region"], ["class"]), expected)


def census(n_households=800, seed=0):
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 5, n_households)
    house = np.repeat(np.arange(n_households), size)
    province = rng.integers(0, 4, n_households)
    town = province * 5 + rng.integers(0, 5, n_households)
    return pl.DataFrame(
        {
            "house": house + 1000,
            "province": pl.Series([f"p{p}" for p in province[house]]).cast(pl.Categorical),
            "town": pl.Series([f"t{t:02}" for t in town[house]]),
            "x": (town / 7)[house],
            "size": size[house],
            "age": pl.Series(rng.integers(0, 90, len(house)) // 5 * 5),
            "sex": rng.choice(["f", "m", None], len(house)),
            "income": rng.lognormal(10, 1, len(house)),
        }
    )


OPTIONS = {
    "hierarchy": ["province", "town"],
    "risk_variables": ["age", "sex"],
    "similar": [["size"], []],
    "household": "house",
    "carry_along": ["x"],
}


@pytest.mark.parametrize("k_anonymity", [1, 2, 3])
def test_swapping(k_anonymity):
    frame = census()
    done = swap_records(frame, **OPTIONS, k_anonymity=k_anonymity, swaprate=0.1, words=words(frame.height))
    swapped = done.frame
    geography = ["province", "town", "x"]
    assert_frame_equal(swapped.drop(geography), frame.drop(geography))
    assert swapped.schema == frame.schema
    # Households stay together, and with the same profile first, so do all counts of households by region and size.
    assert swapped.group_by("house").agg(pl.col("town").n_unique())["town"].max() == 1
    one = lambda f: f.unique("house", keep="first").group_by("town", "province", "x").len().sort("town")  # noqa: E731
    assert_frame_equal(one(swapped), one(frame))
    moved = frame.select(moved=swapped["town"] != pl.Series(frame["town"]), house="house").unique("house")["moved"]
    assert moved.sum() == done.n_swapped
    # A risky household went to another region of the coarsest level at which it is risky.
    risky = pl.Series(record_risk(frame, ["province"], ["age", "sex"]) > 1 / k_anonymity + 1e-9)
    houses = frame.filter(risky)["house"].unique()
    theirs = frame.select("house", was="province", now=swapped["province"]).filter(pl.col("house").is_in(houses))
    assert (theirs["was"].cast(pl.String) != theirs["now"].cast(pl.String)).all()
    assert done.n_left == 0
    again = swap_records(frame, **OPTIONS, k_anonymity=k_anonymity, swaprate=0.1, words=words(frame.height))
    assert_frame_equal(again.frame, swapped)


@pytest.mark.parametrize("swaprate", [0.0, 0.05, 0.3, 1.0])
def test_share_that_is_swapped(swaprate):
    n = 20_000
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"region": rng.integers(0, 10, n), "sex": rng.integers(0, 2, n)})
    done = swap_records(frame, hierarchy=["region"], risk_variables=["sex"], swaprate=swaprate, words=words(n))
    assert done.n_swapped == pytest.approx(swaprate * n, abs=0.02 * n * (swaprate > 0))
    assert done.n_left == 0
    moved = (frame["region"] != done.frame["region"]).to_numpy()
    shares = np.bincount(frame["region"], moved) / np.bincount(frame["region"])
    assert np.abs(shares - swaprate).max() < 0.12


def test_associations_shrink_by_the_share_that_is_swapped():
    n = 40_000
    rng = np.random.default_rng(0)
    region = rng.integers(0, 8, n)
    frame = pl.DataFrame({"region": region, "sex": rng.integers(0, 2, n), "y": region + rng.normal(size=n)})
    done = swap_records(frame, hierarchy=["region"], risk_variables=["sex"], swaprate=0.2, words=words(n))
    before = np.corrcoef(frame["region"], frame["y"])[0, 1]
    after = np.corrcoef(done.frame["region"], frame["y"])[0, 1]
    # A partner is always of another region, so a little more than .2 is lost with few regions: .2 (1 + 1/7).
    assert after / before == pytest.approx(1 - 0.2 * 8 / 7, abs=0.02)


def test_partners_are_of_the_strictest_profile_that_has_any():
    frame = pl.DataFrame({"region": [0, 0, 1, 1], "size": [1, 2, 1, 3], "age": [1, 2, 3, 4]})
    options = {"hierarchy": ["region"], "risk_variables": ["age"], "swaprate": 0.0, "k_anonymity": 2}
    strict = swap_records(frame, **options, similar=[["size"]], words=words(4))
    assert strict.frame["region"].to_list() == [1, 0, 0, 1]
    assert (strict.n_swapped, strict.n_left) == (2, 2)
    loose = swap_records(frame, **options, similar=[["size"], []], words=words(4))
    assert loose.frame["region"].to_list() == [1, 1, 0, 0]
    assert (loose.n_swapped, loose.n_left) == (4, 0)


def test_one_region_and_no_rows():
    frame = pl.DataFrame({"region": [0, 0], "age": [1, 2]})
    options = {"hierarchy": ["region"], "risk_variables": ["age"]}
    alone = swap_records(frame, **options, words=words(2))
    assert (alone.n_swapped, alone.n_left) == (0, 2)
    assert_frame_equal(alone.frame, frame)
    assert swap_records(frame[:0], **options, words=words(0)).n_swapped == 0


def test_one_region_dominates():
    n = 3_000
    frame = pl.DataFrame({"region": [0] * (n - 5) + [1] * 5, "age": range(n)})
    done = swap_records(frame, hierarchy=["region"], risk_variables=["age"], words=words(n))
    assert done.n_swapped == 10
    assert done.n_left == n - 10


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=40),
    st.integers(1, 4),
    st.floats(0, 1),
    st.integers(0, 9),
)
def test_any_table_can_be_swapped(rows, k_anonymity, swaprate, seed):
    frame = pl.DataFrame(rows, schema=["a", "b", "age"], orient="row")
    done = swap_records(
        frame,
        hierarchy=["a", "b"],
        risk_variables=["age"],
        k_anonymity=k_anonymity,
        swaprate=swaprate,
        words=words(len(rows), seed),
    )
    same = (frame["a"] == done.frame["a"]) & (frame["b"] == done.frame["b"])
    assert (~same).sum() == done.n_swapped
    assert_frame_equal(frame.select("a", "b").sort("a", "b"), done.frame.select("a", "b").sort("a", "b"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hierarchy": []}, "at least one"),
        ({"hierarchy": "town"}, "list of columns"),
        ({"risk_variables": []}, "at least one"),
        ({"risk_variables": ["nobody"]}, "No column 'nobody'"),
        ({"similar": ["size"]}, "list of columns"),
        ({"similar": []}, "anybody"),
        ({"household": "nobody"}, "No column"),
        ({"swaprate": 1.2}, "between 0 and 1"),
        ({"k_anonymity": 0}, "at least 1"),
    ],
)
def test_options_of_swapping(changed, message):
    frame = census(20)
    with pytest.raises(OptionError, match=message):
        swap_records(frame, **OPTIONS | changed, words=words(frame.height))


@pytest.mark.parametrize("changed", [{"carry_along": ["income"]}, {"similar": [["age"]]}, {"household": "sex"}])
def test_households_must_agree(changed):
    frame = census(20)
    with pytest.raises(DataError, match="household"):
        swap_records(frame, **OPTIONS | changed, words=words(frame.height))
