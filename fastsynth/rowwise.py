"""Expressions evaluated row by row: passive columns, rules and limits. Tried on real rows before any fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fastsynth.columns import Variable, storage_of, take
from fastsynth.errors import PlanError
from fastsynth.execute import Executor
from fastsynth.plan import Limit, Plan, Step
from fastsynth.source import Source, spread_rows

# Rows of the real table on which expressions are tried before anything is drawn.
TRIAL_ROWS = 10_000

Mask = NDArray[np.bool_]


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


def holds(what: str, expression: pl.Expr, table: pa.Table, null: bool = False) -> Mask:
    """Where an expression is true, and where it is null if ``null``.

    Raises
    ------
    PlanError
        It cannot be evaluated, is not true or false, or uses other rows.
    """
    try:
        found = pl.DataFrame(table).select(expression.alias("holds")).to_series()
    except Exception as error:
        raise PlanError(f"{what}: the expression cannot be evaluated ({type(error).__name__}).") from None
    if found.dtype not in (pl.Boolean, pl.Null) or len(found) != table.num_rows:
        raise PlanError(
            f"{what}: the expression gives {len(found)} values of {found.dtype} for {table.num_rows} rows; it must say "
            "for each row whether it holds (true or false)."
        )
    mask: Mask = found.cast(pl.Boolean).fill_null(null).to_numpy()
    return mask


def under_rules(step: Step, table: pa.Table) -> Iterator[tuple[int, Mask]]:
    """For each rule of a column the rank that it sets, and the rows under it; the later one counts."""
    for rule in step.rules:
        yield rule.rank, holds(f"rule of {step.name!r}", rule.expression, table)


def without_missing_codes(array: pa.Array, variable: Variable) -> pa.Array:
    """The values of a column with missing codes as null."""
    if not len(variable.missing_codes):
        return array
    is_code = pc.is_in(storage_of(array), value_set=variable.missing_codes)
    return pc.if_else(is_code, pa.scalar(None, array.type), array)


def within_limit(
    name: str,
    limit: Limit,
    column: Callable[[int], pa.Array],
    plan: Plan,
    variables: Sequence[Variable],
    schema: pa.Schema,
) -> Mask:
    """Rows in which a limit of a column of this name holds, or is null.

    Parameters
    ----------
    column : callable
        Gives the column of a slot; passive ones that depend on the column that is drawn are computed here.
    """
    computed: dict[int, pa.Array] = {}

    def find(slot: int) -> pa.Array:
        return computed[slot] if slot in computed else column(slot)

    steps = {step.slot: step for step in plan.steps}
    for slot in limit.passive:
        step = steps[slot]
        computed[slot] = evaluate(step, table_of(step.predictors, find, variables, schema), schema)
    table = table_of(limit.parents, find, variables, schema)
    if limit.values_only:
        arrays = [
            without_missing_codes(table.column(i).combine_chunks(), variables[slot])
            for i, slot in enumerate(limit.parents)
        ]
        table = pa.table(arrays, schema=table.schema)
    return holds(f"bounds of {name!r}" if limit.values_only else f"forbid, at {name!r}", limit.expression, table, True)


def table_of(
    slots: Sequence[int], column: Callable[[int], pa.Array], variables: Sequence[Variable], schema: pa.Schema
) -> pa.Table:
    """Some columns as a table."""
    fields = sub_schema(schema, [variables[slot].name for slot in slots])
    return pa.table([column(slot) for slot in slots], schema=pa.schema([field.with_nullable(True) for field in fields]))


def check_rows(source: Source, plan: Plan, variables: Sequence[Variable], executor: Executor) -> dict[str, int]:
    """Try every expression on up to 10,000 rows spread over the table, then count on all.

    Returns
    -------
    dict
        By column, the number of rows that hold something else than its expression or its rules say, or break a limit.

    Raises
    ------
    PlanError
        An expression fails, gives another type, or uses other rows.
    """
    steps = [step for step in plan.steps if step.expression is not None or step.rules or step.limits]
    if not steps:
        return {}
    slots = {slot for step in steps for slot in _used(step)}
    names = [source.frame.schema.names[slot] for slot in sorted(slots)]
    slim = source.without([name for name in source.frame.schema.names if name not in names])
    spread = spread_rows(source.starts[-1], TRIAL_ROWS)
    trial = pa.concat_tables(executor.map(take_piece, (slim, spread), slim.jobs(), lambda _, rows: rows))
    for step in steps:
        _refuse_other_rows(step, trial, plan, variables)
        _refuse_impossible(step, trial, plan, variables)
    total: Counter[str] = Counter()
    executor.map(_count_piece, (slim, plan, tuple(variables), steps), slim.jobs(), lambda _, found: total.update(found))
    return {step.name: total[step.name] for step in steps}


def _used(step: Step) -> Iterator[int]:
    """Columns of the real table that checking a column needs."""
    yield step.slot
    if step.expression is not None:
        yield from step.predictors
    for rule in step.rules:
        yield from rule.parents
    for limit in step.limits:
        yield from limit.parents


def _count_piece(
    shared: tuple[Source, Plan, tuple[Variable, ...], list[Step]], piece: int, *held: Any
) -> Mapping[str, int]:
    source, plan, variables, steps = shared
    total: Counter[str] = Counter()
    for batch in source.batches(piece, *held):
        for step in steps:
            total[step.name] += int(differing(step, batch, plan, variables).sum())
    return total


def differing(step: Step, rows: pa.Table, plan: Plan, variables: Sequence[Variable]) -> Mask:
    """Real rows that hold something else than the expression or the rules of a column say, or break its limits."""
    own = rows.column(step.name)
    if step.expression is not None:
        parents = rows.select([variables[slot].name for slot in step.predictors])
        return _differences(pl.Series(evaluate(step, parents, rows.schema)), pl.DataFrame({"": own}).to_series())
    found: Mask = np.zeros(rows.num_rows, bool)
    if step.rules:
        ranks, wanted = variables[step.slot].rank(own).astype(np.int64), np.full(rows.num_rows, -1)
        for rank, under in under_rules(step, rows):
            wanted[under] = rank
        found = (wanted >= 0) & (ranks != wanted)
    for limit in step.limits:
        found |= ~_held(step, limit, rows, plan, variables)
    return found


def _held(step: Step, limit: Limit, rows: pa.Table, plan: Plan, variables: Sequence[Variable]) -> Mask:
    """Real rows that meet a limit; passive columns are there already."""

    def column(slot: int) -> pa.Array:
        return rows.column(variables[slot].name).combine_chunks()

    return within_limit(step.name, replace(limit, passive=()), column, plan, variables, rows.schema)


def take_piece(shared: tuple[Source, NDArray[np.int64]], piece: int, *held: Any) -> pa.Table:
    """Those of the rows that are in a piece."""
    source, rows = shared
    start, taken = source.starts[piece], [source.frame.schema.empty_table()]
    for batch in source.batches(piece, *held):
        low, high = np.searchsorted(rows, [start, start + len(batch)])
        taken.append(take(batch, rows[low:high] - start).cast(source.frame.schema))
        start += len(batch)
    return pa.concat_tables(taken)


def _differences(a: pl.Series, b: pl.Series) -> Mask:
    """Rows in which two columns of one type differ, floats by more than rounding."""
    # Categories of different origin are compared by name; durations have none.
    same = a.eq_missing(b) if a.dtype == b.dtype and a.dtype.is_temporal() else _text(a).eq_missing(_text(b))
    if a.dtype.is_float():
        # NaN is not smaller than NaN anywhere but in polars.
        same |= ((a - b).abs() <= 1e-9 * a.abs()).fill_null(False) & a.is_not_nan() & b.is_not_nan()
    mask: Mask = (~same).to_numpy()
    return mask


def _refuse_impossible(step: Step, rows: pa.Table, plan: Plan, variables: Sequence[Variable]) -> None:
    """A limit that no real row meets is a mistake: values of another type, the wrong way round, ..."""
    for limit in step.limits:
        if not _held(step, limit, rows, plan, variables).any():
            what = f"bounds, at {step.name!r}" if limit.values_only else f"forbid, at {step.name!r}"
            raise PlanError(f"{what}: no row of the data meets it. Is it the wrong way round, or of another type?")


def _text(column: pl.Series) -> pl.Series:
    return column.cast(pl.String)


def _refuse_other_rows(step: Step, rows: pa.Table, plan: Plan, variables: Sequence[Variable]) -> None:
    """Rows are drawn in blocks: in parts and in another order an expression must give what it gives on the whole."""
    n = rows.num_rows
    half = max(n // 2, 1)
    order = np.random.default_rng(0).permutation(n)
    mixed, cut = take(rows, order), [rows.slice(0, 1), rows.slice(1, half - 1), rows.slice(half)]
    for what, apply in _expressions(step, plan, variables):
        whole = apply(rows)
        again = apply(mixed)[np.argsort(order).tolist()]
        parts = pl.concat([apply(part) for part in cut])
        if _differences(again, whole).any() or _differences(parts, whole).any():
            raise PlanError(f"{what} uses other rows (a mean, a sum, a sort, ...). It must be computed row by row.")


def _expressions(
    step: Step, plan: Plan, variables: Sequence[Variable]
) -> Iterator[tuple[str, Callable[[pa.Table], pl.Series]]]:
    """Every expression of a column with its name, as a function of a table."""
    if step.expression is not None:
        names = [variables[slot].name for slot in step.predictors]
        yield (
            f"passive expression of {step.name!r}",
            lambda rows: pl.Series(evaluate(step, rows.select(names), rows.schema)),
        )
    for rule in step.rules:
        what = f"rule of {step.name!r}"
        yield what, partial(_rule_holds, what, rule.expression)
    for limit in step.limits:
        yield f"limit of {step.name!r}", partial(_limit_holds, step, limit, plan, variables)


def _rule_holds(what: str, expression: pl.Expr, rows: pa.Table) -> pl.Series:
    return pl.Series(holds(what, expression, rows))


def _limit_holds(step: Step, limit: Limit, plan: Plan, variables: Sequence[Variable], rows: pa.Table) -> pl.Series:
    return pl.Series(_held(step, limit, rows, plan, variables))
