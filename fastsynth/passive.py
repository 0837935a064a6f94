"""Passive columns: expressions of other columns, evaluated on copies and tried on the real rows before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from fastsynth.columns import take
from fastsynth.errors import PlanError
from fastsynth.execute import Executor
from fastsynth.plan import Plan, Step
from fastsynth.source import Source, spread_rows

# Rows of the real table on which expressions are tried before anything is drawn.
TRIAL_ROWS = 10_000


def sub_schema(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    """Some fields of a schema, in the order of the names."""
    return pa.schema([schema.field(name) for name in names])


def evaluate(step: Step, parents: pa.Table, schema: pa.Schema) -> pa.Array:
    """Evaluate a passive expression on its parents and give the result the column's type."""
    assert step.expression is not None
    field = schema.field(step.name)
    own = pa.schema([field]).empty_table()
    wanted = pl.DataFrame(own).schema[step.name]
    try:
        computed = pl.DataFrame(parents).select(step.expression.alias(step.name))
    except Exception as error:
        raise PlanError(f"passive expression of {step.name!r} cannot be evaluated ({type(error).__name__}).") from None
    given = computed.schema[step.name]
    if computed.height != parents.num_rows:
        raise PlanError(
            f"passive expression of {step.name!r} gives {computed.height} values for {parents.num_rows} rows."
        )
    if wanted.is_integer() and not (given.is_integer() or given == pl.Boolean):
        raise PlanError(
            f"passive expression of {step.name!r} gives {given} for a column of {wanted}. Round it and cast it, for "
            f"example (...).round().cast(pl.{wanted})."
        )
    if given.is_float() and computed.to_series().is_infinite().any():
        raise PlanError(f"passive expression of {step.name!r} gives infinite values. Does it divide by zero?")
    try:
        array = computed.cast({step.name: wanted}).to_arrow().column(0).combine_chunks()
        return array if array.type == field.type else array.cast(field.type)
    except Exception:
        raise PlanError(
            f"passive expression of {step.name!r} gives values ({given}) that the column's type {wanted} cannot hold."
        ) from None


def try_passive(source: Source, plan: Plan, executor: Executor) -> dict[str, int]:
    """Try every passive expression on up to 10,000 real rows spread over the table, before anything is fitted.

    Returns
    -------
    dict
        Number of rows in which the column holds something else, by column.

    Raises
    ------
    PlanError
        The expression fails, gives another type, or uses other rows.
    """
    names = {
        source.frame.schema.names[slot]
        for step in plan.steps
        if step.action == "passive"
        for slot in (*step.predictors, step.slot)
    }
    if not names:
        return {}
    table = trial_rows(source, names, executor)
    differences = {}
    for step in plan.steps:
        if step.action == "passive":
            parents = table.select([source.frame.schema.names[slot] for slot in step.predictors])
            computed = pl.Series(evaluate(step, parents, table.schema))
            _refuse_other_rows(step, parents, table.schema, computed)
            real = pl.DataFrame(table.select([step.name])).to_series()
            differences[step.name] = _count_differences(computed, real)
    return differences


def trial_rows(source: Source, names: set[str], executor: Executor) -> pa.Table:
    """Some columns of up to 10,000 rows spread evenly over the table."""
    slim = source.without([name for name in source.frame.schema.names if name not in names])
    spread = spread_rows(source.starts[-1], TRIAL_ROWS)
    return pa.concat_tables(executor.map(take_piece, (slim, spread), slim.jobs(), lambda _, rows: rows))


def take_piece(shared: tuple[Source, NDArray[np.int64]], piece: int, *held: Any) -> pa.Table:
    """Those of the rows that are in a piece."""
    source, rows = shared
    start, taken = source.starts[piece], [source.frame.schema.empty_table()]
    for batch in source.batches(piece, *held):
        low, high = np.searchsorted(rows, [start, start + len(batch)])
        taken.append(take(batch, rows[low:high] - start).cast(source.frame.schema))
        start += len(batch)
    return pa.concat_tables(taken)


def _count_differences(a: pl.Series, b: pl.Series) -> int:
    """Rows in which two columns of one type differ, floats by more than rounding."""
    same = a.cast(pl.String).eq_missing(b.cast(pl.String))
    if a.dtype.is_float():
        same |= ((a - b).abs() <= 1e-9 * a.abs()).fill_null(False)
    return int((~same).sum())


def _refuse_other_rows(step: Step, parents: pa.Table, schema: pa.Schema, computed: pl.Series) -> None:
    """Rows are drawn in blocks: in parts and in another order an expression must give what it gives on the whole."""
    n = parents.num_rows
    half = max(n // 2, 1)
    cut = [parents.slice(0, 1), parents.slice(1, half - 1), parents.slice(half)]
    parts = [pl.Series(evaluate(step, part, schema)) for part in cut]
    order = np.random.default_rng(0).permutation(n)
    mixed = pl.Series(evaluate(step, parents.take(pa.array(order)), schema))
    for again in (pl.concat(parts), mixed[np.argsort(order).tolist()]):
        if _count_differences(again, computed):
            raise PlanError(
                f"passive expression of {step.name!r} uses other rows (a mean, a sum, a sort, ...). "
                "It must be computed row by row."
            )
