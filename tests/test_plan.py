"""Options to plan: order, predictors, and every contradiction."""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from fastsynth import Calibrated, Cart, Column, Nested, Rule, Sample
from fastsynth.columns import Variable, encode
from fastsynth.errors import DataError, OptionError, PlanError
from fastsynth.plan import AUTO_COLUMNS, AUTO_PREDICTORS, make_plan
from fastsynth.source import read_table


def variable(name, kind="numeric", n_values=5):
    values = pa.array([None, *range(n_values)])
    return Variable(name, kind, values, values.type, 1, False, None, False, n_values)


ABCD = [variable(name) for name in "abcd"]


def plan(columns=None, variables=ABCD, **options):
    return make_plan(variables, columns=columns, **options)


def names(made, variables=ABCD):
    return [(step.name, step.action, "".join(variables[slot].name for slot in step.predictors)) for step in made.steps]


def test_table_order_and_all_earlier_predictors():
    made = plan(visit_sequence="table")
    assert names(made) == [("a", "draw", ""), ("b", "draw", "a"), ("c", "draw", "ab"), ("d", "draw", "abc")]
    assert not made.partial
    assert all(step.method == Calibrated() for step in made.steps)


def test_visit_sequence_is_followed():
    made = plan(visit_sequence=["d", "b", "a", "c"])
    assert names(made) == [("d", "draw", ""), ("b", "draw", "d"), ("a", "draw", "bd"), ("c", "draw", "abd")]


def test_kept_columns_come_first_and_predict():
    made = plan({"c": Column(method="keep")})
    assert names(made)[0] == ("c", "keep", "")
    assert names(made)[1] == ("a", "draw", "c")
    assert made.partial
    late = plan({"c": Column(method="keep")}, visit_sequence=["a", "b", "d", "c"])
    assert names(late)[:2] == [("c", "keep", ""), ("a", "draw", "c")]


def test_passive_columns_follow_their_parents():
    made = plan({"a": Column(passive=pl.col("c") + pl.col("b")), "b": Column(passive="d * 2")})
    assert names(made) == [("c", "draw", ""), ("d", "draw", "c"), ("b", "passive", "d"), ("a", "passive", "bc")]


def test_own_methods_and_predictors():
    made = plan({"b": Column(method="sample"), "d": Column(method=Cart(minbucket=9), predictors=["a"])}, method=Cart(2))
    by_name = {step.name: step for step in made.steps}
    assert by_name["a"].method == Cart(2)
    assert by_name["b"].method == Sample()
    assert by_name["b"].predictors == ()
    assert by_name["d"].method == Cart(9)
    assert by_name["d"].predictors == (0,)


@pytest.mark.parametrize(
    ("error", "message", "columns", "options"),
    [
        (PlanError, "no column 'z'", {"z": Column()}, {}),
        (PlanError, "predictors of 'b': no column 'z'", {"b": Column(predictors=["z"])}, {}),
        (PlanError, "predictor 'c' of 'b' is visited later", {"b": Column(predictors=["c"])}, {}),
        (PlanError, "a list of all columns, in which it comes before", {"b": Column(predictors=["c"])}, {}),
        (PlanError, "'b' cannot be its own predictor", {"b": Column(predictors=["b"])}, {}),
        (PlanError, "no column 'z'", None, {"visit_sequence": ["a", "b", "c", "d", "z"]}),
        (PlanError, "lacks 'd'", None, {"visit_sequence": ["a", "b", "c"]}),
        (PlanError, "'a' more than once", None, {"visit_sequence": ["a", "b", "c", "d", "a"]}),
        (OptionError, "list of column names", None, {"visit_sequence": "abcd"}),
        (OptionError, "visit_sequence=None: must be .* 'auto' or 'table'", None, {"visit_sequence": None}),
        (OptionError, "visit_sequence=3: must be", None, {"visit_sequence": 3}),
        (OptionError, "list of column names", None, {"visit_sequence": [1, 2, 3, 4]}),
        (PlanError, "circle.*: 'a', 'b'", {"a": Column(passive="b + 1"), "b": Column(passive=pl.col("a") * 2)}, {}),
        (PlanError, "circle.*: 'a'", {"a": Column(passive="a + 1")}, {}),
        (PlanError, "no column 'z'", {"a": Column(passive="z + 1")}, {}),
        (PlanError, "names no column", {"a": Column(passive=pl.lit(1))}, {}),
        (
            PlanError,
            "passive parent 'b' of 'a' is visited later",
            {"a": Column(passive="b + 1")},
            {"visit_sequence": ["a", "b", "c", "d"]},
        ),
        (OptionError, "must be a Column", {"a": "cart"}, {}),
        (OptionError, "must be a dict", ["a"], {}),
        (
            OptionError,
            "method='card': allowed are 'cart', 'sample', 'calibrated', 'identifier', 'keep'",
            None,
            {"method": "card"},
        ),
        (OptionError, "nothing", None, {"method": "keep"}),
        (OptionError, "nothing would be", {name: Column(method="keep") for name in "abcd"}, {}),
        (OptionError, "predictors='some': must be 'auto' or 'all'", None, {"predictors": "some"}),
        (OptionError, "must be 'auto' or 'all'.*Column", None, {"predictors": ["a"]}),
        (OptionError, "must be 'auto' or 'all'", None, {"predictors": None}),
        (OptionError, "proper='yes'", None, {"proper": "yes"}),
    ],
)
def test_contradictions_are_refused(error, message, columns, options):
    with pytest.raises(error, match=message):
        plan(columns, **options)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "card"}, "allowed are"),
        ({"method": 3}, "allowed are"),
        ({"predictors": "a"}, "predictors='a': must be a list"),
        ({"predictors": [1]}, "list of column names"),
        ({"passive": 3}, "polars expression or SQL"),
        ({"passive": "a + 1", "method": "cart"}, "takes no method"),
        ({"passive": "a + 1", "bounds": (0, 1)}, "takes no bounds"),
        ({"cont_na": -8}, "cont_na=-8: must be a list"),
        ({"semicont": "0"}, "semicont='0': must be a list"),
        ({"rules": Rule("a > 1", 0)}, "must be a list"),
        ({"rules": ["a > 1"]}, "list of Rule"),
        ({"bounds": 3}, "must be a pair"),
        ({"bounds": (1, 2, 3)}, "must be a pair"),
        ({"bounds": (2, 1)}, "must not be beyond"),
        ({"bounds": (0, dt.date(2020, 1, 1))}, "must not be beyond"),
        ({"numtocat": 1}, "at least 2"),
        ({"numtocat": "5"}, "at least 1"),
        ({"method": "nested"}, "within which column"),
        ({"method": "keep", "rules": [Rule("a > 1", 0)]}, "takes no rules"),
        ({"method": "identifier", "rules": [Rule("a > 1", 0)]}, "method='identifier' takes no rules"),
        ({"method": Nested("b"), "numtocat": 3}, "they take no numtocat"),
        ({"method": "keep", "predictors": ["a"]}, "takes no predictors"),
    ],
)
def test_bad_column_records_are_refused(given, message):
    with pytest.raises(OptionError, match=message):
        Column(**given)


def test_bad_sql_is_refused():
    with pytest.raises(OptionError, match="cannot be read as SQL"):
        plan({"a": Column(passive="b +* 1")})


def test_too_many_columns_are_refused():
    one = variable("x")
    with pytest.raises(DataError, match="9,000 columns"):
        plan(variables=[replace(one, name=f"x{i}") for i in range(9000)])


def test_plans_of_many_columns_take_seconds():
    one = variable("x")
    variables = [replace(one, name=f"x{i}") for i in range(3000)]
    start = time.process_time()
    special = {f"x{i}": Column(predictors=["x0"]) for i in range(2, 3000, 2)}
    made = plan(special, variables=variables, predictors="all")
    assert len(made.steps) == 3000
    assert np.sum([len(step.predictors) for step in made.steps]) > 10**6
    assert time.process_time() - start < 60  # quadratic in columns, never cubic


WIDE = [variable(f"x{i}") for i in range(AUTO_COLUMNS + 1)]


class Strongest:
    """Chooses the last three columns before each target, and notes what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, order, targets, q):
        self.asked.append((list(order), list(targets), q))
        return {slot: tuple(reversed(order[: order.index(slot)][-3:])) for slot in targets}


def test_auto_chooses_in_wide_tables_only():
    strongest = Strongest()
    made = plan(variables=WIDE, strongest=strongest)
    assert strongest.asked == [(list(range(61)), list(range(61)), AUTO_PREDICTORS)]
    assert [step.predictors for step in made.steps[:5]] == [(), (0,), (0, 1), (0, 1, 2), (1, 2, 3)]
    everything = [tuple(range(i)) for i in range(61)]
    for options in ({"variables": WIDE[:60]}, {"variables": WIDE, "predictors": "all"}):
        made = plan(**options, strongest=Strongest())
        assert [step.predictors for step in made.steps] == everything[: len(made.steps)]
    assert len(strongest.asked) == 1
    assert [step.predictors for step in plan(variables=WIDE).steps] == everything  # nobody to ask


def test_auto_leaves_columns_that_say_what_they_want():
    special = {
        "x60": Column(method="keep"),
        "x9": Column(predictors=["x2", "x60"]),
        "x10": Column(predictors=[]),
        "x5": Column(method="sample"),
        "x7": Column(passive="x1 + x30"),
    }
    strongest = Strongest()
    made = plan(special, variables=WIDE, strongest=strongest)
    order, targets, _ = strongest.asked[0]
    assert order == [step.slot for step in made.steps]
    assert order[0] == 60
    assert set(targets) == set(range(60)) - {5, 7, 9, 10}
    chosen = {step.name: step.predictors for step in made.steps}
    assert [chosen[name] for name in ("x60", "x9", "x10", "x5", "x7")] == [(), (2, 60), (), (), (1, 30)]
    assert chosen["x1"] == (0, 60)
    assert chosen["x31"] == (7, 29, 30)


def test_plans_are_checked_before_anything_is_chosen():
    strongest = Strongest()
    with pytest.raises(PlanError, match="visited later"):
        plan({"x3": Column(predictors=["x8"])}, variables=WIDE, strongest=strongest)
    assert strongest.asked == []


def test_numbers_first_then_categories_by_levels():
    frame = pl.DataFrame(
        {"many": list("abcd") * 5, "b": range(20), "two": list("xy") * 10, "a": [0.5, 1.5] * 10, "p": range(20)}
    )
    encoded = encode(*read_table(frame))
    special = {"p": Column(passive=pl.col("two").cast(pl.Categorical).to_physical())}

    def order(**options):
        return [step.name for step in make_plan(encoded.variables, **options).steps]

    assert order() == order(visit_sequence="auto") == ["b", "a", "p", "two", "many"]
    assert order(columns=special) == ["b", "a", "two", "p", "many"]
    assert order(visit_sequence="table") == ["many", "b", "two", "a", "p"]
    assert order(columns={"two": Column(method="keep")}, strata=["many"]) == ["two", "many", "b", "a", "p"]


def test_outcomes_come_last_in_the_sequence_auto():
    made = plan({"b": Column(outcome=True)})
    assert names(made)[-1] == ("b", "draw", "acd")
    with pytest.raises(OptionError, match="'b' needs visit_sequence='auto'"):
        plan({"b": Column(outcome=True)}, visit_sequence="table")
    with pytest.raises(OptionError, match="outcome=1"):
        Column(outcome=1)
