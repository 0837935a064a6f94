"""The original and its copies side by side."""

from __future__ import annotations

import polars as pl
import pyarrow as pa
import pytest

import fastsynth as fs
from fastsynth.compared import open_compared
from fastsynth.errors import DataError, OptionError


@pytest.fixture(scope="module")
def boys():
    return fs.load_boys()


@pytest.fixture(scope="module")
def syn(boys):
    return fs.synthesize(boys, m=2, random_state=1, columns={"reg": fs.Column(method="keep")})


def test_a_synthesis_says_how_its_copies_were_made(boys, syn):
    both = open_compared(boys, syn)
    assert (both.n, both.k, both.m) == (748, 748, 2)
    assert both.names == boys.columns
    assert both.design == syn.design
    assert both.kept == {"reg"}
    text = pl.selectors.categorical() | pl.selectors.enum()
    assert both.frame(0).with_columns(text.cast(pl.String)).equals(boys.with_columns(text.cast(pl.String)))


def test_copies_in_memory_and_in_files_are_read_alike(boys, syn, tmp_path):
    syn.write_parquet(tmp_path / "copies")
    in_memory, on_disk = open_compared(boys, syn), open_compared(boys, tmp_path / "copies")
    assert on_disk.kept == {"reg"}
    text = pl.selectors.categorical() | pl.selectors.enum()
    for side in range(3):
        a, b = (of.frame(side).with_columns(text.cast(pl.String)) for of in (in_memory, on_disk))
        assert a.equals(b)


def test_columns_that_are_not_compared_are_named(boys, syn):
    left = open_compared(boys, [copy.drop("tv") for copy in syn]).left_out
    assert left == {"tv": "not in the copies"}
    with_id = boys.with_columns(id=pl.int_range(pl.len()).cast(pl.String) + "-x")
    with pytest.warns(fs.errors.DataWarning):
        copies = fs.synthesize(with_id, m=1, random_state=1)
    assert open_compared(with_id, copies).left_out == {"id": "identifiers are made anew"}
    assert open_compared(boys, syn, columns=["age", "tv"]).names == ["age", "tv"]


def test_copies_of_other_systems_may_have_other_types():
    real = pl.DataFrame({"a": [1, 2, 3], "b": pl.Series(["x", "y", None], dtype=pl.Categorical)})
    copy = pl.DataFrame({"b": ["x", "y", "z"], "a": [1.5, 2, 3]})
    both = open_compared(real, copy)
    assert both.schema.types == [pa.float64(), pa.large_string()]
    assert both.frame(0)["b"].to_list() == ["x", "y", None]
    assert both.frame(1)["a"].to_list() == [1.5, 2.0, 3.0]


@pytest.mark.parametrize(
    ("real", "copy", "wanted"),
    [
        (pl.Series([1, 2], dtype=pl.Int8), pl.Series([300, 2]), pa.int64()),
        (pl.Series([1, 2], dtype=pl.UInt8), pl.Series([300, 2], dtype=pl.UInt16), pa.uint64()),
        (pl.Series([1, 2]), pl.Series([2**64 - 1, 2], dtype=pl.UInt64), pa.float64()),
        (pl.Series([2**53 + 1, 2]), pl.Series([1.5, 2.5]), pa.float64()),
        (pl.Series([1, 2]).cast(pl.Date), pl.Series([1, 2]).cast(pl.Datetime("us")), pa.timestamp("us")),
        (
            pl.Series([1, 2]).cast(pl.Datetime("ns")),
            pl.Series([-(2**62), 2]).cast(pl.Datetime("us")),
            pa.timestamp("ns"),
        ),
    ],
)
def test_types_are_widened_without_a_word_of_the_values(real, copy, wanted):
    both = open_compared(pl.DataFrame({"a": real}), pl.DataFrame({"a": copy}))
    assert both.schema.field("a").type == wanted
    for side in (0, 1):
        assert both.frame(side).height == 2
    if wanted in (pa.int64(), pa.uint64()):
        assert both.frame(1)["a"].to_list() == copy.to_list()


def test_pieces_come_in_order_with_the_numbers_of_their_rows(boys):
    found = open_compared(boys, [boys, boys[:100]]).map(lambda shared, rows, first: (shared, first, rows.height), "x")
    assert found == [[("x", 0, 748)], [("x", 0, 748)], [("x", 0, 100)]]


@pytest.mark.parametrize(
    ("copy", "options", "error", "words"),
    [
        (pl.DataFrame({"a": ["1"], "b": ["x"]}), {}, DataError, "Column 'a'"),
        (pl.DataFrame({"c": [1]}), {}, DataError, "have 0 of 2 columns"),
        (pl.DataFrame({"a": [1]}), {"columns": ["b"]}, DataError, "lacks column 'b'"),
        (pl.DataFrame({"a": [1]}), {"columns": ["q"]}, OptionError, "allowed are a, b"),
        (pl.DataFrame({"a": [1]}), {"columns": "a"}, OptionError, "must be a list"),
        (pl.DataFrame({"a": [1]}).clear(), {}, DataError, "nothing to compare"),
        ([], {}, DataError, "nothing to compare"),
    ],
)
def test_what_cannot_be_compared_is_refused(copy, options, error, words):
    with pytest.raises(error, match=words):
        open_compared(pl.DataFrame({"a": [1, 2], "b": ["x", "y"]}), copy, **options)
