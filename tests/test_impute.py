"""Options of imputation, and the plan of a sweep."""

import polars as pl
import pytest

import fastsynth as fs
from fastsynth.columns import encode
from fastsynth.errors import OptionError, PlanError
from fastsynth.impute import Forest, Impute, completed_plan, plan_imputation
from fastsynth.methods import Calibrated, Cart, Sample
from fastsynth.plan import make_plan
from fastsynth.source import read_table

HOLES = {"b": 1, "c": 2, "d": 1}


@pytest.fixture(scope="module")
def variables():
    frame = pl.DataFrame(
        {"a": [1.0, 2, 3, 4], "b": [1, None, 3, 5], "c": [None, None, "x", "y"], "d": [1.0, None, 9, 20]}
    )
    return encode(*read_table(frame)).variables


def planned(variables, impute=None, n_holes=None, columns=None, forbid=(), unrelated=()):
    n_holes = HOLES if n_holes is None else n_holes
    return plan_imputation(
        variables, impute or Impute(), n_holes, columns=columns or {}, forbid=forbid, unrelated=unrelated
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"maxit": 0}, "maxit=0"),
        ({"maxit": 2.5}, "maxit=2.5"),
        ({"syntheses": -1}, "syntheses=-1"),
        ({"syntheses": True}, "syntheses=True"),
        ({"proper": 1}, "proper=1"),
        ({"proper": False}, "take syntheses=0"),
        ({"visit_sequence": "monotone"}, "'missing', 'table' or a list"),
        ({"blocks": ["ab"]}, "lists of at least two columns"),
        ({"blocks": [["a"]]}, "lists of at least two columns"),
        ({"blocks": [["a", "b"], ["b", "c"]]}, "named twice"),
        ({"method": "pmm"}, "method='pmm' of Impute: allowed are 'cart', 'forest'"),
        ({"method": ""}, "method='' of Impute"),
        ({"method": {"a": "keep"}}, "method='keep' of Impute"),
        ({"method": {"a": 3}}, "method=3 of Impute"),
    ],
)
def test_options_are_checked_when_they_are_given(options, told):
    with pytest.raises(OptionError, match=told):
        Impute(**options)


@pytest.mark.parametrize("option", ["n_trees", "minbucket"])
def test_forests_have_whole_numbers(option):
    with pytest.raises(OptionError, match=f"{option}=0"):
        Forest(**{option: 0})


def test_impute_is_a_switch_or_a_record():
    assert Impute.of(False) is None
    assert Impute.of(True) == Impute()
    own = Impute(maxit=3)
    assert Impute.of(own) is own
    with pytest.raises(OptionError, match="impute='yes'"):
        Impute.of("yes")


def test_methods_by_column():
    impute = Impute(method={"a": "sample", "b": Forest(3, 7), "c": "", "d": "calibrated"})
    assert impute.method_of("a") == Sample()
    assert impute.method_of("b") == Forest(3, 7)
    assert impute.method_of("c") is None
    assert impute.method_of("d") == Calibrated()
    assert impute.method_of("e") == Cart()
    assert Impute(method="forest").method_of("a") == Forest()


def test_columns_with_few_holes_come_first_and_all_others_predict(variables):
    plan = planned(variables)
    assert [step.name for step in plan.steps] == ["b", "d", "c"]
    assert {step.name: step.predictors for step in plan.steps} == {"b": (0, 2, 3), "d": (0, 1, 2), "c": (0, 1, 3)}
    assert all(step.method == Cart() for step in plan.steps)


def test_visit_sequences_and_predictors_of_the_caller(variables):
    plan = planned(variables, Impute(visit_sequence="table"))
    assert [step.name for step in plan.steps] == ["b", "c", "d"]
    plan = planned(variables, Impute(visit_sequence=["d", "b"], predictors={"d": ["a", "d"]}, method={"b": "sample"}))
    assert [(step.name, step.predictors) for step in plan.steps] == [("d", (0,)), ("b", ())]


def test_a_forest_grows_trees(variables):
    plan = planned(variables, Impute(method=Forest(4, 9)))
    assert plan.steps[0].method == Cart(9)
    assert plan.methods[1] == Forest(4, 9)


@pytest.mark.parametrize(
    ("impute", "told"),
    [
        (Impute(predictors={"q": ["a"]}), "predictors of Impute: no column 'q'"),
        (Impute(predictors={"b": ["q"]}), "predictors of 'b' in Impute: no column 'q'"),
        (Impute(method={"q": "cart"}), "method of Impute: no column 'q'"),
        (Impute(visit_sequence=["q"]), "visit_sequence of Impute: no column 'q'"),
        (Impute(blocks=[["b", "q"]]), "blocks of Impute: no column 'q'"),
        (Impute(blocks=[["a", "b"]]), "'a' is not filled in"),
    ],
)
def test_unknown_columns_are_refused(variables, impute, told):
    with pytest.raises(PlanError, match=told):
        planned(variables, impute)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"predictors": ["a"]}, "must be lists of columns by column"),
        ({"predictors": "auto"}, "must be lists of columns by column"),
        ({"predictors": {"b": "a"}}, "must be lists of columns by column"),
        ({"visit_sequence": 3}, "visit_sequence=3 of Impute"),
        ({"visit_sequence": None}, "visit_sequence=None of Impute"),
        ({"blocks": 3}, "blocks=3 of Impute"),
        ({"blocks": ["ab"]}, "at least two columns each"),
        ({"method": 3}, "method=3 of Impute"),
    ],
)
def test_options_of_other_types_are_refused(options, told):
    with pytest.raises(OptionError, match=told):
        Impute(**options)


def test_a_visit_sequence_names_no_column_twice(variables):
    with pytest.raises(OptionError, match="named twice"):
        planned(variables, Impute(visit_sequence=["b", "b"]))


def test_nothing_to_fill_in_is_refused(variables):
    for impute, n_holes in ((Impute(), {}), (Impute(method={"b": "", "c": "", "d": ""}), HOLES)):
        with pytest.raises(OptionError, match="nothing to fill in"):
            planned(variables, impute, n_holes)


def test_what_is_computed_from_a_column_does_not_predict_it(variables):
    columns = {"d": fs.Column(passive=pl.col("b").cast(pl.Float64) * 2)}
    plan = planned(variables, columns=columns)
    assert {step.name: step.predictors for step in plan.steps} == {"b": (0, 2), "c": (0, 1, 3)}
    assert [step.name for step in plan.passive] == ["d"]


def test_limits_stand_with_all_columns_that_they_name(variables):
    columns = {"d": fs.Column(passive=pl.col("b").cast(pl.Float64) * 2), "b": fs.Column(bounds=(0, 9))}
    plan = planned(variables, columns=columns, forbid=[(pl.col("d") > 8) & (pl.col("c") == "x")])
    b, c = plan.steps[0], plan.steps[1]
    assert sorted(limit.passive for limit in b.limits) == [(), (), (3,)]
    assert [limit.passive for limit in c.limits] == [()]
    assert plan.used(c) == (3,)
    assert plan.used(b) == (2,)


def test_blocks_have_no_limits(variables):
    with pytest.raises(PlanError, match="'b' has rules or limits"):
        planned(variables, Impute(blocks=[["b", "d"]]), columns={"b": fs.Column(bounds=(0, 9))})


def test_completed_tables_keep_all_but_what_is_computed(variables):
    plan = make_plan(variables, columns={"d": fs.Column(passive=pl.col("b").cast(pl.Float64) * 2)})
    assert sorted((step.name, step.action) for step in completed_plan(plan).steps) == [
        ("a", "keep"), ("b", "keep"), ("c", "keep"), ("d", "passive"),
    ]  # fmt: skip
