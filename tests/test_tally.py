"""Counts by combination and level."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from polars.testing.parametric import dataframes

from fastsynth.compared import open_compared
from fastsynth.tally import (
    Cells,
    Classes,
    View,
    add_cells,
    count_packed,
    key_counts,
    number,
    pack,
    replicated_uniques,
    row_hashes,
    tally,
    uniques_in_original,
)


def test_numbers_come_in_the_order_of_the_rows():
    numbers, first = number(pl.DataFrame({"row": [3, None, 3, 1, None], "literal": ["a", "b", "a", "a", "b"]}))
    assert numbers.tolist() == [0, 1, 0, 2, 1]
    assert first.tolist() == [0, 1, 3]


def test_what_is_equal_has_the_same_hash_and_nothing_else():
    odd = pl.DataFrame({"f": [0.0, -0.0, float("nan"), -float("nan"), None, 1.0]})
    hashes = row_hashes(odd)
    assert number(hashes)[0].tolist() == [0, 0, 1, 1, 2, 3]
    many = row_hashes(pl.DataFrame({"a": np.arange(200_000) % 500, "b": np.arange(200_000) // 500}))
    assert many["h"].n_unique() == many["g"].n_unique() == 200_000
    swapped = row_hashes(pl.DataFrame({"a": [1, 2], "b": [2, 1]}))
    assert swapped["h"].n_unique() == 2
    text = pl.Series(["b", "a", None])
    kinds = [row_hashes(text.cast(kind).to_frame()) for kind in (pl.String, pl.Categorical, pl.Enum(["a", "b"]))]
    assert kinds[0].equals(kinds[1])
    assert kinds[0].equals(kinds[2])


@settings(max_examples=40, deadline=None)
@given(
    dataframes(
        min_cols=1, max_cols=3, min_size=1, max_size=30, excluded_dtypes=[pl.List, pl.Struct, pl.Array, pl.Object]
    )
)
def test_numbers_of_hashes_are_those_of_values(frame):
    twice = pl.concat([frame, frame[::-1]])
    by_hash = number(row_hashes(twice))[0]
    by_value = number(twice)[0]
    assert by_hash.tolist() == by_value.tolist()
    assert by_hash[: frame.height].tolist() == by_hash[frame.height :][::-1].tolist()


def test_masks_of_replicated_uniques():
    real = pl.DataFrame({"a": ["x", "y", "y", "z", None], "other": range(5)})
    copy = pl.DataFrame({"a": pl.Series(["z", "x", "x", "y", None, "w"], dtype=pl.Categorical)})
    d, s = key_counts(real, copy, ["a"])
    assert d.tolist() == [1, 1, 1, 2, 1, 0]
    assert s.tolist() == [1, 2, 2, 1, 1, 1]
    assert replicated_uniques(real, copy, ["a"]).tolist() == [True, False, False, False, True, False]
    assert uniques_in_original(real, copy, ["a"]).tolist() == [True, False, False, True, True, False]


def test_cells_add_up_and_are_found():
    q, t = np.array([1, 0, 1, 1, 2**20]), np.array([2, 5, 2, 0, 3])
    cells = count_packed(pack(q, t))
    assert cells.q.tolist() == [0, 1, 1, 2**20]
    assert cells.t.tolist() == [5, 0, 2, 3]
    assert cells.n.tolist() == [1, 1, 2, 1]
    assert cells.single(2**20 + 1)[[0, 1, 2, 2**20]].tolist() == [5, -1, -1, 3]
    both = add_cells([cells, cells])
    assert both.packed.tolist() == cells.packed.tolist()
    assert both.n.tolist() == [2, 2, 4, 2]
    backwards = add_cells([Cells(cells.packed[::-1], cells.n[::-1])])
    assert backwards.packed.tolist() == cells.packed.tolist()
    assert backwards.n.tolist() == cells.n.tolist()
    assert cells.within(np.array([1, 1, 7]), np.array([0, 1, 0]), np.array([3, 2, 9])).tolist() == [3, 0, 0]


def test_copies_are_numbered_after_the_original():
    real = pl.DataFrame({"k": ["a", "b", None], "t": [1, 2, 2]})
    copy = pl.DataFrame({"k": ["c", None, "a", "c"], "t": [9, 2, 2, 9]})
    both = open_compared(real, copy)
    view = View(("k",), ("t",), {}, ("k",), with_rows=True)
    own = tally(both, view, 0)
    other = tally(both, view, 1, own)
    assert own.n.tolist() == [1, 1, 1]
    assert own.values["k"].to_list() == ["a", "b", None]
    assert other.n.tolist() == [1, 0, 1, 2]
    assert other.no_null.tolist() == [True, True, False, True]
    assert other.levels["t"].to_list() == [1, 2, 9]
    assert other.rows[""].tolist() == [3, 2, 0, 3]
    assert other.rows["t"].tolist() == [2, 1, 1, 2]
    assert other.cells["t"].q.tolist() == [0, 2, 3]
    assert other.cells["t"].n.tolist() == [1, 1, 2]


def test_labels_of_classes():
    of = Classes(np.array([2.0, 3.5]))
    values = pl.Series([1, 2, 3, 4, None], dtype=pl.Int64)
    assert of.label(values).to_list() == ["to 2", "to 2", "over 2 to 3.5", "over 3.5", None]
    assert Classes(np.empty(0)).label(pl.Series([1.0, float("nan")])).to_list() == ["all", None]


@pytest.mark.parametrize("dtype", [pl.Int64, pl.Float64])
def test_empty_pieces_add_nothing(dtype):
    assert number(pl.DataFrame({"a": pl.Series([], dtype=dtype)}))[0].tolist() == []
