"""Ways up a tree, and draws among what is admissible."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsynth import _tree, climb
from fastsynth.calibrate import Job, fit_calibrated
from fastsynth.columns import encode
from fastsynth.methods import Cart, fit_column, fit_groups, refill
from fastsynth.source import read_table


def fitted(n=600, target="y", method="cart", seed=1):
    rng = np.random.default_rng(seed)
    x, u = rng.normal(size=n), rng.normal(size=n)
    y = np.round(x + 0.5 * rng.normal(size=n), 1)
    c = np.where(x + rng.normal(size=n) > 0, "high", np.where(u > 0, "low", "none"))
    table = encode(*read_table(pl.DataFrame({"x": x, "u": u, "y": y, "c": c})))
    slot, rows = ["x", "u", "y", "c"].index(target), np.arange(n, dtype=np.uint32)
    if method == "cart":
        return table, fit_column(table, slot, (0, 1), Cart(), rows)
    if method == "refilled":
        half = fit_column(table, slot, (0, 1), Cart(minbucket=10), rows[::3])
        return table, refill(table, slot, half, rows, lambda places: places.astype(np.uint64))
    if method == "groups":
        return table, fit_groups(table, slot, (0, 1), Cart(), rows, (), 8)
    return table, fit_calibrated(Job(table, slot, (0, 1), 20, rows, rows, lambda places: places.astype(np.uint64)))


def below(tree, node):
    """Leaves under a node, from left to right."""
    if tree.nodes["feature"][node] == _tree.LEAF:
        return [node]
    left = int(tree.nodes["left"][node])
    return below(tree, left) + below(tree, left + 1)


@pytest.mark.parametrize("method", ["cart", "refilled"])
def test_ancestors_hold_the_donors_of_their_leaves(method):
    tree = fitted(method=method)[1].values
    ways, of_leaves = (climb.Ascent.of(tree, by_leaf=by_leaf) for by_leaf in (False, True))
    for node in range(len(tree.nodes)):
        leaves = below(tree, node)
        wanted = [
            p for leaf in leaves for p in range(tree.nodes["left"][leaf], tree.nodes["left"][leaf] + tree.count[leaf])
        ]
        assert ways.order[ways.first[node] :][: ways.size[node]].tolist() == wanted
        assert of_leaves.order[of_leaves.first[node] :][: of_leaves.size[node]].tolist() == leaves
        if node:
            parent = ways.parent[node]
            assert tree.nodes["left"][parent] in (node, node - 1)
    assert ways.parent[0] == -1


def draw(column, table, allowed, n=400):
    """Draw rows among allowed ranks, or numbers."""
    codes = np.ascontiguousarray(table.codes.T)
    rows = np.arange(n, dtype=np.uint32)
    words = np.random.PCG64DXSM(3).random_raw(n)
    ranks, numbers = np.zeros(table.n_rows, np.uint32), np.full(table.n_rows, np.nan)
    lost, climbed = climb.climb(column, codes, rows, words, allowed, ranks, numbers)
    return ranks[:n], numbers[:n], lost, climbed


@pytest.mark.parametrize("method", ["cart", "refilled"])
def test_donors_come_from_the_first_node_that_has_admissible_ones(method):
    table, column = fitted(method=method)
    wanted = np.flatnonzero(table.variables[2].numbers() > 0.5)
    ranks, _, lost, climbed = draw(column, table, lambda rows, rank, number: np.isin(rank, wanted))
    assert not len(lost)
    assert np.isin(ranks, wanted).all()
    assert climbed > 0
    tree, ways = column.values, climb.Ascent.of(column.values, by_leaf=False)
    codes = np.ascontiguousarray(table.codes.T)
    leaf = tree.leaves(codes, np.arange(400, dtype=np.uint32), np.zeros(400, np.uint64)).astype(int)
    for row in range(400):
        node = leaf[row]
        while not np.isin(donors := tree.donors[ways.order[ways.first[node] :][: ways.size[node]]], wanted).any():
            node = ways.parent[node]
        assert ranks[row] in donors[np.isin(donors, wanted)]


def test_classes_come_with_their_tilted_shares():
    table, column = fitted(3_000, "c", "calibrated")
    assert column.tilt is not None
    banned = table.variables[3].rank_of("high")
    ranks, _, lost, climbed = draw(column, table, lambda rows, rank, number: rank != banned, 3_000)
    assert not len(lost)
    assert climbed < 3_000
    codes, rows = table.codes, np.arange(3_000, dtype=np.uint32)
    leaf = column.values.nodes["left"][column.values.leaves(codes.T.copy(), rows, rows.astype(np.uint64))]
    shares = column.tilt.shares(codes, rows, leaf)
    kept = column.tilt.ranks != banned
    expected = shares[:, kept] / np.maximum(shares[:, kept].sum(1, keepdims=True), 1e-300)
    drawn = np.array([(ranks == rank).mean() for rank in column.tilt.ranks[kept]])
    assert np.abs(drawn - expected.mean(0)).max() < 4 * np.sqrt(0.25 / 3_000) + climbed / 3_000


def test_numbers_stay_within_what_is_admissible():
    table, column = fitted(3_000, "y", "calibrated")
    assert column.shift is not None
    _, numbers, lost, _ = draw(column, table, lambda rows, rank, number: (number > -0.5) & (number < 0.5), 3_000)
    assert len(lost) < 150  # expected so far away that nothing left of any donor leads there
    numbers = np.delete(numbers, lost)
    assert np.abs(numbers).max() < 0.5
    assert np.allclose(numbers * 10, np.round(numbers * 10))  # on the grid


def test_groups_give_members():
    table, column = fitted(method="groups")
    wanted = np.flatnonzero(table.variables[2].numbers() > 0)
    ranks, _, lost, _ = draw(column, table, lambda rows, rank, number: np.isin(rank, wanted))
    done = np.setdiff1d(np.arange(400), lost)
    assert len(done) > 350
    assert np.isin(ranks[done], wanted).all()


def test_rows_without_anything_admissible_are_given_back():
    table, column = fitted()
    _, _, lost, climbed = draw(column, table, lambda rows, rank, number: rows % 2 == 0)
    assert sorted(lost) == list(range(1, 400, 2))
    assert climbed == 200


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([0.0, 1e-9, 0.3, 2.0]), max_size=5), min_size=1, max_size=8),
    st.integers(0, 2**64 - 1),
)
def test_picks_are_candidates_with_weight(weights, word):
    of = np.repeat(np.arange(len(weights)), [len(w) for w in weights])
    flat = np.array([x for w in weights for x in w])
    picked = climb._pick(of, flat, np.full(len(weights), word, np.uint64))
    for row, (mine, place) in enumerate(zip(weights, picked, strict=True)):
        if any(mine):
            assert of[place] == row
            assert flat[place] > 0
        else:
            assert place == -1
