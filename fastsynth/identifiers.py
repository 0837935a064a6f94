"""Identifiers: the pattern of a column of them, and fresh ones of that pattern.

Terms
-----
form
    How identifiers of one length are written: the characters that can stand at each position, a single one where all
    real ones share it.
stem
    Text that all identifiers begin with, before a number: "P" of P1, P2, ...
consecutive
    Identifiers that count: a stem and nearly every number from the least to the greatest.

A pattern has no real identifier in it: a character is kept only where at least ``LEAST`` share it, any other position
has a whole class of characters, and the least number of a count is rounded down. A fresh identifier can equal a real
one by chance, the more so the fuller the pattern is with real ones, but nothing of the row it stands in hangs on it.
Check digits are digits like any other here: most fresh identifiers fail the check.

This module knows nothing of plans, copies or files.
"""

from __future__ import annotations

import math
import os.path
import string
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fastsynth.columns import Variable, storage_of
from fastsynth.errors import OptionError

Words = NDArray[np.uint64]
DIGITS = string.digits
# Narrow ones first: a position has the first class that all its characters are in.
CLASSES = (
    DIGITS,
    string.ascii_uppercase,
    string.ascii_lowercase,
    DIGITS + "ABCDEF",
    DIGITS + "abcdef",
    DIGITS + string.ascii_uppercase,
    DIGITS + string.ascii_lowercase,
    string.ascii_letters,
    DIGITS + string.ascii_letters,
)
# Text of which more than this share is distinct identifies people, if there are so many values; whole numbers that are
# all different do from so many rows.
IDENTIFIER_SHARE, IDENTIFIER_LEVELS, IDENTIFIER_NUMBERS = 0.9, 10, 1_000
# Values that have to share a character, or a length, for it to be part of the pattern.
LEAST = 10
# Share of the values that the lengths of the pattern cover, and of min..max that is used where identifiers count.
COVERED = 0.9
# Text of more lengths than this, or longer, is no identifier.
MAX_LENGTHS, MAX_BYTES = 3, 128
# With fewer values a position of hexadecimal digits can show decimal ones only, by chance.
MANY = 50
# Greatest decimal number read as an integer has so many digits.
MAX_DIGITS = 18


@dataclass(frozen=True, slots=True)
class Pattern:
    """What the identifiers of a column look like. Goes through JSON: ``Pattern(**json.loads(json.dumps(asdict(p))))``.

    Attributes
    ----------
    forms : tuple of tuple of str
        Characters of each position, for each length; of whole numbers those of their digits. Empty for consecutive
        ones.
    shares : tuple of int
        Percentage of the identifiers that has each form.
    stem : str
        Of consecutive ones, the text before the number.
    start : int
        Of consecutive ones, the first number.
    width : int
        Of consecutive ones, digits that the number is filled up to with zeros, or 0.

    Examples
    --------
    >>> find_pattern(pa.array([f"NL-{i * i:05}" for i in range(300)]), pa.string()).forms[0][:4]
    ('N', 'L', '-', '0123456789')
    """

    forms: tuple[tuple[str, ...], ...] = ()
    shares: tuple[int, ...] = ()
    stem: str = ""
    start: int = 0
    width: int = 0

    def __post_init__(self) -> None:
        # JSON has lists only.
        object.__setattr__(self, "forms", tuple(map(tuple, self.forms)))
        object.__setattr__(self, "shares", tuple(self.shares))


def looks_like_identifier(variable: Variable, n_rows: int) -> Literal["identifier", "text"] | None:
    """Whether a column names people: by identifiers that fresh ones can be made of, or by anything else ("text").

    Text does if it differs in more than 9 of 10 rows, whole numbers if all differ. "text" are also whole numbers with
    negative ones among them, and ordered categories, to whose type no fresh ones can be added.

    Examples
    --------
    >>> codes = pa.array([None] + [f"P{i:03}" for i in range(50)])
    >>> looks_like_identifier(Variable("id", "unordered", codes, pa.string(), 1, None, False, 50), n_rows=51)
    'identifier'
    """
    if variable.kind == "numeric":
        named = pa.types.is_integer(variable.dtype) and n_rows >= IDENTIFIER_NUMBERS and variable.n_used == n_rows
    else:
        named = variable.n_used >= IDENTIFIER_LEVELS and variable.n_used > IDENTIFIER_SHARE * n_rows
    if not named:
        return None
    return "text" if find_pattern(variable.values[variable.first :], variable.dtype) is None else "identifier"


def find_pattern(values: pa.Array, dtype: pa.DataType) -> Pattern | None:
    """Pattern of identifiers, or None where they have none. O(characters).

    Parameters
    ----------
    values : pyarrow.Array
        The distinct values of a column; nulls are left out.
    dtype : pyarrow.DataType
        Type of the column: text, whole numbers, or categories of these.

    Examples
    --------
    >>> find_pattern(pa.array(range(1, 2001)), pa.int64())
    Pattern(forms=(), shares=(), stem='', start=1, width=0)
    >>> find_pattern(pa.array(["a word", "two more words", "and so on"] * 10), pa.string()) is None
    True
    """
    if pa.types.is_dictionary(values.type):
        values = storage_of(values.dictionary).take(values.indices)
    if (pa.types.is_dictionary(dtype) and dtype.ordered) or len(values) - values.null_count < LEAST:
        return None
    values = storage_of(values.drop_null())
    if pa.types.is_integer(values.type):
        return _pattern_of_numbers(values, _value_type(dtype))
    return _pattern_of_text(values) if pa.types.is_large_string(values.type) else None


def check_space(pattern: Pattern, k: int, dtype: pa.DataType, name: str = "") -> None:
    """Refuse copies of more rows than there are identifiers of the pattern, or than the type can number.

    Raises
    ------
    OptionError
    """
    room = min(space(pattern, dtype), _most(dtype.index_type) + 1 if pa.types.is_dictionary(dtype) else k)
    if k > room:
        raise OptionError(
            f"{f'Column {name!r}' if name else 'The column'}: a copy of k={k:,} rows needs as many identifiers, and "
            f"only {room:,} of type {dtype} have the pattern of the real ones. Ask for at most {room:,} rows, cast the "
            "column to text or a larger type, or drop it."
        )


def space(pattern: Pattern, dtype: pa.DataType) -> int:
    """Identifiers that have a pattern.

    Examples
    --------
    >>> space(Pattern(forms=(("N", "L", "0123456789", "0123456789"),), shares=(100,)), pa.string())
    100
    """
    if pattern.forms:
        return sum(_sizes(pattern))
    number = pa.types.is_integer(_value_type(dtype))
    return (_most(_value_type(dtype)) + 1 if number else 10 ** (pattern.width or MAX_DIGITS)) - pattern.start


def fresh(pattern: Pattern, copy_key: int, start: int, stop: int, k: int, dtype: pa.DataType) -> pa.Array:
    """Identifiers of rows ``start`` to ``stop`` - 1 of a copy of ``k`` rows, in no order. O(characters).

    They are a function of pattern, key and number of the row, one to one: all rows of a copy differ, and blocks of rows
    can be made anywhere. The key is no secret. Also consecutive ones are shuffled: a copy that keeps some columns has
    the rows in their real order, in which identifiers that count would be the real ones.

    Parameters
    ----------
    copy_key : int
        64 random bits, the same for all blocks of a copy.
    dtype : pyarrow.DataType
        Type of the column, and of the result.

    Raises
    ------
    OptionError
        Rows beyond k, or what ``check_space`` refuses.

    Examples
    --------
    >>> sorted(fresh(Pattern(stem="P", start=1), 42, 0, 4, 4, pa.string()).to_pylist())
    ['P1', 'P2', 'P3', 'P4']
    """
    if not 0 <= start <= stop <= k:
        raise OptionError(f"start={start}, stop={stop}: must be 0 <= start <= stop <= k={k}.")
    check_space(pattern, k, dtype)
    target = _value_type(dtype)
    order_key, *form_keys = _words(copy_key, 1 + len(pattern.forms))
    rows = np.arange(start, stop, dtype=np.uint64)
    places = rows if len(pattern.forms) == 1 else _shuffle(rows, k, order_key)
    if pattern.forms:
        array = _write_forms(pattern, form_keys, places, k, target)
    elif pa.types.is_integer(target):
        array = _integers(places + np.uint64(pattern.start), target)
    else:
        numbers = pc.utf8_lpad(pa.array(places + np.uint64(pattern.start)).cast(pa.large_string()), pattern.width, "0")
        array = pc.binary_join_element_wise(pa.scalar(pattern.stem, pa.large_string()), numbers, "")
    array = array.cast(target)
    if pa.types.is_dictionary(dtype):
        numbers = pa.array(np.arange(len(array))).cast(dtype.index_type)
        array = pa.DictionaryArray.from_arrays(numbers, array, ordered=dtype.ordered)
    return array


def _pattern_of_numbers(values: pa.Array, dtype: pa.DataType) -> Pattern | None:
    lowest, highest = pc.min_max(values).as_py().values()
    if lowest < 0:
        return None
    if len(values) >= COVERED * (highest - lowest + 1):
        return Pattern(start=_round_start(lowest))
    powers = np.array([10**i for i in range(1, 20)], np.uint64)
    widths = 1 + np.searchsorted(powers, values.to_numpy(zero_copy_only=False).astype(np.uint64), "right")
    shares = _shares(np.bincount(widths))
    limit = str(_most(dtype))
    return Pattern(tuple(_digits(width, limit) for width in shares), tuple(shares.values())) if shares else None


def _digits(width: int, limit: str) -> tuple[str, ...]:
    """Positions of whole numbers of so many digits; of the longest that fit into a type, the part that surely fits."""
    form = [DIGITS[1:]] + [DIGITS] * (width - 1)
    if width == len(limit):
        for i, digit in enumerate(limit):
            form[i] = form[i][: form[i].index(digit)]
            if form[i]:
                break
            form[i] = digit  # the lowest one possible here: the next position has to stay below the limit
    return tuple(form)


def _pattern_of_text(values: pa.Array) -> Pattern | None:
    stem, rest = _split(values)
    counts = bool(pc.all(pc.ascii_is_decimal(rest)).as_py())
    lengths = pc.binary_length(values).to_numpy()
    if lengths.max() > MAX_BYTES:
        return None
    zeros = counts and bool(pc.any(pc.and_(pc.starts_with(rest, "0"), pc.greater(pc.binary_length(rest), 1))).as_py())
    same = lengths.min() == lengths.max()
    if counts and (same or not zeros) and lengths.max() - len(stem.encode()) <= MAX_DIGITS:
        lowest, highest = pc.min_max(rest.cast(pa.int64())).as_py().values()
        if len(values) >= COVERED * (highest - lowest + 1):
            return Pattern(stem=stem, start=_round_start(lowest), width=int(pc.binary_length(rest[0]).as_py()) * zeros)
    shares = _shares(np.bincount(lengths))
    if len(shares) > (MAX_BYTES if counts and not zeros else MAX_LENGTHS):
        return None
    forms = []
    for length in shares:
        form = _form(values, lengths, length)
        # Words of a few lengths are names rather than codes.
        if form is None or (len(shares) > 1 and not any(len(c) > 1 and c[0] == "0" for c in form)):
            return None
        if counts and not zeros and form[len(stem)] == DIGITS:
            form[len(stem)] = DIGITS[1:]
        forms.append(tuple(form))
    return Pattern(tuple(forms), tuple(shares.values())) if forms else None


def _split(values: pa.Array) -> tuple[str, pa.Array]:
    """What all values begin with, up to a number, and the rest of each."""
    ends = pc.min_max(values).as_py()
    # What the first and the last in alphabetical order share, all do.
    stem = os.path.commonprefix([ends["min"], ends["max"]]).rstrip(DIGITS)
    return stem, pc.utf8_slice_codeunits(values, len(stem))


def _round_start(lowest: int) -> int:
    """Where counting starts: 1 of 1, 1001 of 1001, but 4000 of 4321, which is a real value and tells something."""
    unit = 10 ** (len(str(lowest)) - 1)
    rounded = lowest // unit * unit
    return lowest if lowest == rounded + 1 else rounded


def _shares(counts: NDArray[np.int64]) -> dict[int, int]:
    """Percentage of each length that enough values have; none if these lengths leave out too much."""
    kept = {i: int(n) for i, n in enumerate(counts) if n >= LEAST and round(100 * n / counts.sum()) >= 1}
    if sum(kept.values()) < COVERED * counts.sum():
        return {}
    return {i: round(100 * n / sum(kept.values())) for i, n in kept.items()}


def _form(values: pa.Array, lengths: NDArray[np.int64], length: int) -> list[str] | None:
    """Form of the values of one length in bytes; None if a position varies beyond letters and digits."""
    offsets = np.frombuffer(values.buffers()[1], np.int64)[values.offset : values.offset + len(values)]
    data = np.frombuffer(values.buffers()[2], np.uint8)
    offsets = offsets[lengths == length]
    seen = [np.flatnonzero(np.bincount(data[offsets + i], minlength=256)).astype(np.uint8) for i in range(length)]
    form: list[str] = []
    for constant, run in groupby(seen, lambda found: len(found) == 1):
        found = [bytes(one) for one in run]
        try:
            form += b"".join(found).decode() if constant else _classes([one.decode("ascii") for one in found], offsets)
        except (UnicodeDecodeError, StopIteration):
            return None
    return form


def _classes(run: list[str], rows: NDArray[np.int64]) -> list[str]:
    """Classes of neighbouring positions, of which those with both letters and digits have one class."""
    classes = [next(c for c in CLASSES if set(one) <= set(c)) for one in run]
    mixed = {char for one, c in zip(run, classes, strict=True) if CLASSES.index(c) > 2 for char in one}
    if not mixed:
        return classes
    common = next(c for c in CLASSES if mixed <= set(c))
    return [
        common if CLASSES.index(c) > 2 or (len(rows) < MANY and set(one) <= set(common)) else c
        for one, c in zip(run, classes, strict=True)
    ]


def _sizes(pattern: Pattern) -> list[int]:
    return [math.prod(map(len, form)) for form in pattern.forms]


def _rows_of_forms(pattern: Pattern, k: int) -> list[int]:
    """Rows of a copy that have each form: by the shares, and what finds no room in one form is in the others."""
    sizes = _sizes(pattern)
    rows, left, share_left = [0] * len(sizes), k, sum(pattern.shares)
    # The fullest first, so that what they cannot hold is known when the others get theirs.
    for i in sorted(range(len(sizes)), key=lambda i: sizes[i] / pattern.shares[i]):
        rows[i] = min(sizes[i], -(-left * pattern.shares[i] // share_left))
        left, share_left = left - rows[i], share_left - pattern.shares[i]
    return rows


def _write_forms(pattern: Pattern, keys: list[np.uint64], places: Words, k: int, target: pa.DataType) -> pa.Array:
    ends = np.cumsum(_rows_of_forms(pattern, k)).astype(np.uint64)
    form_of = np.searchsorted(ends, places, "right")
    parts, chosen = [], []
    for i, form in enumerate(pattern.forms):
        chosen.append(np.flatnonzero(form_of == i))
        written = _write(form, places[chosen[-1]] - (ends[i - 1] if i else np.uint64(0)), keys[i])
        parts.append(_read_digits(written, target) if pa.types.is_integer(target) else _text(written))
    if len(parts) == 1:
        return parts[0]
    return pa.concat_arrays(parts).take(pa.array(np.argsort(np.concatenate(chosen))))


def _write(form: tuple[str, ...], places: Words, key: np.uint64) -> NDArray[np.uint8]:
    """Identifiers by their places in a form, as bytes: ndarray of shape (len(places), n_bytes).

    The positions are the digits of a shuffled place. In forms of more than 60 bits only the first ones are, by which
    all differ already; the others are hashed.
    """
    cells = [np.frombuffer(c, np.uint8) for one in form for c in _cells(one)]
    written = np.empty((len(places), len(cells)), np.uint8)
    size, run = 1, []
    runs = []
    for i, cell in enumerate(cells):
        if size * len(cell) > WORD:
            runs.append((size, run))
            size, run = 1, []
        size, run = size * len(cell), [*run, i]
    for (size, run), word in zip([*runs, (size, run)], _words(int(key), len(runs) + 1), strict=True):
        left = _hash(places, word) % np.uint64(size) if run[0] else _shuffle(places, size, word)
        for i in run:
            rest = left // np.uint64(len(cells[i]))
            written[:, i] = cells[i][left - rest * np.uint64(len(cells[i]))]
            left = rest
    return written
