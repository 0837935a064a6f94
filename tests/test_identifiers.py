"""What identifiers look like, and fresh ones that look the same."""

from __future__ import annotations

import json
import string
import time
import uuid
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsynth.columns import encode
from fastsynth.errors import OptionError
from fastsynth.identifiers import LEAST, Pattern, check_space, find_pattern, fresh, looks_like_identifier
from fastsynth.source import read_table

D, U, L = string.digits, string.ascii_uppercase, string.ascii_lowercase
HEX, HEX_UPPER = D + "abcdef", D + "ABCDEF"
ONE = (10_000,)
KEY = 0x9E37_79B9_7F4A_7C15


def draws(*positions, n=500, seed=0):
    """Distinct texts of which each position is one of some characters."""
    rng = np.random.default_rng(seed)
    return sorted({"".join(rng.choice(list(chars)) for chars in positions) for _ in range(n)})


def uuids(n, seed=0):
    rng = np.random.default_rng(seed)
    return [str(uuid.UUID(bytes=rng.bytes(16), version=4)) for _ in range(n)]


def spread(n, low, high, seed=0):
    return np.unique(np.random.default_rng(seed).integers(low, high, n, np.uint64)).tolist()


UUID_FORM = (*[HEX] * 8, "-", *[HEX] * 4, "-", "4", *[HEX] * 3, "-", *[HEX] * 4, "-", *[HEX] * 12)
TEXTS = {
    "uuid": (uuids(500), Pattern((UUID_FORM,), ONE)),
    "few uuids": (uuids(15), Pattern((UUID_FORM,), ONE)),
    "upper hex": (draws(*[HEX_UPPER] * 8), Pattern(((HEX_UPPER,) * 8,), ONE)),
    "insurance": (draws(U, U, *[D] * 6, U), Pattern(((U, U, *[D] * 6, U),), ONE)),
    "few letters": (draws("AB", "CE", *[D] * 6), Pattern(((U, U, *[D] * 6),), ONE)),
    "prefix": (draws("N", "L", "-", *[D] * 8), Pattern((("N", "L", "-", *[D] * 8),), ONE)),
    "year": ([f"2023/{i * 7:05}" for i in range(900)], Pattern(((*"2023/0", *[D] * 4),), ONE)),
    "lower": (draws(*[L] * 7), Pattern(((L,) * 7,), ONE)),
    "token": (draws(*[D + L + U] * 22), Pattern(((D + L + U,) * 22,), ONE)),
    "letters": (draws(*[L + U] * 6), Pattern(((L + U,) * 6,), ONE)),
    "plate": (draws(*[U] * 2, "-", *[D + U] * 3, "-", D), Pattern(((U, U, "-", *[D + U] * 3, "-", D),), ONE)),
    "spaces": (draws(*[D] * 3, " ", *[D] * 3), Pattern(((*[D] * 3, " ", *[D] * 3),), ONE)),
    "beyond ASCII": (draws(*"№é", *[D] * 6), Pattern(((*"№é".encode().decode("latin-1"), *[D] * 6),), ONE)),
    "no leading zero": ([str(i) for i in spread(500, 10**8, 10**9)], Pattern(((D[1:], *[D] * 8),), ONE)),
    "count": ([f"P{i}" for i in range(1, 10_000)], Pattern(stem="P", start=1)),
    "gaps": ([f"P{i}" for i in range(1, 10_000) if i % 20], Pattern(stem="P", start=1)),
    "from 1001": ([f"é-{i}" for i in range(1001, 3000)], Pattern(stem="é-", start=1001)),
    "from 4321": ([f"2-{i}" for i in range(4321, 6000)], Pattern(stem="2-", start=4000)),
    "zero": ([str(i) for i in range(500)], Pattern(start=0)),
    "some numbers": (
        [f"P{i}" for i in [*range(1, 100, 2), *range(101, 1000, 5), *range(1000, 9999, 11)]],
        Pattern((("P", D[1:], D), ("P", D[1:], D, D), ("P", D[1:], D, D, D)), (428, 1715, 7807)),
    ),
    "two lengths": (
        draws("A", *[D] * 6, n=300) + draws("B", *[D] * 7, U, n=100),
        Pattern((("A", *[D] * 6), ("B", *[D] * 7, U)), (7500, 2500)),
    ),
    "an odd one out": (["test", *draws(U, *[D] * 6)], Pattern(((U, *[D] * 6),), (9980,))),
}


@pytest.mark.parametrize(("values", "pattern"), TEXTS.values(), ids=TEXTS)
def test_text_has_a_pattern(values, pattern):
    assert find_pattern(pa.array(values), pa.string()) == pattern


WORDS = ["a", "be", "see", "three", "small", "little", "strange", "horrible", "different", "unimportant"]
FREE = {
    "sentences": [f"{a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS],
    "names": [w.title() + end for w in WORDS for end in ("", "son", "man", "sen")],
    "names of few lengths": draws(U, L, L, L) + draws(U, L, L, L, L),
    "spaces move": draws(*[L + " "] * 8),
    "hyphens move": draws(*[D + "-"] * 8),
    "not ASCII": draws(*"éèüö", *["éèüöñß"] * 5, n=300),
    "same first byte": draws("éè", *[D] * 6),
    "long": draws(*[HEX] * 129, n=50),
    "no lengths enough": [D[:i] for i in range(11)] * 2,
    "few": uuids(LEAST - 1),
    "some without": ["", *draws(*[D] * 4, n=8)],
}


@pytest.mark.parametrize("values", FREE.values(), ids=FREE)
def test_free_text_has_none(values):
    assert find_pattern(pa.array(values), pa.string()) is None


NUMBERS = {
    "count": (range(1, 2001), pa.int64(), Pattern(start=1)),
    "register": (range(512_345, 515_000), pa.int32(), Pattern(start=500_000)),
    "width": (spread(900, 10**6, 10**7), pa.int64(), Pattern(((D[1:], *[D] * 6),), ONE)),
    "no constants": (range(2023_0000, 2023_9999, 3), pa.int64(), Pattern(((D[1:], *[D] * 7),), ONE)),
    "int8": (range(100, 128, 2), pa.int8(), Pattern((("1", "01", D),), ONE)),
    "uint16": (range(10_000, 65_000, 3), pa.uint16(), Pattern((("12345", D, D, D, D),), ONE)),
    "int32": (spread(900, 10**9, 2**31), pa.int32(), Pattern((("1", *[D] * 9),), ONE)),
    "int64": (spread(900, 10**18, 2**63), pa.int64(), Pattern((("12345678", *[D] * 18),), ONE)),
    "uint64": (spread(900, 10**19, 2**64 - 1), pa.uint64(), Pattern((("1", "01234567", *[D] * 18),), ONE)),
    "negative": (range(-5, 500), pa.int64(), None),
    "few": (range(LEAST - 1), pa.int64(), None),
}


@pytest.mark.parametrize(("values", "dtype", "pattern"), NUMBERS.values(), ids=NUMBERS)
def test_whole_numbers_have_a_width_or_count(values, dtype, pattern):
    found = find_pattern(pa.array(values, dtype), dtype)
    assert found == pattern
    if found is not None:
        array = fresh(found, KEY, 0, 15, 15, dtype)
        assert array.type == dtype
        assert len(set(array.to_pylist())) == 15
        widths = {len(str(v)) for v in values}
        assert not found.forms or {len(str(v)) for v in array.to_pylist()} == widths


@pytest.mark.parametrize("dtype", [pa.float64(), pa.bool_(), pa.date32(), pa.decimal128(12, 2)])
def test_other_types_have_none(dtype):
    assert find_pattern(pa.array([0, 1] * 10).cast(pa.int32()).cast(dtype), dtype) is None


def test_a_pattern_goes_through_json_and_holds_no_value():
    for values, pattern in TEXTS.values():
        written = json.dumps(asdict(pattern))
        assert Pattern(**json.loads(written)) == pattern
        assert hash(Pattern(**json.loads(written))) == hash(pattern)
        assert not any(f'"{value}"' in written for value in values)


def test_what_few_share_is_not_kept():
    many, few = draws("A", *[D] * 6), [f"SECRETS{i}" for i in range(LEAST - 1)]
    assert find_pattern(pa.array(many + few), pa.string()).forms == (("A", *[D] * 6),)


def in_form(value, pattern):
    raw = value.encode().decode("latin-1")
    return any(len(raw) == len(form) and all(c in one for c, one in zip(raw, form)) for form in pattern.forms)


PURE_RUNS = st.lists(st.sampled_from([D, U, L]), min_size=1, max_size=8)
MIXED_RUNS = st.tuples(st.sampled_from([HEX, HEX_UPPER, D + U, D + L, U + L, D + L + U]), PURE_RUNS).map(
    lambda both: [both[0], *both[1], both[0]]
)
CONSTANTS = st.text("-_/. NLé€", min_size=1, max_size=3).map(lambda text: list(text.encode().decode("latin-1")))
FORMS = st.lists(st.tuples(CONSTANTS, PURE_RUNS | MIXED_RUNS), min_size=1, max_size=4).map(
    lambda runs: tuple(one for constants, run in runs for one in [*constants, *run])
)


def normal(form):
    """Letters and digits in the order of their class, by which equal ones compare equal."""
    return ["".join(sorted(one)) for one in form]


@settings(max_examples=40, deadline=None)
@given(FORMS, st.integers(0, 2**64 - 1))
def test_fresh_ones_have_the_pattern_all_differ_and_blocks_fit(form, key):
    pattern, n = Pattern((form,), ONE), 300
    if np.prod([float(len(one)) for one in form]) < 10 * n:
        return
    array = fresh(pattern, key, 0, n, n, pa.string())
    assert len(set(array.to_pylist())) == n
    assert all(in_form(value, pattern) for value in array.to_pylist())
    again = find_pattern(array, pa.string())
    assert [normal(one) for one in again.forms] == [normal(form)]
    assert (
        array.to_pylist()
        == pa.concat_arrays([fresh(pattern, key, a, a + 100, n, pa.string()) for a in (0, 100, 200)]).to_pylist()
    )
    assert set(array.to_pylist()) != set(fresh(pattern, key ^ 1, 0, n, n, pa.string()).to_pylist())


@pytest.mark.parametrize("name", TEXTS)
def test_fresh_ones_of_found_patterns(name):
    pattern, n = TEXTS[name][1], 1200
    whole = fresh(pattern, KEY, 0, n, n, pa.string())
    blocks = [fresh(pattern, KEY, a, b, n, pa.string()) for a, b in ((0, 1), (1, 700), (700, 700), (700, n))]
    assert whole.equals(pa.concat_arrays(blocks))
    assert len(set(whole.to_pylist())) == n
    if pattern.forms:
        assert all(in_form(value, pattern) for value in whole.to_pylist())
        assert set(whole.to_pylist()) != set(fresh(pattern, KEY + 1, 0, n, n, pa.string()).to_pylist())
        lengths = np.bincount([len(v.encode()) for v in whole.to_pylist()])
        wanted = [n * share / sum(pattern.shares) for share in pattern.shares]
        np.testing.assert_allclose([lengths[len(form)] for form in pattern.forms], wanted, atol=1)
    else:
        numbers = [int(value.removeprefix(pattern.stem)) for value in whole.to_pylist()]
        assert sorted(numbers) == list(range(pattern.start, pattern.start + n))
        assert whole.to_pylist() != fresh(pattern, KEY + 1, 0, n, n, pa.string()).to_pylist()


def test_fresh_ones_of_wide_patterns_are_hardly_ever_real():
    values = set(uuids(500))
    assert not values & set(fresh(Pattern((UUID_FORM,), ONE), KEY, 0, 10_000, 10_000, pa.string()).to_pylist())


@pytest.mark.parametrize("size", [1, 2, 3, 10, 64, 100, 1000])
def test_a_full_pattern_is_used_up(size):
    chars = [chr(33 + i) for i in range(10)]
    form = {1: ("0",), 2: ("01",), 3: ("012",), 10: (D,), 64: ("01234567", "abcdefgh"), 100: (D, D), 1000: (D, D, D)}
    pattern = Pattern((("x", *form[size], chars[0]),), ONE)
    for key in range(20):
        assert len(set(fresh(pattern, key, 0, size, size, pa.string()).to_pylist())) == size


def test_order_and_characters_look_random():
    n = 20_000
    for key in range(5):
        digits = fresh(Pattern(((D,) * 7,), ONE), key, 0, n, n, pa.string())
        table = np.array([list(value) for value in digits.to_pylist()]).astype(int)
        counts = np.array([np.bincount(column, minlength=10) for column in table.T])
        assert (abs(counts - n / 10) < 6 * np.sqrt(0.09 * n)).all()
        numbers = table @ 10 ** np.arange(7)
        for other in (np.arange(n - 1), numbers[:-1]):
            assert abs(np.corrcoef(numbers[1:], other)[0, 1]) < 6 / np.sqrt(n)
        order = fresh(Pattern(start=1), key, 0, n, n, pa.int64()).to_numpy()
        for other in (np.arange(n - 1), order[:-1]):
            assert abs(np.corrcoef(order[1:], other)[0, 1]) < 6 / np.sqrt(n)
        assert (order == np.arange(1, n + 1)).sum() < 10


def test_keys_give_unrelated_identifiers():
    pattern, n = Pattern(((D,) * 8,), ONE), 5_000
    some = [fresh(pattern, key, 0, n, n, pa.int64()).to_numpy() for key in (1, 2, 3, KEY, 2 * KEY)]
    for i, one in enumerate(some):
        for other in some[:i]:
            assert len(np.intersect1d(one, other)) < 12
            assert abs(np.corrcoef(one, other)[0, 1]) < 6 / np.sqrt(n)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.7, 0.74, 0.78, 0.95])
@pytest.mark.parametrize("top", [1800, 9999, 20_000, 2**15])
def test_a_copy_of_as_many_rows_has_room(top, share):
    values = np.flatnonzero(np.random.default_rng(top).random(top) < share).astype(np.int16)
    pattern = find_pattern(pa.array(values), pa.int16())
    check_space(pattern, len(values), pa.int16(), "id")
    assert bool(pattern.forms) == (share < 0.75)


def test_a_form_without_room_is_refused():
    narrow, wide = ("A", D, D), ("B", *[D] * 5)
    pattern = Pattern((narrow, wide), (500, 9500))
    assert len(set(fresh(pattern, KEY, 0, 2000, 2000, pa.string()).to_pylist())) == 2000
    with pytest.raises(OptionError, match=r"only 2,000 of"):
        check_space(pattern, 2001, pa.string(), "id")


@pytest.mark.parametrize(
    ("pattern", "dtype", "room"),
    [
        (Pattern((("N", D, D),), ONE), pa.string(), 100),
        (Pattern((("1", "01", D),), ONE), pa.int8(), 20),
        (Pattern(start=1), pa.int8(), 127),
        (Pattern(start=1), pa.uint64(), 2**64 - 1),
        (Pattern(stem="P", start=1), pa.string(), 10**18 - 1),
        (Pattern((UUID_FORM,), ONE), pa.string(), 16**31),
        (Pattern((UUID_FORM,), ONE), pa.dictionary(pa.int16(), pa.string()), 2**15),
    ],
)
def test_too_small_a_space_is_refused_at_the_door(pattern, dtype, room):
    check_space(pattern, room, dtype, "id")
    with pytest.raises(OptionError, match=rf"^Column 'id': k={room + 1:,} rows .* only {room:,} of .* drop the column"):
        check_space(pattern, room + 1, dtype, "id")
    with pytest.raises(OptionError):
        fresh(pattern, KEY, 0, 1, room + 1, dtype)


def test_consecutive_numbers_reach_the_end_of_their_type():
    assert sorted(fresh(Pattern(start=1), KEY, 0, 127, 127, pa.int8()).to_pylist()) == list(range(1, 128))


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 4), (0, 11)])
def test_rows_beyond_the_copy_are_refused(start, stop):
    with pytest.raises(OptionError, match="start="):
        fresh(Pattern(start=1), KEY, start, stop, 10, pa.int64())


DTYPES = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int16(), pa.large_string())]


@pytest.mark.parametrize("dtype", [*DTYPES, pa.dictionary(pa.uint32(), pa.string())], ids=str)
def test_text_types_come_back(dtype):
    texts = [*draws("N", *[D] * 6), None]
    values = (
        pa.array(texts).dictionary_encode().cast(dtype) if pa.types.is_dictionary(dtype) else pa.array(texts, dtype)
    )
    pattern = find_pattern(values, dtype)
    assert pattern == find_pattern(values[7:-1], dtype) == Pattern((("N", *[D] * 6),), ONE)
    array = fresh(pattern, KEY, 10, 60, 90, dtype)
    array.validate(full=True)
    assert array.type == dtype
    assert array.to_pylist() == fresh(pattern, KEY, 10, 60, 90, pa.string()).to_pylist()
    assert fresh(pattern, KEY, 5, 5, 90, dtype).to_pylist() == []
    assert fresh(Pattern(stem="P", start=1), KEY, 0, 1, 1, dtype).to_pylist() == ["P1"]


INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integer_types_come_back(dtype):
    pattern = find_pattern(pa.array(range(10, 100, 3), dtype), dtype)
    assert pattern == Pattern(((D[1:], D),), ONE)
    array = fresh(pattern, KEY, 0, 90, 90, dtype)
    assert array.type == dtype
    assert sorted(array.to_pylist()) == list(range(10, 100))
    coded = pa.dictionary(pa.int8(), dtype)
    assert fresh(pattern, KEY, 0, 90, 90, coded).to_pylist() == array.to_pylist()


def test_ordered_categories_take_no_fresh_ones():
    dtype = pa.dictionary(pa.int32(), pa.string(), ordered=True)
    values = pa.DictionaryArray.from_arrays(pa.array(range(50), pa.int32()), pa.array(uuids(50)), ordered=True)
    assert find_pattern(values, dtype) is None


def variable(values, dtype=None):
    table, frame = read_table(pa.table({"x": pa.array(values, dtype), "y": range(len(values))}))
    return encode(table, frame).variables[0]


@pytest.mark.parametrize(
    ("values", "looks"),
    [
        (uuids(50), "identifier"),
        ([f"P{i}" for i in range(50)], "identifier"),
        (FREE["sentences"], "text"),
        (uuids(46) + [None] * 4, "identifier"),
        (uuids(45) + [None] * 5, None),
        (uuids(9), None),
        (["a", "b"] * 20, None),
        (range(1000), "identifier"),
        (range(999), None),
        ([*range(999), 5], "identifier"),
        ([*range(950), *range(50)], None),
        (range(-1, 999), None),
        (np.rint(np.exp(18 + 2 * np.random.default_rng(1).normal(size=2_000))).astype(int), None),
        (np.arange(1000) / 3, None),
        (pa.array(uuids(50)).dictionary_encode(), "identifier"),
    ],
)
def test_looks_like_identifier(values, looks):
    assert looks_like_identifier(variable(values), len(values)) == looks


def test_a_million_are_fast():
    n = 1_000_000
    start = time.process_time()
    array = fresh(Pattern((UUID_FORM,), ONE), KEY, 0, n, n, pa.string())
    assert time.process_time() - start < 2
    start = time.process_time()
    assert find_pattern(array[:300_000], pa.string()).forms == (UUID_FORM,)
    assert time.process_time() - start < 2
