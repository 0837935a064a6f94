"""What callers say of single rows: weights, cells to replace, given columns; and strata."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest

import fastsynth as fs
from fastsynth.columns import encode
from fastsynth.errors import DataError, DataWarning, OptionError, OutputError, PlanError
from fastsynth.methods import leaves_of
from fastsynth.source import read_table

METHODS = ["calibrated", "cart"]


@pytest.fixture(scope="module")
def people():
    """3,000 people: b follows a, c follows both; the weights are larger where a is large."""
    rng = np.random.default_rng(5)
    a = rng.normal(size=3_000)
    b = a + rng.normal(size=3_000)
    group = np.where(a + rng.normal(size=3_000) > 0.5, "high", "low")
    w = np.exp(0.7 * a + 0.2 * rng.normal(size=3_000))
    region = rng.choice(["north", "south", "west"], 3_000, p=[0.5, 0.3, 0.2])
    c = 5 * (region == "north") + np.where(region == "south", b, -b) + 0.3 * rng.normal(size=3_000)
    return pl.DataFrame({"region": region, "a": a, "b": b, "group": group, "c": c, "w": w})


# Weights


@pytest.mark.parametrize("method", METHODS)
def test_copies_represent_the_population(people, method):
    syn = fs.synthesize(people, m=5, k=6_000, weights="w", method=method, random_state=1)
    assert syn[0].columns == ["region", "a", "b", "group", "c"]
    w = people["w"].to_numpy()
    effective = w.sum() ** 2 / (w**2).sum()
    assert syn.n == round(effective)
    assert syn.v is None
    everybody = pl.concat(list(syn))
    for name in ("a", "b"):
        mean = np.average(people[name], weights=w)
        sd = np.sqrt(np.average((people[name] - mean) ** 2, weights=w))
        # Drawing 30,000 rows, and what trees and systematic weights leave open.
        assert abs(everybody[name].mean() - mean) < 5 * sd / np.sqrt(30_000) + 0.02 * sd
        assert abs(mean - people[name].mean()) > 0.3
    share = np.average(people["group"] == "high", weights=w)
    assert abs((everybody["group"] == "high").mean() - share) < 0.02


def test_leaves_hold_different_people_whatever_they_weigh(people):
    heavy = people.with_columns(w=pl.when(pl.int_range(pl.len()) == 0).then(1e4).otherwise(1.0))
    fit = fs.Synthesizer(method=fs.Cart(minbucket=10), weights="w", random_state=1).fit(heavy)
    alone = fs.Synthesizer(method=fs.Cart(minbucket=10), random_state=1).fit(heavy.drop("w"))
    leaves = [s.model_.fits[0][2].values.n_leaves for s in (fit, alone)]
    assert leaves[0] == leaves[1]


@pytest.mark.parametrize(
    "options", [{"proper": True}, {"fit_rows": 1_000}, {"fresh_rows": True}, {"strata": ["region"]}]
)
def test_weights_with_other_options(people, options):
    syn = fs.synthesize(people, m=3, weights="w", random_state=2, **options)
    w = people["w"].to_numpy()
    mean = np.average(people["a"], weights=w)
    assert abs(pl.concat(list(syn))["a"].mean() - mean) < 0.15
    again = fs.synthesize(people, m=3, weights="w", random_state=2, threads=1, **options)
    assert again[1].equals(syn[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w": None}, "3000 row"),
        ({"w": -1.0}, "3000 row"),
        ({"w": 0.0}, "are zero"),
        ({"w": "much"}, "holds no numbers"),
    ],
)
def test_bad_weights_are_refused(people, change, message):
    frame = people.with_columns(**{name: pl.lit(value) for name, value in change.items()})
    if change["w"] is None:
        frame = frame.with_columns(pl.col("w").cast(pl.Float64))
    with pytest.raises(DataError, match=message):
        fs.synthesize(frame, weights="w")


def test_weights_name_a_column(people):
    with pytest.raises(PlanError, match="no column 'v'"):
        fs.synthesize(people, weights="v")
    with pytest.raises(OptionError, match="must be the name"):
        fs.synthesize(people, weights=people["w"].to_numpy())
    with pytest.raises(OptionError, match="nothing can be special"):
        fs.synthesize(people, weights="w", columns={"w": fs.Column(method="cart")})


# Strata


@pytest.mark.parametrize("method", METHODS)
def test_strata_have_models_of_their_own(people, method):
    syn = fs.synthesize(people, m=2, strata=["region"], method=method, random_state=1)
    copy = syn[0]
    shares = people["region"].value_counts(normalize=True).sort("region")["proportion"].to_numpy()
    drawn = copy["region"].value_counts(normalize=True).sort("region")["proportion"].to_numpy()
    assert np.abs(shares - drawn).max() < 4 * np.sqrt(0.25 / 3_000)
    for region, sign in (("north", -1), ("south", 1), ("west", -1)):
        part = copy.filter(pl.col("region") == region)
        slope = np.polyfit(part["b"], part["c"], 1)[0]
        assert abs(slope - sign) < 0.05
    again = fs.synthesize(people, m=2, strata=["region"], method=method, random_state=1, threads=2)
    assert again[1].equals(syn[1])


def test_strata_of_two_columns_and_kept_sizes(people, tmp_path):
    strata = ["region", "group"]
    s = fs.Synthesizer(strata=strata, method="cart", random_state=1).fit(people)
    assert s.model_.n_strata == 6
    copy = s.sample(m=1)[0]
    assert set(copy.select(strata).unique().rows()) == set(people.select(strata).unique().rows())
    s.save(tmp_path / "m.fsyn")
    assert fs.Synthesizer.load(tmp_path / "m.fsyn").sample(m=1)[0].equals(copy)
    kept = {name: fs.Column(method="keep") for name in strata}
    syn = fs.synthesize(people, m=2, strata=strata, columns=kept, random_state=1)
    assert syn[0].select(strata).equals(people.select(strata))
    assert syn.design.partial


def test_bad_strata_are_refused(people):
    with pytest.raises(OptionError, match="must be a list"):
        fs.synthesize(people, strata="region")
    with pytest.raises(PlanError, match="no column 'county'"):
        fs.synthesize(people, strata=["county"])
    with pytest.raises(OptionError, match="'region' is drawn as part of the strata"):
        fs.synthesize(people, strata=["region"], columns={"region": fs.Column(method="cart")})
    with pytest.raises(DataError, match=r"strata: \d+ of \d+ strata have fewer than 100 rows"):
        fs.synthesize(people.with_columns(region=pl.int_range(pl.len()) // 20), strata=["region"])
    with pytest.raises(OptionError, match="fit='partition'"):
        fs.synthesize(people, strata=["region"], fit="partition", out="never")


# Cells


@pytest.mark.filterwarnings("ignore:where. 'b' is replaced")
@pytest.mark.parametrize("method", METHODS)
def test_only_chosen_cells_are_replaced(people, method, tmp_path):
    high = (people["b"] > 1).to_numpy()
    where = {"b": pl.col("b") > 1, "c": "region = 'north'"}
    s = fs.Synthesizer(where=where, method=method, random_state=1).fit(people)
    syn = s.sample(m=3)
    copy = syn[0]
    assert syn.design.partial
    for name, mask in (("b", high), ("c", (people["region"] == "north").to_numpy())):
        same = (copy[name] == people[name]).to_numpy()
        assert same[~mask].all()
        assert same[mask].mean() < 0.2
    assert copy.drop("b", "c").equals(people.drop("b", "c"))
    # The model is that of the cells that are replaced: large values stay large.
    assert copy["b"].filter(high).min() >= people["b"].filter(high).min()
    assert abs(copy["b"].mean() - people["b"].mean()) < 0.05
    assert fs.pool(syn.analyse(fs.mean("b"))).rule == "reiter2003"
    s.save(tmp_path / "m.fsyn")
    assert fs.Synthesizer.load(tmp_path / "m.fsyn").sample(m=1)[0].equals(copy)
    written = fs.synthesize(people, m=1, where=where, method=method, random_state=1, out=tmp_path / "out")
    assert written[0].equals(copy)


def test_all_forms_of_where_are_the_same(people):
    mask = (people["b"] > 1).to_numpy()
    forms = [
        {"b": pl.col("b") > 1},
        {"b": "b > 1"},
        {"b": mask},
        {"b": mask.tolist()},
        pl.DataFrame({"b": mask, "c": np.zeros(3_000, bool)}),
        pd.DataFrame({"b": mask}),
    ]
    first, *others = [fs.synthesize(people, m=1, where=where, method="cart", random_state=1)[0] for where in forms]
    assert all(other.equals(first) for other in others)


def test_passive_cells_follow_their_parents(people):
    frame = people.with_columns(total=pl.col("a") + pl.col("b"))
    wrong = frame.with_columns(total=pl.when(pl.int_range(pl.len()) == 0).then(99.0).otherwise("total"))
    columns = {"total": fs.Column(passive=pl.col("a") + pl.col("b"))}
    mask = np.arange(3_000) >= 10
    s = fs.Synthesizer(where={"b": mask}, columns=columns, random_state=1).fit(wrong)
    copy = s.sample(m=1)[0]
    assert s.differences_ == {"total": 1}
    assert copy["total"][0] == 99.0  # no parent of this cell was replaced
    assert np.abs((copy["a"] + copy["b"] - copy["total"]).to_numpy()[mask]).max() < 1e-12


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"b": [True]}, "3000 values that are True or False"),
        ({"b": np.ones(3_000)}, "3000 values that are True or False"),
        ({"b": "b >"}, "cannot be read as SQL"),
        ({"b": pl.col("b")}, "it must say for each row"),
        ({"b": "b > 1000"}, "no cell would be replaced"),
        ({"x": "b > 1"}, "no column 'x'"),
        (3, "must be a dict"),
        (pl.DataFrame({"b": [1, 2]}), "not of type bool"),
        ({"g": "b > 1"}, "where names 'g'"),
    ],
)
def test_bad_where_is_refused(people, where, message):
    frame = people.with_columns(g=pl.col("a") * 2)
    with pytest.raises((OptionError, PlanError), match=message):
        fs.synthesize(frame, where=where, columns={"g": fs.Column(passive="a * 2")})


def test_rows_stay_those_of_the_original(people):
    with pytest.raises(OptionError, match="the rows are those of the original"):
        fs.synthesize(people, k=100, where={"b": "b > 1"})


# Given columns


@pytest.mark.parametrize("method", METHODS)
def test_the_rest_is_drawn_given_some_columns(people, method, tmp_path):
    s = fs.Synthesizer(method=method, visit_sequence="table", random_state=1).fit(people)
    # Around two places: all rows of one would share a leaf.
    a = np.repeat([1.0, -1.0], 500) + 0.5 * np.random.default_rng(1).normal(size=1_000)
    scenario = pd.DataFrame({"region": ["south"] * 500 + ["west"] * 500, "a": a})
    syn = s.sample(m=2, given=scenario)
    assert (syn.k, syn.n) == (1_000, 3_000)
    assert syn.design.partial
    for copy in syn:
        assert copy["region"].to_list() == scenario["region"].tolist()
        assert copy["a"].to_list() == scenario["a"].tolist()
        means = copy.group_by("region").agg(pl.col("b").mean()).sort("region")["b"].to_numpy()
        assert np.abs(means - [1, -1]).max() < 0.25
    written = s.sample(m=2, given=scenario, out=tmp_path / "out")
    assert written[1].equals(syn[1])
    whole = fs.synthesize(people, m=2, given=scenario, method=method, visit_sequence="table", random_state=1)
    assert whole[0].equals(syn[0])


def test_given_strata(people):
    s = fs.Synthesizer(strata=["region"], method="cart", random_state=1).fit(people)
    copy = s.sample(m=1, given=pl.DataFrame({"region": ["south", "west"] * 200}))[0]
    part = copy.filter(pl.col("region") == "south")
    assert abs(np.polyfit(part["b"], part["c"], 1)[0] - 1) < 0.1


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"b": [1.0]}, OptionError, "'region' would be drawn before given columns"),
        ({"b": [1.0]}, OptionError, "visit_sequence, a list of all columns, that begins with 'b'"),
        ({"x": [1.0]}, OptionError, "no column 'x'"),
        ({"region": ["nowhere"]}, DataError, "1 row.* of 'region' hold categories"),
        ({"region": ["north"], "a": ["much"]}, DataError, "cannot hold"),
        ({"region": []}, OptionError, "no rows"),
    ],
)
def test_bad_given_columns_are_refused(people, given, error, message):
    s = fs.Synthesizer(method="cart", visit_sequence="table", random_state=1).fit(people)
    with pytest.raises(error, match=message):
        s.sample(given=pl.DataFrame(given))


def test_k_is_that_of_the_given_rows(people):
    s = fs.Synthesizer(method="cart", visit_sequence="table", random_state=1).fit(people)
    with pytest.raises(OptionError, match="given has 1 rows"):
        s.sample(k=2, given=pl.DataFrame({"region": ["north"]}))


# What they do together


@pytest.mark.parametrize("method", METHODS)
def test_few_replaced_cells_are_enough_with_fewer_rows_for_the_shape(method):
    """The model is that of the cells that are replaced, also where few of them are among the rows of the shape."""
    rng = np.random.default_rng(1)
    high = rng.random(20_000) < 0.02
    frame = pl.DataFrame({"x": rng.normal(size=20_000), "y": np.where(high, 50.0, 0.0) + rng.normal(size=20_000)})
    syn = fs.synthesize(frame, m=1, where={"y": high}, fit_rows=5_000, method=method, random_state=1)
    assert abs(syn[0]["y"].filter(high).mean() - 50) < 1
    rules = {"y": fs.Column(rules=[fs.Rule(pl.col("x") < 2, 0.0)])}
    frame = frame.with_columns(y=pl.when(pl.col("x") < 2).then(0.0).otherwise(pl.col("y") + 9))
    copy = fs.synthesize(frame, m=1, columns=rules, fit_rows=2_000, method=method, random_state=1)[0]
    assert (copy.filter(pl.col("x") >= 2)["y"] == 0).sum() == 0


def smallest_group(model, frame, slot, predictors):
    """Different people in the smallest leaf of a column's tree."""
    table = encode(*read_table(frame))
    rows = np.arange(frame.height, dtype=np.uint32)
    leaf = leaves_of(table, model.fits[0][slot].values, rows, lambda places: places.astype(np.uint64))
    return np.unique(leaf, return_counts=True)[1].min()


def test_leaves_of_nested_and_calibrated_columns_hold_different_people(people):
    rng = np.random.default_rng(1)
    frame = people.select(
        "region", "a", fine=pl.concat_str("region", pl.Series(rng.integers(0, 9, 3_000).astype(str))), w=pl.lit(1.0)
    )
    columns = {"fine": fs.Column(method=fs.Nested(within="region"))}
    s = fs.Synthesizer(columns=columns, weights="w", visit_sequence="table", random_state=1).fit(frame)
    assert smallest_group(s.model_, frame.drop("w"), 2, (0, 1)) >= 5
    assert smallest_group(s.model_, frame.drop("w"), 1, (0,)) >= 5


@pytest.mark.parametrize(
    "options",
    [
        {"proper": True, "method": fs.Cart(minbucket=1), "strata": ["s"]},
        {"weights": "w", "strata": ["s"], "columns": {"s": fs.Column(method="keep")}},
        {"fit_rows": 100, "strata": ["s"], "method": fs.Cart(minbucket=2)},
    ],
    ids=["bootstrap", "weights", "subsample"],
)
def test_strata_without_rows_to_fit_are_refused(options):
    rng = np.random.default_rng(1)
    s = np.repeat(np.arange(100), 5) if "weights" not in options else np.repeat([0, 1], 250)
    frame = pl.DataFrame({"s": s, "x": rng.normal(size=500), "y": rng.normal(size=500)})
    if "weights" in options:
        frame = frame.with_columns(w=pl.col("s").cast(pl.Float64))
    with pytest.raises(DataError, match=r"strata have fewer than \d+ rows"):
        fs.synthesize(frame, m=2, random_state=1, **options)


def test_fresh_rows_stay_fresh_with_weights(people):
    s = fs.Synthesizer(m=2, fresh_rows=True, weights="w", method="cart", random_state=1).fit(people)
    a, b = (set(fit[1].values.donors.tolist()) for fit in s.model_.fits)
    assert len(a & b) < 0.8 * len(a | b)


def test_nested_codes_where_coarse_ones_are_replaced():
    """Coarse codes that none of the replaced rows has come with the rows that have them."""
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 30, 4_000)
    frame = pl.DataFrame({"c": coarse, "f": coarse * 10 + rng.integers(0, 5, 4_000)}).cast(pl.String)
    where = {"c": coarse > 25, "f": coarse > 20}
    columns = {"f": fs.Column(method=fs.Nested(within="c")), "c": fs.Column(method="sample")}
    copy = fs.synthesize(frame, m=1, where=where, columns=columns, random_state=1)[0]
    assert set(copy.rows()) <= set(frame.rows())


def test_cells_of_different_rows():
    """What ties columns together is refused where the one that takes care of it is kept; else there is a warning."""
    rng = np.random.default_rng(1)
    x = rng.integers(0, 90, 2_000)
    y = np.where(x < 16, 0, rng.integers(0, 9, 2_000))
    frame = pl.DataFrame({"x": x, "y": y, "z": rng.normal(size=2_000)})
    apart = {"x": rng.random(2_000) < 0.4, "y": rng.random(2_000) < 0.4}
    for options in (
        {"forbid": ["x < 16 and y > 0"]},
        {"columns": {"y": fs.Column(rules=[fs.Rule("x < 16", 0)])}},
        {"columns": {"y": fs.Column(method=fs.Nested(within="x"))}},
    ):
        with pytest.raises(OptionError, match=r"'x' is replaced in \d+ rows in which 'y' is kept, and a rule"):
            fs.synthesize(frame, where=apart, **options)
    tied = {"s": fs.Column(passive="x + y")}
    with pytest.raises(OptionError, match="and a rule, a limit"):
        fs.synthesize(frame.with_columns(s=pl.col("x") + pl.col("y")), where=apart, columns=tied, forbid=["s > 90"])
    with pytest.warns(DataWarning, match="drawn without regard to it"):
        fs.synthesize(frame, m=1, where=apart, random_state=1)
    # A rule of a column that is kept holds for what is drawn before.
    rule = {"y": fs.Column(rules=[fs.Rule("x < 16", 0)])}
    copy = fs.synthesize(frame, m=1, where={"x": apart["x"]}, columns=rule, forbid=["y > 99"], random_state=1)[0]
    assert copy.filter((pl.col("x") < 16) & (pl.col("y") != 0)).height == 0


def test_given_strata_are_checked(people):
    s = fs.Synthesizer(strata=["region", "group"], method="cart", random_state=1).fit(people)
    with pytest.raises(OptionError, match=r"make strata\. Give all of them"):
        s.sample(given=pl.DataFrame({"region": ["south"]}))
    odd = people.filter(~((pl.col("region") == "west") & (pl.col("group") == "low")))
    s = fs.Synthesizer(strata=["region", "group"], method="cart", random_state=1).fit(odd)
    with pytest.raises(DataError, match=r"1 row.* are of strata that the original does not have"):
        s.sample(given=pl.DataFrame({"region": ["west"], "group": ["low"]}))
    with pytest.raises(OptionError, match="where names 'region', which make strata"):
        fs.synthesize(people, strata=["region"], where={"region": "a > 0", "b": "a > 0"})


def test_given_rows_keep_the_rules(people):
    frame = people.select("a", "b").with_columns(a=pl.col("a").round().cast(pl.Int64))
    s = fs.Synthesizer(forbid=["a > 2"], method="cart", random_state=1).fit(frame)
    with pytest.raises(DataError, match=r"1 row.* break a rule or a limit of 'a'"):
        s.sample(given=pl.DataFrame({"a": [1, 3]}))
    with pytest.raises(DataError, match="cannot hold"):
        s.sample(given=pl.DataFrame({"a": [1.5]}))


def test_another_given_table_is_another_run(people, tmp_path):
    s = fs.Synthesizer(method="cart", visit_sequence="table", random_state=1).fit(people)
    s.sample(m=2, given=pl.DataFrame({"region": ["north"] * 9}), out=tmp_path / "out")
    (tmp_path / "out" / "copy_1.parquet").unlink()
    with pytest.raises(OutputError, match="differs in given"):
        s.sample(m=2, given=pl.DataFrame({"region": ["south"] * 9}), out=tmp_path / "out", resume=True)


def test_loaded_models_know_their_records(people, tmp_path):
    columns = {
        "b": fs.Column(cont_na=[0.0], rules=[fs.Rule("a > 2", None)], bounds=(-3, None)),
        "c": fs.Column(method="cart", predictors=["a", "b"]),
    }
    frame = people.drop("w").with_columns(b=pl.when(pl.col("a") < -1).then(0.0).otherwise("b"))
    s = fs.Synthesizer(columns=columns, forbid=["c > 8"], random_state=1).fit(frame)
    s.save(tmp_path / "m.fsyn")
    again = fs.Synthesizer.load(tmp_path / "m.fsyn").fit(frame)
    assert again.sample(m=1)[0].equals(s.sample(m=1)[0])
    w = fs.Synthesizer(weights="w", random_state=1).fit(people)
    w.save(tmp_path / "w.fsyn")
    with pytest.raises(OptionError, match="had where=, impute=, weights="):
        fs.Synthesizer.load(tmp_path / "w.fsyn").fit(people)


def test_identifiers_keep_nulls_and_stay_where_they_are_not_named(people):
    ids = pl.format("K{}", pl.int_range(pl.len()) + 10_000)
    frame = people.with_columns(id=pl.when(pl.int_range(pl.len()) % 10 > 0).then(ids))
    columns = {"id": fs.Column(method="identifier")}
    copy = fs.synthesize(frame, m=1, columns=columns, method="cart", random_state=1)[0]
    assert abs(copy["id"].null_count() - 300) < 80
    assert copy["id"].drop_nulls().n_unique() == copy["id"].drop_nulls().len()
    with pytest.warns(DataWarning, match="'id' identify people, and are kept"):
        kept = fs.synthesize(frame, m=1, where={"b": "b > 1"}, method="cart", random_state=1)[0]
    assert kept["id"].equals(frame["id"])
    with pytest.raises(OptionError, match="in all rows, or in none"):
        fs.synthesize(frame, where={"id": "b > 1", "b": "b > 1"}, columns=columns, method="cart")
    with pytest.raises(PlanError, match="'id': identifiers are made anew"):
        fs.synthesize(frame, columns=columns, forbid=["id = 'K10001'"])
