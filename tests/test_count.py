"""The kernel that counts groups, on hand-made codes."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from fastsynth import _count

NO_WEIGHTS = np.zeros(0, np.int64)


def tabulate(codes, tables, widths, weights=NO_WEIGHTS):
    sizes = np.array([np.prod([widths[slot] for slot in table]) for table in tables], np.int64)
    columns = np.array([(*table, -1, -1)[:3] for table in tables], np.int32).reshape(-1, 3)
    out = np.zeros(int(sizes.sum()), np.int64)
    _count.tabulate(codes, columns, np.array(widths, np.int32), np.cumsum(sizes) - sizes, weights, out)
    return np.split(out, np.cumsum(sizes)[:-1])


# One row more and one less than a block of the kernel.
@pytest.mark.parametrize("n", [0, 1, 4095, 4097, 10_000])
@pytest.mark.parametrize("weighted", [False, True])
def test_tables_of_one_two_and_three_columns(n, weighted):
    rng = np.random.default_rng(n)
    widths = [1, 2, 7, 255]
    codes = np.stack([rng.integers(0, width, n) for width in widths]).astype(np.uint8)
    weights = rng.integers(0, 2**40, n) if weighted else NO_WEIGHTS
    tables = [table for ways in (1, 2, 3) for table in combinations(range(4), ways)]
    for table, found in zip(tables, tabulate(codes, tables, widths, weights)):
        expected = np.zeros([widths[slot] for slot in table], np.int64)
        np.add.at(expected, tuple(codes[slot] for slot in table), weights if weighted else 1)
        assert (found == expected.ravel()).all()


def test_counts_are_added_to_what_is_there():
    codes = np.array([[0, 1, 1]], np.uint8)
    out = np.array([10, 20])
    _count.tabulate(codes, np.array([[0, -1, -1]], np.int32), np.array([2], np.int32), np.array([0]), NO_WEIGHTS, out)
    assert out.tolist() == [11, 22]


def test_no_tables():
    out = np.zeros(0, np.int64)
    none = np.zeros((0, 3), np.int32)
    _count.tabulate(np.zeros((2, 5), np.uint8), none, np.ones(2, np.int32), np.zeros(0, np.int64), NO_WEIGHTS, out)


@pytest.mark.parametrize("n", [0, 1, 4096, 9_999])
@pytest.mark.parametrize("n_edges", [0, 1, 4, 200])
def test_groups_of_numbers_end_with_their_edges(n, n_edges):
    rng = np.random.default_rng(n)
    values = rng.integers(-50, 250, n).astype(np.float64)
    values[rng.random(n) < 0.1] = np.nan
    edges = np.arange(n_edges, dtype=np.float64)
    out = np.empty(n, np.uint8)
    _count.cut(values, edges, 3, 1, out)
    expected = np.where(np.isnan(values), 1, 3 + np.searchsorted(edges, values))
    assert (out == expected).all()
