"""Learn what the columns of a table hold, and code the rows that models are fitted on.

Files are read twice, piece by piece: once to count the values of each column, once to code rows.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fastsynth import association
from fastsynth.columns import (
    FIRST,
    SIZE,
    Codes,
    EncodedTable,
    Ranks,
    Tally,
    Variable,
    calendars,
    check_size,
    count_of_cluster,
    encode,
    of_first_row,
    take,
)
from fastsynth.execute import Executor, Threads, Tick
from fastsynth.plan import Step
from fastsynth.rowwise import under_rules
from fastsynth.slopes import Slopes, add_up, numeric_columns
from fastsynth.source import Source, TableSource, spread_rows


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """What is known of a table before anything is planned.

    Attributes
    ----------
    source : Source
    variables : tuple of Variable
    rows : tuple of ndarray of shape (n_ranks,), dtype=int64
        Rows of each rank of each column.
    table : EncodedTable or None
        All rows as codes, if the source is in memory.
    slopes : Slopes
        Of all rows.
    """

    source: Source
    variables: tuple[Variable, ...]
    rows: tuple[NDArray[np.int64], ...]
    table: EncodedTable | None
    slopes: Slopes

    @property
    def n_rows(self) -> int:
        """Rows of the table."""
        return self.source.starts[-1]

    def without(self, names: Sequence[str]) -> Learned:
        """The same without some columns."""
        if not names:
            return self
        left = [slot for slot, v in enumerate(self.variables) if v.name not in names]
        variables, rows = tuple(self.variables[slot] for slot in left), tuple(self.rows[slot] for slot in left)
        source, table = self.source.without(names), self.table
        if table is not None:
            ranks = tuple(table.ranks[slot] for slot in left)
            table = EncodedTable(variables, ranks, np.take(table.codes, left, axis=0), source.frame)
        return Learned(source, variables, rows, table, self.slopes.without(names))

    def with_calendars(
        self,
        cluster: str | None = None,
        led: Collection[str] = (),
        counts: Mapping[str, NDArray[np.int64]] | None = None,
    ) -> Learned:
        """The same with further variables that others are predicted from: parts of dates, sizes of clusters, other
        ``counts`` of each rank of the column that names them, and what the first row of a cluster has of the columns
        ``led``.
        """
        parts = calendars(self.variables)
        for slot, variable in enumerate(self.variables):
            if variable.name == cluster:
                for name, rows_of in ({SIZE: self.rows[slot]} | dict(counts or {})).items():
                    parts += count_of_cluster(variable, slot, rows_of, name)
        parts += of_first_row(self.variables, led)
        if not parts:
            return self
        variables, rows = (*self.variables, *parts), (*self.rows, *(np.zeros(len(v.values), np.int64) for v in parts))
        table = self.table
        if table is not None:
            p, room = len(self.variables), table.codes.base
            if isinstance(room, np.ndarray) and room.ndim == 2 and len(room) >= len(variables):
                codes = room[: len(variables)]
            else:
                codes = np.empty((len(variables), table.n_rows), np.uint16)
                codes[:p] = table.codes
            for slot, part in enumerate(parts, p):
                assert part.calendar is not None
                # What the first row has is filled in when it is known which one that is.
                codes[slot] = 0 if part.calendar[1] == FIRST else part.codes(table.ranks[part.calendar[0]])
            table = replace(table, variables=variables, ranks=(*table.ranks, *codes[p:]), codes=codes)
        return replace(self, variables=variables, rows=rows, table=table)

    def without_values(self, names: Container[str]) -> Learned:
        """The same with nothing known of the values of some columns: real identifiers do not live on in a model."""
        blank = [slot for slot, v in enumerate(self.variables) if v.name in names]
        if not blank:
            return self
        variables, rows = list(self.variables), list(self.rows)
        for slot in blank:
            variables[slot] = variables[slot].blank()
            rows[slot] = np.array([self.n_rows])
        table = self.table
        if table is not None:
            ranks = list(table.ranks)
            for slot in blank:
                ranks[slot] = table.codes[slot]
                table.codes[slot] = 0
            table = replace(table, variables=tuple(variables), ranks=tuple(ranks))
        slopes = self.slopes.without(names)
        return replace(self, variables=tuple(variables), rows=tuple(rows), table=table, slopes=slopes)


def learn(
    source: Source,
    executor: Executor,
    tick: Tick,
    cont_na: Mapping[str, Sequence[Any]] | None = None,
    many: str | None = None,
) -> Learned:
    """Learn what every column holds, from all rows: one pass over files; a table in memory is coded at once.

    ``cont_na`` are values that are kinds of missing, by column; the column ``many`` may have any number of categories.
    """
    cont_na = cont_na or {}
    names = numeric_columns(source.frame.schema, cont_na)
    if isinstance(source, TableSource):
        table = encode(source.table, source.frame, cont_na, many)
        tick(source.table.num_rows)
        rows = [np.bincount(r, minlength=len(v.values)) for v, r in zip(table.variables, table.ranks, strict=True)]
        # A task, because those hold BLAS to one thread: that is faster here, and adds up in the same order everywhere.
        (slopes,) = Threads(1).map(Slopes.of, source.table, [(names,)], lambda _, found: found)
        return Learned(source, table.variables, tuple(rows), table, slopes)
    check_size(source.starts[-1], len(source.frame.schema))
    tallies = _tallies(source, cont_na, many)

    def merge(i: int, found: tuple[list[Tally], Slopes]) -> Slopes:
        for tally, more in zip(tallies, found[0], strict=True):
            tally.merge(more)
        tick(source.starts[i + 1] - source.starts[i])
        return found[1]

    of_pieces = executor.map(tally_piece, (source, cont_na, names, many), source.jobs(), merge)
    learned = [tally.variable(keep_unused=source.frame.backend == "pandas") for tally in tallies]
    variables, rows_of = zip(*learned, strict=True)
    return Learned(source, variables, rows_of, None, add_up(of_pieces))


def _tallies(source: Source, cont_na: Mapping[str, Sequence[Any]], many: str | None) -> list[Tally]:
    fields = source.frame.schema
    return [Tally(field.name, field.type, cont_na.get(field.name, ()), field.name == many) for field in fields]


def tally_piece(
    shared: tuple[Source, Mapping[str, Sequence[Any]], tuple[str, ...], str | None], piece: int, *held: Any
) -> tuple[list[Tally], Slopes]:
    """Count the values of one piece, and sum up what slopes need; ``held`` is what a cluster holds of it."""
    source, cont_na, names, many = shared
    slopes = [Slopes.of(source.frame.schema.empty_table(), names)]
    tallies = _tallies(source, cont_na, many)
    start = source.starts[piece]
    for batch in source.batches(piece, *held):
        for tally, column in zip(tallies, batch.columns, strict=True):
            tally.add(column, start)
        slopes.append(Slopes.of(batch, names))
        start += len(batch)
    return tallies, add_up(slopes)


def code(
    learned: Learned,
    rows: NDArray[np.uint32] | None,
    whole: Iterable[int],
    steps: Sequence[Step],
    folder: Path | None,
    executor: Executor,
    tick: Tick,
) -> tuple[EncodedTable, dict[int, Ranks]]:
    """Code the rows that models are fitted on.

    Parameters
    ----------
    rows : ndarray, dtype=uint32, or None
        Ascending numbers of the rows; None for all.
    whole : iterable of int
        Slots of columns of which the ranks of all rows are wanted, too.
    steps : sequence of Step
        Those that may have rules.
    folder : Path or None
        Where codes go as memory-mapped files; None keeps them in memory.

    Returns
    -------
    table : EncodedTable
    ranks : dict of int to ndarray
        Ranks of all rows by slot.
    """
    source, variables = learned.source, learned.variables
    steps = tuple(step for step in steps if step.rules)
    if learned.table is not None and isinstance(source, TableSource):
        ruled = {step.slot: _is_ruled(step, source.table) for step in steps}
        table = _take_rows(replace(learned.table, ruled=ruled), rows)
        return table, {slot: learned.table.ranks[slot] for slot in whole}
    n = learned.n_rows if rows is None else len(rows)
    codes = _allocate((len(variables), n), np.uint16, folder, "codes")
    ranks = [
        codes[slot] if v.codes_are_ranks else _allocate((n,), v.rank_dtype, folder, f"ranks_{slot}")
        for slot, v in enumerate(variables)
    ]
    all_ranks = {slot: np.empty(learned.n_rows, variables[slot].rank_dtype) for slot in whole}
    ruled = {step.slot: np.empty(n, bool) for step in steps}

    def place(i: int, blocks: list[CodedBlock]) -> None:
        for block in blocks:
            for slot, of_rows in block.whole.items():
                all_ranks[slot][block.start : block.start + len(of_rows)] = of_rows
            low, high = block.low, block.low + block.codes.shape[1]
            codes[:, low:high] = block.codes
            for slot, of_rows in block.ranks.items():
                ranks[slot][low:high] = of_rows
            for slot, under in block.ruled.items():
                ruled[slot][low:high] = under
        tick(source.starts[i + 1] - source.starts[i])

    executor.map(code_piece, (source, variables, rows, tuple(whole), steps), source.jobs(), place)
    return EncodedTable(variables, tuple(ranks), codes, source.frame, ruled), all_ranks


def _is_ruled(step: Step, rows: pa.Table) -> NDArray[np.bool_]:
    ruled: NDArray[np.bool_] = np.any([under for _, under in under_rules(step, rows)], axis=0)
    return ruled


@dataclass(frozen=True, slots=True, eq=False)
class CodedBlock:
    """Some rows of a piece as codes.

    Attributes
    ----------
    start : int
        Number of the first row that was read.
    low : int
        Place of the first row that was coded.
    codes : ndarray of shape (n_columns, n), dtype=uint16
    ranks : dict of int to ndarray of shape (n,)
        Ranks by slot, of columns whose codes are not their ranks.
    whole : dict of int to ndarray
        Ranks of all rows that were read, of columns of which they are wanted.
    ruled : dict of int to ndarray of shape (n,)
        Rows under a rule, of columns that have some.
    """

    start: int
    low: int
    codes: Codes
    ranks: dict[int, Ranks]
    whole: dict[int, Ranks]
    ruled: dict[int, NDArray[np.bool_]]


def code_piece(
    shared: tuple[Source, tuple[Variable, ...], NDArray[np.uint32] | None, tuple[int, ...], tuple[Step, ...]],
    piece: int,
    *held: Any,
) -> list[CodedBlock]:
    """Code the wanted rows of one piece."""
    source, variables, rows, whole, steps = shared
    start, blocks = source.starts[piece], []
    for batch in source.batches(piece, *held):
        stop = start + len(batch)
        all_ranks = {slot: variables[slot].rank(batch.column(slot)) for slot in whole}
        low, high = start, stop
        if rows is not None:
            low, high = (int(i) for i in np.searchsorted(rows, [start, stop]))
            batch = take(batch, rows[low:high].astype(np.int64) - start)
        codes, ranks = np.zeros((len(variables), high - low), np.uint16), {}
        for slot, variable in enumerate(variables):
            if variable.calendar is not None:
                continue
            of_rows = variable.rank(batch.column(slot))
            codes[slot] = variable.codes(of_rows)
            if variable.bins is not None:
                ranks[slot] = of_rows
        for slot, variable in enumerate(variables):
            if variable.calendar is not None and variable.calendar[1] != FIRST:
                dates = variable.calendar[0]
                codes[slot] = variable.codes(ranks.get(dates, codes[dates]))
        ruled = {step.slot: _is_ruled(step, batch) for step in steps}
        blocks.append(CodedBlock(start, low, codes, ranks, all_ranks, ruled))
        start = stop
    return blocks


def _take_rows(table: EncodedTable, rows: NDArray[np.uint32] | None) -> EncodedTable:
    if rows is None:
        return table
    codes = np.take(table.codes, rows, axis=1)
    ranks = tuple(
        codes[slot] if v.codes_are_ranks else table.ranks[slot][rows] for slot, v in enumerate(table.variables)
    )
    ruled = {slot: under[rows] for slot, under in table.ruled.items()}
    return EncodedTable(table.variables, ranks, codes, table.frame, ruled)


def _allocate(shape: tuple[int, ...], dtype: Any, folder: Path | None, name: str) -> NDArray[Any]:
    return np.empty(shape, dtype) if folder is None else np.memmap(folder / name, dtype, "w+", shape=shape)


def strongest_predictors(
    learned: Learned, executor: Executor, order: Sequence[int], targets: Sequence[int], q: int
) -> Mapping[int, tuple[int, ...]]:
    """Choose predictors as ``association.strongest`` does, by rows spread evenly; files are read once more."""
    rows = spread_rows(learned.n_rows, association.n_rows(len(learned.variables)))
    table, _ = code(learned, rows.astype(np.uint32), (), (), None, executor, lambda _: None)
    return association.strongest(table.codes, order, targets, q)
