"""Fit a plan, draw copies from the fitted model.

Two flat maps over an executor: one task per (fit, column), one per (copy, block of rows). A task needs nothing of
another task, and its random numbers come from a key of meanings (copy, column, block), so threads, their number and
their timing cannot change a byte.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from fastsynth.columns import EncodedTable, Ranks, Variable
from fastsynth.errors import PlanError
from fastsynth.methods import ColumnModel, fit_column
from fastsynth.plan import Plan, Step
from fastsynth.source import Frame

# Rows drawn by one task. Part of the result: another size would give other bytes.
BLOCK_ROWS = 65_536
# Rows of the real table on which passive expressions are tried before anything is drawn.
TRIAL_ROWS = 10_000

# First entry of a random stream's key.
BOOTSTRAP, DRAW = 0, 1

Result = TypeVar("Result")
# Called with how much was done: rows, columns, or the number of a task.
Tick = Callable[[int], object]


class Executor(Protocol):
    """What runs the tasks: threads here, a cluster elsewhere."""

    def map(self, tasks: Sequence[Callable[[], Result]], done: Tick) -> list[Result]:
        """Run all tasks, return their results in order; ``done(i)`` is called as task i ends."""


class Threads:
    """Run tasks on threads; the kernels release the interpreter.

    Parameters
    ----------
    threads : int or None
        None means the processors this process may use.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or available_threads()

    def map(self, tasks: Sequence[Callable[[], Result]], done: Tick) -> list[Result]:
        """Run all tasks, return their results in order; an error stops the tasks that have not begun."""
        if self.threads == 1 or len(tasks) == 1:
            results = []
            for i, task in enumerate(tasks):
                results.append(task())
                done(i)
            return results
        with ThreadPoolExecutor(self.threads) as pool:
            futures = {pool.submit(task): i for i, task in enumerate(tasks)}
            try:
                for future in as_completed(futures):
                    future.result()
                    done(futures[future])
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            return [future.result() for future in futures]


def available_threads() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A fitted plan. Holds real values in its leaves, and all rows of kept columns.

    Attributes
    ----------
    plan : Plan
    variables : tuple of Variable
    frame : Frame
        The caller's kind of table.
    n_rows : int
        Rows of the original.
    fits : tuple of dict
        Column model by slot; one dict for all copies, or with ``proper`` one for each.
    kept : dict
        Ranks of all rows by slot, for columns that are not synthesised.
    """

    plan: Plan
    variables: tuple[Variable, ...]
    frame: Frame
    n_rows: int
    fits: tuple[dict[int, ColumnModel], ...]
    kept: dict[int, Ranks]


def fit_plan(table: EncodedTable, plan: Plan, m: int, entropy: int, executor: Executor, tick: Tick) -> Model:
    """Fit all columns on the observed earlier columns: all fits are independent, the biggest go first.

    Simple synthesis fits once for all copies; proper synthesis fits each copy on a bootstrap sample of the rows.
    """
    drawn = [step for step in plan.steps if step.action == "draw"]
    samples = [
        _training_rows(table.n_rows, copy if plan.proper else None, entropy) for copy in range(m if plan.proper else 1)
    ]
    jobs = [(copy, step) for copy in range(len(samples)) for step in drawn]
    jobs.sort(key=lambda job: -len(job[1].predictors))
    models = executor.map([_fit_task(table, step, samples[copy]) for copy, step in jobs], lambda _: tick(1))
    fits: tuple[dict[int, ColumnModel], ...] = tuple({} for _ in samples)
    for (copy, step), model in zip(jobs, models, strict=True):
        fits[copy][step.slot] = model
    kept = {step.slot: table.ranks[step.slot] for step in plan.steps if step.action == "keep"}
    return Model(plan, table.variables, table.frame, table.n_rows, fits, kept)


def _fit_task(table: EncodedTable, step: Step, rows: NDArray[np.uint32]) -> Callable[[], ColumnModel]:
    assert step.method is not None
    method = step.method
    return lambda: fit_column(table, step.slot, step.predictors, method, rows)


def _training_rows(n: int, copy: int | None, entropy: int) -> NDArray[np.uint32]:
    """All rows, or a bootstrap sample of them: sorted, which does not change the sample and reads memory in order."""
    if copy is None:
        return np.arange(n, dtype=np.uint32)
    words = random_words(entropy, (BOOTSTRAP, copy), n)
    return np.sort(((words >> np.uint64(32)) * np.uint64(n) >> np.uint64(32)).astype(np.uint32))


def random_words(entropy: int, key: tuple[int, ...], n: int) -> NDArray[np.uint64]:
    """Raw 64-bit words of one stream: numpy keeps raw streams stable between versions, not what is made of them."""
    return np.random.PCG64DXSM(np.random.SeedSequence(entropy, spawn_key=key)).random_raw(n)


def generate(
    model: Model, copies: Iterable[int], k: int, entropy: int, executor: Executor, tick: Tick
) -> list[pa.Table]:
    """Draw copies of k rows each."""
    starts = range(0, k, BLOCK_ROWS)
    jobs = [(copy, start, min(start + BLOCK_ROWS, k)) for copy in copies for start in starts]
    batches = executor.map([_draw_task(model, entropy, *job) for job in jobs], lambda i: tick(jobs[i][2] - jobs[i][1]))
    return [
        pa.Table.from_batches(batches[i : i + len(starts)], schema=model.frame.schema)
        for i in range(0, len(batches), len(starts))
    ]


def _draw_task(model: Model, entropy: int, copy: int, start: int, stop: int) -> Callable[[], pa.RecordBatch]:
    return lambda: draw_block(model, entropy, copy, start, stop)


def draw_block(model: Model, entropy: int, copy: int, start: int, stop: int) -> pa.RecordBatch:
    """Draw rows [start, stop) of one copy: every column at the synthetic earlier ones.

    The codes of the block are kept row by row, because a tree walk reads many columns of one row::

        codes[row, slot]    | age sex job ... |   filled from left to right in visit sequence
    """
    n = stop - start
    codes = np.zeros((n, len(model.variables)), np.uint16)
    arrays: list[Any] = [None] * len(model.variables)
    fit = model.fits[copy if model.plan.proper else 0]
    for step in model.plan.steps:
        variable = model.variables[step.slot]
        if step.action == "passive":
            names = [model.variables[slot].name for slot in step.predictors]
            parents = pa.table(
                [arrays[slot] for slot in step.predictors], schema=_sub_schema(model.frame.schema, names)
            )
            arrays[step.slot] = evaluate(step, parents, model.frame.schema)
            codes[:, step.slot] = variable.nearest_codes(arrays[step.slot])
            continue
        if step.action == "keep":
            ranks = model.kept[step.slot][start:stop]
        else:
            column = fit[step.slot]
            words = random_words(entropy, (DRAW, copy, step.slot, start // BLOCK_ROWS), n * column.n_words)
            ranks = column.draw(codes, words, variable.rank_dtype)
        codes[:, step.slot] = variable.codes(ranks)
        arrays[step.slot] = variable.decode(ranks)
    return pa.RecordBatch.from_arrays(arrays, schema=model.frame.schema)


def _sub_schema(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
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


def try_passive(table: pa.Table, plan: Plan) -> dict[str, int]:
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
    spread = np.unique(np.linspace(0, table.num_rows - 1, TRIAL_ROWS).astype(np.int64))
    names = {
        table.column_names[slot]
        for step in plan.steps
        if step.action == "passive"
        for slot in (*step.predictors, step.slot)
    }
    head = table.select(sorted(names)).take(pa.array(spread))
    differences = {}
    for step in plan.steps:
        if step.action == "passive":
            parents = head.select([table.column_names[slot] for slot in step.predictors])
            computed = pl.Series(evaluate(step, parents, table.schema))
            _refuse_other_rows(step, parents, table.schema, computed)
            real = pl.DataFrame(head.select([step.name])).to_series()
            differences[step.name] = _count_differences(computed, real)
    return differences


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
