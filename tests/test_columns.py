"""Reading, coding and giving back tables."""

from __future__ import annotations

import itertools
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from polars.testing import assert_frame_equal
from polars.testing.parametric import dataframes

from fastsynth import columns
from fastsynth.columns import Tally
from fastsynth.errors import DataError
from fastsynth.source import read_table


def round_trip(data):
    table, frame = read_table(data)
    encoded = columns.encode(table, frame)
    arrays = [v.decode(r) for v, r in zip(encoded.variables, encoded.ranks)]
    return frame.native(pa.Table.from_arrays(arrays, schema=frame.schema)), encoded


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    dataframes(
        min_size=2,
        max_size=30,
        min_cols=2,
        max_cols=4,
        allow_infinity=False,
        allow_null=True,
        excluded_dtypes=[pl.List, pl.Array, pl.Struct, pl.Binary, pl.Object, pl.Int128, pl.UInt128, pl.Float16],
    )
)
def test_codes_give_every_table_back(frame):
    back, encoded = round_trip(frame)
    assert back.schema == frame.schema
    assert_frame_equal(back, frame)
    for variable, ranks in zip(encoded.variables, encoded.ranks):
        if variable.kind == "numeric":
            numbers = variable.numbers()[variable.first :]
            assert (np.diff(numbers) >= 0).all()
        assert ranks.max() < len(variable.values)


def test_every_kind_of_table_comes_back(every_type, kind):
    name, make = kind
    given_table = make(every_type)
    back, _ = round_trip(given_table)
    assert type(back) is type(given_table)
    if name == "pandas":
        pd.testing.assert_frame_equal(back, given_table)
    elif name == "pyarrow":
        assert back.schema.equals(given_table.schema, check_metadata=True)
        assert_frame_equal(pl.DataFrame(back), every_type)
    else:
        assert_frame_equal(back, given_table)


def test_pandas_dtypes_come_back():
    frame = pd.DataFrame(
        {
            "object": pd.Series(["a", None, "b"], dtype=object),
            "mixed_bool": pd.Series([True, None, False], dtype=object),
            "ordered": pd.Categorical(["lo", "hi", None], categories=["lo", "mid", "hi"], ordered=True),
            "numbers_as_categories": pd.Categorical([3, 1, 3]),
            "boolean": pd.array([True, None, False], dtype="boolean"),
            "nullable": pd.array([1, None, 3], dtype="UInt8"),
            "arrow": pd.array([1, None, 3], dtype="int16[pyarrow]"),
            "float": [1.5, np.nan, 2.5],
            "zone": pd.to_datetime(["2020-01-01", None, "2020-06-01"]).tz_localize("Europe/Amsterdam"),
        }
    )
    frame.index = [7, 8, 9]
    back, _ = round_trip(frame)
    pd.testing.assert_frame_equal(back, frame.reset_index(drop=True))


class OnlyArrow:
    """An object that speaks nothing but the Arrow stream protocol."""

    def __init__(self, table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize("source", ["to_arrow", "polars"])
def test_anything_with_an_arrow_stream_is_read(every_type, source):
    """Also polars' own stream, whose text is string_view."""
    table = every_type.to_arrow() if source == "to_arrow" else every_type
    back, _ = round_trip(OnlyArrow(table))
    assert back.schema.equals(pa.table(table).schema)
    assert_frame_equal(pl.DataFrame(back), every_type)


@pytest.mark.parametrize(
    "array",
    [
        pa.array(["b", None, "a"], pa.string_view()),
        pa.array(["b", None, "a"], pa.string_view()).dictionary_encode(),
        pa.array([Decimal("1.25"), None, Decimal("2.50")], pa.decimal32(5, 2)),
        pa.array([Decimal("1.25"), None, Decimal("2.50")], pa.decimal64(12, 2)),
        pa.array([Decimal("1.25"), None, Decimal("2.50")], pa.decimal256(40, 2)),
        pa.array([1.5, None, 2.5], pa.float16()),
        pa.array([86_400_000, None, 0], pa.int64()).cast(pa.date64()),
        pa.array([1, None, 2], pa.int32()).cast(pa.time32("ms")),
    ],
    ids=lambda array: str(array.type),
)
def test_rare_arrow_types_come_back(array):
    table = pa.table({"a": array, "x": [1, 2, 3]})
    back, _ = round_trip(table)
    assert back.schema.equals(table.schema)
    assert back.to_pydict() == table.to_pydict()


def test_every_nan_is_one_missing_value():
    odd_nan = np.array([0x7FF8000000000001], np.uint64).view(np.float64)[0]
    _, encoded = round_trip(pl.DataFrame({"x": pl.Series([np.nan, odd_nan, 1.0, None]), "y": [1, 2, 3, 4]}))
    assert encoded.variables[0].first == 2
    assert encoded.codes[0].tolist() == [0, 0, 1, 0]


def test_unordered_categories_are_sorted_whatever_their_dictionary():
    """So that the same values give the same trees as text and as any kind of category."""
    codes = [
        round_trip(pl.DataFrame({"x": pl.Series(["b", "c", "a"]).cast(dtype), "y": [1, 2, 3]}))[1].codes[0].tolist()
        for dtype in (pl.String, pl.Categorical)
    ]
    assert codes == [[2, 3, 1], [2, 3, 1]]


def test_names_of_categories_that_left_the_table_go_no_further():
    dictionary = pa.DictionaryArray.from_arrays([0, 2, 0], ["a", "gone", "b"])
    back, _ = round_trip(pa.table({"d": dictionary, "x": [1, 2, 3]}))
    assert back["d"].to_pylist() == ["a", "b", "a"]
    assert "gone" not in back["d"].chunk(0).dictionary.to_pylist()


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_files_are_read(tmp_path, mixed, suffix):
    path = tmp_path / f"people.{suffix}"
    frame = mixed.with_columns(pl.col("region").cast(pl.String))
    getattr(frame, f"write_{suffix}")(path)
    for given_path in (path, str(path)):
        assert_frame_equal(round_trip(given_path)[0], frame)


def test_ranks_follow_values_and_missing_comes_first():
    _, encoded = round_trip(pl.DataFrame({"x": [2.5, None, float("nan"), -1.0], "y": ["b", "a", None, "b"]}))
    x, y = encoded.variables
    assert encoded.ranks[0].tolist() == [3, 0, 1, 2]
    assert encoded.codes[0].tolist() == [2, 0, 0, 1]
    assert (x.first, x.has_missing, x.kind, x.n_used) == (2, True, "numeric", 2)
    assert encoded.ranks[1].tolist() == [2, 1, 0, 2]
    assert (y.first, y.kind) == (1, "unordered")


def test_ordered_categories_keep_their_order_and_unused_ones_their_place():
    enum = pl.Series("e", ["c", "a", "c"], dtype=pl.Enum(["c", "b", "a"]))
    _, encoded = round_trip(pl.DataFrame({"e": enum, "x": [1, 2, 3]}))
    assert encoded.variables[0].kind == "ordered"
    assert encoded.ranks[0].tolist() == [1, 3, 1]


def test_dictionaries_of_chunks_are_unified():
    chunks = [pa.array(["b", "a"]).dictionary_encode(), pa.array(["c", "b"]).dictionary_encode()]
    table = pa.table({"d": pa.chunked_array(chunks), "x": [1, 2, 3, 4]})
    back, encoded = round_trip(table)
    assert back["d"].to_pylist() == ["b", "a", "c", "b"]
    assert encoded.ranks[0][0] == encoded.ranks[0][3]


def test_chunks_do_not_matter(every_type):
    table = every_type.to_arrow()
    whole, _ = read_table(table)
    cut = pa.concat_tables([table.slice(0, 13), table.slice(13)])
    a = columns.encode(*read_table(cut))
    b = columns.encode(whole, read_table(table)[1])
    np.testing.assert_array_equal(a.codes, b.codes)


def test_many_distinct_values_are_binned_in_order():
    n = 200_000
    rng = np.random.default_rng(3)
    x = np.exp(rng.normal(size=n) * 2)
    x[:10] = np.nan
    _, encoded = round_trip(pl.DataFrame({"x": pl.Series(x), "y": rng.integers(0, 3, n)}))
    variable, codes = encoded.variables[0], encoded.codes[0]
    assert variable.bins is not None
    assert encoded.ranks[0].dtype == np.uint32
    order = np.argsort(x[10:])
    assert (np.diff(codes[10:][order].astype(int)) >= 0).all()
    assert (codes[:10] == 0).all()
    assert variable.n_codes <= columns.MAX_CODES
    sizes = np.bincount(codes[10:])
    assert sizes.max() <= 12  # 200,000 values in 65,534 bins
    assert (sizes[variable.bins[-20:]] == 1).all()  # the tail keeps a bin for each value
    # Bins of lognormal data must not widen the spread within them: METHODS 7.4 has .05 for 256 quantile bins.
    centred = x[10:] - (np.bincount(codes[10:], x[10:]) / np.maximum(sizes, 1))[codes[10:]]
    assert centred.var() < 1e-4 * x[10:].var()


def test_both_ways_to_rank_floats_agree():
    rng = np.random.default_rng(4)
    for share in (0.0, 0.1):
        values = np.append(rng.normal(size=500).round(1), [-0.0, 0.0])
        values[rng.random(502) < share] = np.nan
        storage = pa.array(values, mask=rng.random(502) < share)
        sorted_values, a = columns._rank_floats(storage)
        collected_values, b = columns._rank_by_dictionary(storage, has_nan=share > 0)
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(sorted_values.to_numpy(), collected_values.to_numpy())


def test_computed_values_take_the_nearest_code():
    _, encoded = round_trip(pl.DataFrame({"x": [1.0, 2.0, 10.0, None], "s": ["a", "b", "a", None]}))
    x, s = encoded.variables
    assert x.nearest_codes(pa.array([-5.0, 1.4, 1.6, 7.0, 99.0, None])).tolist() == [1, 1, 2, 3, 3, 0]
    assert s.nearest_codes(pa.array(["b", "zzz", None])).tolist() == [2, columns.UNSEEN, 0]


def test_the_callers_table_is_not_changed(every_type):
    before = every_type.clone()
    round_trip(every_type)
    assert_frame_equal(every_type, before)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pl.DataFrame({"a": [], "b": []}), "0 row"),
        (pl.DataFrame({"a": [1], "b": [2]}), "1 row"),
        (pl.DataFrame({"a": [1, 2]}), "1 column"),
        (pa.Table.from_arrays([pa.array([1, 2]), pa.array([3, 4])], names=["a", "a"]), "more than once: 'a'"),
        (pd.DataFrame([[1, 2], [3, 4]], columns=["b", "b"]), "more than once: 'b'"),
        (pl.DataFrame({"a": [[1], [2]], "b": [1, 2]}), "Column 'a' has type"),
        (pl.DataFrame({"s": [{"x": 1}, {"x": 2}], "b": [1, 2]}), "Column 's' has type"),
        (pl.DataFrame({"a": [b"x", b"y"], "b": [1, 2]}), "Column 'a' has type"),
        (pl.DataFrame({"a": [1.0, float("inf")], "b": [1, 2]}), "Column 'a' has 1 infinite"),
        (pl.DataFrame({"a": pl.Series([1, 2], dtype=pl.Int128), "b": [1, 2]}), "'a'"),
        (pd.DataFrame({"a": [1, "x"], "b": [1, 2]}), "'a'"),
        (pd.DataFrame({"a": [1, 2**70], "b": [1, 2]}), "'a'"),
        (pd.DataFrame({0: [1, 2], 1: [1, 2]}), "0, 1 are no text"),
        (pa.table({"a": pa.array([b"x", b"y"]).dictionary_encode(), "b": [1, 2]}), "Column 'a' has type"),
        (pl.scan_parquet("nowhere.parquet"), "Cannot convert the LazyFrame"),
        (pl.DataFrame({"": [1, 2], "b": [1, 2]}), "'' are no text"),
        (pl.Series("a", [1, 2]), "Pass a table"),
        (pd.DataFrame({"a": pd.cut(pd.Series([1, 2]), 2), "b": [1, 2]}), "Column 'a' has type"),
        ({"a": [1, 2]}, "Cannot read a dict"),
        ([[1, 2]], "Cannot read a list"),
        (np.zeros((3, 3)), "Cannot read a ndarray"),
        (None, "Cannot read a NoneType"),
        ("nowhere.parquet", "No file 'nowhere.parquet'"),
    ],
)
def test_bad_tables_are_refused(data, message):
    with pytest.raises(DataError, match=message):
        columns.encode(*read_table(data))


def test_errors_do_not_quote_values():
    frame = pd.DataFrame({"a": [1, "secret-name"], "b": [1, 2]})
    with pytest.raises(DataError) as caught:
        read_table(frame)
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(("name", "content"), [("x.parquet", b"PAR1 no"), ("x.csv", b""), ("x.xlsx", b"?")])
def test_bad_files_are_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\."):
        read_table(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a;b\n1;2\n3;4\n", "not separated by commas"),
        ("a,a,b\n1,2,3\n4,5,6\n", "'a_duplicated_0' more than once"),
        ("a,b\n1,x\nNA,y\n", "'a' is text only for its 1 'NA'"),
    ],
)
def test_csv_that_was_not_meant_so_is_refused(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "a.csv")


def test_too_many_categories_are_refused():
    n = 140_000
    frame = pl.DataFrame({"id": (pl.Series(range(n)) // 2).cast(pl.String), "x": range(n)})
    with pytest.raises(DataError, match="70,000 categories"):
        columns.encode(*read_table(frame))


def test_an_empty_piece_hides_no_categories():
    """It begins where the next piece begins."""
    dtype = pa.dictionary(pa.int32(), pa.string())
    pieces = [(0, ["a", "b"]), (2, []), (2, ["c", "d"])]
    for order in itertools.permutations(pieces):
        tally = Tally("x", dtype)
        for start, values in order:
            piece = Tally("x", dtype)
            piece.add(pa.chunked_array([pa.array(values, pa.string()).dictionary_encode()]), start)
            tally.merge(piece)
        variable, rows = tally.variable(keep_unused=False)
        assert variable.decode(np.arange(5)).to_pylist() == [None, "a", "b", "c", "d"]
        assert rows.tolist() == [0, 1, 1, 1, 1]


def test_too_many_categories_for_the_index_are_refused():
    chunks = [pa.array([f"{c}{i}" for i in range(100)]).dictionary_encode() for c in "ab"]
    column = pa.chunked_array([chunk.cast(pa.dictionary(pa.int8(), pa.string())) for chunk in chunks])
    with pytest.raises(DataError, match="index type"):
        columns.encode(*read_table(pa.table({"x": column, "y": range(200)})))
