"""Any table in, coded columns, and the caller's kind of table out.

Terms
-----
rank
    Number of a value within its column: 0 is null, then NaN if the column has any, then the distinct values in
    ascending order (categories in their own order). ``variable.values`` is indexed by rank and has the column's
    exact Arrow type, so decoding is one ``take`` and no value ever passes through a float.
code
    What trees see: uint16, order of ranks kept. 0 is missing (null or NaN), then one code for each value, or for more
    than 65,534 values one for each bin of values.

This module knows nothing of models.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import narwhals.stable.v2 as nw
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fastsynth._tree import MAX_CODES
from fastsynth.errors import DataError

Kind = Literal["numeric", "ordered", "unordered"]
Codes = NDArray[np.uint16]
Ranks = NDArray[np.unsignedinteger[Any]]

# Code of a value that the column never had; no tree knows it.
UNSEEN = MAX_CODES


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
        Lowest rank that is a value: 1, or 2 where NaN has rank 1.
    bins : ndarray of shape (n_ranks,), dtype=uint16, or None
        Code of each rank, where it is not the rank: with NaN, and with too many ranks for a code each.
    has_missing : bool
        Whether the column has a null or a NaN.
    n_used : int
        Distinct values that occur; fewer than declared where an ordered category has unused levels.
    """

    name: str
    kind: Kind
    values: pa.Array
    dtype: pa.DataType
    first: int
    bins: Codes | None
    has_missing: bool
    n_used: int

    @property
    def n_codes(self) -> int:
        """Codes of the column, missing included."""
        return len(self.values) if self.bins is None else int(self.bins[-1]) + 1

    @property
    def rank_dtype(self) -> type[np.uint16] | type[np.uint32]:
        """Smallest type that holds its ranks."""
        return np.uint16 if len(self.values) <= MAX_CODES else np.uint32

    def codes(self, ranks: Ranks) -> Codes:
        """Codes of an array of ranks."""
        return ranks if self.bins is None else self.bins[ranks]

    def decode(self, ranks: Ranks) -> pa.Array:
        """Values of an array of ranks, in the column's exact type."""
        return _unstorage(self.values.take(pa.array(ranks)), self.dtype)

    def numbers(self) -> NDArray[np.float64]:
        """Value of each rank as a float; NaN for missing. Only for numeric columns."""
        return _numbers(_storage(self.values))

    def nearest_codes(self, column: pa.Array) -> Codes:
        """Codes of computed values, which need not be among the values seen. O(k log n_ranks).

        For a number the nearest one seen stands in; a category never seen gets the code ``UNSEEN``.
        """
        if self.kind == "numeric":
            return self._nearest_number(_numbers(_storage(column)))
        ranks = pc.index_in(_plain(column), value_set=_plain(self.values)[self.first :])
        codes = pc.fill_null(pc.add(ranks, self.first), UNSEEN).to_numpy(zero_copy_only=False)
        return np.where(column.is_null().to_numpy(zero_copy_only=False), 0, codes).astype(np.uint16)

    def _nearest_number(self, given: NDArray[np.float64]) -> Codes:
        known = self.numbers()[self.first :]
        if not len(known):
            return np.zeros(len(given), np.uint16)
        right = np.clip(np.searchsorted(known, given), 1, max(len(known) - 1, 1))
        left = right - 1
        right = np.minimum(right, len(known) - 1)
        nearest = np.where(given - known[left] <= known[right] - given, left, right) + self.first
        return self.codes(np.where(np.isnan(given), 0, nearest).astype(self.rank_dtype))


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
    """

    variables: tuple[Variable, ...]
    ranks: tuple[Ranks, ...]
    codes: Codes
    frame: Frame

    @property
    def n_rows(self) -> int:
        """Rows of the table."""
        return int(self.codes.shape[1])


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """The caller's kind of table: how to give back what was given.

    Attributes
    ----------
    backend : str
        Name of the table library as narwhals knows it ("polars", "pandas", "pyarrow", ...).
    lazy : bool
    schema : pyarrow.Schema
        Exact types, field and table metadata of the input.
    """

    backend: str
    lazy: bool
    schema: pa.Schema

    def native(self, table: pa.Table) -> Any:
        """Turn an Arrow table into the caller's kind of table."""
        backend: Any = self.backend
        frame = nw.DataFrame.from_arrow(table, backend=backend).to_native()
        if self.backend == "pandas":
            return _restore_objects(frame, table)
        return frame.lazy() if self.lazy else frame


def read_table(data: Any) -> tuple[pa.Table, Frame]:
    """Read any table as Arrow.

    Parameters
    ----------
    data : polars DataFrame or LazyFrame, pandas DataFrame, pyarrow Table, any object with ``__arrow_c_stream__``,
        or path of a Parquet or CSV file
        Paths come back as polars DataFrames, objects that only speak Arrow as pyarrow Tables. A pandas index is
        dropped.

    Raises
    ------
    DataError
        For anything else, an unreadable file, duplicate names, and columns that Arrow cannot hold.
    """
    if isinstance(data, str | Path):
        table = _read_file(Path(data))
        return table, Frame("polars", False, table.schema)
    _check_names(_names(data))
    if isinstance(data, Mapping | list | np.ndarray) or not (_is_table(data) or hasattr(data, "__arrow_c_stream__")):
        raise DataError(
            f"Cannot read a {type(data).__name__} as a table. Allowed are polars, pandas and pyarrow tables, anything "
            "with __arrow_c_stream__, and the path of a Parquet or CSV file."
        )
    try:
        table, backend, lazy = _to_arrow(data)
    except Exception:
        # The library's own message may quote values of the table.
        raise _unreadable(data) from None
    _check_names(table.column_names)
    return table, Frame(backend, lazy, table.schema)


def _is_table(data: Any) -> bool:
    return isinstance(nw.from_native(data, pass_through=True), nw.DataFrame | nw.LazyFrame)


def _to_arrow(data: Any) -> tuple[pa.Table, str, bool]:
    """The table, the name of its library, and whether it was lazy."""
    native = nw.from_native(data, pass_through=True)
    if isinstance(native, nw.LazyFrame):
        frame = native.collect()
        return frame.to_arrow(), str(frame.implementation), isinstance(data, pl.LazyFrame)
    if isinstance(native, nw.DataFrame):
        if native.implementation.is_pandas():
            return pa.Table.from_pandas(data, preserve_index=False), "pandas", False
        return native.to_arrow(), str(native.implementation), False
    return pa.table(data), "pyarrow", False


def _names(data: Any) -> list[Any]:
    """Column names of an eager table, of whatever library."""
    if isinstance(data, pl.LazyFrame):
        return []
    return list(getattr(data, "column_names", getattr(data, "columns", ())))


def _unreadable(data: Any) -> DataError:
    """Name the columns that Arrow cannot hold, without quoting a value."""
    bad = []
    for name in _names(data):
        try:
            nw.from_native(data[[name]]).to_arrow()
        except Exception as error:
            bad.append(f"{name!r} ({getattr(data[name], 'dtype', 'unknown type')}: {type(error).__name__})")
    if not bad:
        return DataError(f"Cannot convert the {type(data).__name__} to an Arrow table. Pass a table, or a path to one.")
    where = f"column(s) {', '.join(bad)}"
    return DataError(
        f"Cannot convert {where} to Arrow. A column must hold one type of plain values: numbers, text, categories, "
        "booleans, dates, times. Convert it or drop it."
    )


def _read_file(path: Path) -> pa.Table:
    if not path.exists():
        raise DataError(f"No file {str(path)!r}. Give the path of a Parquet or CSV file.")
    suffix = path.suffix.lower()
    if suffix not in (".parquet", ".pq", ".csv"):
        raise DataError(f"Cannot tell the format of {path.name!r}: allowed are .parquet, .pq and .csv.")
    try:
        if suffix == ".csv":
            # All rows decide the types, so that the result does not depend on which come first.
            return _check_csv(pl.read_csv(path, infer_schema_length=None)).to_arrow()
        return pq.ParquetFile(path).read()
    except DataError:
        raise
    except Exception as error:
        # Parsers quote the cell they stumble on, so their message is not passed on.
        raise DataError(
            f"Cannot read {str(path)!r} as {suffix[1:]} ({type(error).__name__}). Is the file whole?"
        ) from None


def _check_csv(frame: pl.DataFrame) -> pl.DataFrame:
    """Refuse what was read without an error but surely not as meant."""
    advice = "Read it with polars.read_csv and the options that it needs, and pass the frame."
    if frame.width == 1 and any(mark in frame.columns[0] for mark in ";\t|"):
        raise DataError(f"The file has one column: it is not separated by commas. {advice}")
    again = [name for name in frame.columns if re.sub(r"_duplicated_\d+$", "", name) in set(frame.columns) - {name}]
    if again:
        raise DataError(f"The file uses the column name(s) before {', '.join(map(repr, again))} more than once.")
    text = frame.select(pl.selectors.string())
    numbers = text.select(pl.all().replace("NA", None).cast(pl.Float64, strict=False))
    for name in text.columns:
        n_marks = int((text[name] == "NA").sum())
        if n_marks and numbers[name].null_count() == text[name].null_count() + n_marks:
            raise DataError(f"Column {name!r} is text only for its {n_marks:,} 'NA'. {advice[:-1]}: null_values='NA'.")
    return frame


def _check_names(names: list[Any]) -> None:
    other = [name for name in names if not isinstance(name, str) or not name]
    if other:
        raise DataError(
            f"Column name(s) {', '.join(map(repr, other))} are no text. Rename them, e.g. to 'c0', 'c1', ..."
        )
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise DataError(f"Column name(s) used more than once: {', '.join(map(repr, twice))}. Rename or drop them.")


def _restore_objects(frame: Any, table: pa.Table) -> Any:
    """Give pandas columns of dtype object back as such; Arrow remembers every other dtype."""
    metadata = table.schema.pandas_metadata or {}
    wanted = {column["name"] for column in metadata.get("columns", ()) if column["numpy_type"] == "object"}
    for name in wanted & set(frame.columns):
        if frame[name].dtype != object:
            frame[name] = type(frame[name])(table[name].to_pylist(), dtype=object)
    return frame


def encode(table: pa.Table, frame: Frame) -> EncodedTable:
    """Code every column. O(n log n) a column at worst; 2 bytes a cell, up to 4 more for NaN or binned codes.

    Raises
    ------
    DataError
        No rows, one row, one column, nested or binary types, infinite values, more than 65,534 categories.
    """
    if table.num_rows < 2:
        raise DataError(
            f"The table has {table.num_rows} row(s). A synthesis needs at least 2, and useful ones hundreds."
        )
    if table.num_columns < 2:
        raise DataError(
            f"The table has {table.num_columns} column(s). A synthesis models columns given others: pass at least 2."
        )
    codes = np.empty((table.num_columns, table.num_rows), np.uint16)
    variables, ranks = [], []
    for slot, name in enumerate(table.column_names):
        _check_type(name, table.schema.field(name).type)
        variable, column_ranks = _encode_column(name, table.column(slot), frame.backend == "pandas")
        codes[slot] = variable.codes(column_ranks)
        variables.append(variable)
        ranks.append(codes[slot] if variable.bins is None else column_ranks)
    return EncodedTable(tuple(variables), tuple(ranks), codes, frame)


def _encode_column(name: str, column: pa.ChunkedArray, keep_unused: bool) -> tuple[Variable, Ranks]:
    if pa.types.is_dictionary(column.type):
        return _encode_dictionary(name, column, keep_unused)
    if pa.types.is_null(column.type):
        variable = Variable(name, "unordered", pa.nulls(1), column.type, 1, None, True, 0)
        return variable, np.zeros(len(column), np.uint16)
    kind = _kind(column.type)
    storage = _storage(column).combine_chunks()
    floating = pa.types.is_floating(storage.type)
    if floating:
        n_infinite = int(pc.sum(pc.is_inf(storage)).as_py() or 0)
        if n_infinite:
            raise DataError(
                f"Column {name!r} has {n_infinite} infinite value(s). Replace them by null or by a finite code."
            )
    has_nan = floating and bool(pc.any(pc.is_nan(storage)).as_py())
    distinct, ranks = _rank_floats(storage) if _mostly_distinct(storage) else _rank_by_dictionary(storage, has_nan)
    n_values = len(distinct) - has_nan
    first = 1 + has_nan
    if kind == "unordered" and n_values > MAX_CODES - 1:
        raise _too_many_levels(name, n_values)
    values = pa.concat_arrays([pa.nulls(1, storage.type), distinct])
    bins = None
    if n_values > MAX_CODES - 1:
        bins = _bins(ranks, _numbers(values), first)
    elif has_nan:
        bins = np.maximum(np.arange(len(values)) - 1, 0).astype(np.uint16)
    has_missing = bool(storage.null_count or has_nan)
    return Variable(name, kind, values, column.type, first, bins, has_missing, n_values), ranks


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
    if pa.types.is_floating(storage.type):
        # Many bit patterns are NaN, and two are zero; one of each is enough.
        storage = pc.if_else(
            pc.is_nan(storage), pa.scalar(np.nan, storage.type), pc.add(storage, pa.scalar(0.0, storage.type))
        )
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
    array = column.unify_dictionaries().combine_chunks()
    kind, dictionary = _kind(column.type), array.dictionary
    indices = pc.fill_null(array.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    counts = np.bincount(indices + 1, minlength=len(dictionary) + 1)[1:]
    n_used = int(np.count_nonzero(counts))
    levels = np.arange(len(dictionary))
    if kind == "unordered":
        by_value = pc.sort_indices(_storage(dictionary)).to_numpy()
        levels = by_value[counts[by_value] > 0]
    if len(levels) > MAX_CODES - 1:
        raise _too_many_levels(name, len(levels))
    rank_of = np.zeros(len(dictionary) + 1, np.uint16)
    rank_of[levels] = np.arange(1, len(levels) + 1, dtype=np.uint16)
    ranks = rank_of[indices]
    if kind == "unordered" and not keep_unused:
        kept = np.flatnonzero(counts)  # in the order they had
        dictionary = _storage(dictionary).take(pa.array(kept)).cast(dictionary.type)
        levels = np.searchsorted(kept, levels)
    index = pa.array(np.append(0, levels), mask=np.arange(len(levels) + 1) == 0).cast(array.indices.type)
    values = pa.DictionaryArray.from_arrays(index, dictionary, ordered=array.type.ordered)
    return Variable(name, kind, values, column.type, 1, None, bool(array.null_count), n_used), ranks


def _too_many_levels(name: str, n_levels: int) -> DataError:
    return DataError(
        f"Column {name!r} has {n_levels:,} categories; at most {MAX_CODES - 1:,} are possible. "
        "Group the rare ones, or drop the column."
    )


def _check_type(name: str, dtype: pa.DataType) -> None:
    types = pa.types
    value_type = dtype.value_type if types.is_dictionary(dtype) else dtype
    allowed = (
        types.is_boolean(value_type)
        or types.is_string(value_type)
        or types.is_large_string(value_type)
        or types.is_string_view(value_type)
        or (types.is_null(value_type) and value_type is dtype)
        or types.is_integer(value_type)
        or types.is_floating(value_type)
        or types.is_decimal(value_type)
        or (types.is_temporal(value_type) and not types.is_interval(value_type))
    )
    if not allowed:
        raise DataError(
            f"Column {name!r} has type {dtype}, which cannot be synthesised. Allowed are numbers, decimals, booleans, "
            "text, categories, dates, times and durations. Unnest, convert or drop the column."
        )


def _kind(dtype: pa.DataType) -> Kind:
    types = pa.types
    if types.is_dictionary(dtype):
        return "ordered" if dtype.ordered else "unordered"
    number = types.is_integer(dtype) or types.is_floating(dtype) or types.is_decimal(dtype) or types.is_temporal(dtype)
    return "numeric" if number else "unordered"


def _storage(array: Any) -> Any:
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


def _plain(array: pa.Array) -> pa.Array:
    """Categories as the plain values they stand for."""
    return array.cast(array.type.value_type) if pa.types.is_dictionary(array.type) else _storage(array)


def _numbers(storage: pa.Array) -> NDArray[np.float64]:
    # A cast with loss is meant: these numbers only choose splits, values always come from ``values``.
    floats = pc.cast(storage, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.asarray(floats, np.float64)


def _bins(ranks: Ranks, numbers: NDArray[np.float64], first: int) -> Codes:
    """Bins of ranks: some spread evenly over the rows, more of them so that little is lost within a bin.

    The spread of values within bins is what attenuates slopes. For bins of density proportional to the cube root of
    the density of the values it is least (Panter and Dite 1951, Quantization distortion in pulse-count modulation), so
    7 bins of 10 go by that: a value with w rows and a gap g to its neighbours weighs g^(2/3) w^(1/3). The rest go by
    rows, for relations that change quickly where values are close. Empty bins are closed up.

    Parameters
    ----------
    ranks : ndarray of shape (n_rows,)
    numbers : ndarray of shape (n_ranks,), dtype=float64
    first : int
        Lowest rank that is a value; the others get code 0.
    """
    width = MAX_CODES - 1
    values = numbers[first:]
    # A value of many rows, or beyond a wide gap, needs one bin, and must not take those of the others.
    rows = np.bincount(ranks, minlength=len(numbers))[first:].astype(np.float64)
    rows = np.minimum(rows, max(len(ranks) / width, 1.0))
    gaps = np.diff(values)
    around = (np.append(gaps[:1], gaps) + np.append(gaps, gaps[-1:])) / 2
    weights = np.cbrt(around * around * rows)
    for _ in range(6):
        weights = np.minimum(weights, 2 * weights.sum() / width)
    place = 0.3 * _middle_share(rows) + 0.7 * _middle_share(weights)
    bins = (place * width).astype(np.int64)
    codes = np.zeros(len(numbers), np.uint16)
    codes[first:] = np.cumsum(np.append(True, bins[1:] > bins[:-1]))
    return codes


def _middle_share(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    share: NDArray[np.float64] = (np.cumsum(weights) - weights / 2) / weights.sum()
    return share
