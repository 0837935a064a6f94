"""Rules, limits, missing kinds, spikes, groups and nested codes in the copies."""

from __future__ import annotations

import datetime as dt
from collections import Counter

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

import fastsynth as fs
from fastsynth import draw
from fastsynth.errors import DataWarning, OptionError, PlanError
from tests.survey import records, survey, violations

METHODS = ["calibrated", "cart", "sample"]


@pytest.fixture(scope="module")
def jobs():
    """2,000 people with a job, some of whom do not say what they earn."""
    rng = np.random.default_rng(2)
    n = 2_000
    age = rng.integers(10, 90, n)
    start = 1980 + rng.integers(0, 40, n)
    end = start + rng.integers(0, 15, n)
    married = np.where(age < 16, "single", rng.choice(["single", "married", "divorced"], n))
    income = np.round(np.exp(7 + 0.01 * age + 0.5 * rng.normal(size=n)))
    income = np.where(rng.random(n) < 0.2, 0, income)
    income = np.where(age < 20, -8, np.where(rng.random(n) < 0.1, -9, income)).astype(int)
    score = np.clip(np.round(50 + age / 3 + 20 * rng.normal(size=n)), 0, 98).astype(int)
    frame = pl.DataFrame({"age": age, "start": start, "end": end, "married": married, "income": income, "score": score})
    return frame.with_columns(end=pl.when(pl.col("age") > 80).then(None).otherwise("end"))


def twice(frame, m=2, **options):
    """Copies by one thread and by two, which are the same."""
    first, second = (fs.synthesize(frame, m=m, random_state=3, threads=t, **options) for t in (1, 2))
    assert all(a.equals(b) for a, b in zip(first, second, strict=True))
    return first


# Missing kinds


@pytest.mark.parametrize("method", METHODS)
def test_missing_codes_are_kept_apart(jobs, method):
    columns = {"income": fs.Column(cont_na=[-8, -9])}
    syn = twice(jobs, m=3, k=4_000, columns=columns, method=method)
    for code in (-8, -9):
        real = (jobs["income"] == code).mean()
        drawn = np.mean([(copy["income"] == code).mean() for copy in syn])
        assert abs(drawn - real) < 5 * np.sqrt(real / 12_000) + 5 * np.sqrt(real / 2_000) * (method != "calibrated")
    for copy in syn:
        values = copy.filter(~pl.col("income").is_in([-8, -9]))["income"]
        assert values.min() >= 0
        if method != "sample":
            young = copy.filter(pl.col("age") < 18)["income"]
            assert (young == -8).mean() > 0.95
    record = syn.summary().filter(pl.col("column") == "income").row(0, named=True)
    assert record["n_missing_kinds"] == 2


def test_missing_codes_tell_later_columns_apart():
    rng = np.random.default_rng(1)
    kind = rng.choice([-8, -9, 0], 3_000)
    x = np.where(kind == 0, rng.integers(0, 100, 3_000), kind)
    y = np.where(kind == -8, 5.0, np.where(kind == -9, -5.0, 0.0)) + rng.normal(size=3_000)
    frame = pl.DataFrame({"x": x, "y": y})
    for method in ("calibrated", "cart"):
        copy = fs.synthesize(frame, m=1, columns={"x": fs.Column(cont_na=[-8, -9])}, method=method, random_state=1)[0]
        for code, mean in ((-8, 5), (-9, -5)):
            assert abs(copy.filter(pl.col("x") == code)["y"].mean() - mean) < 0.2


@pytest.mark.parametrize(
    "dtype", [pl.Int16, pl.Float32, pl.Float64, pl.Decimal(10, 2), pl.Date, pl.Datetime("ms"), pl.Time]
)
def test_missing_codes_of_every_type_with_null_and_nan(dtype, tmp_path):
    rng = np.random.default_rng(1)
    days = pl.Series(rng.integers(100, 400, 800))
    values = days.cast(pl.Float64).cast(dtype) if dtype.is_numeric() else days.cast(dtype)
    code = values[0]
    place, nan = pl.int_range(pl.len()), pl.lit(float("nan") if dtype.is_float() else None).cast(dtype)
    frame = pl.DataFrame({"z": rng.normal(size=800), "x": values}).with_columns(
        x=pl.when(place % 3 == 0)
        .then(pl.lit(code))
        .when(place % 100 == 1)
        .then(None)
        .when(place == 50)
        .then(nan)
        .otherwise("x")
    )
    frame = frame.with_columns(pl.col("x").cast(dtype))
    columns = {"x": fs.Column(cont_na=[code])}
    s = fs.Synthesizer(columns=columns, random_state=1).fit(frame)
    x = s.model_.variables[1]
    assert x.first == 2 + dtype.is_float() + 0
    copy = s.sample(m=1)[0]
    assert copy["x"].dtype == frame["x"].dtype
    assert abs((copy["x"] == code).mean() - (frame["x"] == code).mean()) < 0.08
    s.save(tmp_path / "m.fsyn")
    assert fs.Synthesizer.load(tmp_path / "m.fsyn").sample(m=1)[0].equals(copy)
    # Files that are read piece by piece give the same.
    frame.write_parquet(tmp_path / "x.parquet", row_group_size=100)
    pieces = fs.synthesize(tmp_path / "x.parquet", m=1, columns=columns, random_state=1, memory_limit=60_000)[0]
    assert pieces.equals(copy)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"married": fs.Column(cont_na=["single"])}, "Missing codes are for numbers"),
        ({"income": fs.Column(cont_na=["no answer"])}, "values of the column's type int64"),
        ({"income": fs.Column(cont_na=[None])}, "null and NaN are kinds"),
        ({"income": fs.Column(cont_na=[2**70])}, "values of the column's type int64"),
        ({"married": fs.Column(semicont=["single"])}, "levels are classes already"),
        ({"income": fs.Column(semicont=[-1])}, "has no such value"),
        ({"married": fs.Column(numtocat=5)}, "the column is no number"),
        ({"married": fs.Column(rules=[fs.Rule("age < 16", "alone")])}, "has no such value"),
        ({"age": fs.Column(rules=[fs.Rule("score < 16", 10)])}, None),
    ],
)
def test_misuse_is_refused(jobs, columns, message):
    if message is None:
        with pytest.raises(PlanError, match="column of a rule 'score' of 'age' is visited later"):
            fs.synthesize(jobs, columns=columns, visit_sequence=jobs.columns)
        return
    with pytest.raises(OptionError, match=message):
        fs.synthesize(jobs, columns=columns)


# Spikes


@pytest.mark.parametrize("method", ["calibrated", "cart"])
def test_spikes_are_point_masses(jobs, method):
    columns = {"income": fs.Column(cont_na=[-8, -9], semicont=[0])}
    s = fs.Synthesizer(columns=columns, method=method, random_state=1).fit(jobs)
    assert s.summary().filter(pl.col("column") == "income")["n_spikes"].item() == 1
    copy = s.sample(m=1, k=8_000)[0]
    real = (jobs["income"] == 0).mean()
    assert abs((copy["income"] == 0).mean() - real) < 5 * np.sqrt(real / 8_000) + 0.01
    assert copy.filter(pl.col("income") > 0)["income"].min() >= jobs.filter(pl.col("income") > 0)["income"].min()


def test_spikes_are_found_without_being_named(jobs):
    s = fs.Synthesizer(columns={"income": fs.Column(cont_na=[-8, -9])}, random_state=1).fit(jobs)
    assert s.summary().filter(pl.col("column") == "income")["n_spikes"].item() == 1


# Groups


@pytest.mark.parametrize("method", METHODS)
def test_numbers_in_groups(jobs, method, tmp_path):
    columns = {"income": fs.Column(cont_na=[-8, -9], semicont=[0], numtocat=6)}
    s = fs.Synthesizer(columns=columns, method=method, random_state=1).fit(jobs)
    copy = s.sample(m=1, k=6_000)[0]
    assert set(copy["income"]) <= set(jobs["income"])
    for quantile in (0.3, 0.5, 0.8):
        limit = jobs["income"].quantile(quantile)
        assert abs((copy["income"] <= limit).mean() - (jobs["income"] <= limit).mean()) < 0.03
    if method != "sample":
        assert (copy.filter(pl.col("age") < 18)["income"] == -8).mean() > 0.9
    s.save(tmp_path / "m.fsyn")
    assert fs.Synthesizer.load(tmp_path / "m.fsyn").sample(m=1, k=6_000)[0].equals(copy)


# Rules


@pytest.mark.parametrize("method", METHODS)
def test_rows_under_a_rule_are_set(jobs, method):
    broken = jobs.with_columns(
        married=pl.when(pl.int_range(pl.len()) < 30).then(pl.lit("divorced")).otherwise("married")
    )
    n_broken = broken.filter((pl.col("age") < 16) & (pl.col("married") != "single")).height
    columns = {
        "married": fs.Column(rules=[fs.Rule(pl.col("age") < 16, "single"), fs.Rule("age > 85", None)]),
        "end": fs.Column(rules=[fs.Rule("age > 80", None)]),
        "score": fs.Column(rules=[fs.Rule(pl.col("married").is_null(), 7)]),
    }
    s = fs.Synthesizer(columns=columns, method=method, random_state=1).fit(broken)
    n_old = broken.filter(pl.col("age") > 85).height
    assert s.differences_ == {"married": n_broken + n_old, "end": 0, "score": 0}
    for copy in s.sample(m=2, k=3_000):
        assert (copy.filter(pl.col("age") < 16)["married"] == "single").all()
        assert copy.filter(pl.col("age") > 85)["married"].null_count() == copy.filter(pl.col("age") > 85).height
        assert copy.filter(pl.col("age") <= 85)["married"].null_count() == 0
        assert copy["end"].is_null().equals(copy["age"] > 80)
        assert (copy.filter(pl.col("married").is_null())["score"] == 7).all()


def test_rules_leave_rows_out_of_the_fit(jobs):
    """Nobody above 80 counts for the others, whatever stands there."""
    spoilt = jobs.with_columns(score=pl.when(pl.col("age") > 50).then(98).otherwise("score"))
    columns = {"score": fs.Column(rules=[fs.Rule("age > 50", 98)], predictors=["start"])}
    copy = fs.synthesize(spoilt, m=1, k=5_000, columns=columns, random_state=1)[0]
    young = pl.col("age") <= 50
    assert abs(copy.filter(young)["score"].mean() - spoilt.filter(young)["score"].mean()) < 2
    assert (copy.filter(~young)["score"] == 98).all()


def test_rules_come_after_what_they_need(jobs):
    """In table order, or that of "auto", a column with a rule moves behind the columns of the rule."""
    columns = {"age": fs.Column(rules=[fs.Rule("score > 97", 20)])}
    for sequence in ("table", "auto"):
        s = fs.Synthesizer(columns=columns, visit_sequence=sequence, method="cart", random_state=1).fit(jobs)
        order = s.summary()["column"].to_list()
        assert order.index("age") > order.index("score")
    circle = columns | {"score": fs.Column(rules=[fs.Rule("age > 97", 20)])}
    with pytest.raises(PlanError, match="circle"):
        fs.synthesize(jobs, columns=circle)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (fs.Rule("age", "single"), "must say for each row"),
        (fs.Rule(pl.col("age") > pl.col("age").mean(), "single"), "uses other rows"),
        (fs.Rule("nothing > 3", "single"), "no column 'nothing'"),
        (fs.Rule("age > 'x'", "single"), "cannot be evaluated"),
    ],
)
def test_bad_rules_are_refused(jobs, rule, message):
    with pytest.raises(PlanError, match=message):
        fs.synthesize(jobs, columns={"married": fs.Column(rules=[rule])})


# Limits


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "bounds", [pl.col("start") <= pl.col("end"), 'start <= "end"', (pl.col("start"), None), ("start", 2100)]
)
def test_orders_hold(jobs, method, bounds):
    syn = twice(jobs, columns={"end": fs.Column(bounds=bounds)}, method=method)
    for copy in syn:
        assert copy.filter(pl.col("start") > pl.col("end")).height == 0
        assert copy["end"].null_count() > 100


@pytest.mark.parametrize("method", METHODS)
def test_bounds_are_not_piled_up_on(jobs, method):
    """Half the real values are outside: draws are others of the leaf, and not the limits themselves."""
    columns = {"score": fs.Column(bounds=(40, 70)), "income": fs.Column(cont_na=[-8, -9], bounds=(500, None))}
    s = fs.Synthesizer(columns=columns, method=method, random_state=1).fit(jobs)
    assert s.differences_["score"] == jobs.filter(~pl.col("score").is_between(40, 70)).height
    copy = s.sample(m=1, k=6_000)[0]
    assert copy["score"].is_between(40, 70).all()
    inside = jobs.filter(pl.col("score").is_between(40, 70))["score"]
    for limit in (40, 70):
        assert abs((copy["score"] == limit).mean() - (inside == limit).mean()) < 0.03
    income = copy["income"]
    assert (income.is_in([-8, -9]) | (income >= 500)).all()
    assert (income == -8).sum() > 100


@pytest.mark.parametrize("method", METHODS)
def test_forbidden_combinations_do_not_occur(jobs, method):
    forbid = [
        (pl.col("married") == "married") & (pl.col("age") < 30),
        "married = 'divorced' and score > 60 and start > 2000",
    ]
    s = fs.Synthesizer(forbid=forbid, method=method, visit_sequence="table", random_state=1).fit(jobs)
    syn = s.sample(m=2)
    for copy in syn:
        for expression in (forbid[0], pl.sql_expr(forbid[1])):
            assert copy.filter(expression).height == 0
    assert s.differences_["score"] > 0
    assert jobs.filter(forbid[0]).height == s.differences_["married"]


def test_limits_reach_through_passive_columns(jobs):
    columns = {"length": fs.Column(passive=pl.col("end") - pl.col("start"))}
    frame = jobs.with_columns(length=pl.col("end") - pl.col("start"))
    for method in ("calibrated", "cart"):
        copy = fs.synthesize(
            frame, m=1, columns=columns, forbid=["length > 5 or length < 0"], method=method, random_state=1
        )[0]
        assert copy["length"].drop_nulls().is_between(0, 5).all()
        assert (copy["end"] - copy["start"]).equals(copy["length"], null_equal=True, check_names=False)


def test_leaves_without_admissible_donors_are_counted(jobs):
    """Donors of a leaf are all even: the first node above with odd ones gives them."""
    frame = pl.DataFrame({"x": np.repeat([0, 1], 500), "y": np.repeat([2, 3], 500), "z": np.arange(1_000) % 7})
    syn = fs.synthesize(frame, m=2, forbid=["x = 0 and y = 2"], method="cart", random_state=1)
    n_zero = sum((copy["x"] == 0).sum() for copy in syn)
    assert syn.climbed == {"y": n_zero}
    assert all((copy["y"] == 3).all() for copy in syn)
    assert syn.summary().filter(pl.col("column") == "y")["n_climbed"].item() == n_zero
    assert syn.audit["climbed"] == {"y": n_zero}


def test_rows_that_admit_nothing_are_drawn_anew(jobs):
    """Once x is 0 no y will do, so that x is drawn again; and where no row does, this is an error."""
    frame = pl.DataFrame({"x": np.repeat([0, 1, 2], 500), "y": np.arange(1_500) % 5})
    with pytest.warns(DataWarning, match="rows had no admissible value in some column"):
        syn = fs.synthesize(frame, m=1, forbid=["x = 0 and y >= 0"], method="cart", random_state=1)
    assert syn[0]["x"].is_in([1, 2]).all()
    assert syn.climbed[""] > 300
    with pytest.raises(PlanError, match="forbid, at 'y': no row of the data meets it"):
        fs.synthesize(frame, m=1, forbid=["y >= 0 and x >= 0"], method="cart", random_state=1)
    given = pl.DataFrame({"x": [0] * 200})
    s = fs.Synthesizer(forbid=["x = 0 and y >= 0"], method="cart", random_state=1).fit(frame)
    with pytest.raises(PlanError, match=r"200 row\(s\) found no admissible values in 3 tries.*bounds of 'y'"):
        s.sample(given=given)


def test_redrawn_rows_are_counted_on_disk_and_after_a_stop(tmp_path):
    frame = pl.DataFrame({"x": np.repeat([0, 1, 2], 500), "y": np.arange(1_500) % 5})
    # Of a few rows, so that there is no warning.
    frame = pl.concat([frame, frame.filter(pl.col("x") > 0).sample(60_000, with_replacement=True, seed=1)])
    options = {"m": 2, "forbid": ["x = 0 and y >= 0"], "method": "cart", "random_state": 1}
    inside, written = fs.synthesize(frame, **options), fs.synthesize(frame, **options, out=tmp_path / "out")
    assert written.climbed == inside.climbed
    assert fs.Synthesis.read(tmp_path / "out").climbed == inside.climbed
    before = (tmp_path / "out" / "audit.json").read_bytes()
    (tmp_path / "out" / "copy_1.parquet").unlink()
    fs.synthesize(frame, **options, out=tmp_path / "out", resume=True)
    assert (tmp_path / "out" / "audit.json").read_bytes() == before


@pytest.mark.parametrize(
    ("forbid", "columns", "message"),
    [
        ("age < 3", None, "must be a list"),
        (["age <"], None, "cannot be read as SQL"),
        ([pl.lit(True)], None, "names no column"),
        (["nothing = 1"], None, "no column 'nothing'"),
        (["age + 1"], None, "must say for each row"),
        ([pl.col("age").rank() > 3], None, "uses other rows"),
        (["age < 12"], {"age": fs.Column(method="keep")}, "are not drawn"),
    ],
)
def test_bad_limits_are_refused(jobs, forbid, columns, message):
    with pytest.raises((OptionError, PlanError), match=message):
        fs.synthesize(jobs, forbid=forbid, columns=columns)


# Nested codes


@pytest.fixture(scope="module")
def codes():
    """Fine codes of which each belongs to one coarse code, more of them than a tree would tell apart."""
    rng = np.random.default_rng(4)
    n = 20_000
    x = rng.normal(size=n)
    coarse = rng.integers(0, 40, n)
    fine = coarse * 100 + np.minimum(rng.poisson(20 + 5 * np.clip(x, -2, 2)), 99)
    return pl.DataFrame({"x": x, "coarse": coarse, "fine": [f"F{c:04}" for c in fine]}).with_columns(
        coarse=pl.format("C{}", pl.col("coarse"))
    )


@pytest.mark.parametrize("options", [{}, {"proper": True}, {"fit_rows": 4_000}, {"weights": "w"}, {"strata": ["s"]}])
def test_fine_codes_are_drawn_within_their_coarse_ones(codes, options, tmp_path):
    frame = codes.with_columns(w=pl.col("x").exp(), s=pl.col("x") > 0)
    columns = {"fine": fs.Column(method=fs.Nested(within="coarse"))}
    s = fs.Synthesizer(m=1, columns=columns, random_state=1, **options).fit(frame)
    copy = s.sample()[0]
    pairs = set(frame.select("coarse", "fine").unique().rows())
    assert set(copy.select("coarse", "fine").unique().rows()) <= pairs
    # The others count within the coarse code.
    place = pl.col("fine").str.slice(3).cast(pl.Int64)
    slopes = [np.polyfit(d["x"].clip(-2, 2), d.select(place).to_series(), 1)[0] for d in (frame, copy)]
    assert abs(slopes[0] - slopes[1]) < 0.8
    s.save(tmp_path / "m.fsyn")
    assert fs.Synthesizer.load(tmp_path / "m.fsyn").sample()[0].equals(copy)


def test_nested_codes_are_checked(codes):
    def columns(within, **more):
        return {"fine": fs.Column(method=fs.Nested(within=within), **more)}

    with pytest.raises(PlanError, match="no column 'coarser'"):
        fs.synthesize(codes, columns=columns("coarser"))
    with pytest.raises(PlanError, match="column of coarse codes 'coarse' of 'fine' is visited later"):
        fs.synthesize(codes, columns=columns("coarse"), visit_sequence=["fine", "x", "coarse"])
    with pytest.raises(OptionError, match="is for single columns"):
        fs.synthesize(codes, method=fs.Nested(within="coarse"))
    with pytest.raises(OptionError, match="within=3"):
        fs.Nested(within=3)
    with pytest.raises(OptionError, match="minbucket=0"):
        fs.Nested(within="coarse", minbucket=0)
    s = fs.Synthesizer(columns=columns("coarse"), visit_sequence="table").fit(codes.select("fine", "x", "coarse"))
    assert s.summary()["column"].to_list() == ["x", "coarse", "fine"]


# Dates


@pytest.mark.parametrize("method", ["calibrated", "cart"])
def test_weekdays_and_months_predict(method):
    rng = np.random.default_rng(1)
    day = pl.Series(np.datetime64("2020-01-01") + rng.integers(0, 1_000, 4_000).astype("timedelta64[D]")).cast(pl.Date)
    y = 10.0 * (day.dt.weekday().to_numpy() >= 6) + 5 * (day.dt.month().to_numpy() == 12) + rng.normal(size=4_000)
    frame = pl.DataFrame({"day": day, "y": y, "hour": rng.integers(8, 18, 4_000)})
    frame = frame.with_columns(hour=pl.col("day").cast(pl.Datetime("us")) + pl.duration(hours="hour"))
    copy = fs.synthesize(frame, m=1, method=method, random_state=1)[0]
    weekend = pl.col("day").dt.weekday() >= 6
    for part in (weekend, ~weekend, pl.col("day").dt.month() == 12):
        assert abs(copy.filter(part)["y"].mean() - frame.filter(part)["y"].mean()) < 1
    assert copy.schema == frame.schema


def test_intervals_between_dates_stay_plausible():
    rng = np.random.default_rng(1)
    n = 5_000
    first = np.datetime64("1990-01-01") + rng.integers(0, 10_000, n).astype("timedelta64[D]")
    interval = np.minimum(rng.gamma(2, 150, n).astype(int), 2_000)
    frame = pl.DataFrame({"first": first, "last": first + interval.astype("timedelta64[D]")})
    frame = frame.with_columns(pl.all().cast(pl.Date))
    columns = {"last": fs.Column(bounds=pl.col("first") <= pl.col("last"))}
    for method in ("calibrated", "cart"):
        copy = fs.synthesize(frame, m=1, columns=columns, method=method, random_state=1)[0]
        days = (copy["last"] - copy["first"]).dt.total_days().to_numpy()
        assert days.min() >= 0
        for quantile in (0.1, 0.5, 0.9):
            assert abs((days <= np.quantile(interval, quantile)).mean() - quantile) < 0.06


# Everything at once


@pytest.mark.parametrize("method", ["calibrated", "cart"])
def test_a_household_survey_keeps_every_rule(method, tmp_path):
    frame = survey(4_000)
    columns, forbid = records()
    s = fs.Synthesizer(m=2, columns=columns, forbid=forbid, method=method, random_state=1).fit(frame)
    syn = s.sample()
    for copy in syn:
        assert {kind: rows for kind, rows in violations(frame, copy).items() if rows} == {}
    s.save(tmp_path / "m.fsyn")
    loaded = fs.Synthesizer.load(tmp_path / "m.fsyn").sample()
    assert all(a.equals(b) for a, b in zip(loaded, syn, strict=True))
    frame.write_parquet(tmp_path / "survey.parquet", row_group_size=500)
    written = fs.synthesize(
        tmp_path / "survey.parquet",
        m=2,
        columns=columns,
        forbid=forbid,
        method=method,
        random_state=1,
        memory_limit=400_000,
        out=tmp_path / "out",
    )
    assert all(a.equals(b) for a, b in zip(written, syn, strict=True))


def test_metadata_of_fields_and_tables_survive(tmp_path):
    schema = pa.schema(
        [
            pa.field("a", pa.int16(), metadata={"label": "Age in years"}),
            pa.field("b", pa.dictionary(pa.int8(), pa.large_string()), metadata={"label": "Sex"}),
        ],
        metadata={"survey": "SILC"},
    )
    rng = np.random.default_rng(1)
    arrays = [pa.array(rng.integers(0, 90, 300), pa.int16()), pa.array(rng.choice(["f", "m"], 300)).dictionary_encode()]
    table = pa.table([arrays[0], arrays[1].cast(schema.field(1).type)], schema=schema)
    s = fs.Synthesizer(random_state=1).fit(table)
    assert s.sample(m=1)[0].schema.equals(schema, check_metadata=True)
    s.save(tmp_path / "m.fsyn")
    assert fs.Synthesizer.load(tmp_path / "m.fsyn").sample(m=1)[0].schema.equals(schema, check_metadata=True)
    syn = fs.synthesize(table, m=1, random_state=1, out=tmp_path / "out")
    assert syn.arrow(0).schema.equals(schema, check_metadata=True)


# What reviews found


@pytest.mark.parametrize("method", ["calibrated", "cart"])
def test_bounds_do_not_move_the_share_of_missing_values(jobs, method):
    columns = {"end": fs.Column(bounds=pl.col("start") <= pl.col("end"))}
    free, bound = (
        np.mean([c["end"].null_count() for c in fs.synthesize(jobs, m=10, columns=of, method=method, random_state=1)])
        for of in ({}, columns)
    )
    assert abs(free - bound) < 5 * np.sqrt(jobs["end"].null_count() / 10)


def test_spikes_beyond_a_bound_do_not_become_missing(jobs):
    """They become what else the leaf has, whatever the bound leaves of the values."""
    frame = jobs.with_columns(income=pl.when(pl.col("income") > -1).then("income"))
    others = frame.filter(pl.col("income") != 0).height + frame["income"].null_count()
    expected = frame["income"].null_count() / others
    for method in ("calibrated", "cart"):
        for low in (1, 1_000, 3_000):
            columns = {"income": fs.Column(semicont=[0], bounds=(low, None))}
            syn = fs.synthesize(frame, m=5, columns=columns, method=method, random_state=1)
            share = np.mean([copy["income"].null_count() / copy.height for copy in syn])
            assert abs(share - expected) < 0.02


def test_rules_go_beyond_bounds(jobs):
    columns = {"score": fs.Column(bounds=(10, None), rules=[fs.Rule("married = 'single'", 0)])}
    frame = jobs.with_columns(score=pl.when(pl.col("married") == "single").then(0).otherwise("score"))
    syn = fs.synthesize(frame, m=1, columns=columns, random_state=1)
    assert syn.climbed.get("", 0) == 0
    assert (syn[0].filter(pl.col("married") == "single")["score"] == 0).all()
    assert syn[0].filter(pl.col("married") != "single")["score"].min() >= 10


def test_bounds_that_all_rows_meet_change_nothing(jobs):
    plain, bound = (
        fs.synthesize(
            jobs, m=1, columns={"score": fs.Column(bounds=of), "income": fs.Column(bounds=of)}, random_state=1
        )
        for of in (None, (-(10**6), 10**9))
    )
    assert plain[0].equals(bound[0])


def test_draws_beyond_the_range_are_spread_over_the_tail():
    """They would repeat the value of the one person at the end of the range."""
    rng = np.random.default_rng(1)
    n = 5_000
    frame = pl.DataFrame({"age": rng.integers(0, 90, n), "wage": np.round(np.exp(9.5 + 0.5 * rng.normal(size=n)))})
    s = fs.Synthesizer(random_state=1).fit(frame)
    assert s.model_.fits[0][1].shift is not None
    copies = list(s.sample(m=5))
    for end in (frame["wage"].min(), frame["wage"].max()):
        assert np.mean([(copy["wage"] == end).sum() for copy in copies]) < 10
    assert abs(np.mean([copy["wage"].mean() for copy in copies]) / frame["wage"].mean() - 1) < 0.01


def test_only_kinds_may_be_admissible():
    rng = np.random.default_rng(1)
    n = 4_000
    flag = rng.random(n) < 0.3
    y = np.where(flag | (rng.random(n) < 0.05), np.nan, rng.normal(size=n))
    frame = pl.DataFrame({"flag": flag, "y": pl.Series(y).fill_nan(None)})
    options = {"m": 1, "forbid": ["flag and y is not null"], "visit_sequence": "table", "random_state": 1}
    for method in ("calibrated", "cart", "sample"):
        syn = fs.synthesize(frame, method=method, **options)
        assert syn.climbed.get("", 0) == 0
        assert abs(syn[0]["flag"].mean() - flag.mean()) < 0.04
        assert syn[0].filter(pl.col("flag") & pl.col("y").is_not_null()).height == 0


def test_rows_drawn_anew_do_not_depend_on_parts(tmp_path):
    frame = pl.DataFrame({"a": np.arange(4_000) % 40, "b": np.arange(4_000) % 7})
    s = fs.Synthesizer(forbid=["a = 13 and b >= 0"], method="cart", random_state=1).fit(frame)
    with pytest.warns(DataWarning):
        inside, written = s.sample(m=1, k=150_000), s.sample(m=1, k=150_000, out=tmp_path / "out")
    assert inside[0].equals(written[0])
    assert inside.climbed == written.climbed


def test_views_of_text_and_decimals_within_limits():
    rng = np.random.default_rng(1)
    text = pa.array(rng.choice(["a", "b", "c"], 2_000)).cast(pa.string_view())
    money = pa.array(np.round(np.abs(rng.normal(size=2_000)) * 200, 2)).cast(pa.decimal128(5, 2), safe=False)
    table = pa.table({"t": text, "x": rng.normal(size=2_000), "d": money})
    columns = {"d": fs.Column(bounds=(5, 800), rules=[fs.Rule("t = 'b'", None)])}
    s = fs.Synthesizer(columns=columns, forbid=["t = 'a' and x > 1", "x > 2.5"], random_state=1).fit(table)
    copy = pl.DataFrame(s.sample(m=1)[0])
    assert copy.filter(pl.sql_expr("(t = 'a' and x > 1) or x > 2.5 or d < 5 or d > 800")).height == 0
    assert copy.filter(pl.col("t") == "b")["d"].null_count() == copy.filter(pl.col("t") == "b").height


def test_missing_codes_of_dates_have_no_weekday():
    rng = np.random.default_rng(1)
    day = np.datetime64("2020-01-01") + rng.integers(0, 1_000, 2_000).astype("timedelta64[D]")
    day[::3] = np.datetime64("9999-12-31")
    frame = pl.DataFrame({"day": day, "y": rng.normal(size=2_000)}).cast({"day": pl.Date})
    code = dt.date(9999, 12, 31)
    s = fs.Synthesizer(columns={"day": fs.Column(cont_na=[code])}, method="cart", random_state=1).fit(frame)
    made = draw.Drawing(s.model_, 1, 0, np.arange(500), 0, Counter())
    made.run()
    is_code = (pl.Series(made.arrays[0]) == code).to_numpy()
    assert is_code.any()
    assert (made.codes[is_code, 2] == 0).all()
    assert (made.codes[~is_code, 2] > 0).all()


def test_releasable_models_tell_no_dates(tmp_path):
    rng = np.random.default_rng(1)
    day = np.datetime64("1950-01-01") + rng.integers(0, 20_000, 3_000).astype("timedelta64[D]")
    x = (day - np.datetime64("1950-01-01")).astype(int) / 1_000 + rng.normal(size=3_000)
    frame = pl.DataFrame({"x": x, "day": day, "z": rng.normal(size=3_000)}).cast({"day": pl.Date})
    s = fs.Synthesizer(random_state=1).fit(frame)
    s.save(tmp_path / "m.fsyn", releasable=True)
    model = fs.Synthesizer.load(tmp_path / "m.fsyn").model_
    for part in (v for v in model.variables if v.calendar is not None):
        dates = model.variables[1].decode(np.arange(len(model.variables[1].values)).astype(np.uint16))
        assert np.array_equal(part.bins[1:], part.nearest_codes(dates)[1:])
