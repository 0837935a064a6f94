"""Identifiers: the pattern of a column of them, and fresh ones of that pattern.

A pattern has no real identifier in it. It keeps a character where all values of a length, at least ``LEAST``, share it;
any other position has a class of characters, and the first number of a count is rounded down. A fresh identifier can
equal a real one by chance, more often the fuller the pattern is, but the rest of its row does not depend on that. Check
digits are digits like any other: most fresh identifiers fail the check. Plans, copies and files are not known here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby, pairwise, takewhile
from string import ascii_letters, ascii_lowercase, ascii_uppercase, digits
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fastsynth.columns import IDENTIFIER_SHARE, Variable, storage_of
from fastsynth.errors import OptionError
from fastsynth.streams import hashed

# Text of so many values, and of more than this share distinct, names people; so do whole numbers of so many rows.
IDENTIFIER_LEVELS, IDENTIFIER_NUMBERS = 10, 1_000
# A position has the first of these that all its characters are in.
PURE = (digits, ascii_uppercase, ascii_lowercase)
MIXED = (*(digits + some for some in ("ABCDEF", "abcdef", *PURE[1:])), ascii_letters, digits + ascii_letters)
# Share of whole numbers that are different; how far quartiles of even ones may be from a quarter, a half, ...
DIFFERENT, EVEN = 0.99, 0.1
# Values that a length must have to be kept; share of all that those kept must have; share of the numbers from the
# first to the last that occur where they count, lower since fuller patterns would have no room for a copy.
LEAST, COVERED, DENSE = 10, 0.9, 0.75
# Text of more lengths, or longer in bytes, is no identifier; numbers of more digits are not looked at as numbers.
MAX_LENGTHS, MAX_BYTES, MAX_DIGITS = 3, 128, 18
# With fewer values than MANY a hexadecimal position can show decimal digits only, by chance. A random word fills
# PER_WORD positions: 62^10 < 2^60, and 9 * 10^9 is more than the rows of any table.
MANY, PER_WORD = 50, 10


@dataclass(frozen=True, slots=True)
class Pattern:
    """What the identifiers of a column look like; ``Pattern(**json.loads(json.dumps(asdict(pattern))))`` is the same.

    Attributes
    ----------
    forms : tuple of tuple of str
        For each length, the characters that can stand at each position; positions are bytes.
    shares : tuple of int
        Identifiers of each form, in 10,000 real ones.
    stem, start : str, int
        Without forms, identifiers count from ``start``, after this text.
    missing : int
        Rows without one, in 10,000.
    """

    forms: tuple[tuple[str, ...], ...] = ()
    shares: tuple[int, ...] = ()
    stem: str = ""
    start: int = 0
    missing: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "forms", tuple(map(tuple, self.forms)))  # JSON has lists only
        object.__setattr__(self, "shares", tuple(self.shares))


def looks_like_identifier(variable: Variable, n_rows: int) -> Literal["identifier", "text"] | None:
    """Whether a column names people: by identifiers of some pattern, or by anything else ("text"), as free text does.

    ``n_rows`` are those that have a value. "text" are also ordered categories, whose type takes no fresh ones. Whole
    numbers are identifiers where nearly all are different and they are written with the same number of digits, or lie
    evenly between the first and the last: amounts of money do neither.

    Examples
    --------
    >>> codes = pa.array([None] + [f"P{i:03}" for i in range(50)])
    >>> looks_like_identifier(Variable("id", "unordered", codes, pa.string(), 1, False, None, False, 50), n_rows=51)
    'identifier'
    """
    values = variable.values[variable.first :]
    if variable.kind == "numeric":
        many = n_rows >= IDENTIFIER_NUMBERS and variable.n_used >= DIFFERENT * n_rows
        counts = many and pa.types.is_integer(variable.dtype) and _number_people(variable.numbers()[variable.first :])
        return "identifier" if counts and find_pattern(values, variable.dtype) else None
    if variable.n_used < IDENTIFIER_LEVELS or variable.n_used <= IDENTIFIER_SHARE * n_rows:
        return None
    return "identifier" if find_pattern(values, variable.dtype) else "text"


def _number_people(numbers: NDArray[np.float64]) -> bool:
    """Whether ascending whole numbers have one number of digits, or lie evenly between the first and the last."""
    if numbers[0] < 0:
        return False
    digits_of = np.floor(np.log10(np.maximum(numbers, 1)))
    alike = np.bincount(digits_of.astype(np.int64)).max() >= DIFFERENT * len(numbers)
    quartiles = (np.quantile(numbers, (0.25, 0.5, 0.75)) - numbers[0]) / max(numbers[-1] - numbers[0], 1)
    return bool(alike or np.abs(quartiles - (0.25, 0.5, 0.75)).max() < EVEN)


def find_pattern(values: pa.Array, dtype: pa.DataType) -> Pattern | None:
    """Pattern of the distinct values of a column of type ``dtype``, or None where they have none. O(characters).

    Examples
    --------
    >>> find_pattern(pa.array([f"L-{i * i:05}" for i in range(300)]), pa.string()).forms[0][:3]
    ('L', '-', '0123456789')
    """
    plain = _plain(dtype)
    if pa.types.is_dictionary(values.type):
        values = storage_of(values.dictionary).take(values.indices)
    values = storage_of(values).drop_null()
    if len(values) < LEAST or (plain is not dtype and dtype.ordered):
        return None
    if pa.types.is_integer(plain):
        return _pattern(values.cast(pa.large_string()), str(_greatest(plain))) if pc.min(values).as_py() >= 0 else None
    return _pattern(values, "") if pa.types.is_large_string(values.type) else None


def check_space(pattern: Pattern, k: int, dtype: pa.DataType, name: str) -> None:
    """Refuse copies of more rows than the pattern has identifiers, or the column's type can number."""
    plain, forms = _plain(dtype), zip(pattern.forms, pattern.shares, strict=True)
    rooms = [math.prod(map(len, form)) * sum(pattern.shares) // share for form, share in forms]
    if not rooms:
        rooms = [(_greatest(plain) + 1 if pa.types.is_integer(plain) else 10**MAX_DIGITS) - pattern.start]
    room = min(rooms if plain is dtype else [*rooms, _greatest(dtype.index_type) + 1])
    if k > room:
        raise OptionError(
            f"Column {name!r}: k={k:,} rows need as many identifiers, but only {room:,} of type {dtype} have the "
            f"pattern of the real ones. Ask for at most k={room:,} rows, or drop the column."
        )


def fresh(pattern: Pattern, copy_key: int, start: int, stop: int, k: int, dtype: pa.DataType) -> pa.Array:
    """Identifiers of rows ``start`` to ``stop`` - 1 of a copy of ``k`` rows, all different. O(characters).

    They depend on pattern, key (64 random bits a copy), k and number of the row only, so blocks can be made anywhere.
    Identifiers that count are shuffled too: a copy that keeps columns has its rows in their real order, and ascending
    ones would be the real ones.

    Examples
    --------
    >>> sorted(fresh(Pattern(stem="P", start=1), 42, 0, 4, 4, pa.string()).to_pylist())
    ['P1', 'P2', 'P3', 'P4']
    """
    if not 0 <= start <= stop <= k:
        raise OptionError(f"start={start}, stop={stop}: must be 0 <= start <= stop <= k={k}.")
    check_space(pattern, k, dtype, "?")  # beyond it the shuffles would not end
    keys = hashed(np.arange(1 + len(pattern.forms), dtype=np.uint64), np.uint64(copy_key % 2**64))
    places = np.arange(start, stop, dtype=np.uint64)
    if len(pattern.forms) != 1:
        places = _shuffle(places, k, keys[-1])
    if pattern.forms:
        ends = [np.uint64(k * sum(pattern.shares[:i]) // sum(pattern.shares)) for i in range(1 + len(pattern.forms))]
        rows = [np.flatnonzero((places >= first) & (places < end)) for first, end in pairwise(ends)]
        parts = [_write(form, places[rows[i]] - ends[i], keys[i]) for i, form in enumerate(pattern.forms)]
        array = pa.concat_arrays(parts).take(pa.array(np.argsort(np.concatenate(rows))))
    else:
        numbers = pa.array(places + np.uint64(pattern.start)).cast(pa.string())
        array = pc.binary_join_element_wise(pattern.stem, numbers, "")
    array = array.cast(_plain(dtype))
    if pa.types.is_dictionary(dtype):
        array = pa.DictionaryArray.from_arrays(pa.array(np.arange(len(array))).cast(dtype.index_type), array)
    return array


def _plain(dtype: pa.DataType) -> pa.DataType:
    return dtype.value_type if pa.types.is_dictionary(dtype) else dtype


def _greatest(dtype: pa.DataType) -> int:
    return int(np.iinfo(dtype.to_pandas_dtype()).max)


def _pattern(texts: pa.Array, limit: str) -> Pattern | None:
    """Pattern of text, or with a limit of whole numbers up to that one."""
    ends, lengths = pc.min_max(texts).as_py(), pc.binary_length(texts).to_numpy()
    if lengths.max() > MAX_BYTES:
        return None
    # What the first and the last in alphabetical order begin with, all do; a number may follow.
    pairs = zip(ends["min"], ends["max"], strict=False)
    stem = "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)).rstrip(digits)
    rest, n_stem = pc.utf8_slice_codeunits(texts, len(stem)), len(stem.encode())
    numbers = pc.all(pc.match_substring_regex(rest, "^(0|[1-9][0-9]*)$")).as_py()
    if numbers and lengths.max() - n_stem <= MAX_DIGITS:
        first, last = pc.min_max(rest.cast(pa.int64())).as_py().values()
        if len(texts) >= DENSE * (last - first + 1):
            # 1 stays 1 and 1001 stays, but 4321 becomes 4000: it would be a real value.
            unit = 10 ** (len(str(first)) - 1)
            return Pattern(stem=stem, start=first if first % unit == 1 else first // unit * unit)
    counts = {i: int(n) for i, n in enumerate(np.bincount(lengths)) if n >= max(LEAST, len(lengths) / 200)}
    if sum(counts.values()) < COVERED * len(lengths) or (len(counts) > MAX_LENGTHS and not numbers):
        return None
    forms = []
    for length in counts:
        form = [digits] * length if limit else _form(texts, lengths == length, length)
        # Words of a few lengths are names rather than codes.
        if not all(form) or (len(counts) > 1 and not any(one[0] == "0" and len(one) > 1 for one in form)):
            return None
        if numbers and form[n_stem] == digits:
            form[n_stem] = digits[1:]
        if limit and length == len(limit):  # what surely fits: below 9 of 922..., 1 of 214..., below 18 of 184...
            form[:2] = [digits[1 : int(limit[0])] or "1", digits[: int(limit[1])] if limit[0] == "1" else digits]
        forms.append(tuple(form))
    return Pattern(tuple(forms), tuple(10_000 * n // len(lengths) for n in counts.values()))


def _form(texts: pa.Array, chosen: NDArray[np.bool_], length: int) -> list[str]:
    """Form of the values of one length; nothing at a position where more than letters and digits varies."""
    _, offsets, data = texts.buffers()
    starts = np.frombuffer(offsets, np.int64, texts.offset + len(texts))[texts.offset :][chosen]
    letters = np.frombuffer(data, np.uint8)
    seen = ["".join(map(chr, np.flatnonzero(np.bincount(letters[starts + i])))) for i in range(length)]
    form: list[str] = []
    for constant, group in groupby(seen, lambda chars: len(chars) == 1):
        run = list(group)
        # Mixed neighbours are of one class, and with few values others that it holds can look pure by chance.
        common = _class_of("".join(chars for chars in run if _class_of(chars) not in PURE))
        for chars in run:
            alone = _class_of(chars) in PURE and (len(starts) >= MANY or not set(chars) <= set(common))
            form.append(chars if constant else _class_of(chars) if alone else common)
    return form


def _class_of(chars: str) -> str:
    return next((one for one in PURE + MIXED if set(chars) <= set(one)), "")


def _write(form: tuple[str, ...], places: NDArray[np.uint64], key: np.uint64) -> pa.Array:
    """Text of some places in a form: the positions that vary are the digits of the shuffled place."""
    written = np.tile(np.frombuffer("".join(one[0] for one in form).encode("latin-1"), np.uint8), (len(places), 1))
    varying = [i for i, one in enumerate(form) if len(one) > 1]
    # The first word makes all different. Further ones, as a UUID has, need not and are hashes.
    for start in range(0, len(varying), PER_WORD):
        some = varying[start : start + PER_WORD]
        key = hashed(np.array([start], np.uint64), key)[0]
        left = hashed(places, key) if start else _shuffle(places, math.prod(len(form[i]) for i in some), key)
        for i in some:
            left, digit = np.divmod(left, np.uint64(len(form[i])))
            written[:, i] = np.frombuffer(form[i].encode(), np.uint8)[digit]
    offsets = np.arange(len(places) + 1) * len(form)
    return pa.Array.from_buffers(pa.large_string(), len(places), [None, pa.py_buffer(offsets), pa.py_buffer(written)])


def _shuffle(places: NDArray[np.uint64], size: int, key: np.uint64) -> NDArray[np.uint64]:
    """A permutation of range(size) at some places: on as many bits, repeated while the result is not within."""
    bits = max((size - 1).bit_length(), 1)
    mask, half = np.uint64(2**bits - 1), np.uint64((bits + 1) // 2)
    words = hashed(np.arange(8, dtype=np.uint64), key).reshape(4, 2)
    shuffled, outside = places.copy(), np.arange(len(places))
    while len(outside):
        z = shuffled[outside]
        for factor, word in words:
            z = (z * (factor | np.uint64(1)) + word) & mask
            z = z ^ (z >> half)
        shuffled[outside] = z
        outside = outside[z >= np.uint64(size)]
    return shuffled
