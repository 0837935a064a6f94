"""Columns as codes, and back to values of their exact types.

Terms
-----
rank
    Number of a value within its column: 0 is null, then NaN if the column has any, then the missing codes that the
    caller named (-8, -9), then the distinct values in ascending order (categories in their own order).
    ``variable.values`` is indexed by rank and has the column's exact Arrow type, so decoding is one ``take`` and no
    value ever passes through a float.
code
    What trees see: uint16, order of ranks kept. 0 is missing (null or NaN), then one code for each missing code and
    each value, or for more than 65,534 values one for each bin of values.

A table in memory is learned and coded in one go (``encode``). Files are read twice: tallies of their pieces are merged
to what a column holds (``Tally``), and then each piece is coded by itself (``Variable.rank``). Both give the same.

This module knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fastsynth._tree import MAX_CODES
from fastsynth.errors import DataError, OptionError
from fastsynth.source import Frame

Kind = Literal["numeric", "ordered", "unordered"]
Codes = NDArray[np.uint16]
Ranks = NDArray[np.unsignedinteger[Any]]

# Code of a value that the column never had; no tree knows it.
UNSEEN = MAX_CODES
# Further variables that hold what the first row of a cluster has, and how many rows it has.
FIRST, SIZE = "first", "size"
# Text of which at least this share of the rows has a value of its own names people.
IDENTIFIER_SHARE = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class Variable:
    """What is learned of one column.

    Attributes
    ----------
    name : str
    kind : {"numeric", "ordered", "unordered"}
        Dates, times, durations and decimals are numeric. Ordered are Enum and ordered categoricals.
    values : pyarrow.Array of shape (n_ranks,)
        Value of each rank, in a type that Arrow can take from; the first one is null.
    dtype : pyarrow.DataType
        The column's own type.
    first : int
        Lowest rank that is a value; those below are kinds of missing.
    has_nan : bool
        Whether rank 1 is NaN.
    bins : ndarray of shape (n_ranks,), dtype=uint16, or None
        Code of each rank, where it is not the rank: with NaN, and with too many ranks for a code each.
    has_missing : bool
        Whether the column has a null or a NaN.
    n_used : int
        Distinct values that occur; fewer than declared where an ordered category has unused levels.
    calendar : tuple of (int, str), or None
        Of what is no column of the table but a part ("weekday", "month", "hour") of the dates in the column of a slot,
        which later columns are predicted from: this slot, and the part. ``bins`` has the code of each rank of the
        dates. Likewise "size", the rows of a cluster; "3=1", those of rank 1 of the column at slot 3; and "first", what
        the first row of a cluster has of a column, whose codes are those of the column.
    """

    name: str
    kind: Kind
    values: pa.Array
    dtype: pa.DataType
    first: int
    has_nan: bool
    bins: Codes | None
    has_missing: bool
    n_used: int
    calendar: tuple[int, str] | None = None

    @property
    def codes_are_ranks(self) -> bool:
        """Whether a code says all that a rank does."""
        return self.bins is None or (self.calendar is not None and self.calendar[1] != FIRST)

    @property
    def first_code(self) -> int:
        """Lowest code that is a value."""
        return self.first - self.has_nan

    @property
    def missing_codes(self) -> pa.Array:
        """Values that stand for kinds of missing, in storage type."""
        return self.values[1 + self.has_nan : self.first]

    @property
    def n_codes(self) -> int:
        """Codes of the column, missing included."""
        return len(self.values) if self.codes_are_ranks else int(self.bins[-1]) + 1  # type: ignore[index]

    @property
    def rank_dtype(self) -> type[np.uint16] | type[np.uint32]:
        """Smallest type that holds its ranks."""
        return np.uint16 if len(self.values) <= MAX_CODES else np.uint32

    def blank(self) -> Variable:
        """The column with nothing known of its values."""
        # A slice would still hold all values, and a dictionary the names.
        values = pa.nulls(1, self.values.type)
        if pa.types.is_dictionary(self.values.type):
            index, of = pa.nulls(1, self.values.type.index_type), pa.array([], self.values.type.value_type)
            values = pa.DictionaryArray.from_arrays(index, of, ordered=self.values.type.ordered)
        return replace(self, values=values, first=1, has_nan=False, bins=None, has_missing=True, n_used=0)

    def codes(self, ranks: Ranks) -> Codes:
        """Codes of an array of ranks (of the dates, for a part of them)."""
        return ranks if self.bins is None else self.bins[ranks]

    def rank(self, column: pa.ChunkedArray) -> Ranks:
        """Ranks of some rows of the column. O(rows log n_ranks).

        Raises
        ------
        DataError
            A value that the column did not have when it was learned.
        """
        ranks, unknown = self.match(column)
        if unknown.any():
            raise DataError(f"Column {self.name!r} holds other values than before: its file was changed meanwhile.")
        return ranks

    def match(self, column: pa.Array | pa.ChunkedArray) -> tuple[Ranks, NDArray[np.bool_]]:
        """Ranks of some values, and which of them the column did not have when it was learned."""
        if isinstance(column, pa.Array):
            column = pa.chunked_array([column])
        if not self.n_used and len(self.values) == 1:
            # Nothing but null, or identifiers, of which nothing is kept.
            return np.zeros(len(column), self.rank_dtype), np.zeros(len(column), bool)
        if pa.types.is_dictionary(self.dtype):
            coded = column.unify_dictionaries().combine_chunks()
        else:
            coded = _clean(storage_of(column).combine_chunks()).dictionary_encode()
        given = _plain(coded.dictionary)
        found, lost = self._find(given)
        rank_of: Ranks = np.append(found, 0).astype(self.rank_dtype)
        indices = pc.fill_null(coded.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
        # Null has index -1, and there stands 0.
        return rank_of[indices], np.append(lost, False)[indices]

    def _find(self, given: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Ranks of plain values that are not null, and which of them the column did not have."""
        known = _plain(self.values)[self.first :]
        if pa.types.is_integer(given.type) or pa.types.is_floating(given.type):
            wanted, sorted_values = given.to_numpy(zero_copy_only=False), known.to_numpy(zero_copy_only=False)
            found = np.minimum(np.searchsorted(sorted_values, wanted), max(len(known) - 1, 0)).astype(np.int64)
            lost = sorted_values[found] != wanted if len(known) else np.ones(len(wanted), bool)
        else:
            places = pc.index_in(given, value_set=known)
            lost = places.is_null().to_numpy(zero_copy_only=False)
            found = pc.fill_null(places, 0).to_numpy(zero_copy_only=False).astype(np.int64)
        ranks = found + self.first
        if self.has_nan:
            nan = np.isnan(wanted)
            ranks[nan], lost = 1, lost & ~nan
        if len(self.missing_codes):
            code = pc.index_in(given, value_set=self.missing_codes)
            is_code = code.is_valid().to_numpy(zero_copy_only=False)
            of_code = pc.fill_null(code, 0).to_numpy(zero_copy_only=False) + 1 + self.has_nan
            ranks, lost = np.where(is_code, of_code, ranks), lost & ~is_code
        return ranks, lost

    def rank_of(self, value: Any) -> int | None:
        """Rank of one value, given in Python; None for a value that the column does not have."""
        if value is None:
            return 0
        try:
            dtype = self.dtype.value_type if pa.types.is_dictionary(self.dtype) else self.dtype
            scalar = pa.array([value], dtype)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            return None
        ranks, lost = self._find(_plain(scalar))
        return None if lost[0] else int(ranks[0])

    def decode(self, ranks: Ranks) -> pa.Array:
        """Values of an array of ranks, in the column's exact type."""
        return _unstorage(self.values.take(pa.array(ranks)), self.dtype)

    def compose(self, ranks: Ranks, numbers: NDArray[np.float64]) -> pa.Array:
        """Computed numbers in the column's exact type, and the value of the rank where the number is NaN."""
        present = np.isfinite(numbers)
        given, dtype = np.where(present, numbers, 0.0), self.values.type
        if pa.types.is_decimal(dtype):
            # Whole multiples of the last digit, as pairs of 64 bits.
            whole = np.rint(given * 10.0**dtype.scale).astype(np.int64)
            buffer = pa.py_buffer(np.column_stack([whole, whole >> 63]).tobytes())
            array = pa.Array.from_buffers(pa.decimal128(38, dtype.scale), len(whole), [None, buffer]).cast(dtype)
        else:
            if not pa.types.is_floating(dtype):
                given = np.rint(given).astype(np.int64)
            array = pa.array(given).cast(dtype, safe=False)
        if not present.all():
            array = pc.if_else(pa.array(present), array, self.values.take(pa.array(np.where(present, 0, ranks))))
        return _unstorage(array, self.dtype)

    def numbers(self) -> NDArray[np.float64]:
        """Value of each rank as a float; NaN for missing. Only for numeric columns."""
        numbers = _numbers(storage_of(self.values))
        if self.first > 1 + self.has_nan:
            numbers = np.where(np.arange(len(numbers)) < self.first, np.nan, numbers)
        return numbers

    def numbers_of_codes(self) -> NDArray[np.float64]:
        """Number of each code, NaN for missing; the mean where a code stands for several values. Only for numbers."""
        numbers = self.numbers()
        if self.codes_are_ranks:
            return numbers
        assert self.bins is not None
        known = ~np.isnan(numbers)
        size = np.bincount(self.bins[known], minlength=self.n_codes)
        total = np.bincount(self.bins[known], weights=numbers[known], minlength=self.n_codes)
        return np.where(size > 0, total / np.maximum(size, 1), np.nan)

    def numbers_at(self, codes: Codes) -> NDArray[np.float64]:
        """Numbers of some codes, NaN for missing; of a code that stands for several values the lowest."""
        numbers = numbers_of(self.values.take(pa.array(self.lowest_ranks(codes))))
        return np.where(codes < self.first_code, np.nan, numbers)

    def lowest_ranks(self, codes: Codes) -> Ranks:
        """The rank of some codes, of one that stands for several values the lowest."""
        if self.codes_are_ranks:
            return codes
        assert self.bins is not None
        return np.searchsorted(self.bins, codes).astype(self.rank_dtype)

    def nearest_codes(self, column: pa.Array) -> Codes:
        """Codes of computed values, which need not be among the values seen. O(k log n_ranks).

        For a number the nearest one seen stands in; a category never seen gets the code ``UNSEEN``. For a part of dates
        these are given.
        """
        if self.calendar is not None:
            column = _part_of(column, self.calendar[1])
        if self.kind == "numeric":
            codes = self.codes(self.nearest_ranks(_numbers(storage_of(column))))
            for i in range(len(self.missing_codes)):
                equal = pc.fill_null(pc.equal(storage_of(column), self.missing_codes[i]), False)
                codes[equal.to_numpy(zero_copy_only=False)] = 1 + i
            return codes
        ranks = pc.index_in(_plain(column), value_set=_plain(self.values)[self.first :])
        codes = pc.fill_null(pc.add(ranks, self.first), UNSEEN).to_numpy(zero_copy_only=False)
        return np.where(column.is_null().to_numpy(zero_copy_only=False), 0, codes).astype(np.uint16)

    def nearest_ranks(self, given: NDArray[np.float64]) -> Ranks:
        """Ranks of the values that are nearest to some numbers, 0 for NaN. O(k log n_ranks)."""
        known = self.numbers()[self.first :]
        if not len(known):
            return np.zeros(len(given), self.rank_dtype)
        right = np.clip(np.searchsorted(known, given), 1, max(len(known) - 1, 1))
        left = right - 1
        right = np.minimum(right, len(known) - 1)
        nearest = np.where(given - known[left] <= known[right] - given, left, right) + self.first
        ranks: Ranks = np.where(np.isnan(given), 0, nearest).astype(self.rank_dtype)
        return ranks


@dataclass(frozen=True, slots=True, eq=False)
class EncodedTable:
    """A table as codes.

    Attributes
    ----------
    variables : tuple of Variable
    ranks : tuple of ndarray of shape (n_rows,), dtype=uint16 or uint32
    codes : ndarray of shape (n_columns, n_rows), dtype=uint16, C order
    frame : Frame
        The caller's kind of table.
    ruled : dict
        By slot, the rows (n_rows,) that are under a rule of the column.
    """

    variables: tuple[Variable, ...]
    ranks: tuple[Ranks, ...]
    codes: Codes
    frame: Frame
    ruled: dict[int, NDArray[np.bool_]] = field(default_factory=dict)
    _numbers: dict[int, NDArray[np.float64]] = field(default_factory=dict, init=False)

    @property
    def n_rows(self) -> int:
        """Rows of the table."""
        return int(self.codes.shape[1])

    def numbers_of_codes(self, slot: int) -> NDArray[np.float64]:
        """``Variable.numbers_of_codes`` of a column: made once, as every later column asks for it."""
        if slot not in self._numbers:
            self._numbers[slot] = self.variables[slot].numbers_of_codes()
        return self._numbers[slot]


def encode(
    table: pa.Table, frame: Frame, cont_na: Mapping[str, Sequence[Any]] | None = None, many: str | None = None
) -> EncodedTable:
    """Code every column. O(n log n) a column at worst; 2 bytes a cell, up to 4 more for NaN or binned codes.

    Parameters
    ----------
    table : pyarrow.Table
    frame : Frame
    cont_na : dict of str to list, optional
        Values of numeric columns that are kinds of missing.
    many : str, optional
        A column whose categories only say which rows belong together: there may be any number.

    Raises
    ------
    DataError
        No rows, one row, one column, nested or binary types, infinite values, more than 65,534 categories.
    """
    check_size(table.num_rows, table.num_columns)
    room = sum(len(_parts_of(field.type)) for field in table.schema)
    codes = np.empty((table.num_columns + room, table.num_rows), np.uint16)[: table.num_columns]
    variables, ranks = [], []
    for slot, name in enumerate(table.column_names):
        _check_type(name, table.schema.field(name).type)
        missing = missing_codes(name, table.schema.field(name).type, (cont_na or {}).get(name, ()))
        keep_unused = frame.backend == "pandas"
        variable, column_ranks = _encode_column(name, table.column(slot), missing, keep_unused, name == many)
        codes[slot] = variable.codes(column_ranks)
        variables.append(variable)
        ranks.append(codes[slot] if variable.bins is None else column_ranks)
    return EncodedTable(tuple(variables), tuple(ranks), codes, frame)


# Parts of a date that say more than its place in time.
CALENDAR: dict[str, Callable[[Any], Any]] = {"weekday": pc.day_of_week, "month": pc.month, "hour": pc.hour}


def _parts_of(dtype: pa.DataType) -> tuple[str, ...]:
    if pa.types.is_date(dtype):
        return "weekday", "month"
    return ("weekday", "month", "hour") if pa.types.is_timestamp(dtype) else ()


def _part_of(dates: pa.Array, part: str) -> pa.Array:
    return CALENDAR[part](dates).cast(pa.int8())


def count_of_cluster(cluster: Variable, slot: int, rows: NDArray[np.int64], part: str) -> list[Variable]:
    """How many rows (of some kind) a row's cluster has, as a further variable; none where all have as many.

    ``rows`` are those of each rank of the column at ``slot`` that names the clusters.
    """
    counts, code = np.unique(rows[cluster.first :], return_inverse=True)
    if len(counts) < 2:
        return []
    bins = np.append(np.zeros(cluster.first, np.uint16), code + 1).astype(np.uint16)
    values = pa.concat_arrays([pa.nulls(1, pa.int64()), pa.array(counts)])
    known = (values, pa.int64(), 1, False, bins)
    return [Variable(f"{cluster.name}.{part}", "numeric", *known, False, len(counts), (slot, part))]


def of_first_row(variables: Sequence[Variable], names: Collection[str]) -> list[Variable]:
    """What the first row of a row's cluster has, as further variables: one for each of some columns."""
    return [
        replace(variable, name=f"{variable.name}.{FIRST}", calendar=(slot, FIRST))
        for slot, variable in enumerate(variables)
        if variable.name in names
    ]


def calendars(variables: Sequence[Variable]) -> list[Variable]:
    """Parts of the dates among some columns, as further variables: those of which more than one value occurs."""
    found = []
    for slot, variable in enumerate(variables):
        for part in _parts_of(variable.dtype):
            of_ranks = _part_of(_unstorage(variable.values, variable.dtype), part)
            if variable.first > 1:
                of_ranks = pc.if_else(pa.array(np.arange(len(of_ranks)) < variable.first), None, of_ranks)
            values = of_ranks.unique().drop_null()
            values = values.take(pc.sort_indices(values))
            if len(values) > 1:
                codes = pc.fill_null(pc.add(pc.index_in(of_ranks, value_set=values), 1), 0)
                bins = codes.to_numpy(zero_copy_only=False).astype(np.uint16)
                values = pa.concat_arrays([pa.nulls(1, pa.int8()), values])
                name, known = f"{variable.name}.{part}", (values, pa.int8(), 1, False, bins)
                has_missing = variable.has_missing or variable.first > 1
                found.append(Variable(name, "unordered", *known, has_missing, len(values) - 1, (slot, part)))
    return found


def check_size(n_rows: int, n_columns: int) -> None:
    """Refuse tables that are too small, and rows beyond 32 bits."""
    if not 2 <= n_rows < 2**32:
        raise DataError(f"The table has {n_rows} row(s). A synthesis needs at least 2, and takes at most 2^32 - 1.")
    if n_columns < 2:
        raise DataError(
            f"The table has {n_columns} column(s). A synthesis models columns given others: pass at least 2."
        )


def missing_codes(name: str, dtype: pa.DataType, given: Sequence[Any]) -> pa.Array:
    """Missing codes of a column in its storage type, ascending.

    Raises
    ------
    OptionError
        The column is no number or date, or a code is none of its type.
    """
    if not len(given):
        return pa.nulls(0)
    if _kind(dtype) != "numeric":
        raise OptionError(
            f"cont_na of {name!r}: the column is {dtype}. Missing codes are for numbers and dates; of a category every "
            "level is a class already."
        )
    try:
        codes = storage_of(pa.array(list(given), dtype))
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        codes = pa.nulls(1)
    nan = pa.types.is_floating(codes.type) and bool(pc.any(pc.is_nan(codes)).as_py())
    if codes.null_count or nan:
        raise OptionError(
            f"cont_na={list(given)!r} of {name!r}: must be values of the column's type {dtype}; null and NaN are kinds "
            "of missing without being named."
        )
    codes = codes.unique()
    return codes.take(pc.sort_indices(codes))


def _encode_column(
    name: str, column: pa.ChunkedArray, missing: pa.Array, keep_unused: bool, many: bool = False
) -> tuple[Variable, Ranks]:
    if pa.types.is_dictionary(column.type):
        return _encode_dictionary(name, column, keep_unused)
    if pa.types.is_null(column.type):
        return _null_variable(name, column.type), np.zeros(len(column), np.uint16)
    storage = storage_of(column).combine_chunks()
    floating = pa.types.is_floating(storage.type)
    if floating:
        _refuse_infinite(name, int(pc.sum(pc.is_inf(storage)).as_py() or 0))
    has_nan = floating and bool(pc.any(pc.is_nan(storage)).as_py())
    distinct, ranks = _rank_floats(storage) if _mostly_distinct(storage) else _rank_by_dictionary(storage, has_nan)
    n_missing = 0
    if len(missing):
        order, n_missing = _missing_first(distinct, missing, has_nan)
        distinct, rank_of = distinct.take(pa.array(order)), np.zeros(len(order) + 1, ranks.dtype)
        rank_of[order + 1] = np.arange(1, len(order) + 1, dtype=ranks.dtype)
        ranks = rank_of[ranks]
    rows = np.bincount(ranks, minlength=len(distinct) + 1) if len(distinct) >= MAX_CODES else None
    has_null = bool(storage.null_count)
    return _plain_variable(name, column.type, distinct, has_nan, n_missing, has_null, rows, many), ranks


def _missing_first(distinct: pa.Array, missing: pa.Array, has_nan: bool) -> tuple[NDArray[np.int64], int]:
    """Order of distinct values with the missing codes before the others but behind NaN, and how many occur."""
    is_code = pc.is_in(distinct, value_set=missing).to_numpy(zero_copy_only=False)
    is_nan = np.arange(len(distinct)) < has_nan
    return np.lexsort((np.arange(len(distinct)), ~is_code, ~is_nan)), int(is_code.sum())


def _null_variable(name: str, dtype: pa.DataType) -> Variable:
    return Variable(name, "unordered", pa.nulls(1), dtype, 1, False, None, True, 0)


def _plain_variable(
    name: str,
    dtype: pa.DataType,
    distinct: pa.Array,
    has_nan: bool,
    n_missing: int,
    has_null: bool,
    rows: NDArray[np.int64] | None,
    many: bool = False,
) -> Variable:
    """Variable of a column that is no dictionary.

    Parameters
    ----------
    distinct : pyarrow.Array
        Its values in storage type: NaN first if there is any, then missing codes, then ascending.
    n_missing : int
        How many of them are missing codes.
    rows : ndarray of shape (len(distinct) + 1,), dtype=int64
        Rows of each rank, null included; only needed where there are more values than codes.
    many : bool
        Whether there may be more categories than codes.
    """
    n_values = len(distinct) - has_nan
    first = 1 + has_nan + n_missing
    kind = _kind(dtype)
    values = pa.concat_arrays([pa.nulls(1, distinct.type), distinct])
    bins = None
    if kind == "unordered" and n_values > MAX_CODES - 1:
        assert rows is not None
        if n_values < IDENTIFIER_SHARE * rows.sum() and not many:
            raise too_many_levels(name, n_values)
        # It names people: nothing is learned from it, and trees see one code.
        bins = np.zeros(len(values), np.uint16)
    elif n_values > MAX_CODES - 1:
        assert rows is not None
        bins = _bins(rows, _numbers(values), first)
        bins[first:] += n_missing
        bins[1 + has_nan : first] = np.arange(1, n_missing + 1)
    elif has_nan:
        bins = np.maximum(np.arange(len(values)) - 1, 0).astype(np.uint16)
    return Variable(name, kind, values, dtype, first, has_nan, bins, has_null or has_nan, n_values - n_missing)


def _refuse_infinite(name: str, n_infinite: int) -> None:
    if n_infinite:
        raise DataError(
            f"Column {name!r} has {n_infinite} infinite value(s). Replace them by null or by a finite code."
        )


def _mostly_distinct(storage: pa.Array) -> bool:
    """Whether a float column is sorted faster than its distinct values are collected: judged by 10,000 rows."""
    if not pa.types.is_float64(storage.type) or len(storage) < 10_000:
        return False
    some = storage.take(pa.array(np.linspace(0, len(storage) - 1, 10_000).astype(np.int64)))
    return bool(pc.count_distinct(some).as_py() > 2_500)


def _rank_floats(storage: pa.Array) -> tuple[pa.Array, Ranks]:
    """Distinct values, NaN first, then ascending; and the rank of each row, 0 for null. One sort of the rows."""
    # No value is infinite here, so that null can be, and stands between the values and NaN when sorted.
    numbers = storage.fill_null(np.inf).to_numpy(zero_copy_only=False) + 0.0  # -0.0 becomes 0.0
    order = np.argsort(numbers)
    n_nan = int(np.isnan(numbers).sum())
    n_values = len(numbers) - n_nan - storage.null_count
    order = np.concatenate([order[len(order) - n_nan :], order[:n_values]])
    ordered = numbers[order]
    new = np.ones(len(ordered), bool)
    new[1:] = ordered[1:] != ordered[:-1]
    new[1:n_nan] = False
    n_ranks = int(new.sum()) + 1
    ranks: Ranks = np.zeros(len(numbers), np.uint16 if n_ranks <= MAX_CODES else np.uint32)
    ranks[order] = np.cumsum(new)
    return pa.array(ordered[new]), ranks


def _rank_by_dictionary(storage: pa.Array, has_nan: bool) -> tuple[pa.Array, Ranks]:
    """The same for any type, by collecting the distinct values first."""
    storage = _clean(storage)
    coded = storage.dictionary_encode()
    # Arrow sorts NaN last; here it comes first, beside null.
    order = np.roll(pc.sort_indices(coded.dictionary).to_numpy(), int(has_nan))
    rank_of = np.zeros(len(order) + 1, np.uint16 if len(order) < MAX_CODES else np.uint32)
    rank_of[order] = np.arange(1, len(order) + 1, dtype=rank_of.dtype)
    indices = pc.fill_null(coded.indices, -1).to_numpy(zero_copy_only=False)
    return coded.dictionary.take(pa.array(order)), rank_of[indices]  # null has index -1, and there stands 0


def _encode_dictionary(name: str, column: pa.ChunkedArray, keep_unused: bool) -> tuple[Variable, Ranks]:
    """Code a categorical: an ordered one by its categories, unused ones included, another by the sorted used ones.

    The names of unused categories go no further, unless they belong to the type: of ordered categoricals, and of all in
    pandas.
    """
    # Dictionary codes are local to a chunk until the dictionaries are unified.
    array = _unify(name, column)
    indices = pc.fill_null(array.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    counts = np.bincount(indices + 1, minlength=len(array.dictionary) + 1)
    variable, levels = _dictionary_variable(name, array.type, array.dictionary, counts, keep_unused)
    rank_of = np.zeros(len(array.dictionary) + 1, np.uint16)
    rank_of[levels] = np.arange(1, len(levels) + 1, dtype=np.uint16)
    return variable, rank_of[indices]


def _unify(name: str, column: pa.ChunkedArray) -> pa.DictionaryArray:
    """One dictionary for all chunks."""
    try:
        return column.unify_dictionaries().combine_chunks()
    except pa.ArrowInvalid:
        raise DataError(
            f"Column {name!r} has more categories than its index type ({column.type.index_type}) can number. Cast it "
            "to a larger one."
        ) from None


def _dictionary_variable(
    name: str, dtype: pa.DictionaryType, dictionary: pa.Array, counts: NDArray[np.int64], keep_unused: bool
) -> tuple[Variable, NDArray[np.int64]]:
    """Variable of a categorical, and the place in the dictionary of each of its levels.

    Parameters
    ----------
    counts : ndarray of shape (1 + len(dictionary),), dtype=int64
        Rows that are null, then rows of each category.
    """
    kind = _kind(dtype)
    n_null, counts = counts[0], counts[1:]
    levels = by_rank = np.arange(len(dictionary))
    if kind == "unordered":
        by_value = pc.sort_indices(storage_of(dictionary)).to_numpy()
        levels = by_rank = by_value[counts[by_value] > 0]
    if len(levels) > MAX_CODES - 1:
        raise too_many_levels(name, len(levels))
    if kind == "unordered" and not keep_unused:
        kept = np.flatnonzero(counts)  # in the order they had
        dictionary = storage_of(dictionary).take(pa.array(kept)).cast(dictionary.type)
        by_rank = np.searchsorted(kept, levels)
    index = pa.array(np.append(0, by_rank), mask=np.arange(len(levels) + 1) == 0).cast(dtype.index_type)
    values = pa.DictionaryArray.from_arrays(index, dictionary, ordered=dtype.ordered)
    n_used = int(np.count_nonzero(counts))
    return Variable(name, kind, values, dtype, 1, False, None, bool(n_null), n_used), levels


class Tally:
    """The distinct values of a column and the rows of each: from pieces, in any order, merged.

    Attributes
    ----------
    name : str
    dtype : pyarrow.DataType
    n_rows, n_null, n_nan, n_infinite : int
    """

    def __init__(self, name: str, dtype: pa.DataType, cont_na: Sequence[Any] = (), many: bool = False) -> None:
        _check_type(name, dtype)
        self.many = many
        self.missing = missing_codes(name, dtype, cont_na)
        self.name = name
        self.dtype = dtype
        self.n_rows = self.n_null = self.n_nan = self.n_infinite = 0
        self._parts: list[pa.Table] = []  # of value and rows; the first one is the largest
        self._dictionaries: dict[int, pa.Array] = {}  # by the first row they stand for

    def add(self, column: pa.ChunkedArray, start: int) -> None:
        """Count rows; ``start`` is the number of the first of them."""
        self.n_rows += len(column)
        self.n_null += column.null_count
        if pa.types.is_null(self.dtype):
            return
        if pa.types.is_dictionary(self.dtype):
            array = _unify(self.name, column)
            # No rows begin where the next ones do: they may not take the place of their categories.
            self._dictionaries[start if len(column) else -1] = array.dictionary
            indices = array.indices.cast(pa.int64()).drop_null().to_numpy(zero_copy_only=False)
            values, rows = _plain(array.dictionary), np.bincount(indices, minlength=len(array.dictionary))
        else:
            storage = storage_of(column).combine_chunks().drop_null()
            if pa.types.is_floating(storage.type):
                self.n_infinite += int(pc.sum(pc.is_inf(storage)).as_py() or 0)
                nan = pc.is_nan(storage)
                self.n_nan += int(pc.sum(nan).as_py() or 0)
                storage = _clean(storage.filter(pc.invert(nan)))
            counted = pc.value_counts(storage)
            values, rows = counted.field("values"), counted.field("counts").to_numpy()
        self._append(pa.table({"value": values, "rows": rows}))

    def merge(self, other: Tally) -> None:
        """Take over what another tally of the same column counted; that one is of no use afterwards."""
        self.n_rows += other.n_rows
        self.n_null += other.n_null
        self.n_nan += other.n_nan
        self.n_infinite += other.n_infinite
        self._dictionaries |= other._dictionaries
        for part in other._parts:
            self._append(part)
        other._parts = []

    def _append(self, part: pa.Table) -> None:
        self._parts.append(part)
        # Merged when as much is new as was there, so every value is touched a few times only.
        if sum(map(len, self._parts[1:])) > max(len(self._parts[0]), 1_000_000):
            self._combine()

    def _combine(self) -> None:
        if len(self._parts) > 1:
            self._parts = [_add_up(pa.concat_tables(self._parts))]
        _refuse_infinite(self.name, self.n_infinite)
        n_values = len(self._parts[0]) if self._parts else 0
        few = 8 * MAX_CODES < n_values < IDENTIFIER_SHARE * self.n_rows / 2
        if _kind(self.dtype) == "unordered" and few and not self.many:
            raise too_many_levels(self.name, n_values)

    def variable(self, keep_unused: bool) -> tuple[Variable, NDArray[np.int64]]:
        """What was learned of the column, and the rows of each rank."""
        if pa.types.is_null(self.dtype):
            return _null_variable(self.name, self.dtype), np.array([self.n_rows])
        self._combine()
        _refuse_infinite(self.name, self.n_infinite)
        values = self._parts[0].column("value").combine_chunks()
        rows = self._parts[0].column("rows").to_numpy()
        if pa.types.is_dictionary(self.dtype):
            return self._dictionary_variable(values, rows, keep_unused)
        order = pc.sort_indices(values).to_numpy()
        distinct, rows = values.take(pa.array(order)), rows[order]
        if self.n_nan:
            distinct = pa.concat_arrays([pa.array([np.nan], distinct.type), distinct])
            rows = np.append(self.n_nan, rows)
        n_missing = 0
        if len(self.missing):
            order, n_missing = _missing_first(distinct, self.missing, bool(self.n_nan))
            distinct, rows = distinct.take(pa.array(order)), rows[order]
        rows = np.append(self.n_null, rows)
        kinds = (bool(self.n_nan), n_missing, bool(self.n_null))
        return _plain_variable(self.name, self.dtype, distinct, *kinds, rows, self.many), rows

    def _dictionary_variable(
        self, values: pa.Array, rows: NDArray[np.int64], keep_unused: bool
    ) -> tuple[Variable, NDArray[np.int64]]:
        no_rows = pa.array([], self.dtype.index_type)
        chunks = [
            pa.DictionaryArray.from_arrays(no_rows, self._dictionaries[start], ordered=self.dtype.ordered)
            for start in sorted(self._dictionaries)
        ]
        dictionary = _unify(self.name, pa.chunked_array(chunks, self.dtype)).dictionary
        places = pc.index_in(_plain(dictionary), value_set=values).to_numpy()
        counts = np.append(self.n_null, rows[places])
        variable, levels = _dictionary_variable(self.name, self.dtype, dictionary, counts, keep_unused)
        return variable, np.append(self.n_null, counts[1:][levels])


def _add_up(counts: pa.Table) -> pa.Table:
    """Sum the rows of equal values. polars does it twenty times as fast as Arrow, but knows no decimals of 256 bits."""
    if pa.types.is_decimal256(counts.schema.field("value").type):
        return counts.group_by("value").aggregate([("rows", "sum")]).rename_columns(["value", "rows"])
    frame = pl.DataFrame(counts).group_by("value").agg(pl.col("rows").sum())
    return frame.to_arrow().cast(counts.schema)


def too_many_levels(name: str, n_levels: int) -> DataError:
    """An error for a column of more categories than there are codes."""
    return DataError(
        f"Column {name!r} has {n_levels:,} categories; at most {MAX_CODES - 1:,} are possible. "
        "Group the rare ones, or drop the column."
    )


def is_numeric(dtype: pa.DataType) -> bool:
    """Whether values are integers, fractional numbers or decimals."""
    return bool(pa.types.is_integer(dtype) or pa.types.is_floating(dtype) or pa.types.is_decimal(dtype))


def is_text(dtype: pa.DataType) -> bool:
    """Whether values, or those of the categories, are text."""
    own = dtype.value_type if pa.types.is_dictionary(dtype) else dtype
    return bool(pa.types.is_string(own) or pa.types.is_large_string(own) or pa.types.is_string_view(own))


def _check_type(name: str, dtype: pa.DataType) -> None:
    types = pa.types
    value_type = dtype.value_type if types.is_dictionary(dtype) else dtype
    allowed = (
        types.is_boolean(value_type)
        or is_text(dtype)
        or is_numeric(value_type)
        or (types.is_null(value_type) and value_type is dtype)
        or (types.is_temporal(value_type) and not types.is_interval(value_type))
    )
    if not allowed:
        raise DataError(
            f"Column {name!r} has type {dtype}, which cannot be synthesised. Allowed are numbers, decimals, booleans, "
            "text, categories, dates, times and durations. Unnest, convert or drop the column."
        )


def _kind(dtype: pa.DataType) -> Kind:
    if pa.types.is_dictionary(dtype):
        return "ordered" if dtype.ordered else "unordered"
    return "numeric" if is_numeric(dtype) or pa.types.is_temporal(dtype) else "unordered"


def storage_of(array: Any) -> Any:
    """The same values (of an Array or ChunkedArray) in a type that Arrow can hash, sort and take from."""
    types, dtype = pa.types, array.type
    if types.is_date32(dtype) or types.is_time32(dtype):
        return array.view(pa.int32()) if isinstance(array, pa.Array) else array.cast(pa.int32())
    if types.is_temporal(dtype):
        return array.view(pa.int64()) if isinstance(array, pa.Array) else array.cast(pa.int64())
    if types.is_float16(dtype):
        return array.cast(pa.float32())
    if types.is_string(dtype) or types.is_string_view(dtype):
        return array.cast(pa.large_string())
    if types.is_decimal32(dtype) or types.is_decimal64(dtype):
        return array.cast(pa.decimal128(dtype.precision, dtype.scale))
    return array


def _unstorage(array: pa.Array, dtype: pa.DataType) -> pa.Array:
    if array.type == dtype:
        return array
    return array.view(dtype) if pa.types.is_temporal(dtype) else array.cast(dtype)


def _clean(storage: Any) -> Any:
    """One bit pattern for NaN, of which there are many, and one for zero, of which there are two."""
    if not pa.types.is_floating(storage.type):
        return storage
    return pc.if_else(
        pc.is_nan(storage), pa.scalar(np.nan, storage.type), pc.add(storage, pa.scalar(0.0, storage.type))
    )


def _plain(array: pa.Array) -> pa.Array:
    """Categories as the plain values they stand for."""
    # Arrow casts not every dictionary to its values, but takes from all.
    return storage_of(array.dictionary).take(array.indices) if pa.types.is_dictionary(array.type) else storage_of(array)


def taken(array: pa.Array, places: Any) -> pa.Array:
    """Values at some places, null where a place is; Arrow takes not from views of text."""
    if pa.types.is_string_view(array.type):
        return array.cast(pa.large_string()).take(pa.array(places)).cast(array.type)
    return array.take(pa.array(places))


def take(table: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
    """Rows of a table; views of text, which Arrow cannot take from, become text."""
    for i, column in enumerate(table.schema):
        if pa.types.is_string_view(column.type):
            table = table.set_column(i, column.with_type(pa.large_string()), table.column(i).cast(pa.large_string()))
    return table.take(pa.array(rows))


def numbers_of(column: Any) -> NDArray[np.float64]:
    """Numbers, dates and times of an Array or ChunkedArray as floats; NaN for missing."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return _numbers(storage_of(array))


def _numbers(storage: pa.Array) -> NDArray[np.float64]:
    # A cast with loss is meant: these numbers only choose splits, values always come from ``values``.
    floats = pc.cast(storage, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.asarray(floats, np.float64)


def _bins(rows: NDArray[np.int64], numbers: NDArray[np.float64], first: int) -> Codes:
    """Bins of ranks: some spread evenly over the rows, more of them so that little is lost within a bin.

    The spread of values within bins is what attenuates slopes. For bins of density proportional to the cube root of
    the density of the values it is least (Panter and Dite 1951, Quantization distortion in pulse-count modulation), so
    7 bins of 10 go by that: a value with w rows and a gap g to its neighbours weighs g^(2/3) w^(1/3). The rest go by
    rows, for relations that change quickly where values are close. Empty bins are closed up.

    Parameters
    ----------
    rows : ndarray of shape (n_ranks,), dtype=int64
    numbers : ndarray of shape (n_ranks,), dtype=float64
    first : int
        Lowest rank that is a value; the others get code 0.
    """
    width = MAX_CODES - first
    values = numbers[first:]
    # A value of many rows, or beyond a wide gap, needs one bin, and must not take those of the others.
    most = max(rows.sum() / width, 1.0)
    capped = np.minimum(rows[first:].astype(np.float64), most)
    gaps = np.diff(values)
    around = (np.append(gaps[:1], gaps) + np.append(gaps, gaps[-1:])) / 2
    weights = np.cbrt(around * around * capped)
    for _ in range(6):
        weights = np.minimum(weights, 2 * weights.sum() / width)
    place = 0.3 * _middle_share(capped) + 0.7 * _middle_share(weights)
    bins = (place * width).astype(np.int64)
    codes = np.zeros(len(numbers), np.uint16)
    codes[first:] = np.cumsum(np.append(True, bins[1:] > bins[:-1]))
    return codes


def _middle_share(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    share: NDArray[np.float64] = (np.cumsum(weights) - weights / 2) / weights.sum()
    return share
