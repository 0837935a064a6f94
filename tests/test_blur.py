"""Smoothing and noise of columns as they are drawn."""

from __future__ import annotations

from datetime import date

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

import fastsynth as fs
from fastsynth.errors import OptionError
from fastsynth.sdc import smoothing_of
from fastsynth.streams import siphash

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


# Margins: calibrated columns without predictors


def margin(values, **column):
    """20 copies' worth of a first column with these values."""
    rng = np.random.default_rng(9)
    frame = pl.DataFrame({"x": values, "y": rng.normal(size=len(values))})
    columns = {"x": fs.Column(**column)}
    return fs.synthesize(frame, m=1, k=20 * len(values), visit_sequence=["x", "y"], columns=columns, random_state=1)[0][
        "x"
    ]


@pytest.mark.parametrize("n", [40, 1_000])
@pytest.mark.parametrize("make", ["normal", "lognormal"])
def test_margins_keep_their_distribution_and_no_value(n, make):
    real = getattr(np.random.default_rng(n), make)(size=n)
    copy = margin(real)
    assert not np.isin(copy.to_numpy(), real).any()
    error = real.std() / (20 * n) ** 0.5
    assert copy.mean() == pytest.approx(real.mean(), abs=4 * error)
    assert copy.std() / real.std() == pytest.approx(1, abs=0.08 if n == 40 else 0.05)
    assert copy.min() >= real.min()
    assert copy.max() <= real.max()
    for p in (0.1, 0.5, 0.9):
        assert (copy.to_numpy() < np.quantile(real, p)).mean() == pytest.approx(
            p, abs=1.5 / n + 4 * (p / (20 * n)) ** 0.5
        )


def test_a_heap_stays_and_the_rest_keeps_its_grid():
    rng = np.random.default_rng(5)
    real = np.where(rng.random(1_000) < 0.6, 0, rng.random(1_000))
    copy = margin(real)
    assert (copy == 0).mean() == pytest.approx((real == 0).mean(), abs=0.02)
    assert copy.n_unique() > 2_000
    smoothed = margin(real, method="cart", smoothing="density", semicont=[0])
    assert (smoothed == 0).mean() == pytest.approx((real == 0).mean(), abs=0.02)
    assert smoothed.n_unique() > 2_000


@pytest.mark.parametrize("rare", [1, 9, 5.5])
def test_rare_values_of_few_stay_what_they_are(rare):
    rng = np.random.default_rng(6)
    real = np.where(rng.random(2_000) < 0.003, rare, rng.integers(0, 1 if rare == 1 else 2, 2_000))
    copy = margin(real)
    assert set(copy.unique()) <= set(real.tolist())
    assert (copy == rare).mean() == pytest.approx((real == rare).mean(), rel=0.6)


def test_small_huge_and_exact_numbers():
    rng = np.random.default_rng(7)
    small = rng.lognormal(size=500) * 1e-10
    assert margin(small).mean() == pytest.approx(small.mean(), rel=0.1)
    outlier = rng.normal(size=2_000)
    outlier[3] = 1e300
    assert (margin(outlier) > 1e6).mean() < 0.002
    days = pl.Series(rng.permutation(3_000)[:1_000]).cast(pl.Date).cast(pl.Datetime("ns"))
    assert (margin(days).dt.truncate("1d") == margin(days)).all()
    decimals = pl.Series((rng.permutation(10**6)[:400] + 10**6).tolist()).cast(pl.Decimal(38, 0)) * pl.Series(
        [10**22], dtype=pl.Decimal(38, 0)
    )
    assert margin(decimals).is_in(decimals.implode()).all()
    with pytest.raises(fs.errors.DataError, match="beyond 2\\^53"):
        margin(days, smoothing="density")


def test_noise_of_a_margin_is_not_forgotten():
    real = np.random.default_rng(8).exponential(size=1_000)
    copy = margin(real, noise=0.3)
    # At a bound noise is turned back; nothing piles up there.
    assert (copy == real.min()).mean() < 0.01
    order = np.sort(real)
    gaps = np.abs(copy.to_numpy() - order[np.clip(np.searchsorted(order, copy.to_numpy()), 0, 999)])
    assert gaps.max() > 0
    plain = margin(real)
    assert not copy.equals(plain)


def test_running_means_cannot_be_read_off_the_copies():
    """Each value is moved by another amount each time: distinct values are more than there are means."""
    real = np.random.default_rng(9).normal(size=200)
    assert margin(real, method="cart", smoothing="rmean").n_unique() > 3_000
    assert margin(real, method="cart", smoothing="spline").n_unique() > 3_000


def test_releasable_models_hold_no_value_of_a_margin(tmp_path):
    import zipfile

    rng = np.random.default_rng(10)
    frame = pl.DataFrame({"x": rng.normal(size=500), "y": rng.normal(size=500)})
    for columns in ({}, {"x": fs.Column(method="sample", smoothing="rmean")}, {"x": fs.Column(smoothing="spline")}):
        s = fs.Synthesizer(columns=columns, visit_sequence=["x", "y"], random_state=1).fit(frame)
        path = tmp_path / f"{len(columns)}{repr(columns)[-20:-2].encode().hex()}"
        s.save(path, releasable=True)
        fs.Synthesizer.load(path).sample(m=1)
        held = []
        with zipfile.ZipFile(path) as file:
            for name in file.namelist():
                if name.endswith(".arrow"):
                    with pa.ipc.open_file(file.read(name)) as table:
                        for column in table.read_all().columns:
                            if pa.types.is_floating(column.type):
                                held.append(column.to_numpy())
            manifest = file.read("manifest.json").decode()
        assert not np.isin(frame["x"].to_numpy(), np.concatenate(held)).any()
        assert not any(repr(x) in manifest for x in frame["x"])


def test_secret_words_are_those_of_siphash():
    """The test vector of Aumasson and Bernstein (2012), for a message of eight bytes."""
    k0, k1 = (int.from_bytes(bytes(range(i, i + 8)), "little") for i in (0, 8))
    word = np.array([int.from_bytes(bytes(range(8)), "little")], np.uint64)
    assert siphash(word, k0, k1)[0] == 0x93F5F5799A932462


def test_people_who_count_more_than_once_are_one():
    rng = np.random.default_rng(11)
    frame = pl.DataFrame({"x": rng.lognormal(size=600), "y": rng.normal(size=600), "w": rng.choice([1.0, 50.0], 600)})
    for options in ({"weights": "w"}, {"proper": True}):
        rows = frame if "weights" in options else frame.drop("w")
        for copy in fs.synthesize(rows, m=2, visit_sequence=["x", "y"], random_state=1, **options):
            assert not copy["x"].is_in(frame["x"].implode()).any()


@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_what_is_added_does_not_depend_on_the_donor(order):
    """The words that choose a donor say nothing of what is added to it, in whatever order the table is."""
    real = np.sort(np.random.default_rng(12).normal(size=1_000))
    real = real if order == "ascending" else real[::-1]
    copy = margin(real, method="sample", smoothing="density")
    bandwidth = smoothing_of(real).bandwidth
    assert copy.std() == pytest.approx((real.var() + bandwidth**2) ** 0.5, rel=0.02)
    assert margin(real).n_unique() > 19_000


def test_a_releasable_model_has_a_key_of_its_own(tmp_path):
    rng = np.random.default_rng(13)
    frame = pl.DataFrame({"x": rng.lognormal(size=1_000), "y": rng.normal(size=1_000)})
    s = fs.Synthesizer(visit_sequence=["x", "y"], random_state=1).fit(frame)
    s.save(tmp_path / "model", releasable=True)
    loaded = fs.Synthesizer.load(tmp_path / "model")
    assert loaded.model_.fits[0][0].blur.key != s.model_.fits[0][0].blur.key
    plain, copy = (of.sample(m=1, k=20_000, random_state=4)[0]["x"] for of in (s, loaded))
    # No two rows come from the same donor but by chance, and the margin is as smooth.
    assert abs(np.corrcoef(plain, copy)[0, 1]) < 0.05
    assert copy.n_unique() > 19_000
    assert copy.mean() == pytest.approx(frame["x"].mean(), abs=5 * frame["x"].std() / 20_000**0.5)
