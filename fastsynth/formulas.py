"""Which numbers of a table are computed from others: sums, products of powers, straight lines.

Everything is judged by some rows, as arrays of floats. What comes out are candidates, each in a few ways of writing and
rounding; ``fastsynth.relations`` takes the way that gives the column itself, and tries it on all rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Rows looked at; the search for powers begins with a few and goes on with more.
MOST_ROWS, FEWEST_ROWS = 2_000, 50
FIRST_ROWS, POWER_ROWS = 10, 60
# Share of rows that may not fit: errors of the data.
ODD_SHARE = 0.005
MOST_PARTS = 6
# Columns that are tried as parts of a sum, and as factors: of more, those that go with it most.
MOST_TERMS, MOST_FACTORS = 300, 40
MOST_DIGITS = 6
# A column of fewer steps of its last digit between its least and greatest value fits too much.
FEWEST_STEPS = 20
POWERS = (-3, -2, -1, 1, 2, 3)
# A straight line or power of longer numbers than this, both together, is taken for an accident.
MOST_FIGURES = 9


Key = TypeVar("Key", int, str)


@dataclass(frozen=True, slots=True, eq=False)
class Number:
    """A column of numbers.

    Attributes
    ----------
    values : ndarray of shape (n_rows,), dtype=float64
        NaN where missing.
    digits : int or None
        Decimals of its values; None where they are not rounded.
    dtype : polars data type
    """

    values: Floats
    digits: int | None
    dtype: Any

    @property
    def unit(self) -> float:
        """One of the last digit, or what floats lose."""
        return 1e-9 * self.scale if self.digits is None else 10.0**-self.digits

    @property
    def scale(self) -> float:
        """The greatest size of a value."""
        return float(np.nanmax(np.abs(self.values), initial=1e-300))


@dataclass(frozen=True, slots=True, eq=False)
class Formula:
    """A way in which a column may be computed.

    Attributes
    ----------
    kind : {"sum", "ratio"}
    target : str
    parents : tuple of str
    ways : tuple of (polars.Expr, str)
        Expressions in the type of the target, and as text; nearly the same.
    natural : bool
        Nothing is taken away or divided by: of a = b + c and b = a - c the first.
    """

    kind: Literal["sum", "ratio"]
    target: str
    parents: tuple[str, ...]
    ways: tuple[tuple[pl.Expr, str], ...]
    natural: bool


def number(values: Floats, dtype: Any) -> Number:
    """Look at the decimals of a column of numbers."""
    if dtype.is_integer():
        return Number(values, 0, dtype)
    known = values[np.isfinite(values)]
    for digits in range(MOST_DIGITS + 1):
        scaled = known * 10.0**digits
        if (np.abs(scaled - np.rint(scaled)) <= 1e-9 * np.abs(scaled) + 1e-7).all():
            return Number(values, digits, dtype)
    return Number(values, None, dtype)


def lines(numbers: Mapping[str, Number], names: Sequence[str]) -> Iterator[Formula]:
    """Numbers that are a straight line of an earlier one, as degrees Fahrenheit of Celsius, or of a later one."""
    for target, parent in itertools.permutations(names, 2):
        y, x = numbers[target], numbers[parent]
        rows = np.flatnonzero(np.isfinite(x.values) & np.isfinite(y.values))
        rows = rows[:: max(1, len(rows) // MOST_ROWS)]
        if len(rows) >= FEWEST_ROWS and _is_wide(y, y.values[rows]):
            ways = _line(y, x, parent, rows)
            if ways:
                yield Formula("ratio", target, (parent,), tuple(ways), names.index(parent) < names.index(target))


def _is_wide(y: Number, values: Floats) -> bool:
    return float(np.ptp(values)) >= FEWEST_STEPS * y.unit


def _line(y: Number, x: Number, parent: str, rows: NDArray[np.int64]) -> list[tuple[pl.Expr, str]]:
    given, wanted = x.values[rows], y.values[rows]
    if np.ptp(given) == 0 or abs(np.corrcoef(given, wanted)[0, 1]) < 0.99:
        return []
    left = np.ones(len(rows), bool)
    for _ in range(3):
        slope, constant = np.polyfit(given[left], wanted[left], 1)
        off = np.abs(wanted - constant - slope * given)
        left = off <= max(np.quantile(off, 1 - ODD_SHARE), y.unit)
    left = off <= 1.2 * y.unit + 1e-9 * y.scale
    if left.mean() < 1 - ODD_SHARE:
        return []
    found = []
    for mode, (low, high) in _roundings(y).items():
        slopes = _slopes(given[left], wanted[left], low, high)
        if slopes is None:
            continue
        for times in (simplest(*slopes), 1 / simplest(*sorted((1 / slopes[0], 1 / slopes[1])))):
            at_zero = wanted[left] - times * given[left]
            constants = (float((at_zero - high).max()), float((at_zero - low).min()))
            if constants[0] <= constants[1]:
                found.append((times, simplest(*constants), mode))
    found = [f for f in found if min(_figures(f[0]), _figures(1 / f[0])) + _figures(f[1]) <= MOST_FIGURES]
    found.sort(key=lambda f: min(_figures(f[0]), _figures(1 / f[0])) + _figures(f[1]))
    return [way for times, constant, mode in found for way in _write_line(y, parent, times, constant, mode)]


def _roundings(y: Number) -> dict[str, tuple[float, float]]:
    """How far a column may be above what it was rounded from, by the way of rounding."""
    slack = 1e-9 * y.scale
    if y.digits is None:
        return {"": (-slack, slack)}
    return {"round": (-y.unit / 2 - slack, y.unit / 2 + slack), "floor": (-y.unit - slack, slack)}


def _slopes(x: Floats, y: Floats, low: float, high: float) -> tuple[float, float] | None:
    """Least and greatest b for which some a has low <= y - a - b x <= high in all rows."""
    # Loading it takes a tenth of a second, which nobody else needs.
    from scipy.optimize import linprog

    middle, spread = x.mean(), np.ptp(x)
    slope, constant = np.polyfit((x - middle) / spread, y, 1)
    rest, unit = y - constant - slope * (x - middle) / spread, max(high - low, 1e-300)
    design = np.column_stack([np.ones(len(x)), (x - middle) / spread])
    sides = {"A_ub": np.vstack([design, -design]), "b_ub": np.concatenate([rest - low, high - rest]) / unit}
    ends = [linprog([0, sign], bounds=[(None, None)] * 2, **sides) for sign in (1, -1)]
    if any(end.status for end in ends):
        return None
    least, most = (float((slope + unit * end.x[1]) / spread) for end in ends)
    tiny = 1e-12 * abs(most)
    return None if least <= 0 <= most else (least - tiny, most + tiny)


def _write_line(y: Number, parent: str, times: float, constant: float, mode: str) -> Iterator[tuple[pl.Expr, str]]:
    x = pl.col(parent).cast(pl.Float64)
    products = [(x * times, f"{parent} * {times:.12g}")] if times != 1 else [(x, parent)]
    if times == -1:
        products = [(-x, f"-{parent}")]
    if _figures(1 / times) < _figures(times):
        products = [(x / round(1 / times, 12), f"{parent} / {round(1 / times, 12):.12g}")]
    for product, text in products:
        if constant:
            product, text = product + constant, f"{text} {'-' if constant < 0 else '+'} {abs(constant):.12g}"
        yield from _rounded(product, text, y, mode)


def _rounded(value: pl.Expr, text: str, y: Number, mode: str) -> Iterator[tuple[pl.Expr, str]]:
    """A computed float rounded as the column is, in its type; in the few ways in which a half may be rounded."""
    value = pl.when(value.is_infinite()).then(None).otherwise(value)
    if not mode or y.digits is None:
        yield value.cast(y.dtype, strict=False), text
        return
    if mode == "floor":
        scaled = (value * 10**y.digits).floor() / 10**y.digits if y.digits else value.floor()
        yield scaled.cast(y.dtype, strict=False), f"{text}, rounded down to {y.digits} digits"
        return
    text = f"{text}, rounded to {y.digits} digits"
    for ways in (
        value.round(y.digits),
        value.round(y.digits, mode="half_away_from_zero"),
        (value * 10**y.digits).round() / 10**y.digits,
    ):
        yield ways.cast(y.dtype, strict=False), text


def simplest(low: float, high: float) -> float:
    """The number of fewest figures between two numbers."""
    if low <= 0 <= high:
        return 0.0
    if high < 0:
        return -simplest(-high, -low)
    largest = int(np.floor(np.log10(high)))
    for exponent in range(largest, largest - 15, -1):
        step = 10.0**exponent
        times = np.ceil(low / step - 1e-9)
        if times * step <= high * (1 + 1e-15):
            return float(f"{int(times)}e{exponent}")
    return (low + high) / 2


def _figures(value: float) -> int:
    """Figures of a number as it is written, zeros at its end not counted."""
    return len(f"{abs(value):.11e}".split("e")[0].replace(".", "").rstrip("0"))


def sums(numbers: Mapping[str, Number], names: Sequence[str]) -> Iterator[Formula]:
    """Numbers that are a sum or difference of 2 to 6 others."""
    for target in names:
        y = numbers[target]
        rows = np.flatnonzero(np.isfinite(y.values))
        rows = rows[:: max(1, len(rows) // MOST_ROWS)]
        others = [name for name in names if name != target and np.nan_to_num(numbers[name].values[rows]).any()]
        if len(rows) < FEWEST_ROWS or len(others) < 2 or len(np.unique(y.values[rows])) < 3:
            continue
        others = _most_alike(y.values[rows], {name: numbers[name].values[rows] for name in others}, MOST_TERMS)
        signs = _signs(y, np.column_stack([numbers[name].values[rows] for name in others]), y.values[rows])
        parts = {name: int(sign) for name, sign in zip(others, signs, strict=True) if sign}
        if 2 <= len(parts) <= MOST_PARTS:
            ways = tuple(_write_sum(y, {name: numbers[name] for name in parts}, parts))
            yield Formula("sum", target, tuple(parts), ways, min(parts.values()) > 0)


def _most_alike(y: Floats, others: Mapping[Key, Floats], most: int) -> list[Key]:
    """At most so many columns, those that go with y most, in their order: wide tables have too many to try all."""
    if len(others) <= most:
        return list(others)
    given = np.stack(list(others.values()))
    given = np.where(np.isfinite(given), given, np.nanmean(given, axis=1, keepdims=True))
    given = given - given.mean(axis=1, keepdims=True)
    alike = np.abs(given @ (y - y.mean())) / np.maximum(np.linalg.norm(given, axis=1), 1e-300)
    kept = set(np.argsort(-alike, kind="stable")[:most].tolist())
    return [key for i, key in enumerate(others) if i in kept]


def _signs(y: Number, given: Floats, wanted: Floats) -> Floats:
    """1 for each column that is added, -1 for each that is taken away, else 0; all 0 if there is no such sum.

    Least squares on columns that are independent, as they stand and from the last to the first, as a sum of sums can be
    written in several ways.
    """
    from scipy.linalg import qr  # as above

    given = np.nan_to_num(given)
    size = np.linalg.norm(given, axis=0)
    order = np.arange(given.shape[1])
    for columns in (order, order[::-1]):
        diagonal = np.abs(np.diag(qr(given[:, columns] / size[columns], mode="r")[0]))
        columns = columns[: len(diagonal)][diagonal > 1e-6]
        left = np.ones(len(wanted), bool)
        for _ in range(3):
            weights = np.linalg.lstsq(given[left][:, columns] / size[columns], wanted[left], rcond=None)[0]
            off = np.abs(wanted - given[:, columns] / size[columns] @ weights)
            left = off <= max(np.quantile(off, 0.9), y.unit)
            if np.median(off) > 2 * y.unit + 0.05 * wanted.std():
                break
        signs = np.zeros(given.shape[1])
        signs[columns] = np.clip(np.rint(weights / size[columns]), -1, 1)
        fits = np.abs(wanted - given @ signs) <= 0.5 * y.unit * (1 + 1e-6) + 1e-9 * y.scale
        # Each part has to be something, and not always the whole.
        used = signs != 0
        told = [((given[:, i] != 0) & (np.abs(given[:, i]) != np.abs(wanted))).sum() for i in np.flatnonzero(used)]
        if used.sum() >= 2 and fits.mean() >= 1 - ODD_SHARE and min(told) >= FEWEST_ROWS // 2:
            return signs
    return np.zeros(given.shape[1])


def _write_sum(y: Number, parts: Mapping[str, Number], signs: Mapping[str, int]) -> Iterator[tuple[pl.Expr, str]]:
    """The sum, null where a part is; and the sum of those parts that are not null."""
    exact = all(not n.dtype.is_float() for n in (y, *parts.values()))
    dtype: Any = pl.Float64
    if exact:
        whole = all(n.dtype.is_integer() for n in (y, *parts.values()))
        dtype = pl.Int64 if whole else pl.Decimal(38, max(getattr(n.dtype, "scale", 0) for n in (y, *parts.values())))
    text = " ".join(f"{'+' if sign > 0 else '-'} {name}" for name, sign in signs.items()).removeprefix("+ ")
    zero = pl.lit(0).cast(dtype)
    terms = [pl.col(n).cast(dtype) if sign > 0 else zero - pl.col(n).cast(dtype) for n, sign in signs.items()]
    strict = terms[0]
    for term in terms[1:]:
        strict = strict + term
    lenient = (
        pl.when(pl.all_horizontal(pl.col(n).is_null() for n in signs))
        .then(None)
        .otherwise(pl.sum_horizontal([term.fill_null(0) for term in terms]))
    )
    for value, note in ((strict, ""), (lenient, ", nulls left out")):
        if exact or y.digits is None:
            yield value.cast(y.dtype, strict=False), text + note
        else:
            finer = any(n.digits is None or n.digits > y.digits for n in parts.values())
            for way, how in _rounded(value, text, y, "round"):
                yield way, (how if finer else text) + note


def products(numbers: Mapping[str, Number], names: Sequence[str]) -> Iterator[Formula]:
    """Numbers that are a constant times small powers of one or two others, rounded: BMI, pay by the hour."""
    names = [n for n in names if (numbers[n].values[np.isfinite(numbers[n].values)] > 0).mean() > 0.5]
    if len(names) < 2:
        return
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(np.stack([np.where(numbers[n].values > 0, numbers[n].values, np.nan) for n in names]))
    for slot, target in enumerate(names):
        y = numbers[target]
        for powers in _powers(y, logs, slot):
            of_names = {names[i]: p for i, p in powers.items()}
            ways = tuple(_write_product(y, {n: numbers[n] for n in of_names}, of_names))
            if ways:
                yield Formula("ratio", target, tuple(of_names), ways, min(of_names.values()) > 0)


def _powers(y: Number, logs: Floats, slot: int) -> Iterator[dict[int, int]]:
    """Powers, by the place of the column, that leave of the logarithm of y a constant and what rounding is."""
    rows = np.flatnonzero(np.isfinite(logs[slot]))
    known = y.values[rows]
    if len(rows) < FEWEST_ROWS or not _is_wide(y, known):
        return
    # Large values are the least rounded; the first rows to be looked at lie far apart.
    rows = rows[known >= np.median(known)]
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), 20 * POWER_ROWS)).astype(int)]
    wide = np.full(len(rows), y.unit) / y.values[rows] + 1e-9
    known = np.isfinite(logs[:, rows])
    others = [i for i in range(len(logs)) if i != slot and known[i].any() and np.ptp(logs[i, rows[known[i]]]) > 0.02]
    if np.std(logs[slot][rows]) < 5 * np.median(wide):
        return
    others = _most_alike(logs[slot, rows], {i: logs[i, rows] for i in others}, MOST_FACTORS)
    alone: list[tuple[int, int | None, int, int]] = [(i, None, p, 0) for i in others for p in (-3, -2, -1, 2, 3)]
    pairs: list[tuple[int, int | None, int, int]] = [
        (i, j, p, q) for i, j in itertools.combinations(others, 2) for p in POWERS for q in POWERS
    ]
    found: set[int] = set()
    for combos in (alone, pairs):
        combos = [c for c in combos if c[0] not in found and c[1] not in found]
        if combos:
            i, p, q = (np.array([c[k] for c in combos]) for k in (0, 2, 3))
            j = np.array([c[0] if c[1] is None else c[1] for c in combos])
            for k in _constant(logs, slot, rows, wide, i, j, p, q):
                powers = {int(i[k]): int(p[k])} | ({int(j[k]): int(q[k])} if q[k] else {})
                found |= set(powers)
                yield powers


def _constant(
    logs: Floats, slot: int, rows: NDArray[np.int64], wide: Floats, i: Any, j: Any, p: Any, q: Any
) -> NDArray[np.int64]:
    """Which of the combinations leave a constant; by a few rows, and those that pass by more."""
    left = np.arange(len(i))
    for some, odd in ((FIRST_ROWS, 0.2), (POWER_ROWS, 0.05), (len(rows), 0.02)):
        take = np.linspace(0, len(rows) - 1, min(some, len(rows))).astype(int)
        part = logs[:, rows[take]]
        rest = part[slot] - p[left, None] * part[i[left]] - q[left, None] * part[j[left]]
        seen = np.isfinite(rest).sum(axis=1)
        left, rest = left[seen >= min(len(take), 10) // 2], rest[seen >= min(len(take), 10) // 2]
        if not len(left):
            break
        off = np.abs(rest - np.nanmedian(rest, axis=1)[:, None]) > 2 * wide[take]
        left = left[off.sum(axis=1) <= odd * np.isfinite(rest).sum(axis=1)]
    return left


def _write_product(
    y: Number, parents: Mapping[str, Number], powers: Mapping[str, int]
) -> Iterator[tuple[pl.Expr, str]]:
    with np.errstate(divide="ignore", invalid="ignore"):
        given = np.prod([parents[n].values ** float(p) for n, p in powers.items()], axis=0)
    rows = np.flatnonzero(np.isfinite(given) & np.isfinite(y.values) & (given > 0))
    given, wanted = given[rows], y.values[rows]
    large = wanted >= np.median(wanted)
    about = float(np.median(wanted[large] / given[large]))
    fits = np.abs(wanted - about * given) <= 2.5 * y.unit + 1e-9 * y.scale + 0.02 * about * given
    if fits.mean() < 1 - ODD_SHARE:
        return
    for mode, (low, high) in _roundings(y).items():
        least, most = (wanted[fits] - high) / given[fits], (wanted[fits] - low) / given[fits]
        ends = float(least.max()), float(most.min())
        if not 0 < ends[0] <= ends[1]:
            continue
        times, parts = simplest(*ends), simplest(1 / ends[1], 1 / ends[0])
        if min(_figures(times), _figures(parts)) <= MOST_FIGURES:
            for value, text in _arrangements(powers, times, parts):
                yield from _rounded(value, text, y, mode)


def _arrangements(powers: Mapping[str, int], times: float, parts: float) -> Iterator[tuple[pl.Expr, str]]:
    """A product times a constant: its unit within the power, if it is a round one, before, or below the line."""
    above = {n: p for n, p in powers.items() if p > 0}
    below = {n: -p for n, p in powers.items() if p < 0}
    if times == 1:
        yield _quotient(above, below)
        return
    for name, power in below.items():
        unit = round(times ** (1 / power), 9)
        if unit != 1 and _figures(unit) <= 2 and unit == int(unit):
            yield _quotient(above, below, {name: unit})
    if _figures(parts) < _figures(times):
        value, text = _quotient(above, below)
        yield value / parts, f"{text} / {parts:.12g}"
        return
    value, text = _quotient(above, below)
    yield value * times, f"{times:.12g} * {text}"


def _quotient(
    above: Mapping[str, int], below: Mapping[str, int], units: Mapping[str, float] | None = None
) -> tuple[pl.Expr, str]:
    def term(powers: Mapping[str, int]) -> tuple[pl.Expr | None, str]:
        value: pl.Expr | None = None
        words = []
        for name, power in powers.items():
            factor, word = pl.col(name).cast(pl.Float64), name
            if units and name in units:
                factor, word = factor / units[name], f"({name} / {units[name]:.12g})"
            factor = factor if power == 1 else factor**power
            value = factor if value is None else value * factor
            words.append(word if power == 1 else f"{word}^{power}")
        return value, " * ".join(words)

    (top, top_text), (bottom, bottom_text) = term(above), term(below)
    if bottom is None:
        assert top is not None
        return top, top_text
    bottom_text = f"({bottom_text})" if len(below) > 1 else bottom_text
    return (pl.lit(1.0) if top is None else top) / bottom, f"{top_text or '1'} / {bottom_text}"
