"""Public domains: what a column may hold, as the user says it, and its values as codes of that.

A value is a code, its place in the domain; null is the last code, where the domain has it. Nothing here is learned from
data, and no value is refused: numbers beyond the ends and levels that are not listed get a code of the domain.
"""

from __future__ import annotations

import base64
import datetime as dt
import itertools
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fastsynth.columns import is_numeric, numbers_of, storage_of
from fastsynth.errors import OptionError, is_whole
from fastsynth.streams import unit

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

# Codes of a column.
MOST_CODES = 1_024


@dataclass(frozen=True, slots=True)
class Bins:
    """Public bins of a column of numbers, dates or times.

    ``(low, high, count)`` is short for ``Bins((low, high), count)``.

    Parameters
    ----------
    edges : sequence of numbers, dates or times
        Ascending; a bin holds its lower edge, the last one its upper edge, too. Values beyond the ends count as in the
        first or last bin. A spike has a bin of its own where the next edge is the next value: ``[0, 1, 1000, 5000]``.
    count : int, optional
        With two edges: so many bins of equal width between them.
    step : number or timedelta, optional
        Distance between values that may occur, which are its multiples; the default is 1 for whole numbers, the last
        digit for decimals, a day for dates, the unit for times (their step is a timedelta), and none for fractional
        numbers.
    null : bool, default False
        Whether null (and NaN) is a value. If not, it counts as in the first bin.

    Raises
    ------
    OptionError
        Fewer than two edges; count without exactly two, or not positive; step not positive.

    Examples
    --------
    >>> Bins((0, 110), 22)
    Bins(edges=(0, 110), count=22, step=None, null=False)
    """

    edges: tuple[Any, ...]
    count: int | None = None
    step: Any = None
    null: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "edges", tuple(self.edges))
        if len(self.edges) < 2 or (
            self.count is not None and (len(self.edges) > 2 or not is_whole(self.count) or self.count < 1)
        ):
            raise OptionError(
                f"Bins(edges={self.edges!r}, count={self.count!r}): must be two or more edges, and a count of at least "
                "1 only with two."
            )
        step = self.step.total_seconds() if isinstance(self.step, dt.timedelta) else self.step
        if step is not None and not (isinstance(step, numbers.Number) and 0 < step < math.inf):  # type: ignore[operator]
            raise OptionError(f"step={self.step!r}: must be a positive number, or for times a timedelta.")
        if not isinstance(self.null, bool):
            raise OptionError(f"null={self.null!r}: must be True or False.")


def as_said(name: str, domain: Any) -> Bins | list[Any]:
    """A domain as it was given, the short form of bins written out.

    Raises
    ------
    OptionError
        It is neither a list of levels nor bins.
    """
    if isinstance(domain, Bins) or (isinstance(domain, list) and domain):
        return domain
    if isinstance(domain, tuple):
        null = len(domain) == 4 and domain[3] is None
        if len(domain) == 3 or null:
            return Bins(domain[:2], domain[2], null=null)
    raise OptionError(
        f"domains[{name!r}]={domain!r}: must be a list of levels, (low, high, number of bins), the same with None "
        "behind for a column that may be null, or Bins(...)."
    )


@dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """A column of listed levels.

    Attributes
    ----------
    dtype : pyarrow.DataType
        The column's own type.
    values : pyarrow.Array
        The levels by code, in a type that Arrow can hash and take from.
    null : bool
        Whether null is a code, the one behind them.
    """

    dtype: pa.DataType
    values: pa.Array
    null: bool

    @property
    def n_codes(self) -> int:
        """Codes, null included."""
        return len(self.values) + self.null

    @property
    def splits(self) -> list[tuple[int, int]]:
        """Runs of codes [low, high) that may go left: cuts of the given order, and each level against the rest."""
        n = self.n_codes
        return [(0, i) for i in range(1, n)] + [(i, i + 1) for i in range(1, n - 1)]

    @property
    def places(self) -> tuple[Counts | None, int]:
        """Points of the codes, None for one axis each, and the largest squared distance between two."""
        return None, 2

    def codes(self, column: pa.ChunkedArray) -> NDArray[np.int64]:
        """Codes of some values; those that are not in the domain get the last level's."""
        other = max(len(self.values) - 1, 0)
        parts = [np.zeros(0, np.int64)]
        for chunk in column.chunks:
            plain = chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk
            missing = pc.is_null(plain, nan_is_null=pa.types.is_floating(plain.type))
            found = pc.fill_null(pc.index_in(storage_of(plain), value_set=self.values), other)
            found = pc.if_else(missing, self.n_codes - 1, found).to_numpy(zero_copy_only=False).astype(np.int64)
            if plain is not chunk:
                places = pc.fill_null(chunk.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
                found = np.append(found, self.n_codes - 1)[places]  # null has index -1, and there stands its code
            parts.append(found)
        return np.concatenate(parts)

    def decode(self, codes: NDArray[np.int64], words: NDArray[np.uint64]) -> pa.Array:  # noqa: ARG002
        """Values of codes, in the column's exact type."""
        places = pa.array(codes, mask=codes == len(self.values))
        if pa.types.is_dictionary(self.dtype):
            levels = _typed(self.values, self.dtype.value_type)
            places = places.cast(self.dtype.index_type)
            return pa.DictionaryArray.from_arrays(places, levels, ordered=self.dtype.ordered)
        return _typed(self.values.take(places), self.dtype)

    def state(self) -> dict[str, Any]:
        """Ready for JSON."""
        sink = pa.BufferOutputStream()
        batch = pa.record_batch([self.values], ["values"])
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
        return {"values": _text(sink.getvalue().to_pybytes()), "null": self.null}


@dataclass(frozen=True, slots=True, eq=False)
class Numbers:
    """A column of bins.

    Attributes
    ----------
    dtype : pyarrow.DataType
        The column's own type.
    lows, sizes : tuple of int or float
        Lower end and size of each bin: in steps, or without a step in the column's units.
    step : int or float or None
        Distance of values: in storage units (days, microseconds, last digits), for fractional numbers in their own.
    null : bool
        Whether null is a code, the one behind the bins.
    """

    dtype: pa.DataType
    lows: tuple[Any, ...]
    sizes: tuple[Any, ...]
    step: Any
    null: bool

    @property
    def n_codes(self) -> int:
        """Codes, null included."""
        return len(self.lows) + self.null

    @property
    def splits(self) -> list[tuple[int, int]]:
        """Runs of codes [low, high) that may go left: cuts, the last one of null against the rest."""
        return [(0, i) for i in range(1, self.n_codes)]

    @property
    def places(self) -> tuple[Counts | None, int]:
        """Points of the codes: bins evenly on a line, null as far from both ends as they are apart."""
        n = len(self.lows)
        if not self.null:
            return np.arange(n)[:, None], max(n - 1, 1) ** 2
        far = max(n - 1, 1)
        points = np.column_stack([2 * np.arange(n), np.zeros(n, int)])
        return np.vstack([points, [n - 1, math.isqrt(3 * far * far)]]), 4 * far * far

    def codes(self, column: pa.ChunkedArray) -> NDArray[np.int64]:
        """Codes of some values; those beyond the ends get the first or last bin's."""
        given, lows = numbers_of(column), np.array(self.lows, np.float64)
        if self.step is not None:
            lows *= self.step / 10.0 ** _digits(self.dtype)
        codes = np.searchsorted(lows[1:], given, side="right")
        missing = np.isnan(given)
        codes[missing] = len(self.lows) if self.null else 0
        return codes

    def decode(self, codes: NDArray[np.int64], words: NDArray[np.uint64]) -> pa.Array:
        """A value of each bin, all of them equally likely, in the column's exact type."""
        missing = codes == len(self.lows)
        codes, place = np.where(missing, 0, codes), unit(words)
        if self.step is None:
            lows, sizes = np.array(self.lows), np.array(self.sizes)
            return pa.array(lows[codes] + place * sizes[codes], mask=missing).cast(self.dtype, safe=False)
        sizes = np.array(self.sizes, np.float64)[codes]
        offset = np.minimum(np.floor(place * sizes), sizes - 1).astype(np.int64)
        if pa.types.is_floating(self.dtype):
            return pa.array(_multiples(np.array(self.lows)[codes] + offset, self.step), mask=missing).cast(self.dtype)
        kind = np.uint64 if pa.types.is_uint64(self.dtype) else np.int64
        whole = (np.array(self.lows, kind)[codes] + offset.astype(kind)) * kind(self.step)
        if pa.types.is_decimal(self.dtype):
            # Whole multiples of the last digit, as pairs of 64 bits.
            buffer = pa.py_buffer(np.column_stack([whole, whole >> 63]).tobytes())
            array = pa.Array.from_buffers(pa.decimal128(38, self.dtype.scale), len(whole), [None, buffer])
            return pc.if_else(pa.array(missing), None, array).cast(self.dtype)
        return _typed(pa.array(whole, mask=missing), self.dtype)

    def state(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"lows": list(self.lows), "sizes": list(self.sizes), "step": self.step, "null": self.null}


Domain = Levels | Numbers


def _multiples(whole: NDArray[np.int64], step: float) -> Floats:
    """Multiples of a step without the digits that come of multiplying by 0.1."""
    parts = round(1 / step)
    exact = parts > 0 and abs(parts * step - 1) < 1e-9
    values = whole.astype(np.float64)
    return values / parts if exact else values * step


def _digits(dtype: pa.DataType) -> int:
    return dtype.scale if pa.types.is_decimal(dtype) else 0


def _typed(array: pa.Array, dtype: pa.DataType) -> pa.Array:
    """Values in storage type as the type itself."""
    if array.type == dtype:
        return array
    if pa.types.is_temporal(dtype):
        return array.cast(storage_of(pa.nulls(0, dtype)).type).view(dtype)
    return array.cast(dtype)


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def bind(field: pa.Field, said: Bins | list[Any]) -> Domain:
    """A domain with the type of its column.

    Raises
    ------
    OptionError
        Levels or edges that are not of the type, levels named twice or beyond an Enum, bins without values, too many.
    """
    domain = _bind_bins(field, said) if isinstance(said, Bins) else _bind_levels(field, said)
    if domain.null and not field.nullable:
        raise OptionError(f"domains[{field.name!r}]: None, but the column is declared as never null.")
    if domain.n_codes > MOST_CODES:
        raise OptionError(
            f"domains[{field.name!r}] has {domain.n_codes:,} levels or bins; at most {MOST_CODES:,} are possible, and "
            "with few people in each there is little but noise. Group them."
        )
    return domain


def _bind_levels(field: pa.Field, said: list[Any]) -> Levels:
    dtype = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    levels = [level for level in said if level is not None]
    try:
        values = storage_of(_as_type(levels, dtype))
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        raise OptionError(f"domains[{field.name!r}]: must be values of the column's type {field.type}.") from None
    nan = pa.types.is_floating(values.type) and bool(pc.any(pc.is_nan(values)).as_py())
    if len(values.unique()) < len(values) or len(said) > len(levels) + 1 or nan:
        raise OptionError(f"domains[{field.name!r}] names a level twice, or NaN: null and NaN are both None.")
    declared = _declared_levels(field)
    if declared is not None and not set(levels) <= set(declared):
        raise OptionError(f"domains[{field.name!r}] names levels that the column's Enum does not have.")
    return Levels(field.type, values, len(said) > len(levels))


def _as_type(values: Sequence[Any], dtype: pa.DataType) -> pa.Array:
    """Values of Python in a type; what would lose something is an error."""
    if all(isinstance(value, numbers.Integral) for value in values):
        return pa.array(values, dtype)  # others would be cut off without a word
    return pa.array(values).cast(dtype)


def _declared_levels(field: pa.Field) -> list[str] | None:
    """The categories of a polars Enum, which belong to the type."""
    if not pa.types.is_dictionary(field.type):
        return None
    dtype = pl.DataFrame(pa.schema([field]).empty_table()).dtypes[0]
    return dtype.categories.to_list() if isinstance(dtype, pl.Enum) else None


def _bind_bins(field: pa.Field, said: Bins) -> Numbers:
    dtype = field.type
    if not (is_numeric(dtype) or pa.types.is_temporal(dtype)) or pa.types.is_interval(dtype):
        raise OptionError(
            f"domains[{field.name!r}]: the column is {dtype}, which has no bins. Give a list of its levels."
        )
    edges = _edges(field, said.edges)
    if any(low >= high for low, high in itertools.pairwise(edges)):
        raise OptionError(f"domains[{field.name!r}]: the edges of bins must ascend.")
    if said.count is not None:
        low, width = Fraction(edges[0]), Fraction(edges[1]) - Fraction(edges[0])
        edges = [low + width * i / said.count for i in range(said.count + 1)]
    step = _step(field, said.step)
    if step is None:
        ends = [float(edge) for edge in edges]
        return Numbers(dtype, tuple(ends[:-1]), tuple(np.diff(ends).tolist()), None, said.null)
    # A bin holds the multiples of the step from its lower edge up to the next; the last one its upper edge, too.
    lows = [_ceil(edge, step) for edge in edges[:-1]]
    ends = [*lows[1:], -_ceil(-Fraction(edges[-1]), step) + 1]
    sizes = [end - low for low, end in zip(lows, ends, strict=True)]
    if min(sizes) < 1:
        raise OptionError(f"domains[{field.name!r}]: some bin holds no value. Give fewer bins, or a smaller step.")
    return Numbers(dtype, tuple(lows), tuple(sizes), step, said.null)


def _ceil(edge: Any, step: Any) -> int:
    """Number of the first multiple of a step at or above an edge."""
    ratio = Fraction(edge) / Fraction(step)
    near = round(ratio)
    # 0.3 is not a multiple of 0.1 in binary, but meant as one.
    return near if isinstance(step, float) and abs(ratio - near) < Fraction(1, 10**6) else math.ceil(ratio)


def _edges(field: pa.Field, given: Sequence[Any]) -> list[Any]:
    """Edges in storage units: whole numbers, or floats."""
    try:
        array = _as_type(given, field.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        array = pa.nulls(1, field.type)
    edges: list[Any] = storage_of(array).to_pylist()
    if None in edges or not all(math.isfinite(edge) for edge in edges):
        raise OptionError(
            f"domains[{field.name!r}]: the edges of bins must be values of the column's type {field.type}."
        )
    if pa.types.is_decimal(field.type):
        return [int(edge.scaleb(field.type.scale)) for edge in edges]
    return edges


def _step(field: pa.Field, given: Any) -> Any:
    """The step in storage units; None for fractional numbers without one."""
    if pa.types.is_floating(field.type):
        if isinstance(given, dt.timedelta):
            raise OptionError(f"domains[{field.name!r}]: step={given!r} is for times, and the column is {field.type}.")
        return None if given is None else float(given)
    if given is None:
        # Days are stored in milliseconds in one of the types of dates.
        return 86_400_000 if pa.types.is_date64(field.type) else 1
    step = Fraction(0)
    if not pa.types.is_temporal(field.type) and not isinstance(given, dt.timedelta):
        step = Fraction(str(given)) * 10 ** _digits(field.type)
    elif pa.types.is_temporal(field.type) and isinstance(given, dt.timedelta):
        step = Fraction(given // dt.timedelta(microseconds=1), 10**6) * _units_a_second(field.type)
    if step.denominator != 1 or step < 1:
        raise OptionError(
            f"domains[{field.name!r}]: step={given!r} must be a number, for times a timedelta, that the column's type "
            f"{field.type} can tell apart."
        )
    return int(step)


def _units_a_second(dtype: pa.DataType) -> Fraction:
    if pa.types.is_date32(dtype):
        return Fraction(1, 86_400)
    units = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
    return Fraction(10**3 if pa.types.is_date64(dtype) else units[dtype.unit])


def read_domain(dtype: pa.DataType, state: Mapping[str, Any]) -> Domain:
    """The domain of a state; a damaged one is an error of whatever kind."""
    if "values" in state:
        stream = pa.ipc.open_stream(pa.py_buffer(base64.b64decode(state["values"], validate=True)))
        return Levels(dtype, stream.read_all().column(0).combine_chunks(), state["null"])
    if len(state["lows"]) != len(state["sizes"]) or not state["lows"]:
        raise ValueError
    return Numbers(dtype, tuple(state["lows"]), tuple(state["sizes"]), state["step"], state["null"])
