"""Differentially private trees: what one row adds to the copies is bounded by a number that the user chooses.

The other methods show the data to the trees, and are careful; this one bounds what anybody can learn of any row,
whatever else he knows. The price is in docs/private.md.

Terms
-----
neighbours
    Two tables of which one has one row more. How many rows there are is a secret, too.
domain
    What a column may hold, said by the user without looking at the data: a list of levels, or bins of numbers. A value
    is a code from here on, its place in the domain; null is the last code, where the domain has it.
budget
    Epsilon (or rho), divided between the columns, and within a column between the levels of its tree and its leaves.

For each column, given the columns before it: a tree of a fixed depth. At each node the exponential mechanism chooses
among all cuts of the domains of the predictors, a leaf holds a histogram of the column's codes with discrete noise. A
row is in one node of each level, so a level costs what one node does, and a column the sum of its levels and its
leaves. All else (shares, draws) uses only these noisy numbers, and costs nothing.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
import itertools
import json
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fastsynth.columns import numbers_of, storage_of
from fastsynth.errors import DataError, ModelFileError, OptionError
from fastsynth.execute import Executor, Threads, Tick
from fastsynth.noise import SecretBits, choose, discrete_gaussian, discrete_laplace, epsilon_of_rho, rho_of_epsilon
from fastsynth.source import Frame, Source, TableSource
from fastsynth.streams import DRAW, random_words, unit

Codes = NDArray[np.unsignedinteger[Any]]
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

# Codes of a column, and levels of a tree.
MOST_CODES, MOST_DEPTH = 1_024, 10
# Budget of the leaves of a column, in units of that of one level of splits.
LEAF_UNITS = 3
# Scores of splits are whole multiples of 1/SCALE, rounded down twice: that widens what a row can change by 4.
SCALE, ROUNDING = 2**20, 4
# Rows that are tabulated at a time, and rows that share a stream of random words, which is part of the result.
CHUNK_ROWS, BLOCK_ROWS = 1_048_576, 65_536
FORMAT, FORMAT_VERSION = "fastsynth private model", 1


# What the user says


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
        whole = isinstance(self.count, numbers.Integral) and not isinstance(self.count, bool)
        if len(self.edges) < 2 or (self.count is not None and (len(self.edges) > 2 or not whole or self.count < 1)):
            raise OptionError(
                f"Bins(edges={self.edges!r}, count={self.count!r}): must be two or more edges, and a count of at least "
                "1 only with two."
            )
        step = self.step.total_seconds() if isinstance(self.step, dt.timedelta) else self.step
        if step is not None and not (isinstance(step, numbers.Number) and 0 < step < math.inf):  # type: ignore[operator]
            raise OptionError(f"step={self.step!r}: must be a positive number, or for times a timedelta.")
        if not isinstance(self.null, bool):
            raise OptionError(f"null={self.null!r}: must be True or False.")


@dataclass(frozen=True, slots=True)
class DpCart:
    """Trees and leaves by noisy counts: copies that are differentially private.

    The method of a whole table: ``synthesize(data, method=DpCart(...), k=...)``.

    Parameters
    ----------
    epsilon : float
        The budget of the whole table, all columns and copies together: positive. Below 1 is strong, above 10 hardly a
        guarantee.
    domains : dict of str to list, tuple or Bins
        For every column a list of its levels, or ``(low, high, count)`` or ``Bins`` for numbers, dates and times; None
        among them says that the column may be null. What is not in a list counts as its last level, and so does null
        without None: put an "other" there. **Domains are public: take them from the questionnaire or the register's
        description, never from the data.**
    depth : int, default 3
        Levels of splits of each tree, from 0 to 10.
    delta : float, default 0
        0 is pure differential privacy (geometric noise). Above, (epsilon, delta) by way of zero-concentrated
        differential privacy with discrete Gaussian noise, which is less noise for the same epsilon when there are many
        columns. Far below one by the number of rows: 1e-9.

    Raises
    ------
    OptionError
        A value that is not allowed.

    Notes
    -----
    Fit O(n p^2 depth) for n rows and p columns, with a byte or two for each value; draw O(k p depth).

    References
    ----------
    Dwork, McSherry, Nissim and Smith (2006), Calibrating noise to sensitivity in private data analysis, TCC.
    Friedman and Schuster (2010), Data mining with differential privacy, KDD, for the splits of trees.
    Durfee and Rogers (2019), NeurIPS, and Cesar and Rogers (2021), ALT, for what the exponential mechanism costs.

    Examples
    --------
    >>> DpCart(epsilon=1.0, domains={"age": (0, 110, 22), "sex": ["F", "M", None]}).domains["age"]
    Bins(edges=(0, 110), count=22, step=None, null=False)
    """

    epsilon: float
    domains: Mapping[str, Any]
    depth: int = 3
    delta: float = 0.0
    name: ClassVar[str] = "dp_cart"

    def __post_init__(self) -> None:
        if not _is_real(self.epsilon) or not 0 < self.epsilon < 1e6:
            raise OptionError(f"epsilon={self.epsilon!r}: must be a positive number; 1 is usual.")
        if not _is_real(self.delta) or not 0 <= self.delta < 0.5:
            raise OptionError(f"delta={self.delta!r}: must be 0, or a small positive number such as 1e-9.")
        whole = isinstance(self.depth, numbers.Integral) and not isinstance(self.depth, bool)
        if not whole or not 0 <= self.depth <= MOST_DEPTH:
            raise OptionError(f"depth={self.depth!r}: must be an integer from 0 to {MOST_DEPTH}.")
        if not isinstance(self.domains, Mapping) or not self.domains:
            raise OptionError("domains: must be a dict with the domain of every column.")
        object.__setattr__(self, "epsilon", float(self.epsilon))
        object.__setattr__(self, "delta", float(self.delta))
        object.__setattr__(self, "depth", int(self.depth))
        object.__setattr__(self, "domains", {name: _said(name, domain) for name, domain in self.domains.items()})


def _is_real(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _said(name: str, domain: Any) -> Bins | list[Any]:
    """A domain as it was given, the short form of bins written out."""
    if isinstance(domain, Bins):
        return domain
    if isinstance(domain, list) and domain:
        return domain
    if isinstance(domain, tuple):
        null = len(domain) == 4 and domain[3] is None
        if len(domain) == 3 or null:
            return Bins(domain[:2], domain[2], null=null)
    raise OptionError(
        f"domains[{name!r}]={domain!r}: must be a list of levels, (low, high, number of bins), the same with None "
        "behind for a column that may be null, or Bins(...)."
    )


# Domains


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
    frame = pl.from_arrow(pa.schema([field]).empty_table())
    assert isinstance(frame, pl.DataFrame)
    dtype = frame.schema[field.name]
    return dtype.categories.to_list() if isinstance(dtype, pl.Enum) else None


def _bind_bins(field: pa.Field, said: Bins) -> Numbers:
    dtype = field.type
    numeric = pa.types.is_integer(dtype) or pa.types.is_floating(dtype) or pa.types.is_decimal(dtype)
    if not (numeric or pa.types.is_temporal(dtype)) or pa.types.is_interval(dtype):
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


# Budget


@dataclass(frozen=True, slots=True)
class Spend:
    """What one column costs.

    Attributes
    ----------
    column : str
    depth : int
        Levels of splits.
    split, leaf : float
        Of each level of splits and of the leaves: epsilon, or with delta rho.
    """

    column: str
    depth: int
    split: float
    leaf: float

    @property
    def total(self) -> float:
        """Of the column."""
        return self.depth * self.split + self.leaf


@dataclass(frozen=True, slots=True)
class Budget:
    """What the guarantee is, and where it goes.

    Attributes
    ----------
    epsilon, delta : float
    rho : float or None
        Of zero-concentrated differential privacy, where delta is not 0.
    spends : tuple of Spend
        By column, in the order of the synthesis. Columns of one code cost nothing.
    """

    epsilon: float
    delta: float
    rho: float | None
    spends: tuple[Spend, ...]

    @classmethod
    def of(cls, method: DpCart, columns: Iterable[tuple[str, int]]) -> Budget:
        """Divide a budget between columns, each a name and the depth of its tree, -1 for no tree at all.

        One level of splits gets one share of each column, its leaves three.
        """
        columns = list(columns)
        units = sum(depth + LEAF_UNITS for _, depth in columns if depth >= 0)
        rho = rho_of_epsilon(method.epsilon, method.delta) if method.delta else None
        # What is spent is rounded down, so that sums do not exceed the budget by a last digit.
        share = (method.epsilon if rho is None else rho) / max(units, 1) * (1 - 1e-12)
        spends = [
            Spend(name, max(depth, 0), share if depth > 0 else 0.0, share * LEAF_UNITS if depth >= 0 else 0.0)
            for name, depth in columns
        ]
        return cls(method.epsilon, method.delta, rho, tuple(spends))

    def composed(self) -> tuple[float, float]:
        """Epsilon and delta of all that was spent: what they add up to, and for rho what this amounts to."""
        total = math.fsum(spend.total for spend in self.spends)
        return (total, 0.0) if self.rho is None else (epsilon_of_rho(total, self.delta), self.delta)

    def split_epsilon(self, spend: Spend) -> Fraction:
        """Epsilon of the exponential mechanism at a node, which costs epsilon^2 / 8 of rho (Cesar and Rogers 2021)."""
        return Fraction(spend.split if self.rho is None else math.sqrt(8 * spend.split) * (1 - 1e-12))

    def noise(self, spend: Spend) -> Fraction:
        """Scale of the geometric noise of a leaf's counts, or with delta the variance of the discrete Gaussian."""
        return 1 / (Fraction(spend.leaf) if self.rho is None else 2 * Fraction(spend.leaf))

    def variance(self, spend: Spend) -> float:
        """Variance of the noise of a leaf's counts."""
        if self.rho is not None:
            return float(self.noise(spend))
        return 2 * math.exp(-spend.leaf) / math.expm1(-spend.leaf) ** 2

    def statement(self) -> str:
        """What is guaranteed, and what is not, in words."""
        kind = f"epsilon = {self.epsilon:g}" + (f", delta = {self.delta:g}" if self.delta else "")
        # To replace a row is to take one away and to add one; rho grows with the square of the rows.
        replaced = 2 * self.epsilon if self.rho is None else epsilon_of_rho(4 * self.rho, self.delta)
        return (
            f"Differentially private: {kind}, for two tables of which one lacks a row of the other; where one row is "
            f"another, epsilon = {replaced:.4g}. It covers the model and any number of copies drawn from it. It takes "
            "as public: names, order and types of the columns, their domains, depth, and the number of rows asked for. "
            "It does not cover what else is computed from the data (measures of utility and disclosure, how long the "
            "run took), several rows of one person, or whoever knows the random state. The noise is shared by all "
            "copies, so their differences do not show it, and intervals from them are too short. Whatever else is "
            "released of the same people adds its own epsilon."
        )


# Trees


@dataclass(frozen=True, slots=True, eq=False)
class PrivateTree:
    """A tree of full depth and its noisy leaves.

    Attributes
    ----------
    splits : ndarray of shape (2^depth - 1, 3), dtype=int64
        Node i has the children 2 i + 1 and 2 i + 2. Slot of the predictor, and the run of its codes [low, high) that
        goes left.
    counts : ndarray of shape (2^depth, n_codes), dtype=int64
        Rows of each code in each leaf, with noise: some are below 0.
    variance : float
        Of the noise.
    """

    splits: Counts
    counts: Counts
    variance: float
    _ends: Floats = field(init=False)

    def __post_init__(self) -> None:
        # Leaf i ends at i + 1: one sorted list for all leaves.
        ends = np.cumsum(leaf_shares(self.counts), axis=1)
        ends[:, -1] = 1.0
        object.__setattr__(self, "_ends", (np.minimum(ends, 1.0) + np.arange(len(ends))[:, None]).ravel())

    @property
    def depth(self) -> int:
        """Levels of splits."""
        return len(self.counts).bit_length() - 1

    def leaves(self, codes: Sequence[Codes | None], n: int) -> NDArray[np.int64]:
        """Leaf of each row. O(n depth)."""
        node = np.zeros(n, np.int64)
        for level in range(self.depth):
            own = slice(2**level - 1, 2 ** (level + 1) - 1)
            node = 2 * node + ~_goes_left(self.splits[own], node, codes)
        return node

    def draw(self, leaves: NDArray[np.int64], words: NDArray[np.uint64]) -> NDArray[np.int64]:
        """A code for each leaf and random word."""
        width = self.counts.shape[1]
        place = (words >> np.uint64(32)) / 2.0**32
        found = np.searchsorted(self._ends, leaves + place, side="right") - leaves * width
        code: NDArray[np.int64] = np.clip(found, 0, width - 1)
        return code


def _goes_left(splits: Counts, node: NDArray[np.integer[Any]], codes: Sequence[Codes | None]) -> NDArray[np.bool_]:
    """Whether each row goes left at its node."""
    slot, low, high = splits[:, 0][node], splits[:, 1][node], splits[:, 2][node]
    value = np.zeros(len(node), np.int64)
    for x in np.unique(splits[:, 0]).tolist():
        column, here = codes[x], slot == x
        assert column is not None
        value[here] = column[here]
    left: NDArray[np.bool_] = (low <= value) & (value < high)
    return left


def leaf_shares(counts: Counts) -> Floats:
    """Shares of the codes in each leaf: of the nearest counts that are not negative and have the same sum.

    To cut counts off at 0 instead would give the rare codes what it takes from the others.

    Parameters
    ----------
    counts : ndarray of shape (leaves, n_codes), dtype=int64
        With noise.

    Returns
    -------
    ndarray of shape (leaves, n_codes), dtype=float64
        Equal shares where noise leaves nothing at all.

    References
    ----------
    Duchi, Shalev-Shwartz, Singer and Chandra (2008), Efficient projections onto the l1-ball, ICML.

    Examples
    --------
    >>> leaf_shares(np.array([[60, 40, -6]])).round(3).tolist()
    [[0.606, 0.394, 0.0]]
    """
    given = counts.astype(np.float64)
    total = given.sum(1, keepdims=True)
    ordered = -np.sort(-given, axis=1)
    excess = (np.cumsum(ordered, axis=1) - total) / np.arange(1, given.shape[1] + 1)
    n_kept = np.maximum((ordered > excess).sum(1, keepdims=True), 1)
    kept = np.maximum(given - np.take_along_axis(excess, n_kept - 1, axis=1), 0)
    sums = np.where(total > 0, kept.sum(1, keepdims=True), 1)
    shares: Floats = np.where(total > 0, kept / sums, 1 / given.shape[1])
    return shares


def split_scores(table: Counts, splits: Sequence[tuple[int, int]], places: Counts | None) -> NDArray[np.object_]:
    """Scores of the splits of some nodes by one predictor: squared distances between children, in 1/SCALE.

    Parameters
    ----------
    table : ndarray of shape (nodes, n_predictor_codes, n_codes), dtype=int64
        Rows.
    splits : list of (low, high)
        Runs of predictor codes that go left.
    places : ndarray of shape (n_codes, d), dtype=int64, or None
        Points of the codes; None for one axis each: then it is n times half the Gini gain, else a sum of squares.

    Returns
    -------
    ndarray of shape (nodes, splits), dtype=object
        Python's whole numbers, which have no last digit. Only differences within a node mean something.
    """
    total = np.concatenate([np.zeros_like(table[:, :1]), np.cumsum(table, axis=1)], axis=1)
    low, high = np.array(splits).T
    left = total[:, high] - total[:, low]
    scores: NDArray[np.object_] = np.zeros(left.shape[:2], object)
    for side in (left, total[:, -1:] - left):
        # Sums of squared counts are at most n^2, other sums may be beyond 64 bits.
        squares = (side * side).sum(2) if places is None else ((side @ places).astype(object) ** 2).sum(2)
        scores = scores + squares.astype(object) * SCALE // np.maximum(side.sum(2), 1).astype(object)
    return scores


def _tabulate(node: NDArray[np.uint16], n_nodes: int, x: Codes | None, n_x: int, y: Codes, n_y: int) -> Counts:
    """Rows by node, code of a predictor and code of the target: (nodes, n_x, n_y)."""
    counts = np.zeros(n_nodes * n_x * n_y, np.int64)
    for start in range(0, len(y), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        cell = node[rows].astype(np.int64)
        if x is not None:
            cell = cell * n_x + x[rows]
        counts += np.bincount(cell * n_y + y[rows], minlength=len(counts))
    return counts.reshape(n_nodes, n_x, n_y)


def fit_tree(
    shared: tuple[Sequence[Codes], Sequence[Domain], Budget, int], slot: int, predictors: tuple[int, ...], spend: Spend
) -> PrivateTree:
    """Fit one column: the only place, beside ``code_piece``, that sees data. O(n depth predictors)."""
    codes, domains, budget, entropy = shared
    bits = SecretBits(entropy, f"column {slot}")
    y, target = codes[slot], domains[slot]
    places, diameter = target.places
    rate = budget.split_epsilon(spend) / (SCALE * diameter + ROUNDING)
    node = np.zeros(len(y), np.uint16)
    splits = np.zeros((0, 3), np.int64)
    candidates = [(x, low, high) for x in predictors for low, high in domains[x].splits]
    for level in range(spend.depth):
        parts = []
        for x in predictors:
            table = _tabulate(node, 2**level, codes[x], domains[x].n_codes, y, target.n_codes)
            parts.append(split_scores(table, domains[x].splits, places))
        chosen = [candidates[choose(bits, scores, rate)] for scores in np.concatenate(parts, axis=1).tolist()]
        own = np.array(chosen, np.int64)
        for start in range(0, len(y), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            node[rows] = 2 * node[rows] + ~_goes_left(own, node[rows], [column[rows] for column in codes])
        splits = np.vstack([splits, own])
    counts = _tabulate(node, 2**spend.depth, None, 1, y, target.n_codes)[:, 0]
    draw = discrete_laplace if budget.rho is None else discrete_gaussian
    scale = budget.noise(spend)
    noise = np.array([draw(bits, scale) for _ in range(counts.size)], np.int64).reshape(counts.shape)
    return PrivateTree(splits, counts + noise, budget.variance(spend))


# The whole table


@dataclass(frozen=True, slots=True, eq=False)
class PrivateModel:
    """A fitted private synthesis. All of it may be released: it holds noisy counts, and what the user said.

    Attributes
    ----------
    frame : Frame
        The caller's kind of table; what notes of the schema said of the data is left out.
    domains : tuple of Domain
        By slot.
    order : tuple of int
        Slots in the order in which they are drawn.
    trees : dict of int to PrivateTree
        By slot; columns of one code have none.
    budget : Budget
    n_rows : int
        Rows of the original, an estimate from the noisy counts; at least 2.
    """

    frame: Frame
    domains: tuple[Domain, ...]
    order: tuple[int, ...]
    trees: dict[int, PrivateTree]
    budget: Budget
    n_rows: int

    def draw(self, entropy: int, copy: int, start: int, stop: int) -> pa.RecordBatch:
        """Draw rows [start, stop) of one copy; ``start`` is that of a block of 65,536 rows. Costs no budget."""
        n = stop - start
        codes: list[Codes | None] = [None] * len(self.domains)
        arrays: list[pa.Array] = [None] * len(self.domains)
        for slot in self.order:
            domain = self.domains[slot]
            words = self._words(entropy, copy, slot, start, stop)
            drawn = np.zeros(n, np.int64)
            if slot in self.trees:
                tree = self.trees[slot]
                drawn = tree.draw(tree.leaves(codes, n), words[0])
            codes[slot] = drawn.astype(np.uint16)
            arrays[slot] = domain.decode(drawn, words[1])
        return pa.RecordBatch.from_arrays(arrays, schema=self.frame.schema)

    def _words(self, entropy: int, copy: int, slot: int, start: int, stop: int) -> NDArray[np.uint64]:
        """Two random words a row; each block of rows has a stream of its own."""
        parts = []
        for low in range(start, stop, BLOCK_ROWS):
            n = min(low + BLOCK_ROWS, stop) - low
            parts.append(random_words(entropy, (DRAW, copy, slot, low // BLOCK_ROWS), 2 * n).reshape(2, n))
        return np.concatenate(parts, axis=1)

    def records(self) -> list[dict[str, Any]]:
        """One record for each column in the order of the synthesis, ready for JSON."""
        names = self.frame.schema.names
        found = []
        for slot, spend in zip(self.order, self.budget.spends, strict=True):
            tree = self.trees.get(slot)
            of = "epsilon" if self.budget.rho is None else "rho"
            before = [names[x] for x in self.order[: self.order.index(slot)] if x in self.trees and spend.depth]
            found.append(
                {
                    "column": spend.column,
                    "kind": "numeric" if isinstance(self.domains[slot], Numbers) else "unordered",
                    "action": "draw",
                    "method": "DpCart",
                    "predictors": before,
                    "n_leaves": None if tree is None else len(tree.counts),
                    "smallest_leaf": None,
                    "n_rare_levels": None,
                    "leaf_spread": [],
                    "decision": f"{of} {spend.total:.4g} ({spend.depth} x {spend.split:.4g} + {spend.leaf:.4g})",
                    "n_missing_kinds": int(self.domains[slot].null),
                    "n_spikes": None,
                    "n_differ": None,
                }
            )
        return found

    def audit(self) -> dict[str, Any]:
        """The guarantee, ready for JSON."""
        return {**asdict(self.budget), "neighbours": "one row more or less", "statement": self.budget.statement()}

    def to_state(self) -> dict[str, Any]:
        """All of the model, ready for JSON."""
        trees = {
            str(slot): {"splits": tree.splits.tolist(), "counts": tree.counts.tolist(), "variance": tree.variance}
            for slot, tree in self.trees.items()
        }
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "statement": self.budget.statement(),
            "backend": self.frame.backend,
            "lazy": self.frame.lazy,
            "schema": _text(self.frame.schema.serialize().to_pybytes()),
            "domains": [domain.state() for domain in self.domains],
            "order": list(self.order),
            "trees": trees,
            "budget": asdict(self.budget),
            "n_rows": self.n_rows,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> PrivateModel:
        """The model of a state.

        Raises
        ------
        ModelFileError
            No state of a private model, or a damaged one.
        """
        if state.get("format") != FORMAT or state.get("format_version") != FORMAT_VERSION:
            raise ModelFileError(f"This is no {FORMAT} of version {FORMAT_VERSION}.")
        try:
            return _read_state(state)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError, binascii.Error, pa.ArrowException):
            raise ModelFileError("The private model is damaged: fetch it again.") from None


def _read_state(state: Mapping[str, Any]) -> PrivateModel:
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(state["schema"], validate=True)))
    domains = tuple(_read_domain(f.type, of) for f, of in zip(schema, state["domains"], strict=True))
    order = tuple(state["order"])
    trees = {int(slot): _read_tree(of, int(slot), order, domains) for slot, of in state["trees"].items()}
    modelled = {slot for slot, domain in enumerate(domains) if domain.n_codes > 1}
    spends = tuple(Spend(**spend) for spend in state["budget"]["spends"])
    if sorted(order) != list(range(len(domains))) or set(trees) != modelled or len(spends) != len(order):
        raise ValueError
    budget = Budget(**{**state["budget"], "spends": spends})
    return PrivateModel(
        Frame(state["backend"], state["lazy"], schema), domains, order, trees, budget, int(state["n_rows"])
    )


def _read_domain(dtype: pa.DataType, state: Mapping[str, Any]) -> Domain:
    if "values" in state:
        stream = pa.ipc.open_stream(pa.py_buffer(base64.b64decode(state["values"], validate=True)))
        return Levels(dtype, stream.read_all().column(0).combine_chunks(), state["null"])
    if len(state["lows"]) != len(state["sizes"]) or not state["lows"]:
        raise ValueError
    return Numbers(dtype, tuple(state["lows"]), tuple(state["sizes"]), state["step"], state["null"])


def _read_tree(state: Mapping[str, Any], slot: int, order: Sequence[int], domains: Sequence[Domain]) -> PrivateTree:
    splits = np.array(state["splits"], np.int64).reshape(-1, 3)
    counts = np.array(state["counts"], np.int64)
    size, known = len(counts), set(order[: order.index(slot)])
    whole = size & (size - 1) == 0 and len(splits) == size - 1 and counts.shape == (size, domains[slot].n_codes)
    if not whole or not set(splits[:, 0].tolist()) <= known:
        raise ValueError
    return PrivateTree(splits, counts, float(state["variance"]))


def fit_private(
    data: pa.Table | Source,
    method: DpCart,
    entropy: int,
    order: Sequence[str] | None = None,
    executor: Executor | None = None,
    tick: Tick = lambda _: None,
) -> PrivateModel:
    """Fit private trees to all columns.

    Parameters
    ----------
    data : pyarrow.Table or Source
        Any number of rows: whether there are any is a secret, too.
    method : DpCart
    entropy : int
        What the noise is made of. **Whoever knows it can take the noise away**: 128 bits from the system, kept as the
        data are, or thrown away.
    order : list of str, optional
        Order of the synthesis; the default is that of the table.
    executor : Executor, optional
        One task for each piece of the rows, then one for each column. The result is the same for all.
    tick : callable
        Called with 1 for each column that is fitted.

    Returns
    -------
    PrivateModel

    Raises
    ------
    OptionError
        Columns without a domain, domains without a column or not of its type, an order of other columns.

    Examples
    --------
    >>> table = pa.table({"age": [33, 71, 25] * 200, "sex": ["F", "M", None] * 200})
    >>> method = DpCart(epsilon=2.0, domains={"age": (0, 110, 11), "sex": ["F", "M", None]})
    >>> model = fit_private(table, method, entropy=2**127 + 1)
    >>> model.draw(1, 0, 0, 3).schema.names
    ['age', 'sex']
    """
    source = TableSource(data, Frame("pyarrow", False, data.schema)) if isinstance(data, pa.Table) else data
    executor = executor or Threads(1)
    schema = public_schema(source.frame.schema, method)
    domains = tuple(bind(field, method.domains[field.name]) for field in schema)
    slots = _slots(schema.names, order)
    columns: list[tuple[str, int]] = []
    jobs: list[tuple[int, tuple[int, ...]]] = []
    open_slots: list[int] = []
    for slot in slots:
        modelled = domains[slot].n_codes > 1
        columns.append((schema.names[slot], (method.depth if open_slots else 0) if modelled else -1))
        jobs.append((slot, tuple(open_slots)))
        open_slots += [slot] * modelled
    budget = Budget.of(method, columns)
    codes = _code(source, domains, executor)
    tasks = [(*job, spend) for job, spend in zip(jobs, budget.spends, strict=True) if domains[job[0]].n_codes > 1]

    def done(_: int, tree: PrivateTree) -> PrivateTree:
        tick(1)
        return tree

    secret = _noise_secret(entropy, codes, domains, slots, budget)
    fitted = executor.map(fit_tree, (codes, domains, budget, secret), tasks, done)
    trees = {task[0]: tree for task, tree in zip(tasks, fitted, strict=True)}
    frame = replace(source.frame, schema=schema)
    return PrivateModel(frame, domains, slots, trees, budget, _estimate_rows(trees.values()))


def _noise_secret(
    entropy: int, codes: Sequence[Codes], domains: Sequence[Domain], slots: Sequence[int], budget: Budget
) -> int:
    """What the noise of one fit is made of: other data, domains or options get other noise from the same entropy.

    Else two fits with one random state would share their noise, and their difference would show the data without any.
    To whoever does not know the entropy it is as good as drawn anew (as the nonces of RFC 6979).
    """
    digest = hashlib.sha256(json.dumps([[d.state() for d in domains], list(slots), asdict(budget)]).encode())
    for column in codes:
        digest.update(len(column).to_bytes(8, "little"))
        digest.update(column.data)
    return SecretBits(entropy, digest.hexdigest()).below(2**256)


def draw_entropy(secret: int) -> int:
    """What copies are drawn with: it tells nothing of the secret that the noise was made of, so copies may carry it."""
    return SecretBits(secret, "draw").below(2**128)


def _slots(names: list[str], order: Sequence[str] | None) -> tuple[int, ...]:
    if order is None:
        return tuple(range(len(names)))
    if isinstance(order, str) or len(order) != len(names) or set(order) != set(names):
        raise OptionError(
            f"visit_sequence={order!r}: with DpCart it must name every column once, in an order that does not come "
            f"from the data; the columns are {', '.join(names)}."
        )
    return tuple(names.index(name) for name in order)


def public_schema(schema: pa.Schema, method: DpCart) -> pa.Schema:
    """Names and types of the columns, without what notes beside them may say of the data.

    pandas notes how many rows and categories there are; only the types of its columns are kept. Dictionaries whose
    indices are too short for the domain get longer ones.
    """
    lacking = [name for name in schema.names if name not in method.domains]
    unknown = [name for name in method.domains if name not in schema.names]
    if lacking or unknown:
        what = [f"no domain for {', '.join(map(repr, lacking))}"] * bool(lacking)
        what += [f"no column {', '.join(map(repr, unknown))}"] * bool(unknown)
        raise OptionError(
            f"domains: {'; '.join(what)}. DpCart needs the domain of every column; drop columns that need not be in "
            "the copies."
        )
    fields = []
    for column in schema:
        notes = {key: note for key, note in (column.metadata or {}).items() if key.startswith(b"_PL_")}
        dtype = column.type
        if pa.types.is_dictionary(dtype) and dtype.index_type.bit_width < 16:
            declared = method.domains[column.name]
            if isinstance(declared, list) and len(declared) > 127 and not notes:
                dtype = pa.dictionary(pa.int32(), dtype.value_type, dtype.ordered)
        fields.append(pa.field(column.name, dtype, column.nullable, notes or None))
    pandas = schema.pandas_metadata
    return pa.schema(fields, None if pandas is None else {b"pandas": json.dumps(_pandas_types(pandas)).encode()})


def _pandas_types(notes: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("name", "field_name", "pandas_type", "numpy_type")
    columns = [{**{key: column.get(key) for key in kept}, "metadata": None} for column in notes["columns"]]
    names = ("column_indexes", "creator", "pandas_version")
    return {"index_columns": [], "columns": columns, **{name: notes[name] for name in names if name in notes}}


def _code(source: Source, domains: Sequence[Domain], executor: Executor) -> list[Codes]:
    """Codes of all columns, one pass over the rows; one or two bytes a value."""
    n = source.starts[-1]
    if n >= 2**31:
        raise DataError("DpCart takes at most 2^31 - 1 rows.")
    codes: list[Codes] = [np.empty(n, np.uint8 if domain.n_codes <= 256 else np.uint16) for domain in domains]

    def place(i: int, parts: list[NDArray[np.int64]]) -> None:
        for column, part in zip(codes, parts, strict=True):
            column[source.starts[i] : source.starts[i + 1]] = part

    executor.map(code_piece, (source, domains), source.jobs(), place)
    return codes


def code_piece(shared: tuple[Source, Sequence[Domain]], piece: int, *held: Any) -> list[NDArray[Any]]:
    """Codes of the rows of one piece."""
    source, domains = shared
    batches = [
        [domain.codes(column).astype(np.uint16) for domain, column in zip(domains, batch.columns, strict=True)]
        for batch in source.batches(piece, *held)
    ]
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def _estimate_rows(trees: Iterable[PrivateTree]) -> int:
    """Rows of the original: every tree counts all of them; trees of little noise count more."""
    # Noise of a huge budget may vanish in floating point.
    weights = [(1 / (tree.counts.size * max(tree.variance, 1e-9)), int(tree.counts.sum())) for tree in trees]
    if not weights:
        return 2
    mean = sum(weight * total for weight, total in weights) / sum(weight for weight, _ in weights)
    return max(round(mean), 2)
