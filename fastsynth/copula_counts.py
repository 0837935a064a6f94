"""Columns as groups of neighbouring ranks, and tables of all pairs of columns counted in one pass.

The words are those of ``fastsynth.copula``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fastsynth import _count
from fastsynth.columns import EncodedTable, Ranks, Variable, numbers_of
from fastsynth.execute import Executor, Tick
from fastsynth.products import Product
from fastsynth.source import Source
from fastsynth.streams import Words, hashed, unit

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

# Splits of a category: levels beyond them are drawn by their shares within groups.
MOST_GROUPS = 63
# Rows of a task that counts a table in memory. Never part of the result.
COUNT_ROWS = 1_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Margin:
    """How the ranks of a column are distributed and grouped.

    Attributes
    ----------
    slot : int
    name : str
    ordered : bool
        Whether its values have an order.
    first : int
        Lowest rank that is a value.
    group : ndarray of shape (n_ranks,), dtype=uint8
        Group of each rank; 0 is missing.
    rows : ndarray of shape (n_ranks,), dtype=int64
    """

    slot: int
    name: str
    ordered: bool
    first: int
    group: NDArray[np.uint8]
    rows: Counts

    @classmethod
    def of(cls, slot: int, variable: Variable, rows: Counts, bins: int) -> Margin:
        """Group the ranks of a column. O(n_ranks log n_ranks)."""
        group = np.zeros(len(rows), np.uint8)
        values = rows[variable.first :]
        if variable.kind == "unordered":
            group[variable.first :] = _level_groups(values, MOST_GROUPS)
        elif values.any():
            group[variable.first :] = _bins(values, bins)
        return cls(slot, variable.name, variable.kind != "unordered", variable.first, group, rows)

    @classmethod
    def of_product(cls, slot: int, product: Product, name: str) -> Margin:
        """The cells of several columns as levels of one; rank 0 has no cell."""
        rows = np.append(0, product.rows)
        return cls(slot, name, False, 1, np.arange(len(rows), dtype=np.uint8), rows)

    @property
    def n_groups(self) -> int:
        """Groups of its values, and that of missing."""
        return int(self.group.max()) + 1

    @property
    def has_missing(self) -> bool:
        """Whether a latent says which rows are missing."""
        return bool(self.n_groups > 1 and self.rows[: self.first].any())

    @property
    def n_latents(self) -> int:
        """Latents of the column."""
        return self.has_missing + (min(self.n_groups - 2, 1) if self.ordered else self.n_groups - 2) * (
            self.n_groups > 1
        )


def _bins(rows: Counts, bins: int) -> NDArray[np.uint8]:
    """Groups, from 1, of about equally many rows; a value that fills a group stands alone."""
    total = rows.sum()
    place = (2 * (np.cumsum(rows) - rows) + rows) * bins // (2 * total)
    alone = rows * bins >= total
    starts = np.append(True, (place[1:] != place[:-1]) | alone[1:] | alone[:-1])
    # A start without rows would be a group without rows.
    number = np.cumsum(starts) - 1
    filled = np.bincount(number, rows) > 0
    group: NDArray[np.uint8] = np.maximum(np.cumsum(filled)[number], 1).astype(np.uint8)
    return group


def _level_groups(rows: Counts, most: int) -> NDArray[np.uint8]:
    """Groups, from 1, of a level each; the rarest levels share the last one where there are too many."""
    used = np.flatnonzero(rows)
    group = np.zeros(len(rows), np.uint8)
    if len(used) > most:
        rarest = used[np.argsort(-rows[used], kind="stable")[most - 1 :]]
        group[rarest] = most
        used = np.setdiff1d(used, rarest)
    group[used] = np.arange(1, len(used) + 1)
    return group


@dataclass(frozen=True, slots=True, eq=False)
class Counting:
    """What is counted: one table for each column and one for each pair, one behind the other.

    Attributes
    ----------
    margins : tuple of Margin
    columns : ndarray of shape (n_tables, 3), dtype=int32
        Places among the margins, -1 for none.
    offset : ndarray of shape (n_tables + 1,), dtype=int64
    """

    margins: tuple[Margin, ...]
    columns: NDArray[np.int32]
    offset: Counts

    @classmethod
    def of(cls, margins: Sequence[Margin]) -> Counting:
        """All columns, and all pairs of columns."""
        p = len(margins)
        one = [(i, -1, -1) for i in range(p)]
        two = [(i, j, -1) for i in range(p) for j in range(i + 1, p)]
        columns = np.array(one + two, np.int32)
        widths = np.append([margin.n_groups for margin in margins], 1)
        cells = np.prod(widths[columns].astype(np.int64), axis=1)
        return cls(tuple(margins), columns, np.append(0, np.cumsum(cells)))

    @property
    def n_cells(self) -> int:
        """Cells of all tables."""
        return int(self.offset[-1])

    def tables(self, counts: Counts) -> dict[tuple[int, int], Floats]:
        """Tables by their columns, that of one column by (i, -1)."""
        found, width = {}, [margin.n_groups for margin in self.margins]
        ends = self.offset.tolist()
        for (i, j, _), (low, high) in zip(self.columns.tolist(), pairwise(ends), strict=True):
            own = counts[low:high].astype(np.float64)
            found[i, j] = own if j < 0 else own.reshape(width[i], width[j])
        return found

    @property
    def widths(self) -> NDArray[np.int32]:
        """Groups of each column."""
        return np.array([margin.n_groups for margin in self.margins], np.int32)

    def add(self, groups: NDArray[np.uint8], weights: Sequence[Counts | None], out: Counts) -> None:
        """Add rows (n_columns, n) to the tables (n_weights, n_cells), once for each set of weights."""
        for weight, tables in zip(weights, out, strict=True):
            whole = np.zeros(0, np.int64) if weight is None else weight
            _count.tabulate(groups, self.columns, self.widths, self.offset[:-1], whole, tables)


def count_all(
    counting: Counting,
    source: Source,
    variables: Sequence[Variable],
    products: Mapping[int, tuple[tuple[int, ...], Product]],
    table: EncodedTable | None,
    keys: Words,
    executor: Executor,
    tick: Tick,
) -> Counts:
    """Tables (max(n_keys, 1), n_cells) of all rows."""
    total = np.zeros((max(len(keys), 1), counting.n_cells), np.int64)
    function: Callable[..., Counts]
    shared: tuple[Any, ...]
    if table is not None:
        starts = [*range(0, table.n_rows, COUNT_ROWS), table.n_rows]
        jobs: list[tuple[Any, ...]] = list(pairwise(starts))
        cells = {slot: cells_of(product, [table.ranks[one] for one in of]) for slot, (of, product) in products.items()}
        slots = [margin.slot for margin in counting.margins]
        ranks = tuple(cells[slot] if slot in cells else table.ranks[slot] for slot in slots)
        function, shared = count_rows, (counting, ranks, keys)
    else:
        starts, jobs = source.starts, source.jobs()
        used = {one for slot in (m.slot for m in counting.margins) for one in products.get(slot, ((slot,), None))[0]}
        function = count_piece
        shared = counting, source, {slot: variables[slot] for slot in used}, products, keys

    def add(i: int, counted: Counts) -> None:
        total.__iadd__(counted)
        tick(starts[i + 1] - starts[i])

    executor.map(function, shared, jobs, add)
    return total


def count_rows(shared: tuple[Counting, tuple[Ranks, ...], Words], start: int, stop: int) -> Counts:
    """Count some rows of a table in memory, given the ranks of the columns."""
    counting, ranks, keys = shared
    groups = np.stack([margin.group[of[start:stop]] for margin, of in zip(counting.margins, ranks, strict=True)])
    out = np.zeros((max(len(keys), 1), counting.n_cells), np.int64)
    counting.add(groups, _poisson(keys, start, stop - start), out)
    return out


def cells_of(product: Product, ranks: Sequence[Ranks]) -> NDArray[np.uint8]:
    """Rank of the cell of each row."""
    cells: NDArray[np.uint8] = (product.codes(ranks) + 1).astype(np.uint8)
    return cells


def count_piece(
    shared: tuple[Counting, Source, Mapping[int, Variable], Mapping[int, tuple[tuple[int, ...], Product]], Words],
    piece: int,
    *held: Any,
) -> Counts:
    """Count the rows of one piece of a source."""
    counting, source, variables, products, keys = shared
    out = np.zeros((max(len(keys), 1), counting.n_cells), np.int64)
    start = source.starts[piece]
    for batch in source.batches(piece, *held):
        groups = np.empty((len(counting.margins), len(batch)), np.uint8)
        for own, margin in zip(groups, counting.margins, strict=True):
            if margin.slot in products:
                slots, product = products[margin.slot]
                own[:] = cells_of(product, [variables[slot].rank(batch.column(slot)) for slot in slots])
            else:
                _group(margin, variables[margin.slot], batch.column(margin.slot), own)
        counting.add(groups, _poisson(keys, start, len(batch)), out)
        start += len(batch)
    return out


def _poisson(keys: Words, start: int, n: int) -> list[Counts | None]:
    """How often rows are in each bootstrap sample: hashes of their numbers as Poisson variables of mean 1.

    Hanley and MacGibbon (2006), Creating non-parametric bootstrap samples using Poisson frequencies.
    """
    if not len(keys):
        return [None]
    below = np.cumsum(np.exp(-1) / np.cumprod(np.append(1.0, np.arange(1, 20))))
    numbers = np.arange(start, start + n, dtype=np.uint64)
    return [np.searchsorted(below, unit(hashed(numbers, key)), side="right").astype(np.int64) for key in keys]


def _group(margin: Margin, variable: Variable, column: Any, out: NDArray[np.uint8]) -> None:
    """Groups (n,) of some rows of a column; of numbers without their ranks, which are slow to find."""
    edges = _edges(margin, variable)
    if edges is None:
        out[:] = margin.group[variable.rank(column)]
    else:
        _count.cut(np.ascontiguousarray(numbers_of(column)), edges, 1, 0, out)


def _edges(margin: Margin, variable: Variable) -> Floats | None:
    """Greatest number of each group but the last, if floats tell all groups apart."""
    if variable.kind != "numeric" or len(variable.missing_codes) or margin.n_groups < 2:
        return None
    last = np.flatnonzero(np.diff(margin.group[margin.first :])) + margin.first
    edges = numbers_of(variable.values.take(pa.array(last)))
    next_ones = numbers_of(variable.values.take(pa.array(last + 1)))
    return edges if (edges < next_ones).all() else None
