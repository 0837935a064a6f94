"""Columns of the original and its copies put into the same groups, and counts of the groups' combinations.

Everything is read twice, piece by piece: first to find the groups (``look``, ``group``), then to count (``count``). The
original is counted once, whatever the number of copies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from fastsynth import _count
from fastsynth.columns import is_numeric, is_text, missing_codes, numbers_of, storage_of
from fastsynth.compared import Compared
from fastsynth.errors import DataError, OptionError
from fastsynth.measures import Floats

Counts = NDArray[np.int64]
# Levels of a category that are groups of their own; all others are one.
MOST_LEVELS = 250
# Groups that numbers may be cut into, and missing codes of one.
MOST_GROUPS = 100
# Rows of a side that quantiles and patterns of missing values are found on, and values of all sides together.
MOST_ROWS, MOST_VALUES = 1_000_000, 50_000_000
# Classes of a number in a picture.
PLOT_CLASSES = 30
# Cells of one table, all tables, and cells of all pieces of a side that are held at once.
MOST_CELLS, MOST_TABLES, HELD_CELLS = 1_000_000, 200_000, 50_000_000
# Rows coded at a time. Never part of the result, but in the last bits of sums that are rounded.
SLICE_ROWS = 65_536
MISSING, OTHERS = "(missing)", "(others)"


@dataclass(frozen=True, slots=True, eq=False)
class Grouping:
    """How the values of a column become groups, numbered from 0: kinds of missing, then values.

    Attributes
    ----------
    name : str
    has_null, has_nan : bool
        Whether null and NaN occur: the first groups then.
    codes : tuple of float
        Missing codes, the groups behind these.
    labels : tuple of str
        Of all groups.
    edges : ndarray, or None
        Of a number, date or time: the largest value of each group but the last. Dates and times as Arrow stores them.
    levels : tuple of str
        Of a category: levels with groups of their own, in the order of the groups; a last group has all others.
    """

    name: str
    has_null: bool
    has_nan: bool
    codes: tuple[float, ...]
    labels: tuple[str, ...]
    edges: Floats | None
    levels: tuple[str, ...] = ()

    @property
    def first(self) -> int:
        """The first group that has values."""
        return self.has_null + self.has_nan + len(self.codes)

    def code(self, column: pl.Series, numbers: Floats | None, out: NDArray[np.uint8]) -> None:
        """Set ``out`` (n_rows,) to the groups of some rows; of numbers, ``numbers`` are these with NaN for missing."""
        if self.edges is None:
            self._code_levels(column, out)
            return
        assert numbers is not None
        _count.cut(numbers, self.edges, self.first, int(self.has_null), out)
        for i, code in enumerate(self.codes):
            out[numbers == code] = self.has_null + self.has_nan + i
        if self.has_null and column.null_count():
            out[column.is_null().to_numpy()] = 0

    def _code_levels(self, column: pl.Series, out: NDArray[np.uint8]) -> None:
        others = self.has_null + len(self.levels)
        number = {level: self.has_null + i for i, level in enumerate(self.levels)}
        if isinstance(column.dtype, pl.Categorical | pl.Enum):
            # The text of a level is looked at once, not once a row.
            present = column.unique().drop_nulls()
            found = [number.get(level, others) for level in present.cast(pl.String).to_list()]
            physical = present.to_physical().to_numpy()
            lookup = np.zeros(int(physical.max(initial=0)) + 1, np.uint8)
            lookup[physical] = found
            groups = lookup[column.to_physical().fill_null(0).to_numpy()]
            if column.null_count():
                groups[column.is_null().to_numpy()] = 0
            out[:] = groups
            return
        text = column.cast(pl.String)
        out[:] = text.replace_strict({None: 0} | number, default=others, return_dtype=pl.UInt8).to_numpy()


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """Survey weights of the original.

    Attributes
    ----------
    name : str
    scale : float
        What makes them whole numbers of which those of all rows can be added.
    effective : float
        Kish's effective sample size, (sum w)^2 / sum w^2.
    mean : float
    """

    name: str
    scale: float
    effective: float
    mean: float


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """What is to be looked at.

    Attributes
    ----------
    name : str
    is_number : bool
        Numbers, dates and times; all else has levels.
    codes : tuple of float
        Missing codes.
    dtype : pyarrow.DataType
    order : tuple of str
        Levels in their order, where they have one.
    """

    name: str
    is_number: bool
    codes: tuple[float, ...]
    dtype: pa.DataType
    order: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """Which rows are looked at closely: the same share of all sides, evenly spread by row number."""

    size: int
    largest: int

    def rows(self, first: int, n: int) -> NDArray[np.int64]:
        """Those among n rows of which the first has this number."""
        if self.size >= self.largest:
            return np.arange(n)
        return np.flatnonzero(np.arange(first, first + n) * self.size % self.largest < self.size)


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What a side looks like.

    Attributes
    ----------
    values : dict of str to (ndarray, ndarray)
        Of each number, its distinct values and their rows or weights, among the rows of the spread.
    levels : dict of str to dict of str to int
        Of each category, rows of each level.
    has_null, has_nan : dict of str to bool
    missing : ndarray of shape (n_rows, n_columns), dtype=bool
        Missing values among the rows of the spread.
    weight : ndarray of shape (n_rows,), or None
        Of the same rows.
    """

    values: dict[str, tuple[Floats, Floats]]
    levels: dict[str, dict[str, int]]
    has_null: dict[str, bool]
    has_nan: dict[str, bool]
    missing: NDArray[np.bool_]
    weight: Floats | None


def columns_of(both: Compared, cont_na: Mapping[str, Sequence[Any]] | None) -> list[Column]:
    """The columns that are compared.

    Raises
    ------
    OptionError
        Missing codes of a column that is not compared, or is no number.
    DataError
        Nested and binary columns.
    """
    given = dict(cont_na or {})
    unknown = [name for name in given if name not in both.names]
    if unknown:
        raise OptionError(
            f"cont_na names {', '.join(map(repr, unknown))}: allowed are columns that are compared: "
            f"{', '.join(both.names)}."
        )
    found = []
    # Of Enums polars knows the order of the levels from notes beside the Arrow type.
    typed = pl.DataFrame(both.sides[0].frame.schema.empty_table())
    for field in both.schema:
        types, dtype = pa.types, field.type
        number = is_numeric(dtype) or (types.is_temporal(dtype) and not types.is_interval(dtype))
        if not (number or is_text(dtype) or types.is_boolean(dtype) or types.is_null(dtype)):
            raise DataError(
                f"Column {field.name!r} has type {dtype}, which cannot be compared. Allowed are numbers, decimals, "
                "booleans, text, categories, dates, times and durations. Convert it, or name the others in columns."
            )
        codes = missing_codes(field.name, dtype, given.get(field.name, ()))
        if len(codes) > MOST_GROUPS:
            raise OptionError(f"cont_na of {field.name!r} has {len(codes)} codes: at most {MOST_GROUPS}.")
        own = typed.schema[field.name]
        order = tuple(own.categories) if isinstance(own, pl.Enum) else ()
        of_codes = tuple(map(float, numbers_of(codes))) if len(codes) else ()
        found.append(Column(field.name, number, of_codes, dtype, order))
    return found


def weights_of(both: Compared, name: str) -> Weights:
    """Read survey weights of the original once.

    Raises
    ------
    DataError
        Missing, negative or infinite weights, or nothing but zeros.
    """
    found = weighted(both, name).map(_sum_weights, name, [name], [0])[0]
    n, bad, most = sum(f[0] for f in found), sum(f[1] for f in found), max(f[2] for f in found)
    total, squares = math.fsum(f[3] for f in found), math.fsum(f[4] for f in found)
    if bad or not total > 0:
        raise DataError(
            f"weights={name!r}: {bad:,} of {n:,} rows have a weight that is missing, negative or infinite"
            + ("." if bad else ", and the others are 0.")
            + " Give every row a weight of at least 0."
        )
    # Sums of pieces end in other bits for other pieces: what is kept of them are digits that do not.
    effective, mean = (float(f"{x:.9g}") for x in (total * total / squares, total / n))
    return Weights(name, 2.0 ** math.floor(math.log2(2.0**61 / (n * most))), effective, mean)


def weighted(both: Compared, name: str) -> Compared:
    """The same table with its weights as a column of numbers, for reading the original."""
    fields = [field for field in both.schema if field.name != name]
    return replace(both, schema=pa.schema([*fields, pa.field(name, pa.float64())]))


def _sum_weights(name: str, rows: pl.DataFrame, _first: int) -> tuple[int, int, float, float, float]:
    w = rows[name].to_numpy()
    good = np.isfinite(w) & (w >= 0)
    w = w[good]
    return len(good), int((~good).sum()), float(w.max(initial=0)), float(w.sum()), float(w @ w)


# First pass


def spread_of(both: Compared, columns: Sequence[Column]) -> Spread:
    """The rows that quantiles are found on."""
    numbers = max(1, sum(column.is_number for column in columns))
    size = min(MOST_ROWS, max(10_000, MOST_VALUES // (numbers * len(both.sides))))
    return Spread(size, max(side.starts[-1] for side in both.sides))


def look(both: Compared, columns: Sequence[Column], spread: Spread, weights: Weights | None) -> list[Seen]:
    """Look at all sides: levels in all rows, values of numbers and patterns of missing values in the spread's.

    Raises
    ------
    DataError
        Infinite numbers.
    """
    shared = (tuple(columns), spread, None)
    if weights is None:
        found = both.map(_look_at, shared)
    else:
        names = [*both.names, weights.name]
        found = weighted(both, weights.name).map(_look_at, (*shared[:2], weights.name), names, [0])
        found += both.map(_look_at, shared, None, range(1, len(both.sides)))
    return [_merge(columns, of_side) for of_side in found]


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    values: dict[str, Floats]
    levels: dict[str, pl.DataFrame]
    has_null: dict[str, bool]
    has_nan: dict[str, bool]
    infinite: list[str]
    missing: NDArray[np.uint8]
    weight: Floats | None


def _look_at(shared: tuple[tuple[Column, ...], Spread, str | None], rows: pl.DataFrame, first: int) -> _Piece:
    columns, spread, weight = shared
    chosen = spread.rows(first, rows.height)
    found = _Piece({}, {}, {}, {}, [], np.zeros(0, np.uint8), None)
    missing = np.zeros((len(columns), len(chosen)), bool)
    for i, column in enumerate(columns):
        series = rows[column.name]
        found.has_null[column.name] = bool(series.null_count())
        if not column.is_number:
            missing[i] = series.is_null().to_numpy()[chosen]
            counted = series.alias("level").value_counts(name="rows")
            found.levels[column.name] = counted.with_columns(pl.col("level").cast(pl.String)).drop_nulls()
            continue
        found.has_nan[column.name] = bool(series.dtype.is_float() and series.is_nan().any())
        numbers = floats_of(series)
        if series.dtype.is_float() and np.isinf(numbers).any():
            found.infinite.append(column.name)
        numbers = numbers[chosen]
        for code in column.codes:
            numbers = np.where(numbers == code, np.nan, numbers)
        missing[i] = np.isnan(numbers)
        found.values[column.name] = numbers
    given = None if weight is None else rows[weight].to_numpy()[chosen]
    return replace(found, missing=np.packbits(missing, axis=0).T, weight=given)


def floats_of(column: pl.Series) -> Floats:
    """Numbers, dates and times as floats, NaN for missing."""
    physical = column.to_physical() if column.dtype.is_temporal() else column
    numbers: Floats = physical.cast(pl.Float64).to_numpy()
    return numbers


def _merge(columns: Sequence[Column], pieces: Sequence[_Piece]) -> Seen:
    infinite = sorted({name for piece in pieces for name in piece.infinite})
    if infinite:
        raise DataError(
            f"Column(s) {', '.join(map(repr, infinite))} have infinite values. Replace them by null or by a finite "
            "code, or leave the column(s) out with columns=[...]."
        )
    numbers = [column.name for column in columns if column.is_number]
    weight = None if pieces[0].weight is None else np.concatenate([p.weight for p in pieces if p.weight is not None])
    missing = np.unpackbits(np.concatenate([p.missing for p in pieces]), axis=1, count=len(columns)).astype(bool)
    levels = {}
    for column in columns:
        if not column.is_number:
            counted = pl.concat([piece.levels[column.name] for piece in pieces])
            counted = counted.group_by("level").agg(pl.col("rows").sum())
            levels[column.name] = dict(zip(counted["level"], counted["rows"], strict=True))
    return Seen(
        {name: _distribution(np.concatenate([p.values[name] for p in pieces]), weight) for name in numbers},
        levels,
        {column.name: any(p.has_null[column.name] for p in pieces) for column in columns},
        {name: any(p.has_nan[name] for p in pieces) for name in numbers},
        missing,
        weight,
    )


def _distribution(numbers: Floats, weight: Floats | None) -> tuple[Floats, Floats]:
    """Distinct values, and of each the rows or weights."""
    known = ~np.isnan(numbers)
    if weight is None:
        values, rows = np.unique(numbers[known], return_counts=True)
        return values, rows.astype(np.float64)
    values, place = np.unique(numbers[known], return_inverse=True)
    return values, np.bincount(place, weights=weight[known], minlength=len(values)).astype(np.float64)


# Groups


def group(columns: Sequence[Column], sides: Sequence[Seen], groups: int) -> list[Grouping]:
    """The groups of each column: the same for the original and all copies.

    Numbers are cut at quantiles of the original and the copies together, which as a whole weigh as much as the
    original; one with no more values than groups has a group for each value.
    """
    found = []
    for column in columns:
        null = any(side.has_null[column.name] for side in sides)
        nan = column.is_number and any(side.has_nan[column.name] for side in sides)
        labels = [MISSING] * null + ["NaN"] * nan + [_shown(column, [code])[0] for code in column.codes]
        if column.is_number:
            edges, of_values = _quantile_groups(column, *pooled([side.values[column.name] for side in sides]), groups)
            labels += of_values
            found.append(Grouping(column.name, null, nan, column.codes, tuple(labels), edges))
        else:
            levels, others = _levels(column, sides)
            labels += [*levels, *[OTHERS] * others]
            found.append(Grouping(column.name, null, False, (), tuple(labels or [MISSING]), None, tuple(levels)))
    return found


def pooled(sides: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    """Distribution of the original and the copies together, each half of it."""
    m = len(sides) - 1
    return mixture(sides, [0.5, *[0.5 / m] * m])


def mixture(sides: Sequence[tuple[Floats, Floats]], weights: Sequence[float]) -> tuple[Floats, Floats]:
    """Distinct values of several distributions, and the weighted sums of their shares."""
    values = np.unique(np.concatenate([values for values, _ in sides]))
    share = np.zeros(len(values))
    for (of_side, rows), weight in zip(sides, weights, strict=True):
        share[np.searchsorted(values, of_side)] += weight * rows / max(rows.sum(), 1)
    return values, share


def quantile(values: Floats, share: Floats, q: Sequence[float] | Floats) -> Floats:
    """The smallest values that at least so much of a distribution does not exceed."""
    until = share.cumsum()
    # Sums of shares fall a little short of, or beyond, round numbers.
    place = np.searchsorted(until, np.asarray(q) * until[-1] * (1 - 1e-12))
    found: Floats = values[np.minimum(place, len(values) - 1)]
    return found


def _quantile_groups(column: Column, values: Floats, share: Floats, groups: int) -> tuple[Floats, list[str]]:
    """Edges of the groups, and a label for each."""
    if len(values) <= groups:
        return values[:-1], _shown(column, values) or ["no value"]
    edges = np.unique(quantile(values, share, np.arange(1, groups) / groups))
    if edges[-1] == values[-1]:
        # The largest value has so many rows that it is a group of its own, but not together with those below.
        edges = np.unique(np.append(edges[:-1], values[-2]))
    shown = _shown(column, edges)
    between = [f"over {a} to {b}" for a, b in pairwise(shown)]
    return edges, [f"up to {shown[0]}", *between, f"over {shown[-1]}"]


def _levels(column: Column, sides: Sequence[Seen]) -> tuple[list[str], bool]:
    """Levels with groups of their own, and whether there are others."""
    share: dict[str, float] = {}
    for i, side in enumerate(sides):
        rows = side.levels[column.name]
        total = max(sum(rows.values()), 1) * (1 if i == 0 else len(sides) - 1)
        for level in sorted(rows):
            share[level] = share.get(level, 0.0) + rows[level] / total
    common = sorted(share, key=lambda level: (-share[level], level))[:MOST_LEVELS]
    order = {level: i for i, level in enumerate(column.order)}
    return sorted(common, key=lambda level: (order.get(level, len(order)), level)), len(share) > len(common)


def _shown(column: Column, values: Sequence[float] | Floats) -> list[str]:
    """Numbers, dates and times as text."""
    if pa.types.is_temporal(column.dtype):
        empty = pa.array([], column.dtype)
        whole = pa.array(np.rint(np.asarray(values, np.float64)).astype(np.int64)).cast(storage_of(empty).type)
        times = pl.Series(whole.view(column.dtype))
        text = times.to_list() if isinstance(times.dtype, pl.Duration) else times.cast(pl.String).to_list()
        return [str(value).removesuffix(".000000") for value in text]
    return [_number(value) for value in values]


def _number(value: float) -> str:
    return f"{value:.0f}" if value == round(value) and abs(value) < 1e15 else f"{value:.6g}"


def plot_classes(column: Column, values: Floats, share: Floats, grouping: Grouping) -> tuple[Grouping, Floats]:
    """Classes of a number for a picture, and their borders: one a value if there are few, else of equal width.

    The widths go by the middle 99 % of the values; what lies beyond is in the first and last class.
    """
    if not len(values):
        return grouping, np.zeros(0)
    if len(values) <= PLOT_CLASSES:
        gap = np.diff(values)
        ends = np.append(gap[:1], gap[-1:]) / 2 if len(gap) else np.array([0.5, 0.5])
        borders = np.concatenate([[values[0] - ends[0]], values[:-1] + gap / 2, [values[-1] + ends[1]]])
        labels = _shown(column, values)
        edges = values[:-1]
    else:
        low, high = quantile(values, share, [0.005, 0.995])
        low, high = (values[0], values[-1]) if low == high else (low, high)
        if np.array_equal(values, np.round(values)):
            width = np.ceil((high - low + 1) / PLOT_CLASSES)
            borders = low - 0.5 + width * np.arange(math.ceil((high - low + 1) / width) + 1)
        else:
            borders = np.linspace(low, high, PLOT_CLASSES + 1)
        edges = borders[1:-1]
        shown = _shown(column, borders)
        labels = [f"{a} to {b}" for a, b in pairwise(shown)]
    missing = grouping.labels[: grouping.first]
    return replace(grouping, edges=np.ascontiguousarray(edges), labels=(*missing, *labels)), borders


# Second pass


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """Counts of the groups of some columns together, one table behind the other.

    Attributes
    ----------
    slots : list of tuple of int
        Columns of each table, as places in a list of groupings.
    widths : list of int
        Groups of each of these.
    first : ndarray of shape (n_tables,), dtype=int64
        Where each table begins.
    original : ndarray of shape (n_cells,), dtype=float64
    copies : ndarray of shape (m, n_cells), dtype=float64
    """

    slots: list[tuple[int, ...]]
    widths: list[int]
    first: Counts
    original: Floats
    copies: Floats

    def table(self, slots: tuple[int, ...]) -> tuple[Floats, Floats]:
        """Counts of one table, (groups of the first column, ...) of the original and (m, ...) of the copies."""
        start, shape = int(self.first[self.slots.index(slots)]), [self.widths[slot] for slot in slots]
        cells = slice(start, start + math.prod(shape))
        return self.original[cells].reshape(shape), self.copies[:, cells].reshape(-1, *shape)


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Sums that correlations are made of, for all pairs of numbers, over the rows where both are known.

    Arrays are (p, p), or (1, 1) and (p, 1) if nothing is missing, so that they broadcast to it.
    """

    rows: Floats
    sums: Floats
    squares: Floats
    products: Floats

    def correlations(self) -> Floats:
        """Pearson's, (p, p), rounded to nine digits; NaN of a constant."""
        spread = self.rows * self.squares - self.sums**2
        with np.errstate(divide="ignore", invalid="ignore"):
            found = (self.rows * self.products - self.sums * self.sums.T) / np.sqrt(spread * spread.T)
        # What is left of a constant are rounding errors.
        constant = spread <= 1e-12 * np.maximum(self.rows, 1) ** 2
        clipped: Floats = np.where(constant | constant.T, np.nan, np.clip(found, -1, 1)).round(9)
        return clipped


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    groupings: tuple[Grouping, ...]
    columns: NDArray[np.int32]
    widths: NDArray[np.int32]
    first: Counts
    n_cells: int
    numbers: tuple[str, ...]
    centre: Floats
    scale: Floats
    complete: bool
    weights: Weights | None = None


def pairs(p: int) -> list[tuple[int, ...]]:
    """Tables of one and of two of p columns."""
    return [*((slot,) for slot in range(p)), *combinations(range(p), 2)]


def check_tables(n_tables: int, what: str) -> None:
    """Refuse more tables than anyone could read.

    Raises
    ------
    OptionError
    """
    if n_tables > MOST_TABLES:
        raise OptionError(
            f"{what} would make {n_tables:,} tables: at most {MOST_TABLES:,}. Name fewer columns with columns=[...]."
        )


def count(
    both: Compared,
    groupings: Sequence[Grouping],
    slots: Sequence[tuple[int, ...]],
    weights: Weights | None = None,
    numbers: Mapping[str, tuple[float, float]] | None = None,
    complete: bool = False,
) -> tuple[Tables, list[Moments]]:
    """Count all tables in all rows of the original and the copies.

    Parameters
    ----------
    slots : list of tuple of int
        Columns of each table, as places in ``groupings``: one, two or three.
    weights : Weights, optional
        The original is counted by weight, scaled to its effective size.
    numbers : dict of str to (float, float), optional
        Centre and scale of columns to correlate.
    complete : bool
        Whether none of these is ever missing.

    Returns
    -------
    tables : Tables
    moments : list of Moments
        Of the original and of each copy; empty without ``numbers``.

    Notes
    -----
    O(rows (p + number of tables)), where a table takes about half a nanosecond a row, and a column about twenty. Of
    many large tables some are counted at a time, so that the counts of all pieces fit into 400 MB; the rows are then
    read more than once.
    """
    widths = [len(grouping.labels) for grouping in groupings]
    sizes = [math.prod(widths[slot] for slot in table) for table in slots]
    most = max(MOST_CELLS, HELD_CELLS // sum(len(side.starts) - 1 for side in both.sides))
    parts: list[Counts] = []
    moments: list[Moments] = []
    for start, stop in _runs(sizes, most):
        cells, of_run = _count_run(
            both, groupings, slots[start:stop], widths, weights, {} if start else numbers or {}, complete
        )
        parts.append(cells)
        moments = moments or of_run
    cells = np.concatenate(parts, axis=1)
    original = cells[0].astype(np.float64)
    if weights is not None:
        # All tables have the same rows, so any of them has the sum of the weights.
        original *= weights.effective / original[: sizes[0]].sum()
    first = np.cumsum(sizes, dtype=np.int64) - sizes
    return Tables(list(slots), widths, first, original, cells[1:].astype(np.float64)), moments


def _runs(sizes: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Runs of tables of so many cells together, or of one table."""
    start, cells = 0, 0
    for i, size in enumerate(sizes):
        if cells and cells + size > most:
            yield start, i
            start, cells = i, 0
        cells += size
    yield start, len(sizes)


def _count_run(
    both: Compared,
    groupings: Sequence[Grouping],
    slots: Sequence[tuple[int, ...]],
    widths: list[int],
    weights: Weights | None,
    numbers: Mapping[str, tuple[float, float]],
    complete: bool,
) -> tuple[Counts, list[Moments]]:
    """Counts of some tables (1 + m, n_cells), and moments of all sides."""
    sizes = np.array([math.prod(widths[slot] for slot in table) for table in slots], np.int64)
    columns = np.array([(*table, -1, -1)[:3] for table in slots], np.int32)
    centre, scale = (np.array([found[i] for found in numbers.values()]) for i in (0, 1))
    place = np.cumsum(sizes) - sizes
    job = _Job(
        *(tuple(groupings), columns, np.array(widths, np.int32), place, int(sizes.sum())),
        *(tuple(numbers), centre, scale, complete),
    )
    names = [name for name in both.names if name in {grouping.name for grouping in groupings}]
    if weights is None:
        found = both.map(_count_piece, job, names)
    else:
        with_weights = weighted(both, weights.name)
        found = with_weights.map(_count_piece, replace(job, weights=weights), [*names, weights.name], [0])
        found += both.map(_count_piece, job, names, range(1, len(both.sides)))
    cells = np.stack([np.sum([of_piece for of_piece, _ in of_side], axis=0) for of_side in found])
    if not numbers:
        return cells, []
    return cells, [_add([moments for _, moments in of_side]) for of_side in found]


def _count_piece(job: _Job, rows: pl.DataFrame, _first: int) -> tuple[Counts, Moments | None]:
    cells, moments = np.zeros(job.n_cells, np.int64), []
    for part in rows.iter_slices(SLICE_ROWS):
        weight = None if job.weights is None else part[job.weights.name].to_numpy()
        numbers = {g.name: floats_of(part[g.name]) for g in job.groupings if g.edges is not None}
        codes = np.empty((len(job.groupings), part.height), np.uint8)
        for grouping, out in zip(job.groupings, codes, strict=True):
            grouping.code(part[grouping.name], numbers.get(grouping.name), out)
        whole = np.zeros(0, np.int64)
        if weight is not None and job.weights is not None:
            whole = np.rint(weight * job.weights.scale).astype(np.int64)
        _count.tabulate(codes, job.columns, job.widths, job.first, whole, cells)
        if job.numbers:
            missing = {g.name: g.codes for g in job.groupings}
            moments.append(_moments(job, [_known(numbers[name], missing[name]) for name in job.numbers], weight))
    return cells, _add(moments) if moments else None


def _known(numbers: Floats, codes: tuple[float, ...]) -> Floats:
    return np.where(np.isin(numbers, codes), np.nan, numbers) if codes else numbers


def _moments(job: _Job, numbers: list[Floats], weight: Floats | None) -> Moments:
    z = (np.stack(numbers) - job.centre[:, None]) / job.scale[:, None]
    mask = np.ones((1, z.shape[1]))
    if not job.complete:
        mask = np.isfinite(z).astype(np.float64)
        z = np.where(mask > 0, z, 0.0)
    w = 1.0 if weight is None else weight
    return Moments((mask * w) @ mask.T, (z * w) @ mask.T, (z * z * w) @ mask.T, (z * w) @ z.T)


def _add(moments: Sequence[Moments | None]) -> Moments:
    known = [part for part in moments if part is not None]
    total = known[0]
    for part in known[1:]:
        total = Moments(
            total.rows + part.rows, total.sums + part.sums, total.squares + part.squares, total.products + part.products
        )
    return total
