"""Chains that fill in missing values, and what is synthesised from completed tables."""

import re
import warnings

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastsynth as fs
from fastsynth import imputation
from fastsynth.errors import ConvergenceWarning, DataWarning, NotFittedError, OptionError, OutputError, PlanError
from fastsynth.imputation import split_r_hat

N = 400


def table(n=N, seed=1, share=0.25):
    """Numbers, integers, categories and a date, with holes that depend on an observed column."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    y = x + rng.normal(size=n)
    frame = pl.DataFrame(
        {
            "x": x.round(2),
            "y": y.round(2),
            "count": rng.poisson(np.exp(0.3 * x)),
            "group": pl.Series(np.where(x + rng.normal(size=n) > 0, "high", "low")).cast(pl.Categorical),
            "stage": pl.Series(np.digitize(y, [-1, 0, 1])).cast(pl.String).cast(pl.Enum(list("0123"))),
            "day": np.datetime64("2024-01-01")
            + (30 * (y + rng.normal(size=n) + 6)).astype(int).astype("timedelta64[D]"),
        }
    )
    holes = {name: pl.Series(rng.random(n) < share * (1 + np.sign(x) / 2)) for name in frame.columns[1:]}
    return frame.with_columns(
        pl.when(lost).then(None).otherwise(pl.col(name)).alias(name) for name, lost in holes.items()
    )


@pytest.fixture(scope="module")
def holed():
    return table()


def completed(frame, m=3, seed=1, columns=None, **options):
    """Completed tables; chains are short, so what has not mixed is not the point."""
    impute = fs.Impute(**{"maxit": 2, "syntheses": 0} | options)
    return fs.synthesize(frame, m=m, impute=impute, columns=columns, random_state=seed, progress=False)


def same_where_observed(frame, filled):
    for name in frame.columns:
        known = frame[name].is_not_null()
        assert filled[name].filter(known).equals(frame[name].filter(known)), name


# ------------------------------------------------------------ completed tables


@pytest.mark.parametrize("method", ["cart", "forest", "sample", "calibrated", {"y": "sample", "day": fs.Cart(20)}])
def test_what_was_observed_stays_and_the_rest_is_filled_in(holed, method):
    syn = completed(holed, method=method)
    assert repr(syn) == f"Synthesis: m=3 completed tables (real rows) of {N} rows x 6 columns"
    for of in syn:
        assert of.schema == holed.schema
        assert of.null_count().row(0) == (0,) * 6
        same_where_observed(holed, of)
        for name in holed.columns:
            # Donors: no value that nobody had.
            assert set(of[name].to_list()) <= set(holed[name].to_list())
    assert not syn[0].equals(syn[1])


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(12, 40),
    holes=st.lists(st.lists(st.booleans(), min_size=40, max_size=40), min_size=3, max_size=3),
    seed=st.integers(0, 9),
)
def test_any_pattern_is_filled_in(n, holes, seed):
    rng = np.random.default_rng(seed)
    masks = [np.array(mask[:n]) & (np.arange(n) > 3) for mask in holes]
    frame = pl.DataFrame(
        {
            "a": rng.integers(0, 5, n),
            "b": rng.normal(size=n),
            "c": pl.Series(rng.choice(["u", "v", "w"], n)).cast(pl.Categorical),
        }
    )
    frame = frame.with_columns(
        pl.when(pl.Series(mask)).then(None).otherwise(pl.col(name)).alias(name)
        for name, mask in zip("abc", masks, strict=True)
    )
    if not frame.null_count().sum_horizontal().item():
        with pytest.raises(OptionError, match="nothing to fill in"):
            completed(frame, m=2)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for of in completed(frame, m=2):
            assert of.null_count().sum_horizontal().item() == 0
            same_where_observed(frame, of)


def test_columns_that_are_not_to_be_filled_in_keep_their_holes(holed):
    of = completed(holed, method={"y": "", "day": ""})[0]
    assert of["y"].equals(holed["y"])
    assert of["day"].equals(holed["day"])
    assert of["count"].null_count() == 0


def test_imputations_are_draws_of_the_conditional_distribution():
    """y is missing more often for large x: means of y given x are those of the observed, not of all."""
    rng = np.random.default_rng(2)
    n, m = 4_000, 10
    x = rng.integers(0, 2, n)
    y = rng.random(n) < np.where(x, 0.8, 0.3)
    lost = rng.random(n) < np.where(x, 0.6, 0.2)
    frame = pl.DataFrame({"x": x, "y": pl.Series(y.astype(int))}).with_columns(
        y=pl.when(pl.Series(lost)).then(None).otherwise("y")
    )
    syn = completed(frame, m=m)
    for value in (0, 1):
        here = lost & (x == value)
        seen = y[~lost & (x == value)]
        shares = [of["y"].to_numpy()[here].mean() for of in syn]
        # Variance of a bootstrap mean and of the draws.
        variance = seen.var() * (1 / len(seen) + 1 / here.sum())
        assert abs(np.mean(shares) - seen.mean()) < 4 * np.sqrt(variance / m)
        ratio = np.var(shares, ddof=1) / variance
        # Chi-square of m - 1 degrees of freedom, .0005 on each side.
        assert 0.12 < ratio < 3.4


def test_without_bootstrap_imputations_vary_less():
    rng = np.random.default_rng(3)
    n, m = 300, 40
    frame = pl.DataFrame({"x": np.ones(n), "y": np.append(rng.normal(size=60), np.full(240, np.nan))})
    frame = frame.with_columns(pl.col("y").fill_nan(None))
    spread = [
        np.var([of["y"].tail(240).mean() for of in completed(frame, m=m, proper=proper)], ddof=1)
        for proper in (True, False)
    ]
    # s^2 (1/60 + 1/240) against s^2 / 240: five times as large; F of 39 and 39 degrees of freedom.
    assert 5 / 3 < spread[0] / spread[1] < 15


def test_monotone_patterns_take_one_sweep(holed):
    lost = np.arange(N)
    frame = pl.DataFrame({"x": holed["x"], "y": holed["x"] * 2, "z": holed["x"] * 3}).with_columns(
        y=pl.when(pl.Series(lost < 80)).then(None).otherwise("y"),
        z=pl.when(pl.Series(lost < 200)).then(None).otherwise("z"),
    )
    synthesizer = fs.Synthesizer(impute=True, m=2, random_state=1).fit(frame)
    chains = synthesizer.imputation_
    assert chains.monotone
    assert chains.maxit == 1
    assert list(chains.n_holes.items()) == [("y", 80), ("z", 200)]
    assert repr(chains) == "Imputation: 2 chains, 280 cells of 2 columns, monotone: one sweep is all"
    assert synthesizer.iterate(5).imputation_.maxit == 1


def test_a_column_of_few_values_left(holed):
    """A bootstrap sample may have none of them."""
    frame = holed.with_columns(y=pl.when(pl.int_range(N) < 2).then("x").otherwise(None))
    of = completed(frame, m=5)
    assert all(set(t["y"]) <= set(frame["y"].drop_nulls()) for t in of)


def test_wide_tables_choose_their_predictors():
    rng = np.random.default_rng(1)
    z = rng.normal(size=(300, 70))
    z[:, 1] = z[:, 0] + 0.1 * rng.normal(size=300)
    frame = pl.DataFrame({f"c{i:02}": z[:, i] for i in range(70)})
    frame = frame.with_columns(c01=pl.when(pl.int_range(300) % 4 == 0).then(None).otherwise("c01"))
    of = completed(frame, m=1, maxit=1)[0]
    lost = frame["c01"].is_null()
    assert np.corrcoef(of["c01"].filter(lost), of["c00"].filter(lost))[0, 1] > 0.85


# ------------------------------------------------------------ passive, rules, bounds, skips


def test_passive_columns_keep_step(holed):
    twice = fs.Column(passive=(pl.col("y") * 2).round(2))
    both = fs.Column(passive=pl.col("twice") + pl.col("x"))
    frame = holed.with_columns(twice=(pl.col("y") * 2).round(2)).with_columns(both=pl.col("twice") + pl.col("x"))
    columns = {"twice": twice, "both": both}
    of = completed(frame, columns=columns)[1]
    assert of.null_count().sum_horizontal().item() == 0
    np.testing.assert_allclose(of["twice"], (of["y"] * 2).round(2))
    np.testing.assert_allclose(of["both"], of["twice"] + of["x"])
    same_where_observed(frame, of)
    syn = fs.synthesize(frame, m=2, impute=fs.Impute(maxit=2), columns=columns, random_state=1)
    np.testing.assert_allclose(syn[1]["both"], (syn[1]["y"] * 2).round(2) + syn[1]["x"])
    assert syn[1].null_count().sum_horizontal().item() == 0


def test_an_observed_passive_value_stays_though_a_parent_is_filled_in(holed):
    frame = holed.with_columns(twice=pl.col("x") * 2).with_columns(
        x=pl.when(pl.int_range(N) < 50).then(None).otherwise("x")
    )
    of = completed(frame, columns={"twice": fs.Column(passive=pl.col("x") * 2)})[0]
    same_where_observed(frame, of)


def test_rules_bounds_and_skips_are_respected(holed):
    """Nobody below 0 has a count, which is missing there; elsewhere it is filled in, within its bounds."""
    frame = holed.with_columns(count=pl.when(pl.col("x") < 0).then(None).otherwise("count"))
    columns = {"count": fs.Column(rules=[fs.Rule(pl.col("x") < 0, None)], bounds=(1, 3))}
    for of in completed(frame, columns=columns):
        skipped = of["x"] < 0
        assert of["count"].filter(skipped).null_count() == skipped.sum()
        drawn = of.filter(frame["count"].is_null() & ~skipped)["count"]
        assert drawn.null_count() == 0
        assert drawn.is_between(1, 3).all()


def test_rules_look_at_what_was_filled_in(holed):
    """A hole in the condition: the rule applies where the value that was filled in says so."""
    columns = {"count": fs.Column(rules=[fs.Rule(pl.col("group") == "low", 0)])}
    of = completed(holed, columns=columns)[0]
    lost = holed["count"].is_null() & (of["group"] == "low")
    assert lost.sum() > 10
    assert (of["count"].filter(lost) == 0).all()


def test_what_is_forbidden_is_not_drawn_in_either_column(holed):
    impossible = (pl.col("group") == "high") & (pl.col("stage") == "0")
    frame = holed.with_columns(stage=pl.when(impossible).then(pl.lit("1", pl.Enum(list("0123")))).otherwise("stage"))
    syn = fs.synthesize(
        frame, m=3, impute=fs.Impute(maxit=2, syntheses=0), forbid=[impossible], random_state=1, progress=False
    )
    assert all(of.filter(impossible).height == 0 for of in syn)


def test_cells_that_nothing_fits_are_told():
    frame = pl.DataFrame({"a": [1, 2, 3, 4] * 20, "b": [1, None, 3, 4] * 20})
    with pytest.warns(DataWarning, match="20 of 'b'"):
        completed(frame, m=1, columns={"b": fs.Column(bounds=pl.col("b") < pl.col("a") - 1)})


def test_codes_of_missing_values_stay_unless_they_are_named():
    rng = np.random.default_rng(1)
    x = rng.integers(0, 20, 300)
    income = np.where(x < 4, -8, np.where(rng.random(300) < 0.2, -9, x * 100))
    frame = pl.DataFrame({"x": x, "income": income}).with_columns(
        income=pl.when(pl.int_range(300) % 10 == 0).then(None).otherwise("income")
    )
    columns = {"income": fs.Column(cont_na=[-8, -9])}
    of = completed(frame, columns=columns)[0]
    same_where_observed(frame, of)
    assert of["income"].null_count() == 0
    where = {"income": (pl.col("income") == -9) | pl.col("income").is_null()}
    of = completed(frame, columns=columns, where=where)[0]
    assert (of["income"] != -9).all()
    known = frame["income"].is_not_null() & (frame["income"] != -9)
    assert of["income"].filter(known).equals(frame["income"].filter(known))


def test_where_leaves_skips_alone(holed):
    of = completed(holed, where={"y": pl.col("y").is_null() & (pl.col("x") > 0), "day": [False] * N})[0]
    assert of["y"].is_null().equals(holed["y"].is_null() & (holed["x"] <= 0))
    assert of["day"].equals(holed["day"])
    assert of["count"].null_count() == 0


def test_rows_that_are_ignored_give_no_values(holed):
    frame = holed.with_columns(y=pl.when(pl.col("x") > 1).then(99.0).otherwise("y"))
    for ignore in (pl.col("y") == 99, (frame["y"] == 99).fill_null(False).to_numpy()):
        of = completed(frame, ignore=ignore)[0]
        assert (of["y"].filter(frame["y"].is_null()) != 99).all()


def test_what_is_filled_in_is_a_value(holed):
    """Kinds of missing that stay are none of the donors."""
    frame = holed.with_columns(count=pl.when(pl.col("x") < 0).then(-8).otherwise("count"))
    frame = frame.with_columns(y=pl.when(pl.col("x") < 0).then(float("nan")).otherwise("y"))
    named = frame["group"].is_null() & (frame["x"] < 0)
    where = {"group": named.to_numpy(), "y": pl.col("y").is_null()}
    of = completed(frame, columns={"count": fs.Column(cont_na=[-8])}, where=where)[0]
    assert of["group"].filter(named).null_count() == 0
    assert of["group"].null_count() == frame["group"].null_count() - named.sum()
    assert (of["count"].filter(frame["count"].is_null()) >= 0).all()
    assert of["y"].filter(frame["y"].is_null()).is_not_nan().all()


def test_a_rule_says_the_value_of_a_hole_too(holed):
    """Where it sets a value, a missing cell is filled in with it; where it sets none, the cell is no hole."""
    rules = [fs.Rule(pl.col("x") < 0, 3), fs.Rule(pl.col("x") < -1, None)]
    columns = {"count": fs.Column(rules=rules)}
    synthesizer = fs.Synthesizer(m=2, impute=fs.Impute(maxit=1, syntheses=0), columns=columns, random_state=1)
    of = synthesizer.fit(holed).sample()[0]
    lost = holed["count"].is_null()
    skipped = lost & (holed["x"] < -1)
    assert of["count"].filter(skipped).null_count() == skipped.sum() > 5
    assert (of["count"].filter(lost & (holed["x"] < 0) & ~skipped) == 3).all()
    assert synthesizer.imputation_.n_holes["count"] == (lost & ~skipped).sum()


def test_columns_with_skips_only_predict_in_the_first_sweep():
    """z is missing only where a rule says so, and y is z: one sweep, and it sees z."""
    rng = np.random.default_rng(1)
    x, z = rng.normal(size=(2, 1_000))
    frame = pl.DataFrame({"x": x, "z": z, "y": z}).with_columns(
        z=pl.when(pl.col("x") > -1).then("z"), y=pl.when(pl.Series(rng.random(1_000) > 0.3)).then("y")
    )
    columns = {"z": fs.Column(rules=[fs.Rule(pl.col("x") <= -1, None)])}
    of = completed(frame, columns=columns)[0]
    filled = frame["y"].is_null().to_numpy() & (x > -1)
    assert np.corrcoef(of["y"].to_numpy()[filled], z[filled])[0, 1] > 0.95


def test_trees_of_a_forest_draw_for_themselves():
    """Rows in the order of y, and nothing to predict it from: means vary as those of single draws."""
    rng = np.random.default_rng(1)
    y = np.sort(rng.normal(size=1_000))
    frame = pl.DataFrame({"y": y, "x": rng.normal(size=1_000)}).with_columns(
        y=pl.when(pl.int_range(1_000) % 2 == 0).then("y")
    )
    lost = np.arange(1_000) % 2 == 1
    of = completed(frame, m=60, method=fs.Forest(10), predictors={"y": []}, proper=False)
    means = np.array([table["y"].to_numpy()[lost].mean() for table in of])
    # Of 60 means; the chi-squared quotient exceeds 1.8 once in ten thousand times. Each tree has a sample of its own.
    expected = y[~lost].var() * (1 / 500 + 1 / 5_000)
    assert means.var(ddof=1) < 1.8 * expected


def test_numbers_that_are_moved_to_observed_ones_keep_limits():
    rng = np.random.default_rng(1)
    x = rng.normal(50, 10, 2_000)
    frame = pl.DataFrame({"x": x, "y": x + rng.exponential(2, 2_000)}).with_columns(
        y=pl.when(pl.Series(rng.random(2_000) > 0.3)).then("y")
    )
    impute = fs.Impute(syntheses=0, method="calibrated")
    syn = fs.synthesize(frame, m=3, impute=impute, forbid=[pl.col("y") < pl.col("x")], random_state=1)
    assert [of.filter(pl.col("y") < pl.col("x")).height for of in syn] == [0, 0, 0]


@pytest.mark.parametrize("method", [None, fs.Column(method="identifier")])
def test_completed_tables_keep_identifiers_and_text(holed, method):
    frame = holed.with_columns(
        id=pl.Series([f"A{i:05d}" for i in range(N)]),
        text=pl.Series([f"said {i * i} and then {'so ' * (i % 7)}" for i in range(N)]),
    )
    columns = None if method is None else {"id": method}
    for of in completed(frame, columns=columns):
        assert of.select("id", "text").equals(frame.select("id", "text"))
        assert of["y"].null_count() == 0
    with pytest.raises(PlanError, match="'id' identify people"):
        completed(frame, predictors={"y": ["id"]})


def test_predictors_of_the_caller_are_taken_in_wide_tables():
    rng = np.random.default_rng(1)
    frame = pl.DataFrame({f"v{i}": rng.normal(size=200) for i in range(70)})
    frame = frame.with_columns(pl.when(pl.int_range(200) > 20).then(pl.col("v0", "v1")).name.keep())
    impute = fs.Impute(maxit=1, syntheses=0, predictors={"v0": [f"v{i}" for i in range(2, 42)]})
    chains = fs.Synthesizer(m=1, impute=impute, random_state=1).fit(frame).imputation_
    assert {step.name: len(step.predictors) for step in chains._gaps.plan.steps} == {"v0": 40, "v1": 20}


def test_blocks_need_a_donor(holed):
    frame = holed.with_columns(y=pl.when(pl.col("stage").is_null()).then("y"))
    with pytest.raises(OptionError, match="no row has values of all of 'y', 'stage'"):
        completed(frame, blocks=[["y", "stage"]])


@pytest.mark.parametrize("most_rows", [100, imputation.MOST_ROWS])
def test_blocks_come_from_one_donor(holed, most_rows, monkeypatch):
    """Also where trees are grown on some of the rows."""
    monkeypatch.setattr(imputation, "MOST_ROWS", most_rows)
    frame = holed.with_columns(y=pl.when(pl.col("stage").is_null()).then(None).otherwise("y"))
    of = completed(frame, blocks=[["y", "stage"]])[0]
    both = frame["y"].is_null() & frame["stage"].is_null()
    pairs = set(frame.select("y", "stage").drop_nulls().rows())
    assert set(of.filter(both).select("y", "stage").rows()) <= pairs
    assert of.null_count().sum_horizontal().item() == 0


# ------------------------------------------------------------ synthesis


@pytest.mark.parametrize(
    ("options", "m", "rule", "copies"),
    [
        ({}, 5, "onestep", 5),
        ({"syntheses": 0}, 5, "rubin1987", 5),
        ({"syntheses": 2}, 3, "reiter2004", 6),
    ],
)
def test_the_rule_goes_with_the_copies(holed, options, m, rule, copies):
    impute = fs.Impute(maxit=2, **options)
    syn = fs.synthesize(holed, m=m, impute=impute, method="cart", random_state=1, progress=False)
    assert len(syn) == syn.m == copies
    assert syn.design.imputed
    assert fs.pool(syn.analyse(fs.mean("y"))).rule == rule
    assert all(of.null_count().sum_horizontal().item() == 0 for of in syn)
    assert syn.audit["imputation"]["cells"]["y"] == holed["y"].null_count()
    assert syn.audit["syntheses"] == options.get("syntheses", 1)


def test_copies_of_one_table_are_of_one_table(holed):
    """Kept columns show it: two copies of a table share what was filled in, those of another do not."""
    columns = {"y": fs.Column(method="keep"), "x": fs.Column(method="keep")}
    syn = fs.synthesize(holed, m=2, impute=fs.Impute(maxit=2, syntheses=2), columns=columns, random_state=1)
    assert syn[0]["y"].equals(syn[1]["y"])
    assert not syn[0]["y"].equals(syn[2]["y"])
    assert not syn[0]["count"].equals(syn[1]["count"])
    same_where_observed(holed.select("x", "y"), syn[3])
    assert syn.design.partial


@pytest.mark.parametrize(
    "options",
    [
        {"proper": True},
        {"proper": True, "impute": fs.Impute(maxit=2, syntheses=2)},
        {"method": "cart", "fit_rows": 150},
        {"fit_rows": 200},
        {"strata": ["half"]},
        {"weights": "x2"},
        {"where": {"y": pl.col("x") > 0, "count": pl.col("x") > 0}},
        {"copies": "fresh"},
        {"guard": fs.Guard(max_copies=50)},
    ],
    ids=lambda o: "-".join(o),
)
def test_it_goes_with_other_options(holed, options):
    frame = holed.with_columns(half=(pl.int_range(N) % 2).cast(pl.String), x2=pl.col("x") ** 2 + 1)
    if "weights" not in options:
        frame = frame.drop("x2")
    options = {"impute": fs.Impute(maxit=2), "m": 2, "random_state": 3, "progress": False} | options
    with warnings.catch_warnings():
        # An association that partial synthesis cannot keep is not the point.
        warnings.simplefilter("ignore", DataWarning)
        syn = fs.synthesize(frame, **options)
        again = fs.synthesize(frame, **options | {"threads": 1})
    assert len(syn) == 2 * options["impute"].syntheses
    for i, of in enumerate(syn):
        assert of.null_count().sum_horizontal().item() == 0
        assert of.equals(again[i])


def test_other_numbers_of_rows(holed):
    assert fs.synthesize(holed, m=2, k=50, impute=fs.Impute(maxit=2), random_state=1)[1].shape == (50, 6)
    with pytest.raises(OptionError, match="k must be 400"):
        fs.synthesize(holed, m=2, k=50, impute=fs.Impute(maxit=2, syntheses=0), random_state=1)


def test_kinds_of_input_and_pieces_give_the_same(holed, tmp_path):
    holed.write_parquet(tmp_path / "t.parquet", row_group_size=50)
    options = {"m": 2, "impute": fs.Impute(maxit=2), "random_state": 1, "progress": False}
    plain = fs.synthesize(holed, **options)
    for data in (holed.to_arrow(), holed.lazy(), tmp_path / "t.parquet"):
        other = fs.synthesize(data, **options)
        assert all(pl.DataFrame(other.arrow(i)).equals(plain[i]) for i in range(2))
    pieces = fs.synthesize(tmp_path / "t.parquet", memory_limit=20_000_000, out=tmp_path / "out", **options)
    assert all(pieces[i].equals(plain[i]) for i in range(2))
    read = fs.Synthesis.read(tmp_path / "out")
    assert read.design == pieces.design
    assert read.audit == pieces.audit
    assert read.imputation["maxit"] == 2


@pytest.mark.filterwarnings("ignore:Copies keep original values")
@pytest.mark.parametrize("syntheses", [0, 1, 2])
def test_a_saved_model_gives_the_same(holed, tmp_path, syntheses):
    impute = fs.Impute(maxit=2, syntheses=syntheses)
    columns = {"y": fs.Column(method="keep"), "x": fs.Column(method="keep")} if syntheses else None
    synthesizer = fs.Synthesizer(m=2, impute=impute, columns=columns, random_state=1).fit(holed)
    synthesizer.save(tmp_path / "model")
    loaded = fs.Synthesizer.load(tmp_path / "model")
    own, other = synthesizer.sample(), loaded.sample()
    assert len(own) == 2 * max(syntheses, 1)
    assert all(own[i].equals(other[i]) for i in range(len(own)))
    assert other.audit["imputation"] == own.audit["imputation"]
    assert other.design == own.design
    assert loaded.imputation_ is None
    with pytest.raises(OptionError, match="impute="):
        loaded.fit(holed)
    with pytest.raises(NotFittedError, match="impute=True"):
        loaded.iterate(1)
    with pytest.raises(OptionError, match=r"m=3: models of 2 completed tables"):
        loaded.sample(m=3)


def test_slopes_survive_one_pass():
    """y = x1 + x2 + e, 40 % of y missing at random: T_1 covers in nearly all of few repeats, T_s would not."""
    rng = np.random.default_rng(7)
    covered = []
    for seed in range(12):
        n = 400
        x1, x2 = rng.normal(size=(2, n))
        y = x1 + x2 + rng.normal(size=n)
        lost = rng.random(n) < 1 / (1 + np.exp(0.5 - x1))
        frame = pl.DataFrame({"x1": x1, "x2": x2, "y": y}).with_columns(
            y=pl.when(pl.Series(lost)).then(None).otherwise("y")
        )
        order = ["x1", "x2", "y"]
        syn = fs.synthesize(frame, m=5, impute=True, visit_sequence=order, random_state=seed, progress=False)
        pooled = fs.pool(syn.analyse(fs.slopes("y", ["x1", "x2"]))).table.filter(pl.col("term") != "Intercept")
        covered += ((pooled["conf_low"] < 1) & (pooled["conf_high"] > 1)).to_list()
    # Binomial of 24 with .93: 18 and more, but for once in a thousand times.
    assert sum(covered) >= 18


# ------------------------------------------------------------ chains


def test_more_sweeps_are_those_that_there_would_have_been(holed):
    long = fs.Synthesizer(m=2, impute=fs.Impute(maxit=4), random_state=1).fit(holed)
    short = fs.Synthesizer(m=2, impute=fs.Impute(maxit=1), random_state=1).fit(holed)
    assert short.iterate(3) is short
    assert short.imputation_.maxit == 4
    assert short.sample()[1].equals(long.sample()[1])
    np.testing.assert_array_equal(short.imputation_.trace["mean[y]"], long.imputation_.trace["mean[y]"])
    with pytest.raises(OptionError, match="sweeps=0"):
        short.iterate(0)


def test_few_sweeps_are_not_judged(holed):
    chains = fs.Synthesizer(m=2, impute=fs.Impute(maxit=2), random_state=1).fit(holed).imputation_
    assert "2 sweeps, too few to be judged" in repr(chains)
    assert chains.table["converged"].null_count() == 10


def test_iterate_needs_chains(holed):
    with pytest.raises(NotFittedError, match="impute=True"):
        fs.Synthesizer(random_state=1).iterate(1)
    with pytest.raises(NotFittedError, match="impute=True"):
        fs.Synthesizer(random_state=1).fit(holed).iterate(1)


def test_chains_are_seen(holed, tmp_path):
    chains = fs.Synthesizer(m=3, impute=fs.Impute(maxit=6), random_state=1).fit(holed).imputation_
    assert chains.trace["sd[count]"].shape == (3, 6)
    assert chains.table["parameter"].len() == 10
    assert chains.not_converged == []
    assert chains.sweeps.tolist() == [1, 2, 3, 4, 5, 6]
    assert re.match(r"Imputation: 3 chains, [\d,]+ cells of 5 columns, 6 sweeps, 0 of 10 traces not", repr(chains))
    fs.plot_chains(chains, tmp_path / "chains.png")
    assert (tmp_path / "chains.png").stat().st_size > 5_000
    fs.plot_chains(chains, tmp_path / "one.png", ["mean[y]"])
    with pytest.raises(OptionError, match="no parameters"):
        fs.plot_chains(chains, tmp_path / "none.png", ["mean[x]"])
    with pytest.raises(OptionError, match="these are no chains"):
        fs.plot_chains(None, tmp_path / "none.png")


def test_columns_that_follow_from_each_other_do_not_mix():
    """b = 2 a, missing together: each chain stays where it began. As a passive column it is computed instead."""
    rng = np.random.default_rng(1)
    a = rng.normal(size=500).round(2)
    lost = pl.Series(np.arange(500) < 8)
    frame = pl.DataFrame({"a": a, "b": 2 * a, "c": rng.normal(size=500)})
    frame = frame.with_columns(pl.when(lost).then(None).otherwise(pl.col("a", "b")).name.keep())
    frame = frame.with_columns(c=pl.when(pl.int_range(500) > 480).then(None).otherwise("c"))
    with pytest.warns(ConvergenceWarning, match=r"have not mixed after 12 sweeps: .*\[[ab]\]"):
        fs.synthesize(frame, m=5, impute=fs.Impute(maxit=12), random_state=1, progress=False)
    columns = {"b": fs.Column(passive=2 * pl.col("a"))}
    fs.synthesize(frame, m=5, impute=fs.Impute(maxit=12), columns=columns, random_state=1, progress=False)


def test_r_hat_of_few_sweeps():
    rng = np.random.default_rng(1)
    found = [split_r_hat(rng.normal(size=(5, 10)), 1) for _ in range(2_000)]
    beyond = np.mean([ratio > bound for ratio, bound in found])
    # .001 expected; Poisson of 2 exceeds 9 once in ten thousand times.
    assert beyond <= 9 / 2_000
    assert split_r_hat(rng.normal(size=(5, 400)), 1)[1] == 1.05
    assert np.isnan(split_r_hat(rng.normal(size=(5, 4)), 1)[0])
    assert split_r_hat(rng.normal(size=(5, 5)), 1)[0] > 0
    assert np.isnan(split_r_hat(np.full((5, 10), 0.3), 1)[0])
    assert split_r_hat(np.repeat(np.arange(5.0)[:, None], 10, axis=1), 1)[0] == np.inf


# ------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"cluster": "group2"}, "know nothing of clusters"),
        ({"blocks": [fs.LatentNormal("x", "y")]}, "fills in its columns itself"),
        ({"method": "copula"}, "counts one table"),
        ({"fresh_rows": True}, "Leave fresh_rows out"),
        ({"strata": ["group"]}, "'group' make strata and have missing values"),
        ({"fit": "partition", "out": "o"}, "leave out impute"),
        ({"impute": 1}, "impute=1"),
        ({"impute": fs.Impute(where={"y": pl.col("y").is_not_null()})}, r"where of 'y' in Impute names [\d]+ cells"),
        ({"impute": fs.Impute(where={"y": [True]})}, r"Impute\(where=...\) of 'y': must be an expression, or 400"),
        ({"impute": fs.Impute(ignore=pl.col("x") < 99)}, "all rows are ignored"),
        ({"impute": fs.Impute(ignore="y is not null")}, "no row has a value of 'y'.*method={'y': ''}"),
        ({"impute": fs.Impute(ignore=pl.col("q") < 9)}, r"Impute\(ignore=...\)"),
        ({"impute": fs.Impute(ignore=[True])}, r"Impute\(ignore=...\): must be an expression, or 400"),
    ],
)
def test_what_does_not_go_together_is_refused(holed, tmp_path, options, told):
    frame = holed.with_columns(group2=pl.int_range(N) // 10)
    options = {"impute": True} | options
    if "out" in options:
        options["out"] = tmp_path / "out"
    with pytest.raises((OptionError, OutputError), match=told):
        fs.synthesize(frame, m=2, random_state=1, progress=False, **options)


@pytest.mark.parametrize("dtype", [pl.String, pl.Categorical, pl.Float64, pl.Date, pl.Boolean])
def test_a_column_without_values_is_refused(holed, dtype):
    frame = holed.with_columns(empty=pl.lit(None, dtype))
    with pytest.raises(OptionError, match="no row has a value of 'empty'"):
        completed(frame)
    of = completed(frame, method={"empty": ""})[0]
    assert of["empty"].null_count() == N
    assert of["y"].null_count() == 0


@pytest.mark.parametrize(
    "option",
    [
        {"proper": True},
        {"where": {"x": pl.col("x") > 0}},
        {"strata": ["half"]},
        {"weights": "x2"},
        {"fit_rows": 100},
        {"copies": "fresh"},
        {"guard": fs.Guard(max_copies=5)},
        {"columns": {"x2": fs.Column(coding=(1, 2))}},
        {"k": 99},
    ],
    ids=str,
)
def test_completed_tables_are_not_synthesised(holed, option):
    frame = holed.with_columns(half=pl.lit("a"), x2=pl.col("x") ** 2 + 1)
    told = "k must be 400" if "k" in option else f"{next(iter(option.get('columns', option)))}".replace("x2", "coding")
    with pytest.raises(OptionError, match=told):
        fs.synthesize(frame, impute=fs.Impute(syntheses=0), random_state=1, **option)


def test_copies_without_a_rule_are_told(holed):
    columns = {"x": fs.Column(method="keep")}
    with pytest.warns(DataWarning, match=r"Impute\(syntheses=2\)") as told:
        syn = fs.synthesize(holed, m=2, impute=fs.Impute(maxit=1), columns=columns, random_state=1)
    assert told[0].filename == __file__
    assert "of 2 imputed tables" in repr(syn)
    with pytest.warns(DataWarning, match=r"Fit to all"):
        fs.synthesize(holed, m=2, impute=fs.Impute(maxit=1), method="cart", fit_rows=200, random_state=1)


def test_complete_tables_need_no_imputation(holed):
    with pytest.raises(OptionError, match="nothing to fill in"):
        fs.synthesize(holed.drop_nulls(), impute=True, random_state=1)


def test_private_synthesis_knows_no_imputation(holed):
    method = fs.DpCart(1.0, {"x": fs.Bins([-5, 0, 5])})
    with pytest.raises(OptionError, match="impute: not with method=DpCart"):
        fs.synthesize(holed.select("x"), method=method, impute=True, k=10)
