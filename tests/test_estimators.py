"""Estimators against plain numpy, scipy and statsmodels; coverage of their intervals; what is refused."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.special
import scipy.stats
import statsmodels.api as sm

import fastsynth as fs
from fastsynth import estimators
from fastsynth.errors import DataError, OptionError
from fastsynth.estimates import Estimates, read_fit

BACK = {"identity": lambda x: x, "log": np.exp, "logit": scipy.special.expit, "fisher_z": np.tanh}
Z = scipy.stats.norm.ppf(0.975)


@pytest.fixture(scope="module")
def holes() -> pl.DataFrame:
    """300 rows of three dependent columns with values missing here and there, two of groups, one of levels."""
    n, rng = 300, np.random.default_rng(3)
    x = rng.gamma(2.0, 3.0, n)
    y = 1000 + x + rng.normal(size=n)
    z = rng.normal(size=n) - 0.3 * x
    columns = {name: np.where(rng.random(n) < 0.1, np.nan, v) for name, v in zip("xyz", (x, y, z))}
    columns["y"] = pl.Series(columns["y"]).fill_nan(None)
    return pl.DataFrame(columns).with_columns(
        g=pl.Series(rng.choice(["a", "b", "c", None], n, p=[0.5, 0.3, 0.1, 0.1])),
        h=pl.Series(rng.random(n) < 0.4),
        level=pl.Series(rng.choice(["u", "v", "w"], n, p=[0.6, 0.3, 0.1]), dtype=pl.Enum(["w", "v", "u", "unused"])),
    )


def dense(frame, *names) -> np.ndarray:
    """Columns as a float matrix with NaN for what is missing."""
    return frame.select(pl.col(names).cast(pl.Float64)).to_numpy().astype(float)


def influence_covariance(psi) -> np.ndarray:
    """Sum of products of what each row adds; rows that are missing add nothing."""
    psi = np.nan_to_num(psi)
    return psi.T @ psi


def one(estimates) -> tuple[float, float]:
    """Estimate and variance of the only term."""
    assert len(estimates.terms) == 1
    return estimates.estimate.item(), estimates.covariance.item()


def close(a, b, rel=1e-9):
    np.testing.assert_allclose(a, b, rtol=rel, atol=1e-12)


# Against oracles


def test_means_are_those_of_numpy(holes):
    complete = holes.drop_nulls(["x", "y"]).filter(pl.col("x").is_not_nan())
    got, matrix = fs.mean("x", "y")(complete), dense(complete, "x", "y")
    assert (got.terms, got.scale, got.df.tolist()) == (("x", "y"), (), [len(matrix) - 1] * 2)
    close(got.estimate, matrix.mean(0))
    close(got.covariance, np.cov(matrix.T) / len(matrix))


def test_means_of_columns_with_missing_values(holes):
    got, matrix = fs.mean("x", "y", "z")(holes), dense(holes, "x", "y", "z")
    n = (~np.isnan(matrix)).sum(0)
    close(got.estimate, np.nanmean(matrix, 0))
    close(got.covariance, influence_covariance((matrix - np.nanmean(matrix, 0)) / np.sqrt(n * (n - 1))))
    close(np.diag(got.covariance), np.nanvar(matrix, 0, ddof=1) / n)


def test_means_of_groups_are_a_saturated_model(holes):
    used = holes.drop_nulls(["y", "g"])
    dummies = used["g"].to_dummies()
    model = sm.OLS(used["y"].to_numpy(), dummies.to_numpy().astype(float)).fit(cov_type="HC2")
    got = fs.mean("y", by="g")(holes)
    assert got.terms == ("y[g=a]", "y[g=b]", "y[g=c]")
    assert got.df.tolist() == [(used["g"] == level).sum() - 1 for level in "abc"]
    close(got.estimate, model.params)
    close(got.covariance, model.cov_params())


def test_groups_of_several_columns(holes):
    got = fs.mean("y", by=["g", pl.col("h").alias("yes")])(holes)
    assert got.terms[:2] == ("y[g=a, yes=False]", "y[g=a, yes=True]")
    part = holes.filter(pl.col("g") == "a", pl.col("h"))["y"].drop_nulls()
    close(got.estimate[1], part.mean())
    close(got.covariance[1, 1], part.var() / len(part))


def test_a_small_spread_far_from_zero_is_kept():
    x = np.random.default_rng(0).normal(size=1000)
    far = pl.DataFrame({"x": x + 1e9, "g": np.arange(1000) % 2 * 1e9, "y": x}).with_columns(pl.col("x") + pl.col("g"))
    # The sum itself rounds to multiples of 2e-7.
    close(fs.std("x", by="g")(far).estimate, fs.std("y", by="g")(far).estimate, rel=1e-6)
    close(fs.correlation("x", "y", by="g")(far).estimate > 10, True)


def test_totals(holes):
    groups = [holes["g"] == g for g in "abc"]
    matrix = np.nan_to_num(dense(holes, "x", "y"))
    zeroed = np.column_stack([matrix * g.fill_null(False).to_numpy()[:, None] for g in groups])
    got, k = fs.total("x", "y", by="g", rows=9000)(holes), holes.height
    assert got.terms[:3] == ("x[g=a]", "y[g=a]", "x[g=b]")
    assert got.df == k - 1
    close(got.estimate, zeroed.sum(0) * 9000 / k)
    close(got.covariance, np.cov(zeroed.T) * 9000**2 / k, rel=1e-7)
    plain = fs.total("y", "h")(holes)
    close(plain.estimate, [holes["y"].sum(), holes["h"].sum()])
    close(plain.covariance, np.cov(np.nan_to_num(dense(holes, "y", "h")).T) * k, rel=1e-7)


def test_a_share_is_the_intercept_of_a_logistic_regression(holes):
    model = sm.Logit(holes["h"].to_numpy().astype(float), np.ones(300)).fit(disp=False, tol=1e-12)
    got = fs.proportion("h")(holes)
    assert (got.terms, got.scale, got.df) == (("h",), ("logit",), math.inf)
    close(got.estimate, model.params, rel=1e-6)
    close(got.covariance, model.cov_params(), rel=1e-6)
    opposite = fs.proportion((~pl.col("h")).alias("not"))(holes)
    assert opposite.terms == ("not",)
    close(opposite.estimate, -got.estimate)
    assert fs.proportion("h", False)(holes).terms == ("h=False",)
    close(fs.proportion("h", False)(holes).estimate, -got.estimate)


def test_shares_of_levels_by_the_delta_method(holes):
    got = fs.proportion("level", ["w", "v", "u"])(holes)
    assert got.terms == ("level=w", "level=v", "level=u")
    p = np.array([(holes["level"] == level).mean() for level in "wvu"])
    jacobian = np.diag(1 / (p * (1 - p)))
    close(BACK["logit"](got.estimate), p)
    close(got.covariance, jacobian @ (np.diag(p) - np.outer(p, p)) @ jacobian / 300)
    close(np.diag(got.covariance), 1 / (300 * p * (1 - p)))


def test_shares_within_groups(holes):
    got = fs.proportion("level", "v", by="g")(holes)
    assert got.terms == ("level=v[g=a]", "level=v[g=b]", "level=v[g=c]")
    for i, g in enumerate("abc"):
        close(BACK["logit"](got.estimate[i]), (holes.filter(pl.col("g") == g)["level"] == "v").mean())
    assert np.count_nonzero(got.covariance) == 3


def test_levels_without_rows(holes):
    """Half a row on both sides; an Enum has all its levels, other columns have those that occur or are asked for."""
    got = fs.proportion("level")(holes)
    assert got.terms == ("level=w", "level=v", "level=u", "level=unused")
    assert got.estimate[3] == pytest.approx(math.log(0.5 / 300.5))
    assert got.covariance[3].tolist() == pytest.approx([0, 0, 0, 2 + 1 / 300.5])
    close(got.covariance[:3, :3], fs.proportion("level", ["w", "v", "u"])(holes).covariance)
    close(BACK["logit"](got.estimate[:3]), [(holes["level"] == level).mean() for level in "wvu"])
    text = holes.with_columns(pl.col("level").cast(pl.String))
    assert fs.proportion("level")(text).terms == ("level=u", "level=v", "level=w")
    assert one(fs.proportion("level", "unused")(text)) == pytest.approx((math.log(0.5 / 300.5), 2 + 1 / 300.5))
    everyone = fs.proportion(pl.col("y").is_null() | pl.col("y").is_not_null())(holes)
    assert one(everyone) == pytest.approx((math.log(300.5 / 0.5), 2 + 1 / 300.5))


def test_a_missing_value_is_in_no_level(holes):
    got = fs.proportion("g", "a")(holes)
    assert BACK["logit"](got.estimate).item() == pytest.approx((holes["g"].drop_nulls() == "a").mean())
    nan = fs.proportion((pl.col("x") > 5).alias("high"))(holes)
    assert BACK["logit"](nan.estimate).item() == pytest.approx((holes["x"].drop_nans() > 5).mean())


def test_cells_of_a_table(holes):
    got = fs.table("g", "h")(holes)
    used = holes.drop_nulls("g")
    assert got.terms[:3] == ("g=a, h=False", "g=a, h=True", "g=b, h=False")
    shares = [((used["g"] == g) & (used["h"] == h)).mean() for g in "abc" for h in (False, True)]
    close(BACK["logit"](got.estimate), shares)
    p = np.array(shares)
    close(got.covariance[0, 1], -1 / (len(used) * (1 - p[0]) * (1 - p[1])))
    crossed = fs.table("level", "h")(holes.filter(pl.col("h") | (pl.col("level") != "v")))
    assert len(crossed.terms) == 8
    assert fs.table("h")(holes).terms == ("h=False", "h=True")


@pytest.mark.parametrize("by", [None, "g"])
def test_quantiles_by_woodruff(holes, by):
    wanted = [0.01, 0.25, 0.5, 0.9]
    got = fs.quantile("x", wanted, by=by)(holes)
    assert got.terms[1] == ("x 25%" if by is None else "x 25%[g=a]")
    parts = [holes] if by is None else [holes.filter(pl.col("g") == g) for g in "abc"]
    for i, part in enumerate(parts):
        x, p = part["x"].drop_nans().drop_nulls().to_numpy(), np.array(wanted)
        error = np.sqrt(p * (1 - p) / len(x))
        low, high = np.clip(p - Z * error, 0, 1), np.clip(p + Z * error, 0, 1)
        sd = (np.quantile(x, high) - np.quantile(x, low)) / ((high - low) / error)
        bridge = np.minimum.outer(p, p) - np.outer(p, p)
        correlation = bridge / np.sqrt(np.outer(np.diag(bridge), np.diag(bridge)))
        place = slice(4 * i, 4 * i + 4)
        close(got.estimate[place], np.quantile(x, wanted))
        close(got.covariance[place, place], correlation * np.outer(sd, sd))


@pytest.mark.parametrize(
    "values",
    [
        np.repeat([1.0, 2.0, 7.0], [5, 1, 4]),
        np.array([-1e100, -1e-300, 0.0, -0.0, 1e-310, 999.4, 999.6, 1000.0, 1e100]),
        np.random.default_rng(0).normal(1e6, 1e-3, 500),
        np.random.default_rng(0).integers(1990, 2020, 501).astype(float),
        np.array([9.95e23, 9.996e23, 9.997e23, 1.001e24, 1.003e24, 1.05e24]),
        np.array([3.0, 4.0]),
    ],
)
def test_quantiles_of_awkward_values(values):
    wanted = [0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95]
    copy = pl.DataFrame({"x": np.random.default_rng(1).permutation(values)})
    close(fs.quantile("x", wanted)(copy).estimate, np.quantile(values, wanted))


def test_a_quantile_far_from_infinite_values():
    copy = pl.DataFrame({"x": [-math.inf, *range(100), math.inf]}, strict=False)
    assert one(fs.quantile("x")(copy))[0] == 49.5


def test_correlations_are_those_of_scipy(holes):
    got = fs.correlation("x", "y", "z")(holes)
    assert (got.terms, got.scale) == (("x~y", "x~z", "y~z"), ("fisher_z",) * 3)
    used = holes.filter(pl.all_horizontal(pl.col("x", "y", "z").fill_nan(None).is_not_null()))
    for i, (a, b) in enumerate(["xy", "xz", "yz"]):
        expected = scipy.stats.pearsonr(used[a], used[b])
        error = math.sqrt(got.covariance[i, i])
        limits = np.tanh([got.estimate[i] - Z * error, got.estimate[i] + Z * error])
        close(np.tanh(got.estimate[i]), expected.statistic)
        close(limits, expected.confidence_interval(0.95))


def test_a_perfect_correlation_is_finite(holes):
    got = fs.correlation("x", (0.3 * pl.col("x") + 7).alias("line"), "y", "z")(holes)
    assert np.tanh(got.estimate[0]) == pytest.approx(1)
    assert got.covariance[0, 1:].tolist() == [0] * 5
    close(got.covariance[1:3, 1:3], fs.correlation("x", "y", "z")(holes).covariance[:2, :2])
    opposite = fs.correlation("x", (-pl.col("x")).alias("minus"))(holes)
    close(opposite.estimate, -got.estimate[0])


@pytest.mark.parametrize(("function", "power"), [(fs.std, 0.5), (fs.variance, 1.0)])
def test_spread_by_the_kurtosis(holes, function, power):
    got, matrix = function("x", "y", "z")(holes), dense(holes, "x", "y", "z")
    n = (~np.isnan(matrix)).sum(0)
    assert got.scale == ("log",) * 3
    close(np.exp(got.estimate), np.nanvar(matrix, 0, ddof=1) ** power)
    kurtosis = scipy.stats.kurtosis(matrix, fisher=False, nan_policy="omit")
    close(np.diag(got.covariance), power**2 * (kurtosis - (n - 3) / (n - 1)) / n)
    squares = (matrix - np.nanmean(matrix, 0)) ** 2
    m2 = np.nanmean(squares, 0)
    off = ~np.eye(3, dtype=bool)
    close(got.covariance[off], power**2 * influence_covariance((squares / m2 - 1) / n)[off], rel=1e-7)


# Coverage over repeated samples: every repeat is a group


REPEATS, ROWS = 2000, 300


@pytest.fixture(scope="module")
def repeats() -> pl.DataFrame:
    rng = np.random.default_rng(11)
    n = REPEATS * ROWS
    u, v, w = rng.normal(size=(3, n))
    return pl.DataFrame(
        {
            "repeat": np.repeat(np.arange(REPEATS), ROWS),
            "normal": u,
            "other": 0.6 * u + 0.8 * v,
            "third": 0.5 * u + math.sqrt(0.75) * w,
            "skew": rng.gamma(2.0, 1.0, n),
            "event": rng.random(n) < 0.1,
            "level": rng.choice(["a", "b", "c"], n, p=[0.5, 0.3, 0.2]),
        }
    )


@pytest.mark.parametrize(
    ("analysis", "truth", "short"),
    [
        (fs.mean("skew", by="repeat"), 2.0, 0.0),
        (fs.proportion("event", by="repeat"), scipy.special.logit(0.1), 0.0),
        (fs.quantile("skew", by="repeat"), scipy.stats.gamma(2.0).median(), 0.01),
        (fs.quantile("skew", 0.9, by="repeat"), scipy.stats.gamma(2.0).ppf(0.9), 0.02),
        (fs.correlation("normal", "other", by="repeat"), math.atanh(0.6), 0.0),
        (fs.std("normal", by="repeat"), 0.0, 0.0),
        (fs.std("skew", by="repeat"), math.log(math.sqrt(2.0)), 0.03),
        (fs.variance("normal", by="repeat"), 0.0, 0.0),
    ],
    ids=repr,
)
def test_intervals_cover(repeats, analysis, truth, short):
    """Within four standard errors of the share over the repeats; ``short`` is what 300 rows are known to lack."""
    got = analysis(repeats)
    assert len(got.terms) == REPEATS
    error = np.sqrt(np.diag(got.covariance))
    covered = np.abs(got.estimate - truth) <= Z * error
    tolerance = 4 * math.sqrt(0.95 * 0.05 / REPEATS)
    assert 0.95 - tolerance - short < covered.mean() < 0.95 + tolerance


def test_totals_of_groups_cover_where_their_size_is_random(repeats):
    """The total of a group over many copies of 300 rows, not only its mean, varies as stated."""
    estimates, variances = [], []
    for (_,), copy in repeats.filter(pl.col("repeat") < 300).group_by("repeat"):
        got = fs.total("skew", by="level", rows=1000)(copy)
        estimates.append(got.estimate)
        variances.append(got.covariance)
    empirical, stated = np.cov(np.array(estimates).T), np.mean(variances, 0)
    # A variance over 300 repeats has a relative standard error of sqrt(2 / 300) = .08.
    scale = np.sqrt(np.outer(np.diag(stated), np.diag(stated)))
    assert np.abs((empirical - stated) / scale).max() < 4 * math.sqrt(2 / 300)


@pytest.mark.parametrize(
    "analysis",
    [
        fs.mean("normal", "other", by="repeat"),
        fs.std("normal", "other", by="repeat"),
        fs.correlation("normal", "other", "third", by="repeat"),
        fs.proportion("level", ["a", "b"], by="repeat"),
        fs.quantile("skew", [0.3, 0.5], by="repeat"),
    ],
    ids=repr,
)
def test_covariances_are_those_of_repeated_samples(repeats, analysis):
    got = analysis(repeats.filter(pl.col("repeat") < 600))
    p = len(got.terms) // 600
    empirical = np.cov(got.estimate.reshape(600, p).T)
    stated = np.mean([got.covariance[i : i + p, i : i + p] for i in range(0, 600 * p, p)], axis=0)
    scale = np.sqrt(np.outer(np.diag(stated), np.diag(stated)))
    # The relative standard error of a (co)variance over 600 repeats is at most sqrt(2 / 600); Woodruff's is rough.
    assert np.abs((empirical - stated) / scale).max() < 4 * math.sqrt(2 / 600) + 0.05


# Tables of every kind


@pytest.mark.parametrize(
    "analysis",
    [
        fs.mean("age", "income", by="sex"),
        fs.total("income", rows=1000),
        fs.proportion("job"),
        fs.proportion((pl.col("age") > 60).alias("old"), by="region"),
        fs.table("sex", "region"),
        fs.quantile("income", [0.1, 0.5], by="sex"),
        fs.correlation("age", "income", by="job"),
        fs.std("age", "income"),
    ],
    ids=repr,
)
def test_every_kind_of_table_gives_the_same(mixed, kind, analysis):
    expected, got = analysis(mixed), analysis(kind[1](mixed))
    assert (got.terms, got.scale) == (expected.terms, expected.scale)
    assert np.array_equal(got.df, expected.df)
    close(got.estimate, expected.estimate)
    close(got.covariance, expected.covariance)


def test_files_are_scanned_and_nothing_falls_back_to_memory(mixed, tmp_path, monkeypatch):
    mixed.write_parquet(tmp_path / "copy.parquet")
    plans = []

    def collect(frame):
        plans.append(frame.show_graph(engine="streaming", plan_stage="physical", raw_output=True))
        return frame.collect(engine="streaming")

    monkeypatch.setattr(estimators, "collect", collect)
    for analysis in (
        fs.mean("age", "income", by="sex"),
        fs.total("age"),
        fs.table("sex", "job"),
        fs.quantile("income", by="sex"),
        fs.correlation("age", "income"),
        fs.std("age", by="region"),
    ):
        expected, got = analysis(mixed), analysis(pl.scan_parquet(tmp_path / "*.parquet"))
        assert got.terms == expected.terms
        close(got.covariance, expected.covariance)
    assert plans
    assert all("group-by" in plan or "select" in plan for plan in plans)
    assert not any("in-memory-map" in plan for plan in plans)


def test_decimals_integers_and_nan_are_numbers(every_type):
    for name in ("i8", "u64", "f32", "f64", "dec", "bool"):
        values = every_type[name].cast(pl.Float64).fill_nan(None).drop_nulls()
        got = one(fs.mean(name)(every_type))
        close(got, (values.mean(), values.var() / len(values)), rel=1e-6)
    for name in ("text", "cat", "enum", "date", "bool", "i8"):
        assert fs.proportion(name, every_type[name].drop_nulls()[0])(every_type).terms[0].startswith(name)
    assert fs.mean("i64", by="date")(every_type).terms[0] == "i64[date=2020-01-31]"


def test_numbers_that_polars_does_not_have():
    values = [Decimal("1.5"), Decimal("2.5"), None, Decimal("6.5")]
    copy = pa.table({"wide": pa.array(values, pa.decimal256(50, 1)), "half": pa.array([1, 2, 6, 7], pa.float16())})
    close(fs.mean("wide", "half")(copy).estimate, [3.5, 4.0])


def test_copies_are_pooled():
    syn = fs.synthesize(fs.load_boys(), m=3, random_state=1)
    fits = syn.analyse(fs.mean("hgt", "wgt"))
    assert read_fit(fits[0]) is fits[0]
    pooled = fs.pool(fits)
    assert pooled.table["term"].to_list() == ["hgt", "wgt"]
    assert pooled.table["estimate"][0] == pytest.approx(np.mean([copy["hgt"].mean() for copy in syn]))


def test_an_analysis_shows_what_it_is():
    assert repr(fs.mean("a", by=["b", "c"])) == "Analysis: mean of a by b, c"
    assert repr(fs.table("a", "b")) == "Analysis: table of a, b"
    assert isinstance(fs.mean("x")(pl.DataFrame({"x": [1, 2]})), Estimates)


# What cannot be estimated


def test_groups_of_too_few_rows_have_no_term():
    copy = pl.DataFrame({"g": ["a"] * 5 + ["b"] * 3 + ["c"], "x": [1.0, 2, 4, 4, None, 3, None, None, 1]})
    copy = copy.with_columns(y=pl.col("x") ** 2, z=pl.Series([1.0] * 4 + [2.0] * 5))
    assert fs.mean("x", by="g")(copy).terms == ("x[g=a]",)
    assert fs.mean("x", "z", by="g")(copy).terms == ("x[g=a]", "z[g=a]", "z[g=b]")
    assert fs.mean("x", by="g")(copy).df.tolist() == [3]
    assert fs.quantile("x", by="g")(copy).terms == ("x 50%[g=a]",)
    assert fs.proportion("x", 4.0, by="g")(copy).terms == ("x=4.0[g=a]",)
    assert fs.total("x", by="g")(copy).terms == ("x[g=a]",)
    assert fs.std("x", "z", by="g")(copy).terms == ("x[g=a]", "z[g=a]")
    assert fs.correlation("x", "y", "z", by="g")(copy).terms == ("x~y[g=a]",)
    with pytest.raises(DataError, match="enough rows"):
        fs.correlation("x", "y")(copy[:3])


def test_a_column_without_values_does_not_spoil_the_others():
    copy = pl.DataFrame({"x": [1.0, 2.0, 4.0], "none": pl.Series([None] * 3, dtype=pl.Null)})
    got = fs.mean("x", "none")(copy)
    assert (got.terms, got.df.tolist()) == (("x",), [2])
    assert fs.total("none", "x")(copy).terms == ("x",)


NOTHING = pl.DataFrame({"x": pl.Series([None, None], dtype=pl.Float64), "g": ["a", "b"], "one": [1, 1]})


@pytest.mark.parametrize("copy", [NOTHING, NOTHING.head(0)])
@pytest.mark.parametrize(
    "analysis",
    [
        *(f("x", by=by) for f in (fs.mean, fs.total, fs.quantile, fs.std, fs.proportion) for by in (None, "g")),
        fs.table("x", "g"),
        fs.correlation("x", "one"),
        fs.std("one"),
    ],
    ids=repr,
)
def test_no_rows_to_estimate_from(analysis, copy):
    with pytest.raises(DataError, match="no group has enough rows"):
        analysis(copy)


@pytest.mark.parametrize(
    "analysis", [fs.mean("x"), fs.total("x"), fs.std("x"), fs.correlation("x", "y"), fs.quantile("x", 0.9)], ids=repr
)
def test_infinite_values(analysis):
    copy = pl.DataFrame({"x": [1.0, 2.0, 3.0, 4.0, math.inf], "y": [1.0, 2.0, 2.0, 5.0, 7.0]})
    with pytest.raises(DataError, match="infinite"):
        analysis(copy)


# What is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fs.mean("x", "x"), "'x' is named more than once"),
        (lambda: fs.mean("x", by="x"), "'x' is named more than once"),
        (lambda: fs.mean("x", by=["g", "g"]), "'g' is named more than once"),
        (lambda: fs.proportion(pl.col("x") > 1, by="x"), "name of its own with alias"),
        (lambda: fs.mean(["x", "y"]), "one by one; this is a list"),
        (lambda: fs.mean("x", by=3), "this is a int"),
        (lambda: fs.mean(pl.col("x", "y")), "Name columns one by one"),
        (lambda: fs.mean("*"), "Name columns one by one"),
        (lambda: fs.mean(pl.lit(1)), "names no column"),
        (lambda: fs.mean(*(f"x{i}" for i in range(51))), "51 columns; at most 50"),
        (lambda: fs.table(), "at least one column"),
        (lambda: fs.total("x", rows=0), "rows=0"),
        (lambda: fs.total("x", rows=2.5), "rows=2.5"),
        *((lambda p=p: fs.quantile("x", p), "between 0 and 1") for p in (0, 1, 50, -0.1, math.nan, "0.5", None, [])),
        (lambda: fs.quantile("x", [0.5, 0.5]), "different ones"),
    ],
)
def test_bad_options_are_refused_before_any_copy(make, message):
    with pytest.raises(OptionError, match=message):
        make()


@pytest.mark.parametrize(
    ("analysis", "message"),
    [
        (fs.mean("nope"), r"no column 'nope'\. The table has 'age', 'sex'"),
        (fs.mean("age", by="nope"), "no column 'nope'"),
        (fs.mean(pl.col("age") / pl.col("nope")), "no column 'nope'"),
        (fs.mean("job"), "'job' has type String; numbers are needed"),
        (fs.quantile("region"), "'region' has type Categorical"),
        (fs.correlation("age", "sex"), "'sex' has type String"),
        (fs.std("sex"), "numbers are needed"),
        (fs.total("sex"), "numbers are needed"),
        (fs.mean(pl.col("sex").cast(pl.Int64)), "InvalidOperationError"),
        (fs.proportion("age", "old"), "'age' has type Int64"),
        (fs.proportion("age", 18.5), "'age' has type Int64"),
        (fs.proportion("sex", [None]), "is_null"),
        (fs.proportion("sex", ["f", "f"]), "different values"),
        (fs.proportion("sex", []), "different values"),
        (fs.proportion("kind", "e9"), "'kind' has type Enum"),
        (fs.proportion("list"), "'list' has type List"),
        (fs.table("age", "income"), "terms; at most 2,000"),
        (fs.mean("age", by="key"), "2,001 terms; at most 2,000"),
        (fs.quantile("age", by="key"), "2,001 terms"),
        (fs.proportion("sex", "f", by="key"), "2,001 terms"),
        (
            fs.correlation("age", "key", *(pl.col("key").pow(i).alias(f"{i}") for i in (2, 3)), by="fifth"),
            "2,406 terms",
        ),
    ],
    ids=lambda value: repr(value) if isinstance(value, estimators.Analysis) else "",
)
def test_what_does_not_suit_the_copy_is_refused(mixed, analysis, message):
    copy = (
        pl.concat([mixed] * 5)
        .head(2001)
        .with_columns(kind=pl.lit("e1", pl.Enum(["e1", "e2"])), list=pl.lit([1, 2]), key=pl.int_range(pl.len()))
    )
    copy = copy.with_columns(fifth=pl.col("key") // 5)
    with pytest.raises(OptionError, match=message) as error:
        analysis(copy)
    values = [*mixed["job"].drop_nulls().unique(), *mixed["region"].cast(pl.String).unique(), *mixed["sex"].unique()]
    assert not any(f"'{value}'" in str(error.value).replace("level=['f', 'f']", "") for value in values)


@pytest.mark.parametrize("copy", [3, [1, 2], {"x": [1]}, pa.array([1])])
def test_what_is_no_table(copy):
    with pytest.raises(DataError, match="as a table"):
        fs.mean("x")(copy)


def test_pandas_categories_with_an_order():
    frame = pd.DataFrame({"c": pd.Categorical(["lo", "hi", "hi"], categories=["lo", "mid", "hi"], ordered=True)})
    assert fs.proportion("c", ["hi", "lo"])(frame).terms == ("c=hi", "c=lo")
