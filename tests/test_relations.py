"""Relations: every kind is found, told and reproduced; what only looks like one is not."""

from __future__ import annotations

import datetime as dt
import io
from decimal import Decimal

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsynth import Column, Nested, Rule, Synthesizer, load_boys, synthesize
from fastsynth.errors import DataError, OptionError
from fastsynth.formulas import simplest
from fastsynth.relations import Relation, Relations, find_relations
from tests.conftest import to_pandas
from tests.survey import PLANTED, survey

N = 4_000


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def holes(values, rows, dtype=None):
    """A column that is null in some rows."""
    return pl.Series(values, dtype=dtype).set(pl.Series(rows), None)


def stored(expression):
    """The expression as it comes back from a model file."""
    return pl.Expr.deserialize(io.StringIO(expression.meta.serialize(format="json")), format="json")


def kinds(found):
    return [(r.kind, r.columns) for r in found.found]


def check(frame, found):
    """What is said to be exact holds in every row, in the column's type, and can be stored."""
    for relation in found.exact.found:
        if relation.forbid is not None:
            assert not frame.select(relation.forbid.fill_null(False).sum()).item()
            stored(relation.forbid)
        if relation.record is None:
            continue
        name, record = relation.column, relation.record
        if record.passive is not None:
            made = frame.select(stored(record.passive).alias(name)).to_series()
            assert made.dtype == frame[name].dtype
            if made.dtype.is_float():
                assert made.is_null().equals(frame[name].is_null())
                assert ((made - frame[name]).abs() <= 1e-9 * frame[name].abs()).all()
            else:
                assert made.equals(frame[name])
        for rule in record.rules:
            held = frame.filter(rule.when)[name]
            assert held.cast(pl.String).eq_missing(pl.Series([rule.value], dtype=held.dtype).cast(pl.String)).all()
        if record.bounds is not None:
            assert frame.select(record.bounds.all()).item()


def found_in(**columns):
    frame = pl.DataFrame(columns)
    found = find_relations(frame)
    check(frame, found)
    return found


# All of them together


@pytest.mark.parametrize(("n", "seed"), [(10_000, 1), (10_000, 2), (60_000, 3)])
def test_survey(n, seed):
    frame = survey(n, seed)
    found = find_relations(frame)
    check(frame, found)
    assert found.exact.found == found.found
    # A rule on a column speaks also of those that are computed from it, as occ1 is from occ2 and occ3.
    planted = {(p.kind, p.columns): p for p in PLANTED}
    hits = {
        key: [r for r in found.found if r.kind == p.kind and set(p.columns) <= set(r.columns)]
        for key, p in planted.items()
    }
    assert [key for key, of in hits.items() if not of] == []
    assert len(found.found) == len({id(r) for of in hits.values() for r in of})
    assert set(found.columns) == {
        "region_name", "age_group", "occ1", "occ2", "total_income", "bmi", "income_month", "job_end", "marital",
        "occ3", "hours",
    }  # fmt: skip
    assert len(found.forbid) == 1


def test_files_in_pieces_give_the_same(tmp_path):
    frame = survey(12_000, 4)
    for i, part in enumerate(frame.iter_slices(5_000)):
        part.write_parquet(tmp_path / f"{i}.parquet")
    whole, pieces = find_relations(frame), find_relations(tmp_path, memory_limit="1 MB", threads=2)
    assert pieces.table.equals(whole.table)
    check(frame, pieces)


def test_pandas_gives_the_same():
    frame = survey(10_000, 1).drop("total_income", "income_month", "interview_length")
    assert kinds(find_relations(to_pandas(frame))) == kinds(find_relations(frame))


@pytest.mark.parametrize("n", [300, 3_000])
@pytest.mark.parametrize("seed", range(4))
def test_independent_columns_have_none(n, seed):
    rng = np.random.default_rng(seed)
    columns = {}
    for i in range(24):
        kind = i % 8
        values = [
            rng.normal(size=n),
            rng.integers(0, 100, n),
            rng.integers(0, 4, n),
            rng.choice(list("abcd"), n, p=[0.7, 0.2, 0.08, 0.02]),
            rng.random(n) < 0.03,
            rng.exponential(50, n).round(1),
            np.where(rng.random(n) < 0.6, 0, rng.integers(1, 2000, n)),
            rng.integers(0, 300, n).astype("datetime64[D]"),
        ][kind]
        columns[f"c{i}"] = holes(values, rng.random(n) < 0.2 * (i % 3 == 0))
    assert find_relations(pl.DataFrame(columns)).found == ()


def test_real_tables(rng):
    boys = load_boys()
    assert all(r.n_exceptions == 0 for r in find_relations(boys).found)


# Kinds


def test_copy_of_values_and_of_another_type(rng):
    x, town = rng.integers(0, 500, N), rng.choice(["a", "b", "c"], N)
    found = found_in(x=x, town=town, y=x.astype(float), again=pl.Series(town, dtype=pl.Enum(["c", "b", "a"])))
    assert kinds(found) == [("copy", ("x", "y")), ("copy", ("town", "again"))]


def test_relabelling_makes_the_later_column_passive(rng):
    code = rng.integers(0, 9, N)
    name = np.array([f"place {c * 7 % 9}" for c in code])
    found = found_in(name=name, code=code)
    assert kinds(found) == [("copy", ("name", "code"))]


def test_function_of_a_number_covers_values_between(rng):
    age = rng.choice([3, 10, 20, 35, 64, 70, 80], N)
    group = pl.Series(
        np.select([age < 18, age < 65], ["young", "middle"], "old"), dtype=pl.Enum(["young", "middle", "old"])
    )
    found = found_in(age=age, group=group)
    assert kinds(found) == [("function", ("age", "group"))]
    new = pl.DataFrame({"age": [0, 11, 36, 99]}).select(found.columns["group"].passive).to_series()
    assert new.cast(pl.String).to_list() == ["young", "young", "middle", "old"]


def test_function_of_a_number_that_hardly_recurs(rng):
    income = np.exp(rng.normal(10, 1, N))
    found = found_in(income=income, band=np.select([income < 10_000, income < 50_000], ["low", "middle"], "high"))
    assert kinds(found) == [("function", ("income", "band"))]
    assert "at 10000, 50000" in found.found[0].text


@pytest.mark.parametrize("dtype", [pl.Date, pl.Datetime("us", "Europe/Paris"), pl.Duration("ms"), pl.Time])
def test_functions_from_and_to_times(rng, dtype):
    code = rng.integers(0, 5, N)
    time = pl.Series(code * 86_400 + 5).cast(dtype)
    late = (pl.Series(code) > 2).cast(pl.String)
    assert ("function", ("time", "late")) in kinds(found_in(time=time, late=late))
    assert ("copy", ("code", "time")) in kinds(found_in(code=code, time=time))


def test_functions_of_categories_to_decimals_and_booleans_with_nulls(rng):
    place = rng.integers(0, 300, N)
    text = holes(np.array([f"p{p:03}" for p in place]), rng.random(N) < 0.1, pl.Categorical)
    null = text.is_null().to_numpy()
    fee = pl.Series(
        [None if hole or p % 11 == 3 else Decimal(int(p) % 11) / 4 for p, hole in zip(place, null)],
        dtype=pl.Decimal(8, 2),
    )
    found = found_in(text=text, fee=fee, far=holes(place > 200, null).fill_null(True))
    assert set(kinds(found)) == {("function", ("text", "fee")), ("function", ("text", "far"))}


def test_functions_in_a_chain_name_the_nearest(rng):
    town = rng.integers(0, 100, N)
    found = found_in(town=town * 13 % 100, province=(town // 5).astype(str), part=(town // 25).astype(str))
    assert kinds(found) == [("function", ("province", "part")), ("function", ("town", "province"))]


def test_a_nearly_unique_column_determines_nothing(rng):
    assert not found_in(id=rng.permutation(N).astype(str), x=rng.integers(0, 5, N), y=rng.random(N) < 0.5).found


@pytest.mark.parametrize("dtype", [pl.Int32, pl.Float64, pl.Decimal(12, 2)])
def test_sum(rng, dtype):
    parts = {
        name: pl.Series(rng.integers(0, 90_000, N) / (1 if dtype == pl.Int32 else 100)).cast(dtype) for name in "abc"
    }
    parts["b"] = parts["b"].set(pl.Series(rng.random(N) < 0.1), None)
    total = parts["a"] + parts["b"] + parts["c"]
    found = found_in(total=total.cast(dtype), **parts, d=rng.normal(size=N))
    assert kinds(found) == [("sum", ("a", "b", "c", "total"))]


def test_difference_and_sums_of_sums(rng):
    gross, tax, bonus = rng.integers(900, 9000, N), rng.integers(0, 900, N), rng.integers(0, 500, N)
    found = found_in(gross=gross, tax=tax, net=gross - tax, bonus=bonus, paid=gross - tax + bonus)
    assert len([k for k in kinds(found) if k[0] == "sum"]) == 2


def test_sum_of_parts_that_are_not_null(rng):
    a = holes(rng.integers(1, 900, N), rng.random(N) < 0.3)
    b = holes(rng.integers(1, 900, N), rng.random(N) < 0.3)
    frame = pl.DataFrame({"a": a, "b": b})
    frame = frame.with_columns(
        total=pl.when(pl.all_horizontal(pl.all().is_null())).then(None).otherwise(pl.sum_horizontal("a", "b"))
    )
    found = find_relations(frame)
    check(frame, found)
    assert kinds(found)[0] == ("sum", ("a", "b", "total"))


def test_sum_with_nulls_of_its_own_is_told_but_not_computed(rng):
    a, b = rng.integers(1, 900, N), rng.integers(1, 900, N)
    found = found_in(a=a, b=b, total=holes(a + b, rng.random(N) < 0.1))
    assert kinds(found)[0] == ("sum", ("a", "b", "total"))
    assert found.found[0].record is None
    assert found.found[0].text.endswith("where all are known")


@pytest.mark.parametrize("digits", [1, 2, None])
def test_bmi(rng, digits):
    hgt, wgt = rng.normal(170, 10, N).round(1), rng.normal(70, 12, N).round(1)
    bmi = wgt / (hgt / 100) ** 2
    found = found_in(hgt=hgt, wgt=wgt, bmi=bmi if digits is None else bmi.round(digits))
    assert kinds(found) == [("ratio", ("hgt", "wgt", "bmi"))]


def test_rounded_down_and_products_and_hourly(rng):
    hours, wage = rng.integers(0, 60, N), rng.integers(100, 5000, N)
    hours[hours == 0] = 0
    per_hour = pl.Series(np.where(hours > 0, np.round(wage / np.maximum(hours, 1), 2), np.nan)).fill_nan(None)
    found = found_in(hours=hours, wage=wage, per_hour=per_hour)
    assert ("ratio", ("hours", "wage", "per_hour")) in kinds(found)
    price, number = rng.integers(1, 300, N), rng.integers(1, 40, N)
    assert kinds(found_in(price=price, number=number, pay=price * number)) == [("ratio", ("price", "number", "pay"))]
    x = rng.integers(1, 10_000, N)
    assert "rounded down" in found_in(x=x, y=x // 7).found[0].text


@pytest.mark.parametrize(
    ("compute", "words"),
    [
        (lambda x: np.round(32 + 1.8 * x, 1), "x * 1.8 + 32"),
        (lambda x: np.round(x / 2.54, 1), "x / 2.54"),
        (lambda x: 2020.0 - x, "-x + 2020"),
        (lambda x: x * 0.45359237, "x * 0.45359237"),
    ],
)
def test_lines(rng, compute, words):
    x = rng.normal(60, 25, N).round(1)
    found = found_in(x=x, y=compute(x))
    assert kinds(found) == [("ratio", ("x", "y"))]
    assert words in found.found[0].text


def test_order_of_dates_and_chain(rng):
    start = rng.integers(0, 3000, N)
    stop = start + rng.exponential(200, N).astype(int)
    paid = stop + rng.exponential(300, N).astype(int)
    dates = {n: pl.Series(v).cast(pl.Date) for n, v in {"start": start, "paid": paid, "stop": stop}.items()}
    dates["stop"] = dates["stop"].set(pl.Series(rng.random(N) < 0.2), None)
    found = found_in(**dates)
    assert {r.columns for r in found.found if r.kind == "order"} == {("start", "stop"), ("stop", "paid")}
    assert set(found.columns) == {"stop"}  # the last one of both


def test_what_is_far_apart_or_on_another_scale_is_no_order(rng):
    wgt = rng.normal(70, 12, N)
    assert not found_in(wgt=wgt, hgt=wgt + rng.normal(60, 5, N)).found
    assert not found_in(children=rng.integers(0, 4, N), age=rng.integers(10, 90, N)).found


def test_rules_of_every_condition(rng):
    age, other = rng.integers(0, 90, N), rng.normal(size=N)
    marital = np.where(age < 16, "single", rng.choice(["single", "married", "widowed"], N))
    status = np.where(age >= 70, "retired", rng.choice(["works", "studies", "retired"], N, p=[0.7, 0.2, 0.1]))
    hours = holes(rng.integers(1, 60, N), np.isin(status, ["studies", "retired"]))
    pay = holes(rng.exponential(20, N), hours.is_null().to_numpy() | (rng.random(N) < 0.2))
    found = found_in(age=age, marital=marital, status=status, hours=hours, pay=pay, other=other)
    texts = {r.text for r in found.found}
    assert texts == {
        "marital == 'single' where age < 16",
        "status == 'retired' where age >= 70",
        "hours is null exactly where status in {'retired', 'studies'}",
        "pay is null where hours is null",
    }
    assert [r.kind for r in found.found] == ["rule"] * 4
    assert set(found.columns) == {"marital", "status", "hours", "pay"}
    # hours null nowhere else is said by a condition, as a rule says only where it is.
    assert len(found.forbid) == 1


def test_a_rule_whose_outcome_comes_first_is_a_condition(rng):
    employed = rng.random(N) < 0.6
    hours = holes(rng.integers(1, 60, N), ~employed | (rng.random(N) < 0.1))
    found = found_in(hours=hours, employed=employed)
    assert kinds(found) == [("rule", ("employed", "hours"))]
    assert found.columns == {}
    assert len(found.forbid) == 1


def test_a_smooth_tail_is_no_rule(rng):
    age = rng.uniform(0, 90, N)
    ill = rng.random(N) < 1 / (1 + np.exp(-(age - 60) / 5))
    assert not found_in(age=age, ill=ill).found
    score = np.clip(rng.normal(age, 20).round(), 0, 90)
    assert not found_in(age=age, score=score, other=rng.normal(size=N)).found


def test_empty(rng):
    tenure, dwelling = rng.choice(list("abc"), N), rng.choice(list("xyzw"), N)
    dwelling[(tenure == "a") & np.isin(dwelling, ["x", "y"])] = "z"
    found = found_in(tenure=tenure, dwelling=pl.Series(dwelling, dtype=pl.Categorical))
    assert kinds(found) == [("empty", ("tenure", "dwelling"))]
    assert found.found[0].text == "never tenure == 'a' with dwelling in {'x', 'y'}"


def test_empty_of_a_range(rng):
    age, job = rng.integers(0, 90, N), rng.choice(["none", "pupil", "works", "retired"], N)
    job[(age < 30) & (job == "retired")] = "none"
    found = found_in(age=age, job=job)
    assert [r.text for r in found.found] == ["never age < 30 with job == 'retired'"]


# Nearly


def test_few_exceptions_are_counted_and_many_are_no_relation(rng):
    a, b = rng.integers(0, 900, N), rng.integers(0, 900, N)
    for n_wrong, is_found in ((3, True), (40, False)):
        total = a + b
        total[rng.choice(N, n_wrong, replace=False)] += 5
        found = find_relations(pl.DataFrame({"a": a, "b": b, "total": total}))
        assert [r.n_exceptions for r in found.found if r.kind == "sum"] == [n_wrong] * is_found
        assert "sum" not in {r.kind for r in found.exact.found}


def test_rare_levels_do_not_make_a_function(rng):
    rare = rng.random(20_000) < 0.0008
    assert not found_in(x=rng.integers(0, 50, 20_000), rare=rare, also=rng.random(20_000) < 0.0008).found


def test_values_of_single_people_are_not_told(rng):
    secret = rng.integers(10**9, 10**10, N)
    x = np.where(rng.random(N) < 0.5, 0, secret)
    found = found_in(x=x, y=np.where(x > 0, "yes", "no"), z=x * 2)
    assert found.found
    values = {str(v) for v in [*secret, *(secret * 2)]}
    assert not [v for v in values if v in repr(found)]


# What comes back


def test_what_comes_back(rng):
    age = rng.integers(0, 90, N)
    frame = pl.DataFrame({"age": age, "adult": age >= 18, "one": 1})
    found = find_relations(frame)
    assert isinstance(found, Relations)
    assert isinstance(found.found[0], Relation)
    assert repr(found) == "function adult is a function of age, with 2 steps: at 18  [4,000 rows]"
    assert found.table.columns == ["kind", "columns", "text", "n_rows", "n_exceptions"]
    assert found.table["columns"].to_list() == [["age", "adult"]]
    found.columns.clear()
    assert set(found.columns) == {"adult"}
    assert repr(Relations(())) == "No relations found."
    assert Relations(()).table.height == 0


def test_records_of_one_column_are_merged():
    def of(record):
        return Relation("rule", ("a", "b"), "", 1, 0, "b", record)

    first = Column(rules=[Rule("a < 1", None)])
    second = Column(rules=[Rule("c < 1", 3)], bounds=pl.col("a") <= pl.col("b"))
    third = Column(bounds=pl.col("b") <= pl.col("c"))
    merged = Relations((of(first), of(second), of(third))).columns["b"]
    assert [rule.value for rule in merged.rules] == [None, 3]
    assert set(merged.bounds.meta.root_names()) == {"a", "b", "c"}
    passive = Relations((of(Column(passive=pl.col("a"))), of(first))).columns["b"]
    assert not passive.rules


def test_every_type(every_type):
    frame = pl.concat([every_type] * 3)
    check(frame, find_relations(frame))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 60))
def test_small_tables(seed, n):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 3, n)
    frame = pl.DataFrame({"x": x, "y": x * 2.0, "t": x.astype(str), "void": pl.Series([None] * n, dtype=pl.Int8)})
    check(frame, find_relations(frame))


@given(st.floats(-1e6, 1e6), st.floats(1e-9, 1e3))
def test_simplest(low, width):
    value = simplest(low, low + width)
    slack = 1e-8 * (abs(low) + width)
    assert low - slack <= value <= low + width + slack


def test_simplest_by_example():
    assert [simplest(*ends) for ends in ((17.2, 18.9), (9_990, 10_020), (-3, 4), (0.0832, 0.0834))] == [
        18,
        1e4,
        0,
        0.0832,
    ]


@pytest.mark.parametrize(
    ("frame", "options", "error"),
    [
        (pl.DataFrame({"a": [1]}), {}, DataError),
        (pl.DataFrame({"a": [1, 2]}), {}, DataError),
        (pl.DataFrame({"a": [[1], [2]], "b": [1, 2]}), {}, DataError),
        ({"a": [1, 2]}, {}, DataError),
        ("nowhere.parquet", {}, DataError),
        (pl.DataFrame({"a": [1, 2], "b": [1, 2]}), {"threads": 0}, OptionError),
        (pl.DataFrame({"a": [1, 2], "b": [1, 2]}), {"memory_limit": "much"}, OptionError),
    ],
)
def test_misuse(frame, options, error):
    with pytest.raises(error):
        find_relations(frame, **options)


def test_nan_is_not_what_it_would_be(rng):
    x = rng.normal(50, 9, N)
    found = found_in(x=x, y=np.where(rng.random(N) < 0.2, np.nan, x), k=rng.integers(0, 3, N))
    assert found.columns == {}
    assert [r.text for r in found.found] == ["y = x, where all are known"]


def test_names_that_are_patterns_are_left_alone(rng):
    x = rng.integers(0, 9, N)
    assert kinds(found_in(**{"^x.*$": x, "a b": x, "c": x * 10, "*": x})) == [("copy", ("a b", "c"))]


def test_dummies_of_a_category(rng):
    c = rng.choice(list("xyz"), N)
    found = found_in(c=pl.Series(c, dtype=pl.Categorical), **{f"is_{v}": (c == v).astype(int) for v in "xyz"})
    assert kinds(found) == [("function", ("c", f"is_{v}")) for v in "xyz"]


def test_sums_of_small_types_do_not_overflow(rng):
    a, b = (rng.integers(0, 120, N).astype(np.uint8) for _ in "ab")
    assert kinds(found_in(a=a, b=b, s=a + b)) == [("sum", ("a", "b", "s"))]


def test_dates_are_not_added_to_numbers(rng):
    day = [dt.date(2020, 1, 1) + dt.timedelta(days=int(d)) for d in rng.integers(0, 900, N)]
    assert not found_in(day=day, x=rng.integers(0, 900, N), y=rng.integers(0, 900, N)).found


def test_relations_beside_what_the_caller_says():
    """Rules are kept together; what codes within coarse ones need is left out; equality is only told."""
    rng = np.random.default_rng(1)
    n = 6_000
    age = rng.integers(10, 90, n)
    coarse = rng.integers(0, 5, n)
    savings = np.where(age < 18, -8, np.where(rng.random(n) < 0.1, -9, rng.integers(0, 9_000, n)))
    frame = pl.DataFrame(
        {
            "age": age,
            "coarse": coarse,
            "fine": coarse * 10 + rng.integers(0, 6, n),
            "savings": savings,
            "decade": age // 10,
        }
    ).cast({"coarse": pl.String, "fine": pl.String})
    columns = {
        "fine": Column(method=Nested(within="coarse")),
        "savings": Column(cont_na=[-8, -9]),
        "decade": Column(predictors=["age"]),
    }
    s = Synthesizer(columns=columns, relations="auto", random_state=1).fit(frame)
    kinds = {(relation.kind, relation.columns) for relation in s.relations_.found}
    assert ("rule", ("age", "savings")) in kinds
    assert not any(relation.kind in ("function", "copy") for relation in s.relations_.found)
    copy = s.sample(m=1)[0]
    assert (copy.filter(pl.col("age") < 18)["savings"] == -8).all()
    assert set(copy.select("coarse", "fine").unique().rows()) <= set(frame.select("coarse", "fine").unique().rows())
    alone = Synthesizer(relations="auto", random_state=1).fit(frame)
    assert {"function", "rule"} <= {relation.kind for relation in alone.relations_.found}
    found = find_relations(frame)
    passed_on = Synthesizer(relations=found, random_state=1).fit(frame)
    assert passed_on.sample(m=1)[0].equals(alone.sample(m=1)[0])
    with pytest.raises(OptionError, match="relations='all'"):
        Synthesizer(relations="all").fit(frame)


def test_identifiers_text_and_empty_numbers_have_no_relations():
    rng = np.random.default_rng(1)
    n = 2_000
    i, a = rng.permutation(n) + 500_000, rng.integers(0, 90, n)
    tax = pl.when(pl.Series(rng.random(n) > 0.1)).then(0)
    frame = pl.DataFrame({"id": i, "a": a, "firm": i, "u": rng.choice(["q", "r"], n), "x": rng.normal(size=n)})
    skipped = pl.when(pl.col("a") >= 18).then(pl.col("firm", "u"))
    frame = frame.with_columns(skipped, id2="id", tax=tax)
    columns = {name: Column(method="identifier") for name in ("id", "id2", "firm")}
    s = Synthesizer(relations="auto", columns=columns, random_state=1).fit(frame)
    assert all("id" not in relation.columns for relation in s.relations_.found)
    copy = s.sample(m=1)[0]
    assert copy.filter(pl.col("a") < 18)["u"].is_null().all()
    Synthesizer(relations=find_relations(frame), columns=columns, random_state=1).fit(frame)


def test_equal_dates_are_told_and_not_bounded():
    rng = np.random.default_rng(1)
    end = np.datetime64("2022-01-01") + rng.integers(0, 3_000, 8_000).astype("timedelta64[h]")
    died = pl.when(pl.Series(rng.random(8_000) < 0.1)).then("end")
    frame = pl.DataFrame({"end": end.astype("datetime64[us]"), "x": rng.normal(size=8_000)}).with_columns(died=died)
    found = find_relations(frame)
    assert not [relation for relation in found.found if relation.kind == "order"]
    copy = synthesize(frame, m=1, relations="auto", random_state=1)[0]
    assert abs(copy["died"].is_not_null().mean() - frame["died"].is_not_null().mean()) < 0.02
