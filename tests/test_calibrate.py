"""Calibrated models: what they restore, when they give way to plain donors, and that they go with everything else."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import fastsynth as fs
from fastsynth import _tree, calibrate, draw
from fastsynth.calibrate import Job, fit_calibrated
from fastsynth.columns import encode
from fastsynth.methods import Calibrated, leaves_of
from fastsynth.source import read_table


def normal_table(n, seed, p=4):
    rng = np.random.default_rng(seed)
    x = 0.6 * rng.normal(size=(n, 1)) + 0.8 * rng.normal(size=(n, p))
    y = x @ np.linspace(1, -0.5, p) + rng.normal(size=n)
    score = x[:, 0] - x[:, 1] + rng.logistic(size=n)
    frame = pl.DataFrame({f"x{i}": x[:, i] for i in range(p)} | {"y": y})
    return frame.with_columns(c=pl.Series(np.digitize(score, [-1.0, 0.5])).cast(pl.String))


def fitted(frame, target, **options):
    table, _ = read_table(frame), None
    encoded = encode(*table)
    slot = frame.columns.index(target)
    rows = np.arange(frame.height, dtype=np.uint32)
    predictors = tuple(range(slot)) + tuple(range(slot + 1, frame.width) if options.pop("all", False) else ())
    job = Job(encoded, slot, predictors, Calibrated(**options).minbucket, rows, rows, words_of)
    return encoded, rows, fit_calibrated(job)


def words_of(rows):
    return rows.astype(np.uint64)


def leaf_numbers(table, tree, rows):
    return tree.nodes["left"][leaves_of(table, tree, rows, words_of)]


def test_the_regression_on_linear_features_is_that_of_the_data():
    """Sum of phi (y - ytilde) is zero: a regression on linear features, fitted to a large copy, is that of the data."""
    # What the features miss is left to the tree of means.
    frame = normal_table(700, 1).with_columns(pl.col("y") + 3 * (8 * pl.col("x0")).sin())
    table, rows, model = fitted(frame, "y")
    assert model.means.n_leaves > 1
    codes = table.codes
    leaf = leaf_numbers(table, model.means, rows)
    left = frame["y"].to_numpy() - model.shift.regression(codes, rows) - model.shift.means[leaf]
    x = np.vstack([np.ones(frame.height), *(frame[f"x{i}"].to_numpy() for i in range(4))])
    scale = np.abs(x) @ np.abs(frame["y"].to_numpy())
    assert (np.abs(x @ left) / scale).max() < 1e-8
    # What donors bring is zero on average in every leaf of theirs, but for single precision.
    tree = model.values
    donors = tree.donors.view(np.float32).astype(float)
    is_leaf = tree.nodes["feature"] == _tree.LEAF
    starts = np.sort(tree.nodes["left"][is_leaf])
    assert np.abs(np.add.reduceat(donors, starts)).max() < 1e-4
    # Centring takes a degree of freedom from every leaf, which is given back.
    assert donors.var() == pytest.approx(left.var(), rel=0.1)


def test_score_equations_of_tilts():
    frame = normal_table(1_500, 2)
    table, rows, model = fitted(frame, "c")
    shares = model.tilt.shares(table.codes, rows, leaf_numbers(table, model.values, rows))
    assert shares.sum(1) == pytest.approx(1)
    y = table.ranks[frame.columns.index("c")][:, None] == model.tilt.ranks[None, :]
    x = np.vstack([np.ones(frame.height), *(frame[name].to_numpy() for name in ("x0", "x1", "x2", "x3", "y"))])
    # But for the ridge of a row.
    assert np.abs(x @ (y - shares)).max() < 1e-3 * frame.height


def test_tilts_found_on_a_sample_are_made_good_by_all_rows(monkeypatch):
    frame = normal_table(6_000, 4)
    expected = fitted(frame, "c")[2].tilt
    monkeypatch.setattr(calibrate, "TILT_SAMPLE", 1_800)
    got = fitted(frame, "c")[2].tilt
    monkeypatch.setattr(calibrate, "NEWTON_STEPS", 1)
    rough = fitted(frame, "c")[2].tilt
    distance = [np.abs(tilt.weights - expected.weights).max() for tilt in (got, rough)]
    assert 0 < distance[0] < 0.3 * distance[1]


def slopes(frame):
    x = np.column_stack([np.ones(frame.height), *(frame[f"x{i}"].to_numpy() for i in range(4))])
    y = frame["y"].to_numpy()
    beta, *_ = np.linalg.lstsq(x, y, rcond=None)
    residual = y - x @ beta
    return beta[1:], (residual @ residual / (len(y) - 5) * np.linalg.inv(x.T @ x))[1:, 1:]


def one_repeat(seed, method):
    frame = normal_table(500, seed).drop("c")
    syn = fs.synthesize(frame, m=5, method=method, random_state=seed, threads=1)
    pooled = fs.pool([slopes(copy) for copy in syn], "raab2016").table
    own, covariance = slopes(frame)
    true = np.linspace(1, -0.5, 4)
    covered = (pooled["conf_low"].to_numpy() <= true) & (true <= pooled["conf_high"].to_numpy())
    return covered, (pooled["estimate"].to_numpy() - own) / np.sqrt(np.diag(covariance))


def test_intervals_cover_where_those_of_donors_do_not():
    """120 repeats of four slopes; tolerances: four standard errors of a share, and of a mean of variance below .5."""
    repeats = 120
    results = {}
    for method in ("calibrated", "cart"):
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(one_repeat, range(repeats), [method] * repeats))
        covered, z = (np.array([part[i] for part in found]) for i in range(2))
        results[method] = covered.mean(), np.abs(z.mean(0)).max()
    error = 4 * np.sqrt(0.95 * 0.05 / (2 * repeats))
    assert results["calibrated"][0] > 0.94 - error
    assert results["calibrated"][1] < 0.1 + 4 * np.sqrt(0.5 / repeats)
    assert results["cart"][0] < results["calibrated"][0] - 0.03
    assert results["cart"][1] > 0.5


def guarded_table(n=3_000):
    rng = np.random.default_rng(3)
    age = rng.uniform(18, 80, n).round(2)
    dense = age * 10 + rng.normal(0, 50, n)
    return pl.DataFrame(
        {
            "sex": rng.choice(["m", "f"], n),
            "first": rng.normal(size=n),
            "age": age,
            "dense": dense.round(1),
            "spiky": np.where(rng.random(n) < 0.4, 0.0, np.exp(rng.normal(7, 1, n)).round(2)),
            "few": rng.choice([0, 10, 20, 40], n),
            "hours": np.where(rng.random(n) < 0.5, 5 * rng.integers(1, 16, n), rng.integers(1, 80, n)),
            "edge": np.minimum(age, 40) + np.where(age > 40, 0, rng.normal(0, 1e-3, n)),
            "double": age * 2,
            "skew": np.exp(0.05 * age + rng.normal(size=n)),
            "holes": pl.Series(np.where(rng.random(n) < 0.3, np.nan, dense)).fill_nan(None),
            "day": pl.Series([dt.date(1990, 1, 1) + dt.timedelta(days=int(d)) for d in dense * 10]),
            "job": rng.choice(list("abcd"), n),
        }
    ).with_columns(money=(pl.col("dense") + pl.col("first")).cast(pl.Decimal(10, 1)))


def test_guards_decide_and_say_why():
    frame = guarded_table()
    s = fs.Synthesizer(m=1, method="calibrated", visit_sequence="table", random_state=1).fit(frame)
    decision = dict(s.summary().select("column", "decision").iter_rows())
    expected = {
        "sex": "no predictors",
        "first": "donors, leaves of 5: all predictors are categories",
        "hours": "79 values as classes; shares of",
        "age": "shifted donors",
        "dense": "shifted donors",
        "spiky": "shifted donors; 1 value(s) on which it piles up",
        "few": "4 values as classes; shares of",
        "double": "shifted donors",
        "holes": "shifted donors",
        "day": "shifted donors",
        "job": "shares of",
        "money": "shifted donors",
    }
    assert {name: text for name, text in expected.items() if not decision[name].startswith(text)} == {}
    copy = s.sample(m=1)[0]
    assert copy.schema == frame.schema
    for name in ("age", "dense", "spiky", "skew", "day"):
        assert frame[name].min() <= copy[name].min()
        assert copy[name].max() <= frame[name].max()
    # Values are on the grid of the column; zeros and holes keep their share within four standard errors.
    assert (copy["dense"] * 10 - (copy["dense"] * 10).round()).abs().max() < 1e-6
    assert abs((copy["spiky"] == 0).mean() - (frame["spiky"] == 0).mean()) < 4 * np.sqrt(2 * 0.25 / frame.height)
    holes = [part["holes"].is_null().mean() for part in (copy, frame)]
    assert abs(holes[0] - holes[1]) < 4 * np.sqrt(0.5 / frame.height)
    # Predictors are known as codes: to the nearest observed age.
    assert (copy["double"] - 2 * copy["age"]).abs().max() < 0.3
    money = copy["money"].cast(float)
    assert np.corrcoef(copy["dense"], money)[0, 1] > 0.999


@pytest.mark.parametrize(
    ("values", "floating", "step", "digits"),
    [
        ([1.5, 2.25, 9.0], True, 75, 2),
        ([10.0, 30.0, 50.0], False, 20, 0),
        ([0.1, 1 / 3], True, 0, 0),
        ([7.0], True, 1, 0),
    ],
)
def test_grids(values, floating, step, digits):
    grid = calibrate.find_grid(np.array(values), 1e-9 if floating else None)
    assert (grid.step, grid.digits) == (step, digits)
    assert grid.nearest(np.array(values)).tolist() == values


@pytest.mark.parametrize(
    "options", [{}, {"proper": True}, {"fit_rows": 200}, {"fit_rows": 200, "fresh_rows": True}], ids=str
)
def test_the_same_for_any_threads_and_from_a_file(tmp_path, every_type, options, monkeypatch):
    monkeypatch.setattr(draw, "BLOCK_ROWS", 100)
    frame = pl.concat([normal_table(every_type.height, 5), every_type], how="horizontal")
    options = {"method": "calibrated", "random_state": 3, "m": 2, **options}
    a, b = (fs.Synthesizer(threads=threads, **options).fit(frame) for threads in (1, 2))
    first, second = a.sample(k=333), b.sample(k=333)
    a.save(tmp_path / "a.fsyn")
    third = fs.Synthesizer.load(tmp_path / "a.fsyn").sample(k=333)
    for i in range(2):
        assert_frame_equal(first[i], second[i])
        assert_frame_equal(first[i], third[i])
        assert first[i].schema == frame.schema
    assert fs.Synthesizer.load(tmp_path / "a.fsyn").summary().equals(a.summary())


def test_leaves_hold_all_rows_whatever_gave_the_shape():
    frame = normal_table(2_000, 6).drop("c")
    s = fs.Synthesizer(m=2, method="calibrated", fit_rows=300, fresh_rows=True, random_state=1).fit(frame)
    for fit in s.model_.fits:
        for slot in range(1, 5):
            assert len(fit[slot].values.donors) == 2_000
    assert s.model_.fits[0][4].values.n_leaves <= 300 // 20
    # All rows count, so the rule is that of models of all rows.
    assert fs.pool(s.sample().analyse(fs.mean("y"))).rule == "raab2016"
    mixed = fs.Synthesizer(m=2, columns={"x1": fs.Column(method="cart")}, fit_rows=300, random_state=1).fit(frame)
    assert fs.pool(mixed.sample().analyse(fs.mean("y"))).rule == "subsample"


def test_bad_options_are_refused():
    with pytest.raises(fs.synthesis.OptionError):
        Calibrated(minbucket=0)


def test_values_that_people_heap_on_keep_their_mean_relations(monkeypatch):
    """Shared weights: the score equation of the mean holds, on the observed values only; too many values are donors."""
    rng = np.random.default_rng(8)
    x = rng.normal(size=(2_000, 2))
    exact = np.clip(np.rint(40 + 8 * x[:, 0] - 4 * x[:, 1] + 5 * rng.normal(size=2_000)), 1, 98)
    hours = np.where(rng.random(2_000) < 0.6, 5 * np.rint(exact / 5), exact).astype(int)
    frame = pl.DataFrame({"x0": x[:, 0], "x1": x[:, 1], "hours": hours})
    table, rows, model = fitted(frame, "hours")
    assert model.note.startswith(f"{len(set(hours))} values as classes")
    assert len(set(hours)) > calibrate.MOST_CLASSES
    shares = model.tilt.shares(table.codes, rows, leaf_numbers(table, model.values, rows))
    values = table.variables[2].numbers()[model.tilt.ranks]
    phi = np.vstack([np.ones(2_000), x.T])
    assert np.abs(phi @ (hours - shares @ values)).max() < 1e-3 * 2_000 * hours.std()
    copy = fs.synthesize(frame, m=1, random_state=1)[0]
    assert set(copy["hours"]) <= set(hours.tolist())
    monkeypatch.setattr(calibrate, "MOST_VALUES", 50)
    assert fitted(frame, "hours")[2].note.startswith("donors, leaves of 20: heaped on some of its values")


def test_a_column_that_follows_from_another_one_spoils_no_third():
    """Two features that go together may not get opposing weights; what is a multiple stays one."""
    rng = np.random.default_rng(3)
    income = np.exp(rng.normal(8, 1, 2_000)).round(2)
    frame = pl.DataFrame({"income": income, "tax": (0.3 * income).round(2), "noise": rng.normal(size=2_000).round(3)})
    observed = {"income": fs.Column(method="sample")}
    for copy in fs.synthesize(frame, m=3, columns=observed, random_state=1):
        assert copy["noise"].std() == pytest.approx(1, abs=0.1)
        assert (copy["tax"] - 0.3 * copy["income"]).abs().max() < 0.02
    # Values between observed ones predict what the nearest one does.
    for copy in fs.synthesize(frame, m=3, random_state=1):
        assert (copy["tax"] / copy["income"] / 0.3 - 1).abs().quantile(0.9) < 0.01


def test_draws_are_as_precise_as_most_values():
    rng = np.random.default_rng(4)
    x = rng.normal(size=500)
    y = np.where(rng.random(500) < 0.8, (x + 50).round(1), (x + 50).round(4))
    copy = fs.synthesize(pl.DataFrame({"x": x, "y": y}), m=1, random_state=1)[0]
    assert ((copy["y"] * 10 - (copy["y"] * 10).round()).abs() < 1e-9).mean() > 0.98


@pytest.mark.parametrize("n", [2, 5, 12, 25, 39, 60])
def test_small_tables(n):
    frame = normal_table(n, 7)
    syn = fs.synthesize(frame, m=2, random_state=1)
    assert syn[0].schema == frame.schema
    assert not any("values as classes" in (text or "") for text in syn.summary()["decision"])


def test_values_that_the_rows_of_the_shape_lack():
    """Of a heaped column the top value, of sparse ones all values: they come from the rows that fill leaves."""
    rng = np.random.default_rng(9)
    n = 3_000
    x = rng.normal(size=n)
    heaped = np.where(rng.random(n) < 0.6, 10 * rng.integers(1, 8, n), rng.integers(1, 60, n))
    heaped[5] = 99
    few, many = np.full(n, np.nan), np.full(n, np.nan)
    few[:3] = (1, 2, 2)
    many[::50] = 1_000 + 3 * np.arange(60) ** 2
    frame = pl.DataFrame({"x": x, "heaped": heaped, "few": few, "many": many}).with_columns(
        pl.col("few", "many").fill_nan(None)
    )
    copies = list(fs.synthesize(frame, m=20, fit_rows=60, random_state=1))
    values = pl.concat([copy["many"].drop_nulls() for copy in copies])
    assert values.n_unique() > 10
    assert set(pl.concat([copy["few"].drop_nulls() for copy in copies])) <= {1.0, 2.0}
    assert max(copy["heaped"].max() for copy in copies) == 99


def test_huge_values_outside_the_sample_do_no_harm(monkeypatch):
    monkeypatch.setattr(calibrate, "SAMPLE", 100)
    rng = np.random.default_rng(10)
    x = rng.normal(size=2_000)
    c = np.where(rng.random(2_000) < 1 / (1 + np.exp(-x)), "a", "b")
    x[8] = 1e300
    copy = fs.synthesize(pl.DataFrame({"x": x, "c": c, "y": rng.normal(size=2_000)}), m=1, random_state=1)[0]
    assert (copy["c"] == "a").mean() == pytest.approx(0.5, abs=0.06)
    assert copy["y"].std() == pytest.approx(1, abs=0.1)


def test_single_precision_has_a_grid():
    rng = np.random.default_rng(11)
    x = rng.normal(size=3_000)
    y = np.round(x * 50 + rng.normal(size=3_000) * 10 + 500, 1).astype(np.float32)
    copy = fs.synthesize(pl.DataFrame({"x": x, "y": y}), m=1, random_state=1)[0]
    assert copy["y"].dtype == pl.Float32
    assert np.array_equal(copy["y"].to_numpy(), np.round(copy["y"].to_numpy().astype(float), 1).astype(np.float32))
