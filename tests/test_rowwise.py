"""Expressions evaluated row by row, on hand-made rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from fastsynth import rowwise
from fastsynth.columns import encode
from fastsynth.errors import OptionError, PlanError
from fastsynth.execute import Threads
from fastsynth.expressions import parse
from fastsynth.options import Column, Rule
from fastsynth.plan import make_plan
from fastsynth.source import open_source, read_table

FRAME = pl.DataFrame(
    {
        "a": [1, 2, 3, 4, None, -8] * 20,
        "b": [3, 2, 1, None, 5, 6] * 20,
        "c": ["x", "y", "x", "y", "x", "y"] * 20,
        "s": [4, 4, 4, None, None, -2] * 20,
    }
)
COLUMNS = {
    "a": Column(cont_na=[-8]),
    "b": Column(bounds=pl.col("a") <= pl.col("b")),
    "c": Column(rules=[Rule("b > 2", "x"), Rule("b = 6", "y")]),
    "s": Column(passive=pl.col("a") + pl.col("b")),
}


def made(columns=COLUMNS, forbid=(), frame=FRAME):
    table, kind = read_table(frame)
    encoded = encode(table, kind, {"a": [-8]})
    return table, encoded.variables, make_plan(encoded.variables, columns=columns, forbid=forbid)


@pytest.mark.parametrize("given", ["a > 2", pl.col("a") > 2])
def test_conditions_hold_or_not(given):
    table, _, _ = made()
    assert rowwise.holds("it", parse("it", given), table)[:6].tolist() == [False, False, True, True, False, False]
    assert rowwise.holds("it", parse("it", given), table, null=True)[4]


def test_rows_that_differ_are_found():
    table, variables, plan = made()
    steps = {step.name: step for step in plan.steps}
    wrong = {name: rowwise.differing(steps[name], table, plan, variables)[:6].tolist() for name in "bcs"}
    # -8 is no value that b would have to be above; the sum of -8 and 6 is what it is.
    assert wrong["b"] == [False, False, True, False, False, False]
    assert wrong["c"] == [False, False, False, False, False, False]
    assert wrong["s"] == [False] * 6
    changed = table.set_column(2, "c", pa.array(["y", "y", "x", "y", "x", "x"] * 20, pa.large_string()))
    assert rowwise.differing(steps["c"], changed, plan, variables)[:6].tolist() == [True] + [False] * 4 + [True]
    counts = rowwise.check_rows(open_source(FRAME), plan, variables, Threads(1))
    assert counts == {"b": 20, "c": 0, "s": 0}


def test_limits_see_passive_columns_of_what_is_drawn():
    table, variables, plan = made({"s": COLUMNS["s"]}, ["s > 4"], FRAME.fill_null(0))
    step = next(step for step in plan.steps if step.limits)
    assert (step.name, step.limits[0].passive) == ("b", (3,))
    drawn = pa.array([9] * 120)

    def column(slot):
        return drawn if slot == 1 else table.column(slot).combine_chunks()

    ok = rowwise.within_limit(step.name, step.limits[0], column, plan, variables, table.schema)
    assert ok[:6].tolist() == [False, False, False, False, False, True]
    assert rowwise.within_limit(step.name, replace(step.limits[0], passive=()), column, plan, variables, table.schema)[
        5
    ]


def test_missing_codes_become_null():
    table, variables, _ = made()
    array = table.column("a").combine_chunks()
    assert rowwise.without_missing_codes(array, variables[0]).to_pylist()[:6] == [1, 2, 3, 4, None, None]
    assert rowwise.without_missing_codes(table.column("b").combine_chunks(), variables[1]).null_count == 20


@pytest.mark.parametrize("given", [3, None, ["a > 2"]])
def test_other_things_are_no_expressions(given):
    with pytest.raises(OptionError, match="rule must be a polars expression or SQL text"):
        parse("rule", given)


@pytest.mark.parametrize("forbid", ["a < 100 or a is null", "b is null or b is not null"])
def test_limits_that_no_row_meets_are_refused(forbid):
    _, variables, plan = made({"a": Column(cont_na=[-8])}, [forbid])
    with pytest.raises(PlanError, match="no row of the data meets it"):
        rowwise.check_rows(open_source(FRAME), plan, variables, Threads(1))


def test_rows_of_a_piece_are_taken():
    source = open_source(FRAME)
    assert rowwise.take_piece((source, np.array([0, 3, 119])), 0)["a"].to_pylist() == [1, 4, -8]
