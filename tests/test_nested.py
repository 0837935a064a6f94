"""Trees grafted under one, held against the trees themselves."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from fastsynth.columns import encode
from fastsynth.methods import Cart, fit_column, leaves_of, one_leaf
from fastsynth.nested import fit_nested, graft
from fastsynth.source import read_table


def words(places):
    return places.astype(np.uint64)


@pytest.mark.parametrize("n_trees", [1, 2, 3, 7, 40])
def test_every_row_finds_the_leaf_of_its_own_tree(n_trees):
    """Also with unordered splits, whose levels stand in tables."""
    rng = np.random.default_rng(1)
    n = 100 * n_trees
    coarse = np.repeat(np.arange(n_trees), 100)
    job = rng.integers(0, 50, n)
    y = np.where(job % 2 == 0, 1.0, 0.0) * (coarse % 3) + rng.normal(size=n)
    frame = pl.DataFrame({"coarse": coarse, "job": pl.Series(job).cast(pl.String), "x": rng.normal(size=n), "y": y})
    table = encode(*read_table(frame))
    rows = [np.flatnonzero(coarse == i).astype(np.uint32) for i in range(n_trees)]
    trees = [fit_column(table, 3, (1, 2), Cart(), own).values for own in rows]
    trees[0] = one_leaf(table.ranks[3][rows[0]])
    whole = graft(trees, np.arange(1, n_trees + 1, dtype=np.uint16), 0)
    assert whole.count[0] == n
    every = np.arange(n, dtype=np.uint32)
    leaf = leaves_of(table, whole, every, words)
    for tree, own in zip(trees, rows, strict=True):
        for node, row in zip(leaves_of(table, tree, own, words), own, strict=True):
            there = whole.donors[whole.nodes["left"][leaf[row]] :][: whole.count[leaf[row]]]
            alone = tree.donors[tree.nodes["left"][node] :][: tree.count[node]]
            assert there.tolist() == alone.tolist()


def test_coarse_codes_that_are_not_fitted_have_all_their_rows():
    frame = pl.DataFrame({"c": [1, 1, 2, 2, 3, 3] * 10, "f": [10, 11, 20, 21, 30, 31] * 10})
    table, every = encode(*read_table(frame)), np.arange(60, dtype=np.uint32)
    model = fit_nested(table, 1, (0,), 0, 5, every[table.codes[0] < 3], every, words)
    leaf = leaves_of(table, model.values, every, words)
    for node in np.unique(leaf):
        donors = model.values.donors[model.values.nodes["left"][node] :][: model.values.count[node]]
        assert len({int(table.variables[1].numbers()[rank]) // 10 for rank in donors}) == 1
