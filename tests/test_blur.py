"""Smoothing and noise of columns as they are drawn."""

from __future__ import annotations

from datetime import date

import numpy as np
import polars as pl
import pytest

import fastsynth as fs
from fastsynth.errors import OptionError

N = 1_500


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(4)
    age = rng.integers(18, 90, N)
    pay = np.round(np.exp(6 + age / 60 + rng.normal(0, 0.4, N)), 2)
    spent = np.where(rng.random(N) < 0.75, 0.0, np.round(rng.lognormal(3, 1, N), 1))
    born = pl.Series(20_000 - 365 * age - rng.integers(0, 365, N)).cast(pl.Date)
    frame = pl.DataFrame({"sex": rng.choice(["f", "m"], N), "age": age, "pay": pay, "spent": spent, "born": born})
    return frame.with_columns(pay=pl.when(pl.col("age") > 85).then(None).otherwise(pl.col("pay")))


def fit(table, method="cart", columns=None, **options):
    special = {name: fs.Column(**given) for name, given in (columns or {}).items()}
    return fs.Synthesizer(method=method, m=3, columns=special, random_state=1, **options).fit(table)


@pytest.mark.parametrize("kind", ["density", "spline", "rmean"])
@pytest.mark.parametrize("method", ["cart", "calibrated"])
def test_no_observed_value_lives_on_and_the_rest_stays(table, kind, method):
    plain = fit(table, method).sample()
    syn = fit(table, method, {"pay": {"smoothing": kind}, "born": {"smoothing": kind}}).sample()
    real = table["pay"].drop_nulls()
    for before, after in zip(plain, syn):
        assert after.schema == table.schema
        pay = after["pay"].drop_nulls()
        if method == "cart":
            assert before["pay"].drop_nulls().is_in(real.implode()).all()
        # To the cent some new value meets an old one by chance.
        assert pay.is_in(real.implode()).mean() < 0.1
        assert pay.is_between(real.min(), real.max()).all()
        assert ((pay * 100).round(6) % 1 == 0).all()
        assert after["born"].is_between(table["born"].min(), table["born"].max()).all()
        assert after["pay"].null_count() == before["pay"].null_count()
        assert pay.mean() == pytest.approx(real.mean(), abs=5 * real.std() / N**0.5)
        assert pay.std() == pytest.approx(real.std(), rel=0.1)


def test_a_spike_and_missing_codes_stay(table):
    coded = table.with_columns(spent=pl.when(pl.col("age") < 20).then(-9.0).otherwise(pl.col("spent")))
    columns = {"spent": {"smoothing": "density", "noise": 0.1, "cont_na": [-9.0]}}
    for method in ("cart", "calibrated"):
        copy = fit(coded, method, columns).sample()[0]
        assert (copy["spent"] == 0).mean() == pytest.approx((coded["spent"] == 0).mean(), abs=0.05)
        assert (copy["spent"] == -9).sum() > 0
        assert not copy["spent"].is_between(-9, 0, closed="none").any()


def test_noise_keeps_mean_and_variance_and_weakens_correlations_as_said(table):
    a = 0.3
    columns = {"born": {"noise": a, "predictors": ["age"]}}
    before, after = (
        pl.concat(fit(table, columns=c).sample(k=10_000)).with_columns(pl.col("born").to_physical())
        for c in ({"born": {"predictors": ["age"]}}, columns)
    )
    assert after["born"].mean() == pytest.approx(before["born"].mean(), abs=5 * before["born"].std() / 30_000**0.5)
    # What noise would carry beyond the range is cut off.
    assert after["born"].std() == pytest.approx(before["born"].std(), rel=0.05)
    r = [frame.select(pl.corr("age", "born")).item() for frame in (before, after)]
    assert r[1] / r[0] == pytest.approx(1 / (1 + a**2) ** 0.5, abs=0.02)


def test_later_columns_rules_and_bounds_see_the_result(table):
    with_half = table.with_columns(half=(pl.col("pay") / 2).round(2))
    columns = {
        "pay": {
            "smoothing": "density",
            "bounds": (500, 2_000),
            "rules": [fs.Rule(when=pl.col("sex") == "f", value=1_000.0)],
        },
        "half": {"passive": (pl.col("pay") / 2).round(2)},
    }
    rows = with_half.filter(pl.col("pay").is_between(500, 2_000) | pl.col("pay").is_null())
    rows = rows.with_columns(pay=pl.when(pl.col("sex") == "f").then(1_000.0).otherwise(pl.col("pay")))
    rows = rows.with_columns(half=(pl.col("pay") / 2).round(2))
    for copy in fit(rows, columns=columns, forbid=["age < 30 and pay > 1500"]).sample():
        pay = copy["pay"].drop_nulls()
        assert pay.is_between(500, 2_000).all()
        assert (copy.filter(pl.col("sex") == "f")["pay"] == 1_000).all()
        assert copy.filter(pl.col("half") != (pl.col("pay") / 2).round(2)).height == 0
        assert copy.filter((pl.col("age") < 30) & (pl.col("pay") > 1_500)).height == 0


@pytest.mark.parametrize("method", ["cart", "calibrated"])
def test_it_is_kept_in_the_model_file_and_does_not_depend_on_threads(table, method, tmp_path):
    columns = {"pay": {"smoothing": "spline", "noise": 0.2, "numtocat": 20}, "age": {"smoothing": "density"}}
    s = fit(table, method, columns, strata=["sex"], copies="none")
    s.save(tmp_path / "model")
    loaded = fs.Synthesizer.load(tmp_path / "model", threads=1)
    assert (loaded.columns["pay"].smoothing, loaded.columns["pay"].noise) == ("spline", 0.2)
    assert [a.equals(b) for a, b in zip(s.sample(), loaded.sample())] == [True] * 3


def test_a_releasable_model_keeps_no_values_of_it(table, tmp_path):
    rows = table.select("age", "pay", "born").drop_nulls()
    columns = {name: {"smoothing": "density"} for name in ("pay", "born")}
    s = fit(rows, "calibrated", columns | {"age": {"method": "sample"}})
    s.save(tmp_path / "model", releasable=True)
    loaded = fs.Synthesizer.load(tmp_path / "model")
    blur = loaded.model_.fits[0][1].blur
    assert not np.isin(np.round(blur.numbers[1:], 2), rows["pay"].to_numpy()).mean() > 0.1
    assert loaded.sample()[0].shape == rows.shape


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"age": {"smoothing": "kernel"}}, "allowed are 'density'"),
        ({"sex": {"smoothing": "density"}}, "smoothing is for numbers"),
        ({"sex": {"noise": 0.1}}, "noise is for numbers"),
        ({"age": {"noise": 0}}, "above 0"),
        ({"age": {"noise": True}}, "above 0"),
        ({"age": {"noise": "much"}}, "above 0"),
        ({"age": {"noise": 0.1, "method": "keep"}}, "takes no noise"),
        ({"age": {"smoothing": "rmean", "passive": pl.col("pay")}}, "takes no smoothing"),
        ({"age": {"smoothing": "rmean", "method": fs.Nested(within="sex")}}, "take no smoothing"),
    ],
)
def test_what_cannot_be_blurred_is_refused(table, given, words):
    with pytest.raises(OptionError, match=words):
        fit(table, columns=given)


def test_dates_come_back_as_dates(table):
    copy = fit(table, columns={"born": {"noise": 0.3}}).sample()[0]
    assert copy["born"].dtype == pl.Date
    assert isinstance(copy["born"][0], date)
